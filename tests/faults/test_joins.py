"""Files in chunks on a disk that has hardly room for their bytes, let alone twice."""

import os
import random
import resource
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.crash.evidence import Evidence
from tests.faults import watch
from tests.faults.conftest import ROOM, Make
from tests.server_process import Answer, ServerProcess
from tests.web.chunks import chunk_form
from tests.web.live import TUS, Line, create, look, patch

MIB = 1 << 20
#: parts that are given up, and bytes
LEFT_OVER = """
SELECT key FROM trash UNION SELECT key FROM upload WHERE state = 'ended'
"""


def bytes_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def send(server: ServerProcess, job: str, n: int, total: int, data: bytes) -> Answer:
    said = {"jobId": job, "chunkIndex": n, "totalChunks": total}
    (_, kind), body = chunk_form(data, said, first="jobId")
    return server.request("POST", "/upload/chunked", body, Content_Type=kind)


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body


def stuck(server: ServerProcess) -> dict[str, str]:
    """Return what an operator sees of uploads that do not go on."""
    bearer: dict[str, Any] = {"Authorization": f"Bearer {server.token}"}
    found = server.request("GET", "/admin/uploads", **bearer).json["uploads"]
    return {one["jobId"]: one["error"]["code"] for one in found if one["error"]}


def test_files_that_fill_a_disk_with_their_chunks_all_become_jobs(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="95")
    jobs = [str(uuid.uuid4()) for _ in range(2)]
    data = {job: bytes_of(14 * MIB, n) for n, job in enumerate(jobs)}
    for job in jobs:
        for n in range(2):
            half = data[job][n * 7 * MIB : (n + 1) * 7 * MIB]
            assert send(server, job, n, 3, half).status == 200
    # what one of them would need a second time is nowhere
    assert room_on(small_disk) - ROOM // 20 < 14 * MIB

    for job in jobs:
        assert send(server, job, 2, 3, job.encode()).status == 202
        assert original(server, job) == data[job] + job.encode()
        watch.until(lambda: not evidence.ask(LEFT_OVER))
    assert not stuck(server)
    assert server.stop() == 0
    evidence.check()


def test_a_file_that_will_not_fit_is_refused_with_its_first_chunk(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="95")
    job, data = str(uuid.uuid4()), bytes_of(6 * MIB, 1)
    refused = send(server, job, 0, 9, data)
    assert (refused.status, refused.json["code"]) == (507, "disk_full")
    assert evidence.ask("SELECT 1 FROM job") == []
    # the last one may be of any size
    assert send(server, job, 8, 9, data).status == 200
    assert server.stop() == 0
    evidence.check()


