import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    create,
    healthy_server,
    jobs,
    kept,
    listening_port,
    metadata,
    needs_root,
    offset_of,
    until,
)

TEXT = b"some words that nobody needs to understand\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tus-post")
    with healthy_server(folder, max_upload_bytes="1MiB") as found:
        yield found


def length(value: object) -> Header:
    return "Upload-Length", str(value)


@pytest.mark.parametrize("collection", ["/files", "/files/"])
def test_the_location_of_an_upload_leads_to_it(
    server: ServerProcess, collection: str
) -> None:
    with Line(server) as line:
        answer = line.ask("POST", collection, TUS, length(5))
        assert answer.status == 201
        location = answer.headers["location"]
        assert "://" not in location
        target = urljoin(collection, location)
        assert line.ask("HEAD", target, TUS).headers["upload-offset"] == "0"


@needs_root
def test_a_public_address_stands_in_the_location(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tus-public")
    public = "http://files.example.org/up"
    with healthy_server(folder, public_url=public) as server:
        assert server.url == public
        server.url = f"http://127.0.0.1:{listening_port(server.pid)}"
        with Line(server) as line:
            answer = line.ask("POST", "/files/", TUS, length(5))
    job = answer.headers["asyncflow-job-id"]
    assert answer.headers["location"] == f"{public}/files/{job}"


def test_a_new_upload_says_when_it_expires_and_which_job_it_is(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, length(5))
    expires = parsedate_to_datetime(answer.headers["upload-expires"]).timestamp()
    assert 23 * 3600 < expires - time.time() <= 24 * 3600 + 1
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["cache-control"] == "no-store"
    status = server.status(answer.headers["asyncflow-job-id"])
    assert status["status"] == "UPLOADING"
    assert status["uploadedBytes"] == 0
    assert status["fileSize"] == 5


def test_metadata_gives_the_name_and_the_type(server: ServerProcess) -> None:
    said = metadata(filename="día.txt", filetype="text/plain", album="übung")
    found = server.status(create(server, 5, said))
    assert found["fileName"] == "día.txt"
    assert found["metadata"]["album"] == "übung"


def test_a_creation_may_bring_the_whole_file(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, CHUNK, length(len(TEXT)), body=TEXT)
    assert answer.status == 201
    assert answer.headers["upload-offset"] == str(len(TEXT))
    job = server.finished(answer.headers["asyncflow-job-id"])
    assert job["status"] == "COMPLETED"


def test_a_creation_may_bring_a_beginning(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, CHUNK, length(100), body=TEXT)
    assert answer.status == 201
    assert answer.headers["upload-offset"] == str(len(TEXT))
    assert offset_of(server, answer.headers["asyncflow-job-id"]) == len(TEXT)


def test_an_empty_file_is_a_job_that_says_why_it_was_rejected(
    server: ServerProcess,
) -> None:
    found = server.finished(create(server, 0))
    assert found["status"] == "REJECTED"
    assert found["error"]["code"] == "empty_file"


@pytest.mark.parametrize(
    "wrong",
    ["1_000", "-1", "+1", "1e3", "1.0", "٣", "0x10", "", "9" * 20, "5, 6", "5,5"],
)
def test_a_malformed_length_is_refused(server: ServerProcess, wrong: str) -> None:
    before = jobs(server)
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, length(wrong))
    assert answer.status == 400
    assert code_of(answer) == "invalid_header"
    assert answer.json["header"] == "Upload-Length"
    assert "whole number" in answer.json["accepted"]
    assert jobs(server) == before


def test_two_lengths_are_refused(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, length(5), length(6))
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


def test_a_missing_length_is_refused(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS)
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


@pytest.mark.parametrize(
    "wrong",
    [
        "filename not*base64",
        "filename é",
        "naïve Zm9v",
        "filename Zm9v,filename Zm9v",
        "a,b c d",
        "filename " + "QUFB" * 3000,
    ],
)
def test_malformed_metadata_is_refused(server: ServerProcess, wrong: str) -> None:
    before = jobs(server)
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, length(5), ("Upload-Metadata", wrong))
    assert (answer.status, code_of(answer)) == (400, "invalid_header")
    assert jobs(server) == before


@pytest.mark.parametrize("versions", [[], ["0.2.2"], ["1.0.0", "1.0.0"]])
def test_another_version_is_answered_412_with_ours(
    server: ServerProcess, versions: list[str]
) -> None:
    with Line(server) as line:
        said = [("Tus-Resumable", version) for version in versions]
        answer = line.ask("POST", "/files", length(5), *said)
    assert (answer.status, code_of(answer)) == (412, "unsupported_tus_version")
    assert answer.headers["tus-version"] == "1.0.0"


def test_a_file_above_the_limit_is_refused_before_a_byte_of_it(
    server: ServerProcess,
) -> None:
    before = jobs(server)
    with Line(server) as line:
        expect = ("Expect", "100-continue")
        line.head(
            "POST", "/files", TUS, CHUNK, length(2**20 + 1), expect, length=2**20 + 1
        )
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (413, "upload_too_large")
    assert answer.json["maxBytes"] == 2**20
    assert jobs(server) == before


def test_another_type_of_body_is_refused(server: ServerProcess) -> None:
    with Line(server) as line:
        kind = ("Content-Type", "image/png")
        answer = line.ask("POST", "/files", TUS, kind, length(5), body=b"hello")
    assert (answer.status, code_of(answer)) == (415, "unsupported_content_type")


def test_a_packed_body_is_refused(server: ServerProcess) -> None:
    with Line(server) as line:
        packed = ("Content-Encoding", "gzip")
        answer = line.ask(
            "POST", "/files", TUS, CHUNK, length(5), packed, body=b"hello"
        )
    assert (answer.status, code_of(answer)) == (415, "unsupported_content_encoding")


def test_packing_named_in_a_second_header_is_seen(server: ServerProcess) -> None:
    with Line(server) as line:
        codings = ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")
        answer = line.ask("POST", "/files", TUS, CHUNK, length(5), *codings, body=b"hi")
    assert (answer.status, code_of(answer)) == (415, "unsupported_content_encoding")


def test_a_body_longer_than_the_file_leaves_nothing_behind(
    server: ServerProcess,
) -> None:
    before = kept(server)
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, CHUNK, length(5), body=b"too long")
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    until(lambda: kept(server) <= before)


def test_a_chunked_body_longer_than_the_file_leaves_nothing_behind(
    server: ServerProcess,
) -> None:
    before = kept(server)
    with Line(server) as line:
        line.head(
            "POST", "/files", TUS, CHUNK, length(5), ("Transfer-Encoding", "chunked")
        )
        line.chunk(b"hel")
        line.chunk(b"lo, world")
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    until(lambda: kept(server) <= before)


def test_a_creation_whose_sender_vanishes_leaves_nothing_behind(
    server: ServerProcess,
) -> None:
    # nobody was told its address: nobody could go on with it
    before = kept(server)
    with Line(server) as line:
        line.head("POST", "/files", TUS, CHUNK, length(1000), length=1000)
        line.send(TEXT)
        until(lambda: kept(server) - before)
    until(lambda: kept(server) <= before)


def test_a_file_that_is_plainly_not_what_it_claims_is_refused_early(
    server: ServerProcess,
) -> None:
    before = kept(server)
    page = b"<!doctype html><script>alert(1)</script>" + b" " * 2000
    with Line(server) as line:
        said = metadata(filename="photo.jpg", filetype="image/jpeg")
        answer = line.ask("POST", "/files", TUS, CHUNK, length(10**6), said, body=page)
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")
    until(lambda: kept(server) <= before)
