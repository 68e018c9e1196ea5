import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    blobs,
    code_of,
    create,
    half_open,
    healthy_server,
    look,
    patch,
    until,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tus-expiry")
    with healthy_server(folder, upload_expiry="1s") as found:
        yield found


def test_an_expired_upload_is_gone_whether_it_was_swept_or_not(
    server: ServerProcess,
) -> None:
    written_to, looked_at = create(server, 10), create(server, 10)
    patch(server, looked_at, 0, b"hello")
    until(lambda: is_over(server, looked_at))
    answer = patch(server, written_to, 0, b"hello")
    assert (answer.status, code_of(answer)) == (410, "upload_gone")
    for upload in (looked_at, written_to):
        found = server.status(upload)
        assert found["status"] == "CANCELLED"
        assert found["error"]["code"] == "expired"
        until_swept(server, upload)


def until_swept(server: ServerProcess, upload: str) -> None:
    until(lambda: not [name for name in blobs(server) if upload in name])


def is_over(server: ServerProcess, upload: str) -> bool:
    answer = look(server, upload)
    assert answer.status in {200, 410}
    return answer.status == 410


def test_an_upload_that_moves_gets_more_time(server: ServerProcess) -> None:
    upload = create(server, 10**6)
    first = expiry(look(server, upload).headers["upload-expires"])

    def moved() -> bool:
        offset = int(look(server, upload).headers["upload-offset"])
        answer = patch(server, upload, offset, b"x")
        assert answer.status == 204
        return expiry(answer.headers["upload-expires"]) > first + 1

    until(moved)


def expiry(value: str) -> float:
    return parsedate_to_datetime(value).timestamp()


def test_a_running_request_keeps_its_upload_alive(server: ServerProcess) -> None:
    upload, other = create(server, 10), create(server, 10)
    with half_open(server, upload, 0, b"hello", length=10) as line:
        until(lambda: is_over(server, other))
        line.send(b"world")
        assert line.answer().status == 204
    assert server.finished(upload)["status"] == "COMPLETED"


def test_what_expired_while_the_server_was_down_holds_up_no_start(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path, upload_expiry="1s") as server:
        lost, kept = create(server, 10), create(server, 10)
        (path,) = (server.data_dir / "store" / "raw").rglob(lost)
        path.unlink()
        expires = expiry(look(server, kept).headers["upload-expires"])
        assert server.stop() == 0
        until(lambda: time.time() > expires + 1)
        server.start()
        for upload in (lost, kept):
            assert is_over(server, upload)
            assert server.status(upload)["error"]["code"] == "expired"
