"""A disk that is full, and then is not: nothing is lost, nobody restarts anything."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import Answer, ServerProcess

TUS: Mapping[str, Any] = {"Tus_Resumable": "1.0.0"}
MIB = 1 << 20
LENGTH = 3 * MIB
DATA = probe.text(parts=1).ljust(LENGTH)


def begin(server: ServerProcess) -> str:
    """Create an upload of DATA; return its id."""
    answer = server.request("POST", "/files/", b"", **TUS, Upload_Length=str(LENGTH))
    assert answer.status == 201, answer.body
    return answer.headers["location"].rpartition("/")[2]


def send(server: ServerProcess, upload: str, start: int, end: int = LENGTH) -> Answer:
    """Send DATA from *start* to *end*."""
    return server.request(
        "PATCH",
        f"/files/{upload}",
        DATA[start:end],
        **TUS,
        Upload_Offset=str(start),
        Content_Type="application/offset+octet-stream",
    )


def offset(server: ServerProcess, upload: str) -> int:
    """Return how much of an upload the server has."""
    answer = server.request("HEAD", f"/files/{upload}", **TUS)
    assert answer.status == 200
    return int(answer.headers["upload-offset"])


def files_no_larger_than(
    server: ServerProcess, size: int
) -> contextlib.AbstractContextManager[None]:
    """Let the server write no file beyond *size*, as a spent quota would."""
    return watch.limit(server, resource.RLIMIT_FSIZE, size)


def test_a_chunk_that_finds_no_room_keeps_what_got_in(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    upload = begin(server)
    with files_no_larger_than(server, 2 * MIB):
        answer = send(server, upload, 0)
        assert (answer.status, answer.json["code"]) == (507, "disk_full")
        assert offset(server, upload) == 2 * MIB

    assert send(server, upload, 2 * MIB).status == 204

    assert server.finished(upload)["status"] == "COMPLETED"
    assert server.stop() == 0
    evidence.check()


def fill(place: Path) -> Path:
    """Write until nothing more fits; return the file that takes the room."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 << 10))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return filler


def is_ready(server: ServerProcess) -> bool:
    return server.request("GET", "/readyz").status == 200


