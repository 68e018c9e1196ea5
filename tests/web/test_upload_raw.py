"""The file as the body: `POST /upload?name=`, `PUT /upload/{name}`."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Line,
    code_of,
    form,
    healthy_server,
    jobs,
    kept,
    until,
)

EXPECT = ("Expect", "100-continue")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("upload-raw")
    with healthy_server(folder, max_upload_bytes="1MiB") as found:
        yield found


def test_put_takes_the_name_from_the_address(server: ServerProcess) -> None:
    job = server.upload("día 1.txt", b"hello")
    found = server.finished(job)
    assert (found["fileName"], found["status"]) == ("día 1.txt", "COMPLETED")
    assert server.request("GET", f"/jobs/{job}/files/original").body == b"hello"


def test_post_takes_the_name_from_the_query(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/upload?name=a%20b.txt", body=b"hello")
    assert (answer.status, answer.json["fileName"]) == (202, "a b.txt")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a.txt"', "a.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        ("attachment; filename*=UTF-8''d%C3%ADa.txt; filename=x", "día.txt"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment", "file"),
    ],
)
def test_post_takes_the_name_from_content_disposition(
    server: ServerProcess, disposition: str, name: str
) -> None:
    with Line(server) as line:
        said = ("Content-Disposition", disposition)
        answer = line.ask("POST", "/upload", said, body=b"hello")
    assert (answer.status, answer.json["fileName"]) == (202, name)


@pytest.mark.parametrize("coding", ["gzip, chunked", "foo, chunked", "identity"])
def test_an_unknown_transfer_coding_is_refused(
    server: ServerProcess, coding: str
) -> None:
    before = kept(server)
    for method, target, *more in (
        ("PUT", "/upload/a.txt"),
        ("POST", "/files/", ("Upload-Complete", "?1")),
        ("POST", "/files/", TUS, CHUNK, ("Upload-Length", "3")),
    ):
        with Line(server) as line:
            line.head(method, target, ("Transfer-Encoding", coding), *more)
            line.send(b"3\r\nabc\r\n0\r\n\r\n")
            answer = line.answer()
        # a body whose end nobody can know is refused before its coding is looked at
        expected = (501, "unsupported_transfer_coding")
        if coding == "identity":
            expected = (400, "malformed_request")
        assert (answer.status, code_of(answer)) == expected
    until(lambda: kept(server) <= before)


def test_a_chunked_body_is_taken(server: ServerProcess) -> None:
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", ("Transfer-Encoding", "chunked"))
        line.chunk(b"hello, ")
        line.chunk(b"world")
        line.chunk(b"")
        answer = line.answer()
    found = server.finished(answer.json["jobId"])
    assert (found["status"], found["fileSize"]) == ("COMPLETED", 12)


@pytest.mark.parametrize("how", ["chunked", "chunked at once", "with its length"])
def test_an_empty_file_is_a_job_that_says_why_it_was_rejected(
    server: ServerProcess, how: str
) -> None:
    with Line(server) as line:
        if how == "chunked":
            line.head("PUT", "/upload/a.txt", ("Transfer-Encoding", "chunked"))
            line.chunk(b"")
        elif how == "chunked at once":
            head = b"PUT /upload/a.txt HTTP/1.1\r\nhost: localhost\r\n"
            line.send(head + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        else:
            line.head("PUT", "/upload/a.txt", length=0)
        answer = line.answer()
    assert answer.status == 202
    found = server.finished(answer.json["jobId"])
    assert (found["status"], found["error"]["code"]) == ("REJECTED", "empty_file")


def test_a_request_without_a_body_is_refused(server: ServerProcess) -> None:
    before = kept(server)
    with Line(server) as line:
        for method, target in (("PUT", "/upload/a.txt"), ("POST", "/upload")):
            answer = line.ask(method, target)
            assert (answer.status, code_of(answer)) == (400, "missing_body")
    until(lambda: kept(server) <= before)


@pytest.mark.parametrize("said", ["bytes 1008-1515/1516", "bytes 0-2/3", "lines 1-2/3"])
def test_a_part_of_a_file_is_not_taken_for_the_whole(
    server: ServerProcess, said: str
) -> None:
    before = kept(server)
    some = ("Content-Range", said)
    with Line(server) as line:
        for method, target, *more in (
            ("PUT", "/upload/a.txt"),
            ("POST", "/upload"),
            ("PUT", "/files/", ("Upload-Complete", "?1")),
            ("PUT", "/upload/a.txt", ("Upload-Complete", "?0")),
        ):
            answer = line.ask(method, target, some, *more, body=b"abc")
            assert (answer.status, code_of(answer)) == (400, "invalid_header")
            assert "PATCH" in answer.json["detail"]
    until(lambda: kept(server) <= before)


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_length_that_is_not_the_body_s_is_refused(
    server: ServerProcess, length: int
) -> None:
    before = kept(server)
    said = ("Upload-Length", str(length))
    with Line(server) as line:
        answer = line.ask("PUT", "/upload/a.txt", said, body=b"abc")
        assert (answer.status, code_of(answer)) == (400, "inconsistent_length")
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", said, ("Transfer-Encoding", "chunked"))
        line.chunk(b"abc")
        line.chunk(b"")
        answer = line.answer()
    assert answer.status == (413 if length == 2 else 400)
    until(lambda: kept(server) <= before)


@pytest.mark.parametrize("length", ["-1", "3.0", "1" + "0" * 15, "", "three"])
def test_a_length_that_is_no_number_is_refused(
    server: ServerProcess, length: str
) -> None:
    with Line(server) as line:
        answer = line.ask(
            "PUT", "/upload/a.txt", ("Upload-Length", length), body=b"abc"
        )
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("version", [None, 3, 8])
def test_an_upload_of_the_draft_may_begin_here(
    server: ServerProcess, method: str, version: int | None
) -> None:
    interop = (
        [] if version is None else [("Upload-Draft-Interop-Version", f"{version}")]
    )
    name, yes, no = "Upload-Complete", "?1", "?0"
    if version == 3:
        name, yes, no = "Upload-Incomplete", "?0", "?1"
    target = "/upload/half%2Fdone.txt" if method == "PUT" else "/upload?name=done.txt"
    with Line(server) as line:
        long = ("Upload-Length", "6")
        line.head(method, target, *interop, (name, no), long, length=3)
        line.send(b"abc")
        answer = line.answer()
        if version is not None:
            assert answer.status == 104
            answer = line.answer()
        assert (answer.status, answer.headers[name.lower()]) == (201, no)
        assert answer.headers["upload-offset"] == "3"
        address = urljoin(f"{server.url}{target}", answer.headers["location"])
        assert address.startswith(f"{server.url}/files/")
        upload = address.rpartition("/")[2]
        assert server.status(upload)["status"] == "UPLOADING"
        kind = ("Content-Type", "application/partial-upload")
        at = ("Upload-Offset", "3")
        said = [*interop, (name, yes), at, kind]
        answer = line.ask("PATCH", f"/files/{upload}", *said, body=b"def")
        assert answer.status == 200
    found = server.finished(upload)
    assert (found["status"], found["fileName"]) == ("COMPLETED", "done.txt")


def test_a_form_comes_whole(server: ServerProcess) -> None:
    kind, body = form(("a.txt", b"abc"))
    with Line(server) as line:
        said = ("Upload-Complete", "?0")
        answer = line.ask("POST", "/upload", kind, said, body=body)
        assert (answer.status, code_of(answer)) == (400, "invalid_header")
        said = ("Upload-Complete", "?1")
        assert line.ask("POST", "/upload", kind, said, body=body).status == 202


def test_a_body_that_ends_too_early_leaves_nothing(server: ServerProcess) -> None:
    before = kept(server)
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", length=100)
        line.send(b"hello")
        line.sock.shutdown(socket.SHUT_WR)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "truncated_body")
    until(lambda: kept(server) <= before)


def test_a_chunked_body_that_breaks_leaves_nothing(server: ServerProcess) -> None:
    before = kept(server)
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", ("Transfer-Encoding", "chunked"))
        line.chunk(b"hello")
        line.send(b"no number\r\n")
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "malformed_request")
    until(lambda: kept(server) <= before)


def test_what_follows_the_announced_length_is_no_part_of_the_file(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", EXPECT, length=5)
        assert line.answer().status == 100
        line.send(b"hello, world\r\n\r\n")
        job = line.answer().json["jobId"]
        rest = line.answer()
        assert (rest.status, code_of(rest)) == (400, "malformed_request")
        assert line.is_closed()
    assert server.finished(job)["fileSize"] == 5


@pytest.mark.parametrize(
    ("length", "headers", "status", "code"),
    [
        (2**20 + 1, (), 413, "upload_too_large"),
        (10**15 - 1, (), 413, "upload_too_large"),
        (5, (("Content-Encoding", "gzip"),), 415, "unsupported_content_encoding"),
        (5, (("Origin", "https://evil.example"),), 403, "foreign_origin"),
    ],
)
def test_a_refusal_comes_instead_of_100_continue(
    server: ServerProcess,
    length: int,
    headers: tuple[tuple[str, str], ...],
    status: int,
    code: str,
) -> None:
    before = jobs(server)
    for method, target in (("PUT", "/upload/a.txt"), ("POST", "/upload")):
        with Line(server) as line:
            line.head(method, target, EXPECT, *headers, length=length)
            answer = line.answer()
            assert (answer.status, code_of(answer)) == (status, code)
            line.sock.shutdown(socket.SHUT_WR)
            assert line.is_closed()
    assert jobs(server) == before


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/nothing", 404),
        ("PUT", "/files/01a215b9-3a5b-7003-a387-5f183952c827", 405),
        ("PATCH", "/upload", 405),
    ],
)
def test_nothing_asks_for_a_body_that_no_route_takes(
    server: ServerProcess, method: str, target: str, status: int
) -> None:
    with Line(server) as line:
        line.head(method, target, EXPECT, length=1000)
        answer = line.answer()
    assert answer.status == status
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.needs("curl")
def test_curl_puts_a_file(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "a photo.txt").write_bytes(b"x" * 100_000)
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail"),
            *("-T", "a photo.txt", f"{server.url}/upload/"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert b'"fileName":"a photo.txt"' in done.stdout


def test_a_body_that_ends_early_is_said_to_be_lost(server: ServerProcess) -> None:
    with Line(server) as line:
        line.head("PUT", "/upload/short.txt", length=1000)
        line.send(b"only this")
        line.sock.shutdown(socket.SHUT_WR)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "truncated_body")
    assert "nothing of it is kept" in answer.json["detail"]
    mine = f"Bearer {server.token}"
    listed = server.request("GET", "/jobs", Authorization=mine).json["jobs"]
    (ended,) = [job for job in listed if job["fileName"] == "short.txt"]
    error = server.status(ended["jobId"])["error"]
    assert error["detail"] == "the connection ended before the file did"
