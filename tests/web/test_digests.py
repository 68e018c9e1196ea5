"""Checksums and digests: before and behind the bytes, and when they count."""

import base64
import contextlib
import hashlib
import json
import os
import select
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from asyncflow.web.digests import AT_ONCE, MOST_ASKERS
from tests.server_process import Answer, ServerProcess, serving
from tests.web.live import (
    CHUNK,
    PATIENCE_S,
    TUS,
    Header,
    Line,
    blobs,
    code_of,
    create as create_tus,
    form,
    healthy_server,
    jobs,
    kept,
    needs_root,
    offset_of,
    rows,
    until,
)

DATA = b"what was sent is what is kept\n" * 40
HALF = len(DATA) // 2
PARTIAL: Header = ("Content-Type", "application/partial-upload")
CHUNKED: Header = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("digests")) as found:
        yield found


def digest(name: str, data: bytes, algorithm: str = "sha-256") -> Header:
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return name, f"{algorithm}=:{base64.b64encode(value).decode()}:"


def checksum(data: bytes) -> Header:
    value = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return "Upload-Checksum", f"sha256 {value}"


def begun(server: ServerProcess, *headers: Header) -> str:
    """Begin an upload of the draft with half of its bytes; return its id."""
    with Line(server) as line:
        complete = ("Upload-Complete", "?0")
        answer = line.ask("POST", "/files/", complete, *headers, body=DATA[:HALF])
    assert answer.status == 201
    return answer.headers["asyncflow-job-id"]


def append(
    server: ServerProcess,
    upload: str,
    *headers: Header,
    offset: int = HALF,
    complete: str = "?1",
) -> Answer:
    with Line(server) as line:
        return line.ask(
            "PATCH",
            f"/files/{upload}",
            ("Upload-Complete", complete),
            ("Upload-Offset", str(offset)),
            PARTIAL,
            *headers,
            body=DATA[HALF:],
        )


def in_chunks(data: bytes, *trailers: Header) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return f"{len(data):x}\r\n".encode() + data + f"\r\n0\r\n{fields}\r\n".encode()


def stored(server: ServerProcess, upload: str) -> bytes:
    assert server.finished(upload)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{upload}/files/original").body


# ----- the digest of the whole file


@pytest.mark.parametrize("known", ["known", "unknown"])
def test_a_refused_request_changes_no_digest(server: ServerProcess, known: str) -> None:
    right, wrong = digest("Repr-Digest", DATA), digest("Repr-Digest", b"other")
    upload = begun(server, *([right] if known == "known" else []))
    bad_body = digest("Content-Digest", b"other")
    assert append(server, upload, wrong, offset=99).status == 409
    assert append(server, upload, wrong, ("Upload-Length", "3")).status == 400
    assert append(server, upload, wrong, bad_body).status == 400
    assert append(server, upload, wrong, complete="maybe").status == 400
    assert append(server, upload).status == 200
    assert stored(server, upload) == DATA


def test_a_refused_append_of_the_draft_changes_no_upload_of_tus(
    server: ServerProcess,
) -> None:
    upload = create_tus(server, len(DATA))
    wrong = digest("Repr-Digest", b"other")
    assert append(server, upload, wrong, offset=5).status == 409
    with Line(server) as line:
        at = ("Upload-Offset", "0")
        answer = line.ask("PATCH", f"/files/{upload}", TUS, CHUNK, at, body=DATA)
    assert answer.status == 204
    assert stored(server, upload) == DATA


def test_another_digest_than_before_is_refused_and_the_upload_goes_on(
    server: ServerProcess,
) -> None:
    upload = begun(server, digest("Repr-Digest", DATA))
    for other in (
        digest("Repr-Digest", b"other"),
        digest("Repr-Digest", DATA, "sha-512"),
    ):
        answer = append(server, upload, other)
        assert (answer.status, code_of(answer)) == (400, "digest_conflict")
        assert "sha256" in answer.json["detail"]
    names = ("sha-512", "sha-256")
    both = ", ".join(digest("", DATA, name)[1] for name in names)
    assert append(server, upload, ("Repr-Digest", both)).status == 200
    assert stored(server, upload) == DATA


