import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    form,
    healthy_server,
    jobs,
    offset_of,
    patch,
    until,
)

DATA = b"sent twice, kept once\n" * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("idempotency")) as found:
        yield found


@pytest.fixture
def key() -> Header:
    return "Idempotency-Key", f'"{uuid.uuid4()}"'


def tus_create(server: ServerProcess, *headers: Header, length: int = 10) -> Answer:
    with Line(server) as line:
        size = ("Upload-Length", str(length))
        return line.ask("POST", "/files/", TUS, size, *headers)


def put(server: ServerProcess, *headers: Header, data: bytes = DATA) -> Answer:
    with Line(server) as line:
        return line.ask("PUT", "/upload/words.txt", *headers, body=data)


def test_a_repeated_creation_creates_nothing(
    server: ServerProcess, key: Header
) -> None:
    first = tus_create(server, key)
    before = jobs(server)
    upload = first.headers["asyncflow-job-id"]
    assert patch(server, upload, 0, b"hello").status == 204
    again = tus_create(server, key)
    assert again.status == 201
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["upload-offset"] == "5"
    assert jobs(server) == before


def test_a_lost_answer_to_a_creation_with_bytes_loses_no_bytes(
    server: ServerProcess, key: Header
) -> None:
    size = ("Upload-Length", str(len(DATA)))
    before = jobs(server)
    with Line(server) as line:
        line.head("POST", "/files", TUS, CHUNK, size, key, length=len(DATA))
        line.send(DATA[:100])
        until(lambda: jobs(server) == before + 1)
    with Line(server) as line:
        again = line.ask("POST", "/files", TUS, CHUNK, size, key, body=DATA)
    upload = again.headers["asyncflow-job-id"]
    at = offset_of(server, upload)
    assert patch(server, upload, at, DATA[at:]).status == 204
    assert jobs(server) == before + 1
    assert server.finished(upload)["status"] == "COMPLETED"
    assert server.request("GET", f"/jobs/{upload}/files/original").body == DATA


def test_a_repeated_upload_is_answered_with_the_first_job(
    server: ServerProcess, key: Header
) -> None:
    first = put(server, key)
    before = jobs(server)
    again = put(server, key)
    assert (again.status, again.json["jobId"]) == (202, first.json["jobId"])
    assert jobs(server) == before


def test_a_repeated_form_is_answered_file_by_file(
    server: ServerProcess, key: Header
) -> None:
    kind, body = form(("a.txt", b"one"), ("b.txt", b"two"))
    other, other_body = form(("a.txt", b"one"), ("b.txt", b"two"), boundary="other")
    with Line(server) as line:
        first = line.ask("POST", "/upload", kind, key, body=body).json
        again = line.ask("POST", "/upload", other, key, body=other_body).json
    ids = [one["jobId"] for one in first["jobs"]]
    assert len(set(ids)) == 2
    assert [one["jobId"] for one in again["jobs"]] == ids


def test_an_upload_that_broke_off_begins_anew(
    server: ServerProcess, key: Header
) -> None:
    before = jobs(server)
    with Line(server) as line:
        line.head("PUT", "/upload/words.txt", key, length=len(DATA))
        line.send(DATA[:100])
        until(lambda: jobs(server) == before + 1)
        answer = put(server, key)
        assert answer.status == 202
    job = answer.json["jobId"]
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.request("GET", f"/jobs/{job}/files/original").body == DATA


def test_another_request_with_the_same_key_is_refused(
    server: ServerProcess, key: Header
) -> None:
    tus_create(server, key)
    for answer in (
        tus_create(server, key, length=11),
        put(server, key),
        tus_create(server, key, ("Upload-Metadata", "filename YQ==")),
    ):
        assert (answer.status, code_of(answer)) == (422, "idempotency_key_reused")


def test_a_key_is_free_again_when_its_upload_was_ended(
    server: ServerProcess, key: Header
) -> None:
    upload = tus_create(server, key).headers["asyncflow-job-id"]
    with Line(server) as line:
        assert line.ask("DELETE", f"/files/{upload}", TUS).status == 204
    assert tus_create(server, key).headers["asyncflow-job-id"] != upload


@pytest.mark.parametrize("value", ["", "x" * 300, "with space", '"unclosed', "naïve"])
def test_a_malformed_key_is_refused(server: ServerProcess, value: str) -> None:
    answer = tus_create(server, ("Idempotency-Key", value))
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


def test_a_key_is_known_after_a_crash(tmp_path: Path, key: Header) -> None:
    with healthy_server(tmp_path) as server:
        first = put(server, key)
        server.kill()
        server.log_path.unlink()
        server.start()
        assert put(server, key).json["jobId"] == first.json["jobId"]
