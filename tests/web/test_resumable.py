"""The IETF draft, in each of its interop versions and without one."""

import base64
import hashlib
from collections.abc import Iterator

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    TUS,
    Header,
    Line,
    code_of,
    create as create_tus,
    healthy_server,
    jobs,
    kept,
    look as look_tus,
    patch as patch_tus,
    rows,
    until,
)

DATA = b"words in the order in which they were written\n" * 50
HALF = len(DATA) // 2
VERSIONS = [None, 3, 4, 5, 6, 7, 8, 9, 10]
PARTIAL: Header = ("Content-Type", "application/partial-upload")
TYPE = "https://iana.org/assignments/http-problem-types#"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("resumable")
    with healthy_server(folder, max_upload_bytes="100000") as found:
        yield found


def said(version: int | None, *, complete: bool) -> list[Header]:
    if version is None:
        return [("Upload-Complete", "?1" if complete else "?0")]
    named: Header = ("Upload-Complete", "?1" if complete else "?0")
    if version == 3:
        named = ("Upload-Incomplete", "?0" if complete else "?1")
    return [("Upload-Draft-Interop-Version", str(version)), named]


def is_complete(answer: Answer, version: int | None) -> bool:
    if version == 3:
        assert "upload-complete" not in answer.headers
        return answer.headers["upload-incomplete"] == "?0"
    assert "upload-incomplete" not in answer.headers
    return answer.headers["upload-complete"] == "?1"


def create(
    server: ServerProcess,
    body: bytes | None,
    *headers: Header,
    complete: bool = False,
    version: int | None = None,
    method: str = "POST",
) -> Answer:
    with Line(server) as line:
        line.head(
            method,
            "/files/",
            *said(version, complete=complete),
            *headers,
            length=None if body is None else len(body),
        )
        if body:
            line.send(body)
        answer = line.answer()
        if answer.status == 104:
            assert version is not None
            answer = line.answer()
    return answer


def append(
    server: ServerProcess,
    upload: str,
    offset: object,
    body: bytes,
    *headers: Header,
    complete: bool = False,
    version: int | None = None,
    kind: Header | None = PARTIAL,
) -> Answer:
    with Line(server) as line:
        return line.ask(
            "PATCH",
            f"/files/{upload}",
            *said(version, complete=complete),
            ("Upload-Offset", str(offset)),
            *([kind] if kind else []),
            *headers,
            body=body,
        )


def look(server: ServerProcess, upload: str, method: str = "HEAD") -> Answer:
    with Line(server) as line:
        return line.ask(method, f"/files/{upload}", ("Upload-Complete", "?0"))


def id_of(answer: Answer) -> str:
    return answer.headers["asyncflow-job-id"]


def begun(server: ServerProcess, data: bytes = DATA[:HALF]) -> str:
    answer = create(server, data)
    assert (answer.status, answer.headers["upload-offset"]) == (201, str(len(data)))
    return id_of(answer)


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body


def digest(name: str, data: bytes, algorithm: str = "sha-256") -> Header:
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return name, f"{algorithm}=:{base64.b64encode(value).decode()}:"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_may_come_in_one_request(
    server: ServerProcess, version: int | None
) -> None:
    name = ("Content-Disposition", 'attachment; filename="words.txt"')
    kind = ("Content-Type", "text/plain")
    answer = create(server, DATA, name, kind, complete=True, version=version)
    assert answer.status == 201
    assert is_complete(answer, version)
    assert answer.json["statusUrl"] == f"/status/{id_of(answer)}"
    if version is not None:
        assert answer.headers["upload-draft-interop-version"] == str(version)
    assert "tus-resumable" not in answer.headers
    assert original(server, id_of(answer)) == DATA
    assert server.status(id_of(answer))["fileName"] == "words.txt"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_may_come_in_several_requests(
    server: ServerProcess, version: int | None
) -> None:
    answer = create(server, DATA[:10], version=version)
    upload = id_of(answer)
    assert answer.headers["location"] == upload
    assert not is_complete(answer, version)
    kind = None if version in {3, 4, 5} else PARTIAL
    answer = append(server, upload, 10, DATA[10:HALF], version=version, kind=kind)
    assert (answer.status, answer.headers["upload-offset"]) == (204, str(HALF))
    assert not is_complete(answer, version)
    answer = append(
        server, upload, HALF, DATA[HALF:], version=version, kind=kind, complete=True
    )
    assert answer.status == 200
    assert is_complete(answer, version)
    assert original(server, upload) == DATA


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_each_method_with_a_body_creates(server: ServerProcess, method: str) -> None:
    answer = create(server, DATA, complete=True, method=method)
    assert answer.status == 201
    assert original(server, id_of(answer)) == DATA


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_those_methods_are_for_the_draft_alone(
    server: ServerProcess, method: str
) -> None:
    with Line(server) as line:
        answer = line.ask(method, "/files/", TUS, ("Upload-Length", "3"), body=b"abc")
    assert answer.status == 405


