"""How much longer a job takes, as clients are told it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ServerProcess
from tests.web.live import healthy_server, until

PROCESSOR = '''"""Reads a page in no time, or one of two slowly."""

import time

from asyncflow import Result, Work, processor


@processor("reader", accepts=("text/plain",), outputs=())
def reader(work: Work) -> Result:
    """Be slow at files that say so."""
    if work.source.read_bytes() == b"slow":
        time.sleep(3)
        work.progress(50)
        time.sleep(60)
    return Result()
'''


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Yield a server that has seen a quick file."""
    (tmp_path / "slow_reader.py").write_text(PROCESSOR)
    with healthy_server(tmp_path, processors="slow_reader", workers="1") as found:
        found.finished(found.upload("a.txt", b"fast"))
        yield found


def act(server: ServerProcess, path: str) -> None:
    bearer = f"Bearer {server.token}"
    answer = server.request("POST", f"/admin/{path}", b"", Authorization=bearer)
    assert answer.status == 200, answer.body


def told(server: ServerProcess) -> Any:
    """Upload a file; return what is told of its time at once, and when it waits."""
    answer = server.request("PUT", "/upload/b.txt", b"fast").json
    status = server.status(answer["jobId"])
    return answer["estimatedTime"], status["estimatedTimeRemaining"], answer["jobId"]


def test_a_step_that_is_slower_than_others_is_believed(server: ServerProcess) -> None:
    job = server.upload("slow.txt", b"slow")

    def half() -> Any:
        found = server.status(job)
        return found if found["steps"][-1]["progress"] == 50 else None

    # the quick one took milliseconds; this one has needed three seconds for its half
    assert until(half)["estimatedTimeRemaining"] > 0.5
    server.request("POST", f"/jobs/{job}/cancel")


def test_a_server_that_begins_nothing_promises_nothing(server: ServerProcess) -> None:
    act(server, "consumers/reader/pause")
    at_once, waiting, job = told(server)
    assert (at_once, waiting) == (None, None)
    act(server, "consumers/reader/resume")
    server.finished(job)

    act(server, "drain")
    at_once, waiting, job = told(server)
    assert (at_once, waiting) == (None, None)
    act(server, "resume")
    server.finished(job)

    assert told(server)[0] is not None
