"""What becomes of a file that comes in chunks: refused, deleted, and its id."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asyncflow.uploads import KEEP_SPENT_MS
from tests.server_process import ServerProcess
from tests.web.chunks import (
    LAST,
    PIECES,
    SIZE,
    chunk_form,
    encoded,
    original,
    send,
    send_json,
)
from tests.web.frames import Frames
from tests.web.live import (
    TUS,
    Line,
    blobs,
    code_of,
    healthy_server,
    rows,
    until,
)

#: parts of a file that are still there
USED_PLACES = (
    "SELECT count(*) FROM job f JOIN place ON final = f.id JOIN job p ON p.pid = part"
    " WHERE f.pid = ?"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("chunked")
    with healthy_server(folder, max_upload_bytes="50000") as found:
        yield found


@pytest.fixture
def job() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("first", ["jobId", "chunk"])
def test_a_file_is_refused_as_soon_as_its_chunks_are_too_large(
    server: ServerProcess, job: str, first: str
) -> None:
    for index in (5, 0, 5):
        taken = send(server, index, b"x" * 20_000, total=9, jobId=job, first=first)
        assert taken.status == 200
    answer = send(server, 2, b"x" * 20_000, total=9, jobId=job, first=first)
    assert (answer.status, code_of(answer)) == (413, "upload_too_large")
    found = server.status(job)
    assert (found["status"], found["error"]["code"]) == ("REJECTED", "upload_too_large")
    assert send(server, 3, b"x", total=9, jobId=job).status == 410
    until(lambda: rows(server, USED_PLACES, job) == [(0,)])


def test_a_chunk_that_would_be_too_much_is_refused_before_its_bytes(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path, max_upload_bytes="1MiB") as server:
        assert send(server, 0, bytes(600_000), total=9, jobId=job).status == 200
        said = {"chunkIndex": 1, "totalChunks": 9, "jobId": job}
        kind, body = chunk_form(bytes(600_000), said)
        with Line(server) as line:
            line.head("POST", "/upload/chunked", kind, length=len(body))
            line.send(body[: body.index(b'name="chunk"') + 200])
            answer = line.answer()
        assert (answer.status, code_of(answer)) == (413, "upload_too_large")
        until(lambda: not blobs(server))


@pytest.mark.parametrize("first", ["jobId", "chunk"])
def test_a_file_of_a_forbidden_kind_is_refused_with_its_first_bytes(
    tmp_path: Path, first: str
) -> None:
    pdf = b"%PDF-1.7\n".ljust(2000, b"x")
    with healthy_server(tmp_path, allowed_types="image/*") as server:
        for said in ({}, {"fileName": "a.png"}):
            job = str(uuid.uuid4())
            answers = [
                send(server, n, pdf, total=9, jobId=job, first=first, **said)
                for n in (1, 0)
            ]
            assert {one.status for one in answers[:-1]} <= {200}
            code = "type_mismatch" if said else "type_not_allowed"
            assert code_of(answers[-1]) == code
            assert server.status(job)["error"]["code"] == code
        until(lambda: not blobs(server))


@pytest.mark.parametrize("known", [False, True])
def test_a_forbidden_kind_is_refused_before_the_chunk_has_come(
    tmp_path: Path, job: str, *, known: bool
) -> None:
    with healthy_server(tmp_path, allowed_types="image/*") as server:
        if known:
            assert send(server, 1, total=9, jobId=job).status == 200
        said = {"chunkIndex": 0, "totalChunks": 9, "jobId": job}
        kind, body = chunk_form(b"%PDF-1.7\n".ljust(100_000, b"x"), said)
        with Line(server) as line:
            line.head("POST", "/upload/chunked", kind, length=len(body))
            line.send(body[:50_000])
            answer = line.answer()
        assert (answer.status, code_of(answer)) == (415, "type_not_allowed")
        assert server.status(job)["status"] == "REJECTED"
        assert send(server, 2, total=9, jobId=job).status == 410
        until(lambda: not blobs(server))


def test_another_first_chunk_ends_no_file(tmp_path: Path, job: str) -> None:
    png = b"\x89PNG\r\n\x1a\n".ljust(2000, b"x")
    with healthy_server(tmp_path, allowed_types="image/*") as server:
        assert send(server, 0, png, total=9, jobId=job).status == 200
        answer = send(server, 0, b"%PDF-1.7\n".ljust(2000, b"x"), total=9, jobId=job)
        assert (answer.status, code_of(answer)) == (409, "chunk_conflict")
        assert send(server, 1, png, total=9, jobId=job).status == 200


def test_a_kind_that_is_said_later_is_held_against_the_first_bytes(
    server: ServerProcess, job: str
) -> None:
    for n in (0, 1):
        assert send(server, n, jobId=job).status == 200
    answer = send(server, 2, jobId=job, fileName="a.png")
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")
    assert server.status(job)["status"] == "REJECTED"


def test_first_bytes_that_say_too_little_are_left_to_the_whole(
    server: ServerProcess, job: str
) -> None:
    pieces = (b"\x89PN", b"G", b"\r\n\x1a\n" + bytes(99))
    statuses = [
        send(server, n, piece, total=3, jobId=job, fileName="a.png").status
        for n, piece in enumerate(pieces)
    ]
    assert statuses == [200, 200, 202]


def test_the_status_tells_how_much_has_come(tmp_path: Path, job: str) -> None:
    with healthy_server(tmp_path) as server:
        send(server, LAST, jobId=job)
        size = len(PIECES[LAST]) + SIZE
        share = round(200 / (LAST + 1), 1)
        with Frames.open(server, f"/ws?job={job}") as frames:
            (found,) = frames.hear_until("snapshot")
            assert found["job"]["uploadedBytes"] == len(PIECES[LAST])
            send(server, 1, jobId=job)
            assert frames.hear_until("progress")[-1]["uploadedBytes"] == size
        for restarted in (False, True):
            if restarted:
                server.stop()
                server.start()
            found = server.status(job)
            assert (found["uploadedBytes"], found["progress"]) == (size, share)


def test_the_id_of_a_deleted_file_is_given_to_no_other(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path) as server:
        assert send(server, 0, b"old", total=1, jobId=job).status == 202
        original(server, job)
        with Line(server) as line:
            assert line.ask("DELETE", f"/jobs/{job}").status == 204
        again = send(server, 0, b"new", total=1, jobId=job)
        assert (again.status, code_of(again)) == (410, "upload_gone")
        until(lambda: not blobs(server))
        server.stop()
        server.start()
        again = send_json(
            server, jobId=job, chunkIndex=0, totalChunks=1, chunk=encoded(b"new")
        )
        assert (again.status, code_of(again)) == (410, "upload_gone")
        until(lambda: not blobs(server))


def test_the_id_of_a_file_that_was_deleted_long_ago_may_be_chosen_again(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path) as server:
        assert send(server, 0, b"old", total=1, jobId=job).status == 202
        original(server, job)
        with Line(server) as line:
            assert line.ask("DELETE", f"/jobs/{job}").status == 204
        until(lambda: not blobs(server))
        server.stop()
        with closing(sqlite3.connect(server.data_dir / "asyncflow.db")) as db:
            db.execute("UPDATE spent SET at = at - ?", (KEEP_SPENT_MS + 1000,))
            db.commit()
        server.start()
        until(lambda: not rows(server, "SELECT pid FROM spent"))
        assert send(server, 0, b"new", total=1, jobId=job).status == 202
        assert original(server, job) == b"new"


def test_an_id_that_stands_for_something_else_takes_no_chunks(
    server: ServerProcess,
) -> None:
    event = json.dumps({"type": "order.paid"}).encode()
    ids = [server.request("POST", "/events", event).json["jobId"]]
    ids.append(server.request("PUT", "/upload/a.txt", b"text").json["jobId"])
    server.finished(ids[1])
    with Line(server) as line:
        assert line.ask("DELETE", f"/jobs/{ids[1]}").status == 204
    for taken in ids:
        answer = send(server, 0, b"x", total=1, jobId=taken)
        assert (answer.status, code_of(answer)) == (404, "upload_not_found")


def test_bytes_that_a_job_names_are_kept_whoever_threw_them_away(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path) as server:
        assert send(server, 0, b"text", total=1, jobId=job).status == 202
        original(server, job)
        server.stop()
        with closing(sqlite3.connect(server.data_dir / "asyncflow.db")) as db:
            db.execute("INSERT INTO trash VALUES(?, 0)", (f"raw/{job}",))
            db.execute("INSERT INTO trash VALUES(?, 1)", (f"processed/{job}",))
            db.execute("INSERT INTO trash VALUES('raw/other', 0)")
            db.commit()
        server.start()
        until(lambda: len(rows(server, "SELECT key FROM trash")) == 2)
        assert original(server, job) == b"text"
        with Line(server) as line:
            assert line.ask("DELETE", f"/jobs/{job}").status == 204
        until(lambda: not rows(server, "SELECT key FROM trash"))
        assert not blobs(server)


PARTS = "SELECT 1 FROM job WHERE is_part"
USED = "SELECT coalesce(sum(bytes), 0) FROM usage"


@pytest.mark.parametrize("path", ["/files/", "/jobs/"])
def test_a_file_that_is_deleted_takes_its_chunks_with_it(
    tmp_path: Path, job: str, path: str
) -> None:
    with healthy_server(tmp_path) as server:
        send(server, 0, jobId=job)
        assert rows(server, USED) == [(SIZE,)]
        with Line(server) as line:
            assert line.ask("DELETE", path + job, TUS).status == 204
        # at once: whoever deletes makes room
        assert rows(server, USED) == [(0,)]
        until(lambda: not rows(server, PARTS) and not blobs(server))
        assert "join.failed" not in server.log()


def test_a_file_that_is_refused_takes_its_chunks_with_it(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path) as server:
        for index in range(1, LAST):
            assert send(server, index, jobId=job, fileName="a.png").status == 200
        assert code_of(send(server, 0, jobId=job)) == "type_mismatch"
        assert rows(server, USED) == [(0,)]
        until(lambda: not rows(server, PARTS) and not blobs(server))


def test_a_file_that_is_cancelled_takes_its_chunks_with_it(
    tmp_path: Path, job: str
) -> None:
    with healthy_server(tmp_path) as server:
        send(server, 0, jobId=job)
        assert server.request("POST", f"/jobs/{job}/cancel").status == 200
        assert rows(server, USED) == [(0,)]
        until(lambda: not rows(server, PARTS) and not blobs(server))
        late = send(server, 1, jobId=job)
        assert code_of(late) == "upload_gone"
        until(lambda: not rows(server, PARTS) and not blobs(server))