@pytest.mark.parametrize("version", range(3, 11))
def test_a_client_of_the_draft_hears_the_address_before_it_sends(
    server: ServerProcess, version: int
) -> None:
    with Line(server) as line:
        line.head("POST", "/files/", *said(version, complete=True), length=len(DATA))
        early = line.answer()
        assert early.status == 104
        assert early.headers["upload-draft-interop-version"] == str(version)
        assert "max-size=100000" in early.headers["upload-limit"]
        upload = early.headers["location"]
        line.send(DATA[:HALF])
    until(lambda: look(server, upload).headers["upload-offset"] == str(HALF))
    assert append(server, upload, HALF, DATA[HALF:], complete=True).status == 200
    assert original(server, upload) == DATA


@pytest.mark.parametrize("version", ["2", "11", "six", "6, 6", None], ids=str)
def test_nobody_else_hears_104(server: ServerProcess, version: str | None) -> None:
    before, begun = kept(server), jobs(server)
    with Line(server) as line:
        interop = ("Upload-Draft-Interop-Version", version or "")
        headers = [("Upload-Complete", "?1"), *([interop] if version else [])]
        line.head("POST", "/files/", *headers, length=len(DATA))
        line.send(DATA)
        answer = line.answer()
        assert answer.status == 201
        assert "upload-draft-interop-version" not in answer.headers
    # without an address nobody could go on: what breaks off leaves nothing
    with Line(server) as line:
        line.head("POST", "/files/", *headers, length=len(DATA))
        line.send(DATA[:HALF])
    # once the server has seen both, and ended the second
    until(lambda: (jobs(server), len(kept(server) - before)) == (begun + 2, 1))


def test_100_and_104_are_both_sent_to_who_waits_for_them(server: ServerProcess) -> None:
    with Line(server) as line:
        expect = ("Expect", "100-continue")
        line.head("POST", "/files/", *said(6, complete=True), expect, length=len(DATA))
        assert [line.answer().status, line.answer().status] == [104, 100]
        line.send(DATA)
        assert line.answer().status == 201


def test_a_refusal_comes_before_100_and_104(server: ServerProcess) -> None:
    expect = ("Expect", "100-continue")
    with Line(server) as line:
        line.head("POST", "/files/", *said(6, complete=True), expect, length=100_001)
        assert line.answer().status == 413
    with Line(server) as line:
        at = ("Upload-Offset", "3")
        upload = begun(server)
        line.head(
            "PATCH",
            f"/files/{upload}",
            *said(6, complete=True),
            expect,
            at,
            PARTIAL,
            length=5,
        )
        assert line.answer().status == 409


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_the_offset_can_be_asked(server: ServerProcess, method: str) -> None:
    upload = begun(server)
    answer = look(server, upload, method)
    assert answer.status == 204
    assert answer.headers["upload-offset"] == str(HALF)
    assert answer.headers["upload-complete"] == "?0"
    assert answer.headers["cache-control"] == "no-store"
    assert "max-size=100000, max-age=" in answer.headers["upload-limit"]
    assert "upload-length" not in answer.headers


def test_a_bare_question_is_answered_in_the_dialect_of_the_creation(
    server: ServerProcess,
) -> None:
    ours, theirs = begun(server), create_tus(server, 10)
    for method in ("HEAD", "GET"):
        with Line(server) as line:
            assert line.ask(method, f"/files/{ours}").status == 204
        with Line(server) as line:
            answer = line.ask(method, f"/files/{theirs}")
            assert (answer.status, answer.headers["tus-version"]) == (412, "1.0.0")
    with Line(server) as line:
        assert line.ask("DELETE", f"/files/{theirs}").status == 412
        assert line.ask("DELETE", f"/files/{ours}").status == 204
    assert look(server, ours).status == 410


def test_a_wrong_offset_is_told_with_the_right_one(server: ServerProcess) -> None:
    upload = begun(server)
    for wrong in (0, HALF - 1, HALF + 1):
        answer = append(server, upload, wrong, b"x")
        assert (answer.status, code_of(answer)) == (409, "offset_mismatch")
        assert answer.headers["upload-offset"] == str(HALF)
        assert answer.headers["upload-complete"] == "?0"
        found = answer.json
        assert found["type"] == f"{TYPE}mismatching-upload-offset"
        assert (found["expected-offset"], found["provided-offset"]) == (HALF, wrong)


