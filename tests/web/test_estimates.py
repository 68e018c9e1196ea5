"""How much longer a job takes, as clients are told it."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server_process import ServerProcess
from tests.web.frames import Frames
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


@processor("turner", accepts=("application/pdf",), outputs=())
def turner(work: Work) -> Result:
    """Turn pages, each in its time, and say nothing."""
    time.sleep(0.2 * work.facts["identify"]["pages"])
    return Result()
'''

PIPELINES = """
[pipelines.default.types."application/pdf"]
consumers = ["turner"]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Yield a server that has seen a quick file."""
    (tmp_path / "slow_reader.py").write_text(PROCESSOR)
    (tmp_path / "pipelines.toml").write_text(PIPELINES)
    settings = {"processors": "slow_reader", "workers": "1"}
    settings["pipelines"] = str(tmp_path / "pipelines.toml")
    with healthy_server(tmp_path, **settings) as found:
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

    with Frames.open(server, f"/ws?job={job}") as socket:
        assert socket.hear()["type"] == "snapshot"
        told = socket.hear_until("progress")[-1]
    # the quick one took milliseconds; this one has needed three seconds for its half
    assert told["estimatedTimeRemaining"] > 0.5
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


def document(pages: int) -> bytes:
    """Return a PDF of so many pages that has few bytes."""
    page, data = Image.new("1", (40, 40)), io.BytesIO()
    page.save(data, "PDF", save_all=True, append_images=[page] * (pages - 1))
    return data.getvalue()


def test_a_long_document_is_forecast_by_its_pages_also_after_a_restart(
    server: ServerProcess,
) -> None:
    for _ in range(2):
        server.finished(server.upload("short.pdf", document(2)))

    def first_estimate() -> float:
        job = server.upload("long.pdf", document(300))

        def turning() -> Any:
            found = server.status(job)
            steps = {one["name"]: one["status"] for one in found["steps"]}
            return found if steps.get("turner") == "running" else None

        found = until(turning)["estimatedTimeRemaining"]
        server.request("POST", f"/jobs/{job}/cancel")
        return float(found)

    # a minute is what it takes; by its bytes it would be a few seconds
    assert 20 < first_estimate() < 180
    server.stop()
    server.start()
    assert 20 < first_estimate() < 180