# ----- behind the bytes


@pytest.mark.parametrize("announced", ["announced", ""])
@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
def test_a_digest_may_come_behind_the_body(
    server: ServerProcess, name: str, announced: str
) -> None:
    whole = DATA if name == "Repr-Digest" else DATA[HALF:]
    trailer = [("Trailer", name)] if announced else []
    for said, status in ((b"other", 400), (whole, 200)):
        upload = begun(server)
        with Line(server) as line:
            line.head(
                "PATCH",
                f"/files/{upload}",
                ("Upload-Complete", "?1"),
                ("Upload-Offset", str(HALF)),
                PARTIAL,
                CHUNKED,
                *trailer,
            )
            line.send(in_chunks(DATA[HALF:], digest(name, said)))
            answer = line.answer()
        assert answer.status == status
        if status == 400:
            assert code_of(answer) == "digest_mismatch"
        else:
            assert stored(server, upload) == DATA


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("behind", ["behind", ""])
def test_a_file_in_one_request_must_have_its_digest(
    server: ServerProcess, name: str, behind: str
) -> None:
    before = kept(server)
    for said, status in ((b"other", 400), (DATA, 202)):
        found = digest(name, said)
        with Line(server) as line:
            head = [CHUNKED] if behind else [found, CHUNKED]
            line.head("PUT", "/upload/a.txt", *head)
            line.send(in_chunks(DATA, *([found] if behind else [])))
            answer = line.answer()
        assert answer.status == status
        if status == 400:
            assert code_of(answer) == "digest_mismatch"
            until(lambda: kept(server) <= before)


@pytest.mark.parametrize("path", ["/upload/words.txt", "/files/"])
def test_the_digest_that_comes_with_a_file_is_known_before_its_bytes(
    server: ServerProcess, path: str
) -> None:
    # whoever completes the file, a restarted server too, compares it
    headers: list[Header] = [digest("Repr-Digest", DATA)]
    headers += [] if path.startswith("/upload") else [("Upload-Complete", "?1")]
    newest = "SELECT state, digest FROM upload ORDER BY job_id DESC LIMIT 1"
    known = ("receiving", f"sha256:{hashlib.sha256(DATA).hexdigest()}")
    with Line(server) as line:
        line.head("PUT", path, *headers, length=len(DATA))
        line.send(DATA[:-1])
        until(lambda: rows(server, newest) == [known])
        line.send(DATA[-1:])
        assert line.answer().status in {201, 202}


@pytest.mark.parametrize("announced", ["announced", ""])
@pytest.mark.parametrize("method", ["PATCH", "POST"])
def test_a_checksum_behind_the_body_counts_announced_or_not(
    server: ServerProcess, method: str, announced: str
) -> None:
    trailer = [("Trailer", "Upload-Checksum")] if announced else []
    for said, status in ((b"other", 460), (DATA, 204 if method == "PATCH" else 201)):
        with Line(server) as line:
            upload = create_tus(server, len(DATA))
            at, target = ("Upload-Offset", "0"), f"/files/{upload}"
            if method == "POST":
                at, target = ("Upload-Length", str(len(DATA))), "/files"
            line.head(method, target, TUS, CHUNK, at, CHUNKED, *trailer)
            line.send(in_chunks(DATA, checksum(said)))
            answer = line.answer()
        assert answer.status == status
        if status == 460:
            assert code_of(answer) == "checksum_mismatch"
            assert offset_of(server, upload) == 0


def test_a_checksum_behind_the_body_that_is_none_is_refused(
    server: ServerProcess,
) -> None:
    upload = create_tus(server, len(DATA))
    for trailers in (
        [("Upload-Checksum", "sha256 x")],
        [checksum(DATA), checksum(DATA)],
    ):
        with Line(server) as line:
            at = ("Upload-Offset", "0")
            line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, CHUNKED)
            line.send(in_chunks(DATA, *trailers))
            answer = line.answer()
        assert (answer.status, code_of(answer)) == (400, "invalid_header")
        assert "is 'sha256 " in answer.json["detail"]
        assert offset_of(server, upload) == 0


# ----- of requests that are more than one file


def has_nothing_new(server: ServerProcess, before: set[str]) -> bool:
    return kept(server) <= before