def test_a_lost_last_answer_can_be_asked_for_again(server: ServerProcess) -> None:
    upload = begun(server)
    assert append(server, upload, HALF, DATA[HALF:], complete=True).status == 200
    again = append(server, upload, HALF, DATA[HALF:], complete=True)
    assert (again.status, again.headers["upload-complete"]) == (409, "?0")
    assert again.headers["upload-offset"] == str(len(DATA))
    assert original(server, upload) == DATA
    again = append(server, upload, len(DATA), b"", complete=True)
    assert (again.status, again.headers["upload-complete"]) == (200, "?1")
    assert again.json["status"] == "COMPLETED"


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_the_digest_of_a_complete_file_can_be_asked(
    server: ServerProcess, algorithm: str
) -> None:
    upload = id_of(create(server, DATA, complete=True))
    with Line(server) as line:
        said = ("Upload-Complete", "?1"), ("Want-Repr-Digest", f"{algorithm}=9")
        answer = line.ask("HEAD", f"/files/{upload}", *said)
        _name, value = digest("Repr-Digest", DATA, algorithm)
        assert (answer.status, answer.headers["repr-digest"]) == (204, value)
        open_one = line.ask("HEAD", f"/files/{begun(server)}", *said)
        assert "repr-digest" not in open_one.headers


def test_reaching_the_length_does_not_complete(server: ServerProcess) -> None:
    answer = create(server, DATA, ("Upload-Length", str(len(DATA))))
    upload = id_of(answer)
    assert answer.headers["upload-complete"] == "?0"
    found = look(server, upload)
    assert found.headers["upload-length"] == str(len(DATA))
    assert found.headers["upload-complete"] == "?0"
    assert server.status(upload)["status"] == "UPLOADING"
    assert append(server, upload, len(DATA), b"", complete=True).status == 200
    assert original(server, upload) == DATA


def test_with_the_last_byte_of_what_was_announced_as_the_last_it_is_complete(
    server: ServerProcess,
) -> None:
    upload = id_of(create(server, b"", ("Upload-Length", str(len(DATA)))))
    with Line(server) as line:
        line.head(
            *("PATCH", f"/files/{upload}"),
            *said(None, complete=True),
            *(PARTIAL, ("Upload-Offset", "0")),
            length=len(DATA),
        )
        line.send(DATA[:-1])
        until(lambda: server.status(upload)["uploadedBytes"] == len(DATA) - 1)
    found = look(server, upload)
    assert found.headers["upload-offset"] == str(len(DATA) - 1)
    assert found.headers["upload-complete"] == "?0"
    last = append(server, upload, len(DATA) - 1, DATA[-1:])
    assert (last.status, last.headers["upload-complete"]) == (200, "?1")
    # and who says it once more with nothing hears the same
    assert append(server, upload, len(DATA), b"", complete=True).status == 200
    assert original(server, upload) == DATA


def test_so_it_is_if_its_creation_has_said_it(server: ServerProcess) -> None:
    with Line(server) as line:
        line.head("POST", "/files/", *said(6, complete=True), length=len(DATA))
        line.send(DATA[:-1])
        upload = line.answer().headers["location"].rsplit("/", 1)[-1]
        until(lambda: server.status(upload)["uploadedBytes"] == len(DATA) - 1)
    last = append(server, upload, len(DATA) - 1, DATA[-1:])
    assert (last.status, last.headers["upload-complete"]) == (200, "?1")
    assert original(server, upload) == DATA


def test_who_announced_a_digest_with_the_end_must_come_to_that_end(
    server: ServerProcess,
) -> None:
    upload = id_of(create(server, b"", ("Upload-Length", str(len(DATA)))))
    with Line(server) as line:
        line.head(
            "PATCH",
            f"/files/{upload}",
            *said(None, complete=True),
            *(PARTIAL, ("Upload-Offset", "0"), digest("Repr-Digest", DATA)),
            length=len(DATA),
        )
        line.send(DATA[:HALF])
        until(lambda: server.status(upload)["uploadedBytes"] == HALF)
    assert look(server, upload).headers["upload-offset"] == str(HALF)
    answer = append(server, upload, HALF, DATA[HALF:])
    assert (answer.status, answer.headers["upload-complete"]) == (204, "?0")
    wrong = digest("Repr-Digest", b"another file")
    refused = append(server, upload, len(DATA), b"", wrong, complete=True)
    assert (refused.status, code_of(refused)) == (400, "digest_mismatch")


