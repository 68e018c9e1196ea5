from collections.abc import Iterator

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    healthy_server,
    look,
    offset_of,
    patch,
)

DEFER: Header = ("Upload-Defer-Length", "1")
LIMIT = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tus-deferred")
    with healthy_server(folder, max_upload_bytes=str(LIMIT)) as found:
        yield found


@pytest.fixture
def upload(server: ServerProcess) -> str:
    with Line(server) as line:
        answer = line.ask("POST", "/files/", TUS, DEFER)
    assert answer.status == 201
    return answer.headers["asyncflow-job-id"]


def length(value: object) -> Header:
    return "Upload-Length", str(value)


def test_an_upload_may_begin_without_a_length(
    server: ServerProcess, upload: str
) -> None:
    found = look(server, upload)
    assert found.headers["upload-defer-length"] == "1"
    assert "upload-length" not in found.headers
    assert patch(server, upload, 0, b"some ").status == 204
    assert patch(server, upload, 5, b"words", length(10)).status == 204
    assert server.finished(upload)["fileSize"] == 10
    found = look(server, upload)
    assert found.headers["upload-length"] == "10"
    assert "upload-defer-length" not in found.headers


def test_the_length_may_come_with_no_bytes(server: ServerProcess, upload: str) -> None:
    assert patch(server, upload, 0, b"all of it").status == 204
    assert server.status(upload)["status"] == "UPLOADING"
    assert patch(server, upload, 9, b"", length(9)).status == 204
    assert server.finished(upload)["status"] == "COMPLETED"


def test_a_length_that_is_known_does_not_change(
    server: ServerProcess, upload: str
) -> None:
    assert patch(server, upload, 0, b"some ", length(10)).status == 204
    answer = patch(server, upload, 5, b"words", length(11))
    assert (answer.status, code_of(answer)) == (400, "inconsistent_length")
    assert offset_of(server, upload) == 5
    assert patch(server, upload, 5, b"words", length(10)).status == 204


def test_a_length_below_what_has_arrived_is_refused(
    server: ServerProcess, upload: str
) -> None:
    assert patch(server, upload, 0, b"some ").status == 204
    answer = patch(server, upload, 5, b"", length(4))
    assert (answer.status, code_of(answer)) == (400, "inconsistent_length")


def test_the_largest_size_holds_without_a_length(
    server: ServerProcess, upload: str
) -> None:
    def too_large(answer: Answer) -> bool:
        return (answer.status, code_of(answer)) == (413, "upload_too_large")

    assert too_large(patch(server, upload, 0, b"x" * (LIMIT + 1)))
    at = offset_of(server, upload)
    assert at <= LIMIT
    assert too_large(patch(server, upload, at, b"", length(LIMIT + 1)))


def test_of_a_chunk_beyond_a_length_that_comes_with_it_nothing_is_kept(
    server: ServerProcess, upload: str
) -> None:
    answer = patch(server, upload, 0, b"too many bytes", length(3))
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    assert offset_of(server, upload) == 0
    assert server.status(upload)["status"] == "UPLOADING"


def test_the_first_bytes_may_come_with_the_creation(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, DEFER, CHUNK, body=b"some ")
    assert (answer.status, answer.headers["upload-offset"]) == (201, "5")
    upload = answer.headers["asyncflow-job-id"]
    assert patch(server, upload, 5, b"words", length(10)).status == 204
    assert server.finished(upload)["status"] == "COMPLETED"


@pytest.mark.parametrize(
    "headers",
    [[DEFER, ("Upload-Length", "5")], [("Upload-Defer-Length", "0")], [DEFER, DEFER]],
    ids=str,
)
def test_the_header_is_1_and_stands_alone(
    server: ServerProcess, headers: list[Header]
) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, *headers)
    assert (answer.status, code_of(answer)) == (400, "invalid_header")