def content_digest(body: bytes) -> Header:
    return digest("Content-Digest", body)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_form_is_taken_as_it_was_announced_or_not_at_all(
    server: ServerProcess, where: str
) -> None:
    before, many = kept(server), jobs(server)
    kind, body = form(("a.txt", DATA), ("b.txt", b"more"), ("empty.txt", b""))

    def send(found: Header) -> Answer:
        with Line(server) as line:
            if where == "before":
                return line.ask("POST", "/upload", kind, found, body=body)
            announced = ("Trailer", "content-digest")
            line.head("POST", "/upload", kind, announced, CHUNKED)
            line.send(in_chunks(body, found))
            return line.answer()

    answer = send(content_digest(b"other"))
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
    until(lambda: kept(server) <= before)

    answer = send(content_digest(body))
    assert answer.status == 202
    taken = answer.json["jobs"]
    assert [one["status"] for one in taken] == ["PENDING"] * 3
    assert stored(server, taken[0]["jobId"]) == DATA
    assert stored(server, taken[1]["jobId"]) == b"more"
    assert server.finished(taken[2]["jobId"])["error"]["code"] == "empty_file"
    # what was refused tells its owner so, and is no file
    assert jobs(server) == many + 6


def test_a_file_that_is_not_what_it_is_named_is_refused_in_an_announced_form_too(
    server: ServerProcess,
) -> None:
    kind, body = form(("a.txt", DATA), ("b.png", b"%PDF-1.7 is short"))
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, content_digest(body), body=body)
    assert answer.status == 202
    first, second = answer.json["jobs"]
    assert (first["status"], first["fileName"]) == ("PENDING", "a.txt")
    assert second["status"] == "REFUSED"
    assert stored(server, first["jobId"]) == DATA


def test_an_announced_form_that_breaks_off_leaves_nothing(
    server: ServerProcess,
) -> None:
    before = kept(server)
    kind, body = form(("a.txt", DATA), ("b.txt", DATA))
    with Line(server) as line:
        line.head("POST", "/upload", kind, content_digest(body), length=len(body))
        line.send(body[:-100])
    until(lambda: kept(server) <= before)


def test_an_announced_form_of_which_a_file_cannot_be_read_leaves_nothing(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data") as server:
        kind, body = form(("a.txt", DATA), ("b.txt", DATA))
        with Line(server) as line:
            line.head("POST", "/upload", kind, content_digest(body), length=len(body))
            line.send(body[:-1])
            until(lambda: len(blobs(server)) == 2)
            ((job,),) = rows(server, "SELECT pid FROM job ORDER BY id LIMIT 1")
            (path,) = server.data_dir.rglob(job)
            path.rename(tmp_path / "away")
            # the store follows no link
            path.symlink_to(tmp_path / "away")
            line.send(body[-1:])
            assert line.answer().status == 500
        assert rows(server, "SELECT state FROM upload") == [("ended",), ("ended",)]


def test_a_chunk_has_its_digest_or_is_not_kept(tmp_path: Path) -> None:
    # of its own: when chunks have gone into their file, they vanish behind other tests
    with healthy_server(tmp_path) as server:
        send_chunks(server)


def send_chunks(server: ServerProcess) -> None:
    before = kept(server)
    kind, as_form = form(("chunk", DATA), field="chunk")
    fields = "".join(
        f'--frontier\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{n}\r\n'
        for name, n in (("chunkIndex", 0), ("totalChunks", 1))
    )
    encoded = base64.b64encode(DATA).decode()
    as_json = json.dumps({"chunkIndex": 0, "totalChunks": 1, "chunk": encoded}).encode()
    for kind_, body in (
        (kind, fields.encode() + as_form),
        (("Content-Type", "application/json"), as_json),
    ):
        for said, status in ((b"other", 400), (body, 202)):
            with Line(server) as line:
                found = content_digest(said)
                answer = line.ask("POST", "/upload/chunked", kind_, found, body=body)
            assert answer.status == status
            if status == 400:
                assert code_of(answer) == "digest_mismatch"
                until(partial(has_nothing_new, server, before))
            else:
                assert stored(server, answer.json["jobId"]) == DATA
                before = kept(server)


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("beside", ["beside a checksum", "alone"])
def test_the_bytes_of_a_tus_request_have_their_digest_or_are_not_kept(
    server: ServerProcess, where: str, beside: str
) -> None:
    upload = create_tus(server, len(DATA))
    also = [checksum(DATA)] if beside != "alone" else []
    for said, status in ((b"other", 460), (DATA, 204)):
        found = content_digest(said)
        head = [found, *also] if where == "before" else []
        with Line(server) as line:
            at = ("Upload-Offset", "0")
            line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, CHUNKED, *head)
            line.send(in_chunks(DATA, *([] if head else [found, *also])))
            answer = line.answer()
        assert answer.status == status
        if status == 460:
            assert code_of(answer) == "checksum_mismatch"
            assert offset_of(server, upload) == 0
    assert stored(server, upload) == DATA