def test_contradicting_lengths_are_refused(server: ServerProcess) -> None:
    long = ("Upload-Length", str(len(DATA) + 1))
    answers = [
        create(server, DATA, long, complete=True),
        append(server, begun(server), HALF, DATA[HALF:], long, complete=True),
    ]
    upload = id_of(create(server, DATA[:HALF], ("Upload-Length", str(len(DATA)))))
    answers += [
        append(server, upload, HALF, b"", long),
        append(server, upload, HALF, DATA[HALF:-1], complete=True),
    ]
    for answer in answers:
        assert (answer.status, code_of(answer)) == (400, "inconsistent_length")
        assert answer.json["type"] == f"{TYPE}inconsistent-upload-length"
    assert append(server, upload, HALF, DATA[HALF:], complete=True).status == 200


def test_what_goes_beyond_the_length_ends_the_upload(server: ServerProcess) -> None:
    upload = id_of(create(server, DATA[:HALF], ("Upload-Length", str(HALF + 1))))
    answer = append(server, upload, HALF, b"too much")
    assert (answer.status, code_of(answer)) == (413, "past_upload_length")
    assert look(server, upload).status == 410


def test_fields_of_the_wrong_type_count_as_absent(server: ServerProcess) -> None:
    upload = id_of(create(server, DATA[:HALF], ("Upload-Length", '"5"')))
    assert "upload-length" not in look(server, upload).headers
    for value in ("true", "1", "?2", "?1, ?1", ""):
        with Line(server) as line:
            answer = line.ask(
                "POST", "/files/", ("Upload-Complete", value), body=b"abc"
            )
        assert (answer.status, code_of(answer)) == (400, "invalid_header")
    for value in ("-1", "1.5", '"3"', "1_0", "9" * 16):
        assert append(server, upload, value, b"x").status == 400


def test_an_append_has_its_own_media_type(server: ServerProcess) -> None:
    upload = begun(server)
    text = ("Content-Type", "text/plain")
    for version in (None, 6, 10):
        answer = append(server, upload, HALF, b"x", version=version, kind=text)
        assert (answer.status, code_of(answer)) == (415, "unsupported_content_type")


def test_a_chunked_body_may_end_the_upload(server: ServerProcess) -> None:
    with Line(server) as line:
        line.head(
            "POST",
            "/files/",
            ("Upload-Complete", "?1"),
            ("Transfer-Encoding", "chunked"),
        )
        line.chunk(DATA[:HALF])
        line.chunk(DATA[HALF:])
        line.chunk(b"")
        answer = line.answer()
    assert answer.status == 201
    assert original(server, id_of(answer)) == DATA