def tracer(server: ServerProcess) -> int:
    """Return the process that traces the server's."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    (found,) = [int(ln.split()[1]) for ln in lines if ln.startswith("TracerPid:")]
    return found


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_a_start_with_a_database_that_cannot_be_written_reads_and_heals(
    make: Make, evidence: Evidence, tmp_path: Path, error: str
) -> None:
    server = make()
    done = server.upload("done.txt", probe.text(parts=1))
    server.finished(done)
    whole, half = begin(server), begin(server)
    for upload in (whole, half):
        assert send(server, upload, 0, MIB).status == 204
    server.kill()
    blob = tmp_path / "data" / "store" / "raw" / whole[-2:] / whole
    with blob.open("ab") as file:
        file.write(DATA[MIB:])

    log = tmp_path / "data" / "asyncflow.db-wal"
    full = "trace=pwrite64", "-e", f"inject=pwrite64:error={error}"
    quiet = "-qq", "-o", os.devnull
    again = make(
        wrap=("strace", "-D", "-I1", "-f", *quiet, "-P", str(log), "-e", *full)
    )

    ready = again.request("GET", "/readyz")
    assert (ready.status, ready.json["checks"]["database"]["ok"]) == (503, False)
    assert again.status(done)["status"] == "COMPLETED"
    assert again.request("GET", f"/jobs/{done}/files/part0").status == 200
    assert again.status(whole)["status"] == "UPLOADING"
    assert offset(again, half) == MIB

    os.kill(tracer(again), signal.SIGTERM)

    watch.until(lambda: is_ready(again))
    assert again.finished(whole)["status"] == "COMPLETED"
    assert send(again, half, MIB).status == 204
    assert again.finished(half)["status"] == "COMPLETED"
    assert again.stop() == 0
    evidence.check()


def test_a_first_start_on_a_full_disk_says_so_in_one_line(small_disk: Path) -> None:
    fill(small_disk)
    server = ServerProcess(data_dir=small_disk)
    server.spawn()
    assert server.wait() == 1
    last = server.log().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in server.log()


def test_a_full_disk_under_the_database_heals_without_a_restart(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, lease="2")
    whole, half = begin(server), begin(server)
    for upload in (whole, half):
        assert send(server, upload, 0, MIB).status == 204
    working = server.upload("slow.txt", probe.text(parts=2, before=1.0, between=0.2))
    watch.until_working(server, working)
    filler = fill(small_disk)

    refused = send(server, whole, MIB)

    assert refused.status in {503, 507}, refused.body
    assert "retry-after" in refused.headers
    created = server.request("POST", "/files/", b"", **TUS, Upload_Length="5")
    assert created.status in {503, 507}
    ready = server.request("GET", "/readyz")
    assert (ready.status, ready.json["checks"]["database"]["ok"]) == (503, False)
    assert server.request("GET", "/livez").status == 200
    assert server.status(whole)["status"] == "UPLOADING"
    watch.pause(2.5)  # longer than the lease: the step must not be lost meanwhile

    filler.unlink()

    watch.until(lambda: is_ready(server))
    assert server.finished(whole)["status"] == "COMPLETED"
    assert server.finished(working)["status"] == "COMPLETED"
    assert offset(server, half) == MIB
    assert send(server, half, MIB).status == 204
    assert server.finished(half)["status"] == "COMPLETED"
    assert {code for (code,) in evidence.ask("SELECT code FROM attempt")} <= {
        "disk_full"
    }
    watch.until(lambda: not evidence.ask("SELECT key FROM trash"))
    assert server.stop() == 0
    evidence.check()


def test_what_an_operator_does_on_a_full_disk_is_done_and_noted_or_neither(
    make: Make, small_disk: Path
) -> None:
    server = make(data_dir=small_disk)
    bearer: dict[str, Any] = {"Authorization": f"Bearer {server.token}"}
    asked = ("drain", "consumers/probe/pause", "tenants/acme/pause")

    def act(path: str) -> int:
        return server.request("POST", f"/admin/{path}", b"", **bearer).status

    def is_draining() -> bool:
        return bool(server.request("GET", "/readyz").json["draining"])

    filler = fill(small_disk)
    # until nothing fits into what the database has taken for itself
    watch.until(lambda: act("tenants/other/pause") == 503)
    assert {act(path) for path in asked} == {503}
    assert not is_draining()
    filler.unlink()
    watch.until(lambda: is_ready(server))
    found = server.request("GET", "/admin/consumers", **bearer).json
    assert not is_draining()
    assert not any(one["paused"] for one in found["consumers"])

    assert {act(path) for path in asked} == {200}
    assert is_draining()
    again = server.request("GET", "/admin/audit", **bearer).json["entries"]
    actions = ["pause-tenant", "pause", "drain"]
    assert [one["action"] for one in again][:3] == actions
    assert server.stop() == 0


def test_who_deletes_makes_room_on_a_disk_that_others_have_filled(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk)
    jobs = [server.upload(f"{n}.txt", DATA) for n in range(2)]
    for job in jobs:
        assert server.finished(job)["status"] == "COMPLETED"
    ballast = small_disk / "asyncflow.db-ballast"
    watch.until(ballast.exists)
    fill(small_disk)
    # until nothing fits into what the database has taken for itself
    watch.until(lambda: server.request("PUT", "/upload/a.txt", b"").status >= 500)

    for job in jobs:
        assert server.request("DELETE", f"/jobs/{job}").status == 204

    watch.until(lambda: is_ready(server))
    assert not ballast.exists()
    assert {server.request("GET", f"/status/{job}").status for job in jobs} == {404}
    watch.until(lambda: evidence.ask("SELECT key FROM trash") == [])
    assert server.stop() == 0
    evidence.check()


def test_a_start_on_a_read_only_disk_is_refused_in_one_line_and_harms_nothing(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk)
    done = server.upload("done.txt", probe.text(parts=1))
    server.finished(done)
    assert server.stop() == 0
    # what a dying worker had open counts for a moment more
    watch.until(lambda: remount(small_disk, "ro"))
    refused = ServerProcess(data_dir=small_disk)
    try:
        refused.spawn()
        assert refused.wait() == 1
        last = refused.log().splitlines()[-1]
        assert last.startswith("Error: ")
        assert "Read-only file system" in last
    finally:
        assert remount(small_disk, "rw")

    again = make(data_dir=small_disk)
    assert again.status(done)["status"] == "COMPLETED"
    assert again.stop() == 0
    evidence.check()


def remount(place: Path, how: str) -> bool:
    """Tell whether the disk could be mounted anew: not while somebody writes."""
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=False)
    return done.returncode == 0