# ----- several requests on one connection


def test_trailers_are_each_request_s_own_however_the_requests_are_cut(
    server: ServerProcess,
) -> None:
    crc = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()
    right, wrong = ("Upload-Checksum", f"crc32 {crc}"), checksum(b"other")
    for step in (1 << 20, 1000, 7):
        uploads = [create_tus(server, len(DATA)) for _ in range(4)]
        with Line(server) as line:
            heads = [
                f"PATCH /files/{upload} HTTP/1.1\r\nHost: {line.host}\r\n"
                "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                "Content-Type: application/offset+octet-stream\r\n"
                for upload in uploads
            ]
            chunked = "Transfer-Encoding: chunked\r\n\r\n"
            plain = f"Content-Length: {len(DATA)}\r\n\r\n"
            livez = f"GET /livez HTTP/1.1\r\nHost: {line.host}\r\n\r\n".encode()
            row = (
                livez
                + (heads[0] + chunked).encode()
                + in_chunks(DATA, right)
                + (heads[1] + plain).encode()
                + DATA
                + (heads[2] + chunked).encode()
                + in_chunks(DATA, wrong)
                + (heads[3] + "Trailer: Upload-Checksum\r\n" + chunked).encode()
                + in_chunks(DATA, right)
                + livez * 40
            )
            for at in range(0, len(row), step):
                line.send(row[at : at + step])
            statuses = [line.answer().status for _ in range(45)]
        assert statuses == [200, 204, 204, 460, 204] + [200] * 40


def test_a_trailer_never_becomes_a_header_of_the_next_request(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", CHUNKED)
        line.send(in_chunks(DATA, ("Origin", "https://elsewhere.example")))
        assert line.answer().status == 202
        assert line.ask("PUT", "/upload/b.txt", body=DATA).status == 202


def test_a_large_body_s_trailer_is_found(server: ServerProcess) -> None:
    data = bytes(range(256)) * 8192
    upload = create_tus(server, len(data))
    with Line(server) as line:
        at = ("Upload-Offset", "0")
        line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, CHUNKED)
        pieces = [data[n : n + 5000] for n in range(0, len(data), 5000)]
        line.send(b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces))
        field = ": ".join(checksum(data))
        line.send(f"0\r\n{field}\r\n\r\nGET /livez HTTP/1.1\r\nHost: x".encode())
        line.send(f"\r\nHost: {line.host}\r\n\r\n".encode())
        assert line.answer().status == 204
    assert offset_of(server, upload) == len(data)


# ----- digests of complete files, for whoever asks


def wanting(upload: str, algorithm: str = "sha-512") -> tuple[str, str, Header, Header]:
    said = ("Want-Repr-Digest", f"{algorithm}=9")
    return "HEAD", f"/files/{upload}", ("Upload-Complete", "?1"), said


