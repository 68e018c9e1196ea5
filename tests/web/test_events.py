"""Server-sent events of a real server."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.server_process import ServerProcess, serving
from tests.web.live import (
    PATIENCE_S,
    code_of,
    create,
    metric,
    patch,
    until,
)

Event = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("events")
    with serving(folder / "data", workers="1", max_sockets="2") as server:
        yield server


def photo() -> bytes:
    data = BytesIO()
    Image.effect_noise((640, 480), 50).convert("RGB").save(data, "JPEG")
    return data.getvalue()


class Stream:
    """An event stream as a program reads it."""

    def __init__(self, server: ServerProcess, job: str, **headers: str) -> None:
        where = urlsplit(server.url)
        assert where.hostname is not None
        self._line = HTTPConnection(where.hostname, where.port, timeout=PATIENCE_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._line.request("GET", f"/jobs/{job}/events", headers=named)
        self._answer = self._line.getresponse()
        assert self._answer.status == 200
        assert self._answer.headers["Content-Type"] == "text/event-stream"
        assert self._answer.headers["Cache-Control"] == "no-store"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._line.close()

    def event(self) -> Event:
        """Read one event; its id, if any, is its number."""
        fields = {}
        while line := self._answer.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        message: Event = json.loads(fields["data"])
        number = str(message["seq"]) if "seq" in message else None
        assert fields.get("id") == number
        return message

    def is_over(self) -> bool:
        """Tell whether the server ended the stream in good order."""
        return self._answer.read() == b""


def test_a_job_is_followed_from_its_snapshot_to_its_end(server: ServerProcess) -> None:
    data = photo()
    job = create(server, len(data))
    with Stream(server, job) as line:
        first = line.event()
        assert first["type"] == "snapshot"
        assert first["job"]["status"] == "UPLOADING"
        patch(server, job, 0, data)
        seen = [line.event()]
        while not seen[-1]["type"].startswith("job."):
            seen.append(line.event())
        assert line.is_over()
    assert seen[-1]["type"] == "job.completed"
    assert seen[-1]["job"] == server.status(job)
    numbers = [one["seq"] for one in seen if "seq" in one]
    assert numbers == sorted(numbers)
    assert {one["step"]["name"] for one in seen if one["type"] == "step"} >= {
        "identify",
        "image",
    }


def test_a_job_that_is_over_is_one_snapshot(server: ServerProcess) -> None:
    job = server.upload("a.jpg", photo())
    server.finished(job)
    with Stream(server, job) as line:
        assert line.event()["job"]["status"] == "COMPLETED"
        assert line.is_over()


def test_who_has_heard_the_end_is_told_to_stop_asking(server: ServerProcess) -> None:
    job = server.upload("a.jpg", photo())
    version = server.finished(job)["version"]
    path = f"/jobs/{job}/events"
    assert server.request("GET", path, Last_Event_ID=str(version)).status == 204
    for other in (str(version - 1), "", "x", "²", "9" * 5000):
        with Stream(server, job, Last_Event_ID=other) as line:
            assert line.event()["type"] == "snapshot"


def test_a_deleted_job_ends_its_stream(server: ServerProcess) -> None:
    job = create(server, 10)
    with Stream(server, job) as line:
        assert line.event()["type"] == "snapshot"
        assert server.request("DELETE", f"/jobs/{job}").status == 204
        assert line.event()["type"] == "job.deleted"
        assert line.is_over()


@pytest.mark.parametrize("job", ["nonsense", "01a20323-0000-7000-8000-000000000000"])
def test_an_unknown_job_has_no_events(server: ServerProcess, job: str) -> None:
    answer = server.request("GET", f"/jobs/{job}/events")
    assert (answer.status, code_of(answer)) == (404, "job_not_found")


def test_streams_count_as_sockets(server: ServerProcess) -> None:
    job = create(server, 10)
    until(lambda: metric(server, "asyncflow_websockets") == 0)
    with Stream(server, job), Stream(server, job):
        answer = server.request("GET", f"/jobs/{job}/events")
        assert (answer.status, code_of(answer)) == (503, "too_many_connections")
        server.request("DELETE", f"/jobs/{job}")
    until(lambda: metric(server, "asyncflow_websockets") == 0)


def test_a_stopping_server_ends_its_streams(tmp_path: Path) -> None:
    with serving(tmp_path / "data", workers="1") as server:
        job = create(server, 10)
        with Stream(server, job) as line:
            assert line.event()["type"] == "snapshot"
            assert server.stop() == 0
            assert line.is_over()
