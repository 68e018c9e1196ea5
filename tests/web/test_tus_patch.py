import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    blobs,
    code_of,
    create,
    half_open,
    healthy_server,
    look,
    metadata,
    offset_of,
    patch,
    rows,
    until,
)

TEXT = b"some words that nobody needs to understand\n" * 100
HALF = len(TEXT) // 2
CHUNKED: Header = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("tus-patch")) as found:
        yield found


@pytest.fixture
def upload(server: ServerProcess) -> str:
    return create(server, len(TEXT), metadata(filename="words.txt"))


def at(offset: object) -> Header:
    return "Upload-Offset", str(offset)


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body


def test_bytes_are_appended_and_the_new_offset_told(
    server: ServerProcess, upload: str
) -> None:
    answer = patch(server, upload, 0, TEXT[:HALF])
    assert answer.status == 204
    assert answer.headers["upload-offset"] == str(HALF)
    assert answer.headers["asyncflow-job-id"] == upload
    assert "upload-expires" in answer.headers
    assert offset_of(server, upload) == HALF


def test_the_last_byte_makes_the_job(server: ServerProcess, upload: str) -> None:
    patch(server, upload, 0, TEXT[:HALF])
    answer = patch(server, upload, HALF, TEXT[HALF:])
    assert answer.status == 204
    assert "upload-expires" not in answer.headers
    assert original(server, upload) == TEXT


def test_a_chunked_body_is_appended(server: ServerProcess, upload: str) -> None:
    with Line(server) as line:
        line.head("PATCH", f"/files/{upload}", TUS, CHUNK, CHUNKED, at(0))
        for start in range(0, len(TEXT), 1000):
            line.chunk(TEXT[start : start + 1000])
        line.chunk(b"")
        assert line.answer().headers["upload-offset"] == str(len(TEXT))
    assert original(server, upload) == TEXT


def test_an_empty_chunk_tells_the_offset(server: ServerProcess, upload: str) -> None:
    patch(server, upload, 0, TEXT[:HALF])
    answer = patch(server, upload, HALF, b"")
    assert (answer.status, answer.headers["upload-offset"]) == (204, str(HALF))


def test_a_wrong_offset_is_answered_409_with_the_right_one(
    server: ServerProcess, upload: str
) -> None:
    patch(server, upload, 0, TEXT[:HALF])
    for wrong in (0, HALF - 1, HALF + 1, 10**14):
        answer = patch(server, upload, wrong, TEXT[:10])
        assert (answer.status, code_of(answer)) == (409, "offset_mismatch")
        assert answer.headers["upload-offset"] == str(HALF)
    assert offset_of(server, upload) == HALF


def test_a_repeated_last_chunk_makes_no_second_job(
    server: ServerProcess, upload: str
) -> None:
    patch(server, upload, 0, TEXT[:HALF])
    assert patch(server, upload, HALF, TEXT[HALF:]).status == 204
    again = patch(server, upload, HALF, TEXT[HALF:])
    assert (again.status, again.headers["upload-offset"]) == (409, str(len(TEXT)))
    assert patch(server, upload, len(TEXT), b"").status == 204
    more = patch(server, upload, len(TEXT), b"more")
    assert (more.status, code_of(more)) == (403, "upload_complete")
    assert original(server, upload) == TEXT
    uploaded = rows(
        server,
        "SELECT count(*) FROM event JOIN job ON job.id=event.job_id "
        "WHERE pid=? AND type='file.uploaded'",
        upload,
    )
    assert uploaded == [(1,)]


def test_bytes_past_the_length_are_refused_before_they_are_read(
    server: ServerProcess, upload: str
) -> None:
    with Line(server) as line:
        expect = ("Expect", "100-continue")
        line.head(
            "PATCH", f"/files/{upload}", TUS, CHUNK, at(1), expect, length=len(TEXT)
        )
        assert line.first_line() == "HTTP/1.1 409 Conflict"
    with Line(server) as line:
        line.head(
            "PATCH", f"/files/{upload}", TUS, CHUNK, at(0), expect, length=len(TEXT) + 1
        )
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    assert offset_of(server, upload) == 0


def test_a_chunked_body_past_the_length_keeps_what_belongs_to_the_file(
    server: ServerProcess, upload: str
) -> None:
    with Line(server) as line:
        line.head("PATCH", f"/files/{upload}", TUS, CHUNK, CHUNKED, at(0))
        line.chunk(TEXT + b"and more")
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    assert offset_of(server, upload) == len(TEXT)
    assert original(server, upload) == TEXT


def test_a_willing_server_says_100_continue(server: ServerProcess, upload: str) -> None:
    with Line(server) as line:
        expect = ("Expect", "100-continue")
        line.head(
            "PATCH", f"/files/{upload}", TUS, CHUNK, at(0), expect, length=len(TEXT)
        )
        assert line.answer().status == 100
        line.send(TEXT)
        assert line.answer().status == 204


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ((TUS, CHUNK), 400, "invalid_header"),
        ((TUS, CHUNK, at("1_0")), 400, "invalid_header"),
        ((TUS, CHUNK, at("-1")), 400, "invalid_header"),
        ((TUS, CHUNK, at("1e3")), 400, "invalid_header"),
        ((TUS, CHUNK, at("٣")), 400, "invalid_header"),
        ((TUS, CHUNK, at("9" * 20)), 400, "invalid_header"),
        ((TUS, CHUNK, at(0), at(1)), 400, "invalid_header"),
        ((TUS, at(0)), 415, "unsupported_content_type"),
        ((TUS, at(0), ("Content-Type", "image/png")), 415, "unsupported_content_type"),
        ((CHUNK, at(0)), 412, "unsupported_tus_version"),
        (
            (TUS, CHUNK, at(0), ("Content-Encoding", "br")),
            415,
            "unsupported_content_encoding",
        ),
    ],
)
def test_what_is_malformed_is_refused_before_the_body(
    server: ServerProcess,
    upload: str,
    headers: tuple[Header, ...],
    status: int,
    code: str,
) -> None:
    with Line(server) as line:
        expect = ("Expect", "100-continue")
        line.head("PATCH", f"/files/{upload}", *headers, expect, length=5)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (status, code)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert offset_of(server, upload) == 0


