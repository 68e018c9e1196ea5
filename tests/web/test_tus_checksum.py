import base64
import hashlib
import zlib
from collections.abc import Iterator

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    create,
    half_open,
    healthy_server,
    look,
    offset_of,
    patch,
    rows,
    until,
)

DATA = b"bytes that must arrive as they were sent\n" * 200
TRAILER: Header = ("Trailer", "Upload-Checksum")
CHUNKED: Header = ("Transfer-Encoding", "chunked")

DIGESTS = {
    "sha1": hashlib.sha1(DATA, usedforsecurity=False).digest(),
    "sha256": hashlib.sha256(DATA).digest(),
    "sha512": hashlib.sha512(DATA).digest(),
    "md5": hashlib.md5(DATA, usedforsecurity=False).digest(),
    "crc32": zlib.crc32(DATA).to_bytes(4, "big"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("tus-checksum")) as found:
        yield found


def checksum(algorithm: str, data: bytes = DATA) -> Header:
    value = DIGESTS[algorithm] if data == DATA else hashlib.sha256(data).digest()
    return "Upload-Checksum", f"{algorithm} {base64.b64encode(value).decode()}"


def test_the_algorithms_are_told(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("OPTIONS", "/files/")
    assert set(answer.headers["tus-checksum-algorithm"].split(",")) == set(DIGESTS)


@pytest.mark.parametrize("algorithm", list(DIGESTS))
def test_a_chunk_with_the_right_checksum_is_taken(
    server: ServerProcess, algorithm: str
) -> None:
    upload = create(server, len(DATA))
    answer = patch(server, upload, 0, DATA, checksum(algorithm))
    assert (answer.status, answer.headers["upload-offset"]) == (204, str(len(DATA)))
    assert server.finished(upload)["status"] == "COMPLETED"


@pytest.mark.parametrize("algorithm", list(DIGESTS))
def test_nothing_of_a_chunk_with_a_wrong_checksum_is_kept(
    server: ServerProcess, algorithm: str
) -> None:
    upload = create(server, 10 + len(DATA))
    assert patch(server, upload, 0, b"0123456789").status == 204
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    answer = patch(server, upload, 10, wrong, checksum(algorithm))
    assert (answer.status, code_of(answer)) == (460, "checksum_mismatch")
    assert offset_of(server, upload) == 10
    assert patch(server, upload, 10, DATA, checksum(algorithm)).status == 204
    assert server.finished(upload)["status"] == "COMPLETED"
    original = server.request("GET", f"/jobs/{upload}/files/original")
    assert original.body == b"0123456789" + DATA


@pytest.mark.parametrize(
    "value",
    [
        "sha3 AAAA",
        "sha256",
        "sha256 ",
        "sha256 AAAA",
        "sha256 !!!!",
        "SHA256 " + base64.b64encode(DIGESTS["sha256"]).decode(),
        "",
    ],
)
def test_a_checksum_that_cannot_be_understood_is_refused_before_the_bytes(
    server: ServerProcess, value: str
) -> None:
    upload = create(server, len(DATA))
    answer = patch(server, upload, 0, DATA, ("Upload-Checksum", value))
    assert (answer.status, code_of(answer)) == (400, "invalid_header")
    assert offset_of(server, upload) == 0


def test_a_checksum_may_come_with_the_creation(server: ServerProcess) -> None:
    with Line(server) as line:
        wrong = line.ask(
            "POST",
            "/files",
            TUS,
            CHUNK,
            ("Upload-Length", str(len(DATA))),
            checksum("sha1"),
            body=DATA[:-1],
        )
    assert (wrong.status, code_of(wrong)) == (460, "checksum_mismatch")
    with Line(server) as line:
        right = line.ask(
            "POST",
            "/files",
            TUS,
            CHUNK,
            ("Upload-Length", str(len(DATA))),
            checksum("sha1"),
            body=DATA,
        )
    assert (right.status, right.headers["upload-offset"]) == (201, str(len(DATA)))


def test_a_checked_chunk_that_breaks_off_leaves_nothing(server: ServerProcess) -> None:
    upload = create(server, len(DATA))
    at = ("Upload-Offset", "0")
    with Line(server) as line:
        line.head(
            "PATCH",
            f"/files/{upload}",
            TUS,
            CHUNK,
            at,
            checksum("sha256"),
            length=len(DATA),
        )
        line.send(DATA[:100])
        until(lambda: server.status(upload)["uploadedBytes"] == 100)
    until(lambda: offset_of(server, upload) == 0)
    assert patch(server, upload, 0, DATA).status == 204


def test_a_crash_inside_a_checked_chunk_takes_it_back(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with healthy_server(tmp_path_factory.mktemp("crash")) as other:
        upload = create(other, 10 + len(DATA))
        patch(other, upload, 0, b"0123456789")
        with Line(other) as line:
            line.head(
                "PATCH",
                f"/files/{upload}",
                TUS,
                CHUNK,
                ("Upload-Offset", "10"),
                checksum("sha256"),
                length=len(DATA),
            )
            line.send(DATA[:100])
            until(lambda: other.status(upload)["uploadedBytes"] == 110)
            other.kill()
        other.log_path.unlink()
        other.start()
        (blob,) = (other.data_dir / "store").rglob(upload)
        assert blob.stat().st_size == 110
        assert offset_of(other, upload) == 10
        assert patch(other, upload, 10, DATA).status == 204
        assert other.finished(upload)["status"] == "COMPLETED"
        assert blob.read_bytes() == b"0123456789" + DATA


def test_a_newcomer_takes_a_checked_chunk_back(server: ServerProcess) -> None:
    upload = create(server, len(DATA))
    with Line(server) as line:
        line.head(
            "PATCH",
            f"/files/{upload}",
            TUS,
            CHUNK,
            ("Upload-Offset", "0"),
            checksum("sha256"),
            length=len(DATA),
        )
        line.send(DATA[:100])
        until(lambda: server.status(upload)["uploadedBytes"] == 100)
        assert offset_of(server, upload) == 0
        assert code_of(line.answer()) == "upload_preempted"
    assert rows(
        server,
        "SELECT checked_from FROM upload JOIN job ON id=job_id WHERE pid=?",
        upload,
    ) == [(None,)]


def test_a_checked_chunk_is_refused_like_any_other(server: ServerProcess) -> None:
    upload = create(server, len(DATA), ("Upload-Metadata", "filename YS5wbmc="))
    answer = patch(server, upload, 0, DATA, checksum("sha256"))
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")
    assert look(server, upload).status == 410


# ----- trailers


def send_with_trailer(
    server: ServerProcess,
    upload: str,
    data: bytes,
    *fields: str,
    behind: bytes = b"",
) -> Line:
    line = Line(server)
    at = ("Upload-Offset", "0")
    line.head("PATCH", f"/files/{upload}", TUS, CHUNK, CHUNKED, TRAILER, at)
    for start in range(0, len(data), 3000):
        line.chunk(data[start : start + 3000])
    line.send("".join(["0\r\n", *(f"{f}\r\n" for f in fields), "\r\n"]).encode())
    line.send(behind)
    return line


def as_trailer(header: Header) -> str:
    return f"{header[0]}: {header[1]}"


@pytest.mark.parametrize("algorithm", list(DIGESTS))
def test_a_checksum_may_follow_the_body(server: ServerProcess, algorithm: str) -> None:
    upload = create(server, len(DATA))
    fields = ["X-Other: 1", as_trailer(checksum(algorithm)), "x-more:  2 "]
    with send_with_trailer(server, upload, DATA, *fields) as line:
        assert line.answer().status == 204
        assert line.ask("HEAD", f"/files/{upload}", TUS).status == 200
    assert server.finished(upload)["status"] == "COMPLETED"


def test_a_wrong_checksum_behind_the_body_keeps_nothing(server: ServerProcess) -> None:
    upload = create(server, len(DATA))
    field = as_trailer(checksum("sha256"))
    with send_with_trailer(server, upload, DATA[:-1] + b"x", field) as line:
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (460, "checksum_mismatch")
    assert offset_of(server, upload) == 0


@pytest.mark.parametrize(
    "fields", [(), ("X-Other: 1",), ("Upload-Checksum: nonsense",)], ids=str
)
def test_an_announced_checksum_that_does_not_come_keeps_nothing(
    server: ServerProcess, fields: tuple[str, ...]
) -> None:
    upload = create(server, len(DATA))
    with send_with_trailer(server, upload, DATA, *fields) as line:
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "invalid_header")
    assert offset_of(server, upload) == 0


def test_what_looks_like_a_trailer_inside_the_body_is_none(
    server: ServerProcess,
) -> None:
    field = as_trailer(checksum("sha256"))
    data = DATA + f"\r\n0\r\n{field}\r\n\r\n".encode()
    upload = create(server, len(data))
    with send_with_trailer(server, upload, data) as line:
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "invalid_header")
    assert offset_of(server, upload) == 0


def test_a_half_open_checked_chunk_never_holds_up_another(
    server: ServerProcess,
) -> None:
    upload = create(server, len(DATA))
    with half_open(server, upload, 0, DATA[:10], length=len(DATA)):
        until(lambda: server.status(upload)["uploadedBytes"] == 10)
        at = offset_of(server, upload)
        rest = patch(server, upload, at, DATA[at:])
    assert rest.status == 204


@pytest.mark.parametrize("name", ["Upload-Checksum", "Content-Digest"])
@pytest.mark.parametrize("is_behind", [False, True])
def test_an_empty_file_must_have_the_checksum_of_nothing(
    server: ServerProcess, name: str, *, is_behind: bool
) -> None:
    def create_with(data: bytes) -> Answer:
        value = base64.b64encode(hashlib.sha256(data).digest()).decode()
        said = f"sha256 {value}" if name == "Upload-Checksum" else f"sha-256=:{value}:"
        empty: Header = ("Upload-Length", "0")
        with Line(server) as line:
            if is_behind:
                trailer: Header = ("Trailer", name)
                line.head("POST", "/files", TUS, CHUNK, CHUNKED, empty, trailer)
                line.send(f"0\r\n{name}: {said}\r\n\r\n".encode())
            else:
                line.head("POST", "/files", TUS, CHUNK, CHUNKED, empty, (name, said))
                line.send(b"0\r\n\r\n")
            return line.answer()

    before = rows(server, "SELECT count(*) FROM job")
    refused = create_with(b"something")
    assert (refused.status, code_of(refused)) == (460, "checksum_mismatch")
    assert rows(server, "SELECT count(*) FROM job") == before
    assert create_with(b"").status == 201