def test_what_the_server_takes_can_be_asked(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("OPTIONS", "/files/")
    assert answer.headers["upload-limit"] == "min-size=0, max-size=100000"
    assert answer.headers["tus-version"] == "1.0.0"


@pytest.mark.parametrize("target", ["/upload", "/upload/a.txt"])
def test_so_can_what_whole_files_may_be(server: ServerProcess, target: str) -> None:
    with Line(server) as line:
        answer = line.ask("OPTIONS", target)
    assert answer.status == 200
    assert answer.headers["upload-limit"] == "min-size=0, max-size=100000"
    assert "tus-version" not in answer.headers


def test_a_malformed_field_begins_no_upload(server: ServerProcess) -> None:
    with Line(server) as line:
        words = ("Upload-Complete", "yes")
        answer = line.ask("PUT", "/upload/words.txt", words, body=DATA)
    assert answer.status == 202
    assert original(server, answer.json["jobId"]) == DATA


def test_an_empty_file_may_be_sent(server: ServerProcess) -> None:
    upload = id_of(create(server, None))
    answer = append(server, upload, 0, b"", complete=True)
    assert (answer.status, answer.headers["upload-complete"]) == (200, "?1")


# ----- digests


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_body_must_have_its_digest(server: ServerProcess, algorithm: str) -> None:
    upload = begun(server)
    wrong = digest("Content-Digest", DATA, algorithm)
    answer = append(server, upload, HALF, DATA[HALF:], wrong, complete=True)
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
    assert look(server, upload).headers["upload-offset"] == str(HALF)
    right = digest("Content-Digest", DATA[HALF:], algorithm)
    answer = append(server, upload, HALF, DATA[HALF:], right, complete=True)
    assert answer.status == 200


def test_a_file_must_have_its_digest(server: ServerProcess) -> None:
    right = digest("Repr-Digest", DATA)
    answer = create(server, DATA, right, complete=True)
    assert answer.status == 201
    wrong = digest("Repr-Digest", DATA + b"x", "sha-512")
    answer = create(server, DATA, wrong, complete=True)
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
    upload = id_of(create(server, DATA[:HALF], wrong))
    answer = append(server, upload, HALF, DATA[HALF:], complete=True)
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
    found = server.status(upload)
    assert (found["status"], found["error"]["code"]) == ("REJECTED", "digest_mismatch")
    assert rows(
        server,
        "SELECT count(*) FROM step JOIN job ON job.id=job_id WHERE pid=?",
        upload,
    ) == [(0,)]


def test_a_digest_may_come_with_the_last_bytes(server: ServerProcess) -> None:
    wrong = digest("Repr-Digest", b"other")
    answer = append(server, begun(server), HALF, DATA[HALF:], wrong, complete=True)
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")


def test_a_key_is_not_for_another_file_of_the_same_length(
    server: ServerProcess,
) -> None:
    key: Header = ("Idempotency-Key", "the-same-key")
    other = DATA[::-1]
    first = create(server, DATA, key, digest("Repr-Digest", DATA), complete=True)
    again = create(server, DATA, key, digest("Repr-Digest", DATA), complete=True)
    assert (first.status, again.status) == (201, 201)
    assert id_of(again) == id_of(first)
    answer = create(server, other, key, digest("Repr-Digest", other), complete=True)
    assert (answer.status, code_of(answer)) == (422, "idempotency_key_reused")


def test_digests_that_nobody_knows_are_passed_over(server: ServerProcess) -> None:
    odd = ("Repr-Digest", "md5=:AAAA:, unixsum=?1")
    broken = ("Content-Digest", "sha-256=:AAAA")
    assert create(server, DATA, odd, broken, complete=True).status == 201


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("sha-256=1", "sha-256"),
        ("sha-512=3, sha-256=10", "sha-256"),
        ("md5=9, sha-512=1", "sha-512"),
        ("sha-256=0", None),
        ("md5=1", None),
    ],
)
def test_the_digest_of_the_file_is_told_to_who_wants_it(
    server: ServerProcess, wanted: str, named: str | None
) -> None:
    header = ("Want-Repr-Digest", wanted)
    answer = append(server, begun(server), HALF, DATA[HALF:], header, complete=True)
    expected = None if named is None else digest("", DATA, named)[1]
    assert answer.headers.get("repr-digest") == expected


# ----- two dialects, one upload


def test_begun_in_tus_and_finished_in_the_draft(server: ServerProcess) -> None:
    upload = create_tus(server, len(DATA))
    assert patch_tus(server, upload, 0, DATA[:HALF]).status == 204
    found = look(server, upload)
    assert found.status == 204
    assert found.headers["upload-length"] == str(len(DATA))
    assert append(server, upload, HALF, DATA[HALF:], complete=True).status == 200
    assert original(server, upload) == DATA


def test_begun_in_tus_it_is_complete_at_its_length(server: ServerProcess) -> None:
    upload = create_tus(server, len(DATA))
    last = append(server, upload, 0, DATA)
    assert (last.status, last.headers["upload-complete"]) == (200, "?1")
    assert look(server, upload).headers["upload-complete"] == "?1"
    assert original(server, upload) == DATA


def test_begun_in_the_draft_and_finished_in_tus(server: ServerProcess) -> None:
    upload = begun(server)
    found = look_tus(server, upload)
    assert found.headers["upload-defer-length"] == "1"
    total = ("Upload-Length", str(len(DATA)))
    assert patch_tus(server, upload, HALF, DATA[HALF:], total).status == 204
    assert look(server, upload).headers["upload-complete"] == "?1"
    assert original(server, upload) == DATA


def test_to_a_client_of_tus_a_file_is_complete_at_its_length(
    server: ServerProcess,
) -> None:
    upload = id_of(create(server, DATA, ("Upload-Length", str(len(DATA)))))
    assert look_tus(server, upload).headers["upload-offset"] == str(len(DATA))
    assert look(server, upload).headers["upload-complete"] == "?1"
    assert original(server, upload) == DATA


def test_a_newcomer_in_one_dialect_stops_who_fills_in_the_other(
    server: ServerProcess,
) -> None:
    upload = create_tus(server, len(DATA))
    with Line(server) as line:
        headers = [*said(6, complete=True), PARTIAL, ("Upload-Offset", "0")]
        line.head("PATCH", f"/files/{upload}", *headers, length=len(DATA))
        line.send(DATA[:HALF])
        until(lambda: server.status(upload)["uploadedBytes"] == HALF)
        assert look_tus(server, upload).headers["upload-offset"] == str(HALF)
        stopped = line.answer()
        assert (stopped.status, code_of(stopped)) == (400, "upload_preempted")
