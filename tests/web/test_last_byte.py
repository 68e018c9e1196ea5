"""Who has sent the last byte has sent the file, whether it hears the answer or not."""

from collections.abc import Iterator

import pytest

from tests.server_process import ServerProcess
from tests.web.live import CHUNK, TUS, Header, Line, create, healthy_server, rows, until

DATA = b"words that somebody wrote\n" * 400
SIZE: Header = ("Upload-Length", str(len(DATA)))
START: Header = ("Upload-Offset", "0")
LAST: Header = ("Upload-Complete", "?1")
CHUNKED: Header = ("Transfer-Encoding", "chunked")
PARTIAL: Header = ("Content-Type", "application/partial-upload")
TIMES = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("last-byte")) as found:
        yield found


def begun(server: ServerProcess) -> str:
    return f"/files/{create(server, len(DATA))}"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PATCH", None, (TUS, CHUNK, START)),
        ("PATCH", None, (TUS, CHUNK, START, CHUNKED)),
        ("PATCH", None, (LAST, PARTIAL, START)),
        ("POST", "/files", (TUS, CHUNK, SIZE)),
        ("POST", "/files/", (LAST,)),
        ("POST", "/files/", (LAST, CHUNKED)),
        ("PUT", "/upload/words.txt", ()),
        ("PUT", "/upload/words.txt", (CHUNKED,)),
        ("POST", "/upload?name=words.txt", ()),
    ],
)
def test_it_is_a_job_though_its_sender_has_gone(
    server: ServerProcess, method: str, path: str | None, headers: tuple[Header, ...]
) -> None:
    before = len(rows(server, "SELECT 1 FROM job"))
    body = DATA
    if CHUNKED in headers:
        body = b"%x\r\n" % len(DATA) + DATA + b"\r\n0\r\n\r\n"
    length = None if CHUNKED in headers else len(body)
    for _ in range(TIMES):
        with Line(server) as line:
            line.head(method, path or begun(server), *headers, length=length)
            line.send(body)
    until(lambda: len(rows(server, "SELECT 1 FROM job")) == before + TIMES)
    made = [job for (job,) in rows(server, "SELECT pid FROM job ORDER BY id")[before:]]
    for job in made:
        assert server.finished(job)["status"] == "COMPLETED"
        assert server.request("GET", f"/jobs/{job}/files/original").body == DATA
