"""A server that may open few files: it refuses, loses nothing, and recovers."""

import contextlib
import itertools
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess

LIMIT = 120


def limited(files: int) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")


@contextlib.contextmanager
def crowded(server: ServerProcess) -> Iterator[None]:
    """Connect more often than the server may open files, and say nothing."""
    where = urlsplit(server.url)
    assert where.hostname is not None
    with contextlib.ExitStack() as stack:
        for _ in range(2 * LIMIT):
            link = socket.create_connection((where.hostname, where.port or 0), 5)
            stack.callback(link.close)
        yield


def no_file_more(
    server: ServerProcess,
) -> contextlib.AbstractContextManager[None]:
    """Let the server open nothing that it has not open already."""
    open_now = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    return watch.limit(server, resource.RLIMIT_NOFILE, open_now)


def test_a_crowd_takes_no_descriptor_that_work_needs(
    make: Make, evidence: Evidence
) -> None:
    server = make(wrap=limited(LIMIT))
    text = probe.text(parts=1)
    jobs = [server.upload(f"{n}.txt", text) for n in range(20)]
    with crowded(server):
        # nobody can ask the server through the crowd
        ended = "SELECT count(*) FROM job WHERE finished IS NOT NULL"
        watch.until(lambda: evidence.ask(ended) == [(len(jobs),)])

    for job in jobs:
        assert server.finished(job)["status"] == "COMPLETED"
    assert server.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a server has open")
def test_steps_that_find_no_descriptor_are_done_later(make: Make) -> None:
    server = make()
    jobs = [
        server.upload(f"{n}.txt", probe.text(parts=1, before=0.2)) for n in range(10)
    ]
    with no_file_more(server):
        watch.pause(3)

    for job in jobs:
        status = server.finished(job)
        assert status["status"] == "COMPLETED"
    assert server.stop() == 0


def no_room_for_a_worker(
    server: ServerProcess,
) -> contextlib.AbstractContextManager[None]:
    """Let the server open nothing at all, whatever it closes."""
    return watch.limit(server, resource.RLIMIT_NOFILE, 16)


def test_a_step_that_runs_while_the_server_has_no_descriptor_is_not_blamed(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    job = server.upload("a.txt", probe.text(parts=1, before=4.0))
    watch.until_working(server, job)
    with no_room_for_a_worker(server):
        # longer than the server goes without a look at what is written
        watch.pause(2.5)

    assert server.finished(job)["status"] == "COMPLETED"
    assert evidence.ask("SELECT code FROM attempt") == []
    assert server.stop() == 0


def none_but(
    free: int, server: ServerProcess
) -> contextlib.AbstractContextManager[None]:
    """Let the server open so many files more: the limit is one of their numbers."""
    taken = {int(one.name) for one in Path(f"/proc/{server.pid}/fd").iterdir()}
    left = (number for number in itertools.count() if number not in taken)
    most = next(itertools.islice(left, free, None))
    return watch.limit(server, resource.RLIMIT_NOFILE, most)


@pytest.mark.parametrize("free", range(5))
def test_a_result_that_finds_too_few_descriptors_is_charged_to_nobody(
    make: Make, evidence: Evidence, free: int
) -> None:
    server = make()
    job = server.upload("a.txt", probe.text(parts=1, before=1.0))
    watch.until_working(server, job)
    with none_but(free, server):
        watch.pause(2.0)

    assert server.finished(job)["status"] == "COMPLETED"
    codes = evidence.ask("SELECT code FROM attempt")
    assert set(codes) <= {("try_later",)}
    assert server.stop() == 0


def test_no_step_is_blamed_for_a_worker_that_cannot_be_started(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    jobs = [
        server.upload(f"{n}.txt", probe.text(parts=1, before=0.3)) for n in range(6)
    ]
    watch.until_working(server, jobs[0])
    with no_room_for_a_worker(server):
        os.kill(watch.worker(server), signal.SIGKILL)
        watch.until(lambda: "worker.missing" in server.log())
        # longer than three attempts would take
        watch.pause(8)

    for job in jobs:
        assert server.finished(job)["status"] == "COMPLETED"
    # what the killed worker did, at most
    assert len(evidence.ask("SELECT code FROM attempt")) <= 1
    assert server.stop() == 0


def test_a_server_gets_a_worker_again_without_being_asked_for_work(make: Make) -> None:
    server = make()
    assert server.request("GET", "/readyz").status == 200
    with no_room_for_a_worker(server):
        os.kill(watch.worker(server), signal.SIGKILL)
        watch.until(lambda: "worker.missing" in server.log())

    watch.until(lambda: server.request("GET", "/readyz").status == 200)
    assert server.stop() == 0


def test_a_server_that_could_take_hardly_anybody_says_so_and_ends(
    tmp_path: Path,
) -> None:
    server = ServerProcess(
        data_dir=tmp_path / "data", settings={"workers": "2"}, wrap=limited(64)
    )

    server.spawn()

    assert server.wait() == 1
    last = server.log().strip().splitlines()[-1]
    assert last.startswith("Error: 64 files may be open at once")
    assert "LimitNOFILE" in last