@pytest.mark.parametrize(
    "unknown",
    [
        "01a20327-a3a3-7460-ad93-e9a93f525ab8",
        "nothing",
        "..%2f..%2fetc",
        "%00",
        "x" * 999,
    ],
)
def test_an_unknown_upload_is_answered_404(server: ServerProcess, unknown: str) -> None:
    answer = patch(server, unknown, 0, b"hello")
    assert (answer.status, code_of(answer)) == (404, "upload_not_found")
    assert answer.headers["tus-resumable"] == "1.0.0"


# ----- broken connections


def test_what_came_before_a_disconnect_is_kept(
    server: ServerProcess, upload: str
) -> None:
    line = half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT))
    line.sock.close()
    until(lambda: offset_of(server, upload) == HALF)
    assert patch(server, upload, HALF, TEXT[HALF:]).status == 204
    assert original(server, upload) == TEXT


def test_a_body_that_ends_too_early_is_kept_and_told(
    server: ServerProcess, upload: str
) -> None:
    with half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT)) as line:
        line.sock.shutdown(socket.SHUT_WR)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "truncated_body")
    assert offset_of(server, upload) == HALF


def received(server: ServerProcess, upload: str) -> int:
    return int(server.status(upload)["uploadedBytes"])


def test_the_status_tells_what_has_arrived_while_the_upload_runs(
    server: ServerProcess, upload: str
) -> None:
    with half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT)):
        until(lambda: received(server, upload) == HALF)
        status = server.status(upload)
    assert status["status"] == "UPLOADING"
    assert status["progress"] == 50.0
    assert status["fileName"] == "words.txt"


def test_head_stops_a_hanging_patch_and_tells_its_bytes(
    server: ServerProcess, upload: str
) -> None:
    with half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT)) as hanging:
        until(lambda: received(server, upload) == HALF)
        assert offset_of(server, upload) == HALF
        stopped = hanging.answer()
        assert (stopped.status, code_of(stopped)) == (400, "upload_preempted")


def test_a_second_patch_goes_on_where_a_hanging_one_stopped(
    server: ServerProcess, upload: str
) -> None:
    with half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT)) as hanging:
        until(lambda: received(server, upload) == HALF)
        assert patch(server, upload, HALF, TEXT[HALF:-1]).status == 204
        # what the first one still sends lands nowhere
        hanging.send(b"late bytes")
        assert offset_of(server, upload) == len(TEXT) - 1
        assert patch(server, upload, len(TEXT) - 1, TEXT[-1:]).status == 204
    assert original(server, upload) == TEXT


def test_delete_stops_a_hanging_patch(server: ServerProcess, upload: str) -> None:
    with half_open(server, upload, 0, TEXT[:HALF], length=len(TEXT)) as hanging:
        until(lambda: received(server, upload) == HALF)
        with Line(server) as line:
            assert line.ask("DELETE", f"/files/{upload}", TUS).status == 204
        assert hanging.answer().status in {400, 410}
    assert look(server, upload).status == 410
    until(lambda: not [name for name in blobs(server) if upload in name])


def test_of_many_clients_at_once_one_wins_each_chunk_and_the_file_is_whole(
    server: ServerProcess, upload: str
) -> None:
    start = threading.Barrier(6)
    size = 1000

    def send(_client: int) -> None:
        start.wait()
        while (offset := offset_or_end(server, upload)) < len(TEXT):
            patch(server, upload, offset, TEXT[offset : offset + size])

    with ThreadPoolExecutor(6) as clients:
        list(clients.map(send, range(6)))
    assert original(server, upload) == TEXT


def offset_or_end(server: ServerProcess, upload: str) -> int:
    answer = look(server, upload)
    return int(answer.headers["upload-offset"])


def test_bytes_that_are_not_of_the_declared_kind_end_the_upload(
    server: ServerProcess,
) -> None:
    upload = create(server, 5000, metadata(filename="photo.png"))
    answer = patch(server, upload, 0, b"MZ" + bytes(3000))
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")
    assert look(server, upload).status == 410
    assert server.status(upload)["error"]["code"] == "type_mismatch"
    assert server.status(upload)["status"] == "REJECTED"
    until(lambda: not [name for name in blobs(server) if upload in name])


def test_requests_that_bring_no_bytes_preempt_each_other_without_a_fault(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, ("Upload-Defer-Length", "1"))
    deferred = answer.headers["asyncflow-job-id"]
    assert patch(server, deferred, 0, TEXT[:HALF]).status == 204

    def ask(n: int) -> int:
        if n % 2:
            return look(server, deferred).status
        return patch(server, deferred, HALF, b"").status

    with ThreadPoolExecutor(8) as crowd:
        statuses = set(crowd.map(ask, range(160)))
    # each has brought all that it had to; the healthy server logs no fault
    assert statuses == {200, 204}
    assert offset_of(server, deferred) == HALF