def room_on(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_one_chunk_that_is_larger_than_the_room_beside_it_becomes_a_job(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="95")
    job, data = str(uuid.uuid4()), bytes_of(ROOM * 3 // 4, 1)
    assert send(server, job, 0, 1, data).status == 202
    assert original(server, job) == data
    assert server.stop() == 0
    evidence.check()


def slow_cuts(server: ServerProcess) -> AbstractContextManager[None]:
    """Let the server wait before it takes anything out of a part."""
    return injected(server, "ftruncate", "delay_enter=400000")


def copies_meet(server: ServerProcess, error: str) -> AbstractContextManager[None]:
    """Let the disk refuse what is copied from file to file."""
    return injected(server, "copy_file_range", f"error={error}")


@contextmanager
def injected(server: ServerProcess, call: str, what: str) -> Iterator[None]:
    """Let something happen at every system call of one kind."""
    command = ["strace", "-f", "-qq", "-p", str(server.pid), "-o", os.devnull]
    command += ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]
    with subprocess.Popen(command) as tracer:
        watch.until(lambda: "TracerPid:\t0" not in status(server))
        try:
            yield
        finally:
            tracer.terminate()


def status(server: ServerProcess) -> str:
    return Path(f"/proc/{server.pid}/status").read_text()


TOTAL = 9
CHUNKS = [bytes_of((3 if n < TOTAL - 1 else 1) * MIB, n) for n in range(TOTAL)]


def kill_while_it_joins(
    server: ServerProcess, evidence: Evidence, job: str, moves: int
) -> None:
    """Send CHUNKS, and kill the server once so many windows of them have moved."""
    for n in range(TOTAL - 1):
        assert send(server, job, n, TOTAL, CHUNKS[n]).status == 200

    marks: set[int] = set()

    def moved() -> int:
        marks.update(at for (at,) in evidence.ask("SELECT joined FROM upload") if at)
        return len(marks)

    def last() -> None:
        with suppress(OSError):
            send(server, job, TOTAL - 1, TOTAL, CHUNKS[-1])

    with slow_cuts(server):
        sender = threading.Thread(target=last)
        sender.start()
        watch.until(lambda: moved() >= moves)
        # what its part has no longer is in the file
        other = send(server, job, TOTAL - 1, TOTAL, bytes(MIB))
        assert (other.status, other.json["code"]) == (409, "chunk_conflict")
        server.kill()
        server.wait()
    sender.join()
    assert evidence.ask("SELECT state FROM job WHERE is_part=0") == [("UPLOADING",)]


@pytest.mark.needs("strace")
@pytest.mark.parametrize("moves", [1, 3])
def test_a_server_that_is_killed_while_it_joins_loses_no_byte(
    make: Make, evidence: Evidence, small_disk: Path, moves: int
) -> None:
    server = make(data_dir=small_disk, fill_level="95")
    job = str(uuid.uuid4())
    kill_while_it_joins(server, evidence, job, moves)

    server.start()

    assert original(server, job) == b"".join(CHUNKS)
    assert send(server, job, TOTAL - 1, TOTAL, CHUNKS[-1]).status == 202
    watch.until(lambda: not evidence.ask("SELECT 1 FROM trash"))
    assert server.stop() == 0
    evidence.check()


@pytest.mark.needs("strace")
def test_a_join_that_has_begun_to_move_waits_for_room_and_goes_on_by_itself(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    job = str(uuid.uuid4())
    first = make(data_dir=small_disk, fill_level="95")
    kill_while_it_joins(first, evidence, job, moves=2)
    mark = "SELECT min(joined) FROM upload WHERE joined IS NOT NULL"
    begun = evidence.ask(mark)

    # there is no room for what is to be moved next, however often it starts
    limited = ("prlimit", f"--fsize={2 * MIB}:unlimited")
    server = make(data_dir=small_disk, fill_level="95", wrap=limited)
    for _ in range(2):
        watch.until(lambda: stuck(server) == {job: "disk_full"})
        found = server.status(job)
        assert (found["status"], found["error"]["code"]) == ("UPLOADING", "disk_full")
        assert "all bytes have come" in found["error"]["detail"]
        watch.until(lambda: "joins" in watch.alerts(server))
        assert evidence.ask(mark) == begun
        assert server.stop() == 0
        server.start()

    watch.until(lambda: stuck(server) == {job: "disk_full"})
    everything = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, everything)
    assert original(server, job) == b"".join(CHUNKS)
    watch.until(lambda: "joins" not in watch.alerts(server))
    assert server.stop() == 0
    evidence.check()


def test_a_file_that_cannot_be_put_together_says_why_and_goes_on_by_itself(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    job, total = str(uuid.uuid4()), 3
    chunks = [bytes_of(MIB, n) for n in range(total)]
    with watch.limit(server, resource.RLIMIT_FSIZE, 2 * MIB):
        answers = [send(server, job, n, total, chunks[n]) for n in range(total)]
        assert [one.status for one in answers] == [200, 200, 202]

        found = server.status(job)
        assert (found["status"], found["progress"]) == ("UPLOADING", 100.0)
        assert found["error"]["code"] == "disk_full"
        assert "all bytes have come" in found["error"]["detail"]
        assert stuck(server) == {job: "disk_full"}
        watch.until(lambda: "joins" in watch.alerts(server))

    assert original(server, job) == b"".join(chunks)
    assert server.status(job)["error"] is None
    assert not stuck(server)
    watch.until(lambda: "joins" not in watch.alerts(server))
    assert server.stop() == 0
    evidence.check()


@pytest.mark.needs("strace")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can trace a running server")
@pytest.mark.parametrize(("error", "code"), [("ENOSPC", "disk_full"), ("EIO", "store")])
def test_a_tus_upload_that_cannot_be_put_together_is_told_and_made_once(
    make: Make, evidence: Evidence, error: str, code: str
) -> None:
    server = make()
    parts = [tus_part(server, bytes_of(MIB, n)) for n in range(2)]
    concat = ("Upload-Concat", "final;" + " ".join(parts))
    with copies_meet(server, error):
        with Line(server) as line:
            told = line.ask("POST", "/files/", TUS, concat)
        assert told.status == 201
        assert "upload-offset" not in told.headers
        job = told.headers["asyncflow-job-id"]
        assert told.headers["location"].endswith(job)
        found = look(server, job)
        assert (found.status, "upload-offset" in found.headers) == (200, False)
        assert server.status(job)["error"]["code"] == code
        assert stuck(server) == {job: code}

    assert original(server, job) == bytes_of(MIB, 0) + bytes_of(MIB, 1)
    assert evidence.ask("SELECT count(*) FROM job WHERE is_part = 0") == [(1,)]
    assert server.stop() == 0
    evidence.check()


def tus_part(server: ServerProcess, data: bytes) -> str:
    part = create(server, len(data), ("Upload-Concat", "partial"))
    assert patch(server, part, 0, data).status == 204
    return part


def test_a_file_that_cannot_be_put_together_is_given_up_by_who_deletes_it(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    job = str(uuid.uuid4())
    with watch.limit(server, resource.RLIMIT_FSIZE, 2 * MIB):
        for n in range(3):
            send(server, job, n, 3, bytes_of(MIB, n))
        assert stuck(server) == {job: "disk_full"}
        assert server.request("DELETE", f"/jobs/{job}").status == 204
        assert not stuck(server)
        store = evidence.folder / "store"
        watch.until(lambda: not [one for one in store.rglob("*") if one.is_file()])
        watch.until(lambda: "joins" not in watch.alerts(server))
    assert server.stop() == 0
    evidence.check()
