"""Stopping a server, by signals to it or to its whole group, and starting two."""

import http.client
import os
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import pytest

from asyncflow import processes
from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess

TUS: Mapping[str, Any] = {"Tus_Resumable": "1.0.0"}
DATA = probe.text(parts=1) + b"x" * 200_000


def begin(server: ServerProcess) -> str:
    """Create an upload of DATA; return its id."""
    answer = server.request("POST", "/files/", b"", **TUS, Upload_Length=str(len(DATA)))
    assert answer.status == 201, answer.body
    return answer.headers["location"].rpartition("/")[2]


def offset(server: ServerProcess, upload: str) -> int:
    """Return how much of an upload the server has."""
    answer = server.request("HEAD", f"/files/{upload}", **TUS)
    assert answer.status == 200
    return int(answer.headers["upload-offset"])


def finish(server: ServerProcess, upload: str) -> None:
    """Send what is missing of an upload."""
    at = offset(server, upload)
    answer = server.request(
        "PATCH",
        f"/files/{upload}",
        DATA[at:],
        **TUS,
        Upload_Offset=str(at),
        Content_Type="application/offset+octet-stream",
    )
    assert answer.status == 204, answer.body


@contextmanager
def half_sent(
    server: ServerProcess, upload: str, half: int
) -> Iterator[http.client.HTTPConnection]:
    """Hold a PATCH that has brought only *half* of its bytes."""
    address = urllib.parse.urlsplit(server.url)
    assert address.hostname is not None
    link = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    link.putrequest("PATCH", f"/files/{upload}")
    for name, value in {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(len(DATA)),
    }.items():
        link.putheader(name, value)
    link.endheaders(DATA[:half])
    try:
        watch.until(lambda: server.status(upload)["uploadedBytes"] == half)
        yield link
    finally:
        link.close()


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_keeps_what_arrived_and_charges_nothing(
    make: Make, evidence: Evidence, number: signal.Signals, *, to_group: bool
) -> None:
    server = make(grace="0.6", workers="2")
    short = server.upload("short.txt", probe.text(before=0.2))
    long = server.upload("long.txt", probe.text(before=2.0))
    watch.until_working(server, long)
    family = processes.tree(server.pid)
    upload = begin(server)
    with half_sent(server, upload, 60_000) as link:
        began = watch.now()
        (os.killpg if to_group else os.kill)(server.pid, number)
        assert link.getresponse().status == 503
        link.close()
        assert server.wait() == 0
    assert watch.now() - began < 5
    watch.until_gone(family)
    assert evidence.states([short])[short][0] == "COMPLETED"
    assert evidence.ask("SELECT attempts, lost, interrupted FROM step") == [
        (0, 0, 0)
    ] * len(evidence.ask("SELECT id FROM step"))

    server.start()
    assert offset(server, upload) == 60_000
    finish(server, upload)
    for job in (long, upload):
        assert server.finished(job)["status"] == "COMPLETED"
    assert server.stop() == 0
    evidence.check()


@contextmanager
def slow_joins(server: ServerProcess) -> Iterator[None]:
    """Let each copy inside the kernel wait for two seconds, as a slow disk does."""
    command = ["strace", "-f", "-p", str(server.pid), "-e", "trace=copy_file_range"]
    command += ["-e", "inject=copy_file_range:delay_enter=2000000"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=20)


def begin_part(server: ServerProcess, data: bytes) -> str:
    """Send a part of a file; return where it is."""
    answer = server.request(
        "POST",
        "/files/",
        data,
        **TUS,
        Upload_Concat="partial",
        Upload_Length=str(len(data)),
        Content_Type="application/offset+octet-stream",
    )
    assert answer.status == 201, answer.body
    return urllib.parse.urlsplit(urljoin("/files/", answer.headers["location"])).path


@pytest.mark.needs("strace")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can trace a running server")
def test_a_stop_waits_for_no_join_and_the_next_start_makes_it(
    make: Make, evidence: Evidence
) -> None:
    server = make(grace="0.5")
    # the second part begins within a block, so that no file system can share it
    parts = os.urandom(1001), os.urandom(40 << 20)
    named = " ".join(begin_part(server, part) for part in parts)
    with slow_joins(server):
        whole = server.request(
            "POST", "/files/", b"", **TUS, Upload_Concat=f"final;{named}"
        )
        assert whole.status == 201, whole.body
        job = whole.headers["location"].rpartition("/")[2]
        assert server.stop() == 0
    assert evidence.ask("SELECT state FROM upload WHERE parts IS NOT NULL") == [
        ("receiving",)
    ]

    server.start()
    assert server.finished(job)["status"] == "COMPLETED"
    answer = server.request("GET", f"/jobs/{job}/files/original")
    assert answer.body == b"".join(parts)
    assert server.stop() == 0
    evidence.check()


def test_a_second_signal_ends_the_server_at_once(
    make: Make, evidence: Evidence
) -> None:
    server = make(grace="60")
    job = server.upload("long.txt", probe.text(before=3.0))
    watch.until_working(server, job)
    family = processes.tree(server.pid)
    server.signal(signal.SIGTERM)
    watch.until(lambda: "server.stopping" in server.log())

    server.signal(signal.SIGTERM)

    assert server.wait() == 128 + signal.SIGTERM
    watch.until_gone(family)
    server.start()
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.stop() == 0
    evidence.check()


def test_a_second_server_on_the_same_folder_goes_away_and_harms_nobody(
    make: Make, evidence: Evidence
) -> None:
    first = make()
    job = first.upload("slow.txt", probe.text(parts=2, before=1.0))
    second = ServerProcess(data_dir=first.data_dir)
    second.spawn()

    assert second.wait() == 1

    told = second.log()
    assert f"another asyncflow (process {first.pid}) uses" in told
    assert "Traceback" not in told
    assert first.finished(job)["status"] == "COMPLETED"
    assert evidence.ask("SELECT id FROM attempt") == []
    assert first.stop() == 0
    evidence.check()