def read_bytes(server: ServerProcess) -> int:
    """Return how much the server has read so far, from whatever it was."""
    lines = Path(f"/proc/{server.pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def readers_of(server: ServerProcess, upload: str) -> int:
    """Return how many descriptors the server has for the bytes of an upload."""
    found = 0
    for fd in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += upload in str(fd.readlink())
    return found


def endless(server: ServerProcess) -> str:
    """Return a complete upload whose file takes minutes to read."""
    upload = begun(server)
    assert append(server, upload).status == 200
    assert server.finished(upload)["status"] == "COMPLETED"
    (path,) = (server.data_dir / "store").rglob(upload)
    os.truncate(path, 1 << 40)
    return upload


@needs_root
def test_the_digest_of_a_complete_file_is_computed_once(server: ServerProcess) -> None:
    data = os.urandom(4 << 20)
    with Line(server) as line:
        complete = ("Upload-Complete", "?1")
        made = line.ask("POST", "/files/", complete, body=data)
    upload = made.headers["asyncflow-job-id"]
    assert server.finished(upload)["status"] == "COMPLETED"
    for algorithm in ("sha-256", "sha-512"):
        expected = digest("", data, algorithm)[1]
        before = read_bytes(server)
        for _ in range(20):
            with Line(server) as line:
                answer = line.ask(*wanting(upload, algorithm))
            assert answer.headers["repr-digest"] == expected
        assert read_bytes(server) - before < 2 * len(data)


@needs_root
def test_a_digest_that_was_computed_outlives_the_server(tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    with healthy_server(tmp_path) as server:
        with Line(server) as line:
            complete = ("Upload-Complete", "?1")
            made = line.ask("POST", "/files/", complete, body=data)
        upload = made.headers["asyncflow-job-id"]
        assert server.finished(upload)["status"] == "COMPLETED"
        with Line(server) as line:
            told = line.ask(*wanting(upload)).headers["repr-digest"]
        server.stop()
        server.start()
        before = read_bytes(server)
        with Line(server) as line:
            assert line.ask(*wanting(upload)).headers["repr-digest"] == told
        assert read_bytes(server) - before < len(data)


@needs_root
def test_a_digest_that_nobody_waits_for_any_more_is_given_up(tmp_path: Path) -> None:
    with healthy_server(tmp_path) as server:
        upload = endless(server)
        lines = [Line(server) for _ in range(20)]
        for line in lines:
            line.head(*wanting(upload))
        until(lambda: readers_of(server, upload))
        with Line(server) as line:
            assert line.ask("GET", "/livez").status == 200
        # one reading serves them all
        assert readers_of(server, upload) == 1
        for line in lines:
            line.sock.close()
        until(lambda: not readers_of(server, upload))


@needs_root
def test_so_many_may_wait_for_digests_and_one_more_is_told_to_come_later(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path) as server:
        uploads = [endless(server) for _ in range(4)]
        lines = [Line(server) for _ in range(MOST_ASKERS + 1)]
        for n, line in enumerate(lines):
            line.head(*wanting(uploads[n % 4]))
        answered, _, _ = select.select(
            [line.sock for line in lines], [], [], PATIENCE_S
        )
        (busy,) = (one.answer(has_body=False) for one in lines if one.sock in answered)
        assert busy.status == 503
        assert busy.headers["retry-after"] == "5"
        assert sum(readers_of(server, one) for one in uploads) == AT_ONCE
        assert append(server, begun(server)).status == 200
        for line in lines:
            line.sock.close()
        until(lambda: not any(readers_of(server, one) for one in uploads))


# ----- files that are empty, or come again


def put(server: ServerProcess, data: bytes, *headers: Header) -> Answer:
    with Line(server) as line:
        return line.ask("PUT", "/upload/some.txt", *headers, body=data)


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
def test_an_empty_file_has_a_digest_too(server: ServerProcess, name: str) -> None:
    before = jobs(server)
    refused = put(server, b"", digest(name, b"other"))
    assert (refused.status, code_of(refused)) == (400, "digest_mismatch")
    assert jobs(server) == before
    assert put(server, b"", digest(name, b"")).status == 202


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_repeat_must_be_what_it_says_it_is(
    server: ServerProcess, name: str, algorithm: str
) -> None:
    key = ("Idempotency-Key", os.urandom(8).hex())
    first = put(server, DATA, key)
    refused = put(server, DATA, key, digest(name, b"other", algorithm))
    assert (refused.status, code_of(refused)) == (400, "digest_mismatch")
    again = put(server, DATA, key, digest(name, DATA, algorithm))
    assert (again.status, again.json["jobId"]) == (202, first.json["jobId"])
