"""Requests that nobody sends by accident: refused with a reason, nothing kept."""

import random
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    TUS,
    Line,
    code_of,
    create,
    failures,
    form,
    healthy_server,
    jobs,
    kept,
    metadata,
    rss_bytes,
    until,
)

MIB = 1024 * 1024
FRONTIER = form()[0]
OPEN = b"--frontier\r\nContent-Disposition: form-data; name="

NAMES = [
    ("../../../etc/passwd", "passwd"),
    ("..\\..\\boot.ini", "boot.ini"),
    ("/absolute/path.txt", "path.txt"),
    ("..", "file"),
    (".", "file"),
    ("nul\0byte.txt", "nulbyte.txt"),
    ('quo"te.txt', 'quo"te.txt'),
    ("apo'strophe;semi.txt", "apo'strophe;semi.txt"),
    ("photo \N{GRINNING FACE}.txt", "photo \N{GRINNING FACE}.txt"),
    ("invoice\u202efdp.txt", "invoicefdp.txt"),
    ("line\r\nSet-Cookie: x=1.txt", "lineSet-Cookie: x=1.txt"),
    ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ("\N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT}.txt", "é.txt"),
    ("<b>bold<b>.txt", "<b>bold<b>.txt"),
    ("   ", "file"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("upload-hostile")
    with healthy_server(folder) as found:
        yield found


def check_name(server: ServerProcess, job: str, shown: str) -> None:
    found = server.finished(job)
    assert found["fileName"] == shown
    answer = server.request("GET", f"/jobs/{job}/files/original")
    assert answer.status == 200
    assert answer.body == b"hello"
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-disposition"].startswith("attachment; filename=")


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_a_hostile_name_in_an_address_is_only_shown(
    server: ServerProcess, name: str, shown: str
) -> None:
    with Line(server) as line:
        quoted = quote(name, safe="")
        answer = line.ask("POST", f"/upload?name={quoted}", body=b"hello")
    assert answer.status == 202
    check_name(server, answer.json["jobId"], shown)


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_a_hostile_name_in_metadata_is_only_shown(
    server: ServerProcess, name: str, shown: str
) -> None:
    upload = create(server, 5, metadata(filename=name))
    answer = server.request(
        "PATCH",
        f"/files/{upload}",
        b"hello",
        Tus_Resumable="1.0.0",
        Upload_Offset="0",
        Content_Type="application/offset+octet-stream",
    )
    assert answer.status == 204
    check_name(server, upload, shown)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"../../up.txt", "up.txt"),
        (b"quo%22te.txt", 'quo"te.txt'),
        (b'quo\\"te.txt', 'quo"te.txt'),
        (b"100%25.txt", "100%25.txt"),
        (b"not utf-8 \xff.txt", "not utf-8 \N{REPLACEMENT CHARACTER}.txt"),
        (b"x" * 300 + b".txt", "x" * 251 + ".txt"),
        ("día \N{GRINNING FACE}.txt".encode(), "día \N{GRINNING FACE}.txt"),
        (b"", "file"),
    ],
)
def test_a_hostile_name_in_a_form_is_only_shown(
    server: ServerProcess, name: bytes, shown: str
) -> None:
    head = OPEN + b'"file"; filename="' + name + b'"\r\n\r\n'
    with Line(server) as line:
        body = head + b"hello\r\n--frontier--\r\n"
        answer = line.ask("POST", "/upload", FRONTIER, body=body)
    assert answer.status == 202
    check_name(server, answer.json["jobId"], shown)


@pytest.mark.parametrize("said", ["image/png", "application/pdf", "video/mp4"])
def test_a_lying_type_is_refused_by_the_first_bytes_or_by_the_gate(
    server: ServerProcess, said: str
) -> None:
    with Line(server) as line:
        kind = ("Content-Type", said)
        page = b"<html><body>hello</body></html>"
        answer = line.ask("POST", "/upload?name=file", kind, body=page)
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")


@pytest.mark.parametrize("said", ["", "nonsense", "a/b/c", "text/plain; charset=\x01x"])
def test_an_odd_content_type_is_no_obstacle(server: ServerProcess, said: str) -> None:
    with Line(server) as line:
        kind = ("Content-Type", said)
        answer = line.ask("POST", "/upload?name=a.txt", kind, body=b"hello")
    if "\x01" in said:
        assert (answer.status, code_of(answer)) == (400, "malformed_request")
    else:
        assert answer.status == 202


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_multipart"),
        (b"hello", "invalid_multipart"),
        (b"--frontier--\r\n", "missing_file"),
        (OPEN + b'"file"\r\n\r\nno name\r\n--frontier--\r\n', "missing_file"),
        (OPEN + b'"x"; filename="a"\r\n\r\nx\r\n--frontier--\r\n', "missing_file"),
        (OPEN + b'"file"; filename=""\r\n\r\n\r\n--frontier--\r\n', "missing_file"),
        (OPEN + b'"file"; filename="a"\r\n\r\nnever closed', "invalid_multipart"),
        (OPEN + b'"file"; filename="a"\r\n\r\nx\r\n--fronti', "invalid_multipart"),
        (OPEN + b'"file"\r\nX: ' + b"x" * 100_000, "invalid_multipart"),
        ((OPEN + b'"x"\r\n\r\ny\r\n') * 10_000, "invalid_multipart"),
    ],
)
def test_what_is_no_form_with_a_file_is_refused_and_leaves_nothing(
    server: ServerProcess, body: bytes, code: str
) -> None:
    before = kept(server)
    with Line(server) as line:
        answer = line.ask("POST", "/upload", FRONTIER, body=body)
    assert (answer.status, code_of(answer)) == (400, code)
    until(lambda: kept(server) <= before)


def test_a_form_without_a_boundary_is_told_what_is_accepted(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        kind = ("Content-Type", "multipart/form-data")
        answer = line.ask("POST", "/upload", kind, body=b"hello")
    assert (answer.status, code_of(answer)) == (400, "invalid_multipart")
    assert "boundary" in answer.json["detail"]


def test_a_form_that_is_not_of_files_is_refused_by_name(server: ServerProcess) -> None:
    with Line(server) as line:
        kind = ("Content-Type", "multipart/mixed; boundary=frontier")
        answer = line.ask("POST", "/upload", kind, body=form(("a", b"b"))[1])
    assert (answer.status, code_of(answer)) == (400, "invalid_multipart")


def test_an_endless_text_field_costs_no_memory(server: ServerProcess) -> None:
    before = most = rss_bytes(server.pid)
    with Line(server) as line:
        line.head("POST", "/upload", FRONTIER, length=1 << 30)
        line.send(OPEN + b'"title"\r\n\r\n')
        for _ in range(64):
            line.send(bytes(MIB))
            most = max(most, rss_bytes(server.pid))
    assert most - before < 16 * MIB


@pytest.mark.parametrize(
    "query",
    [
        "limit=1_000",
        "limit=-1",
        "limit=1e3",
        "limit=%D9%A3",
        "limit=%205",
        "limit=99999999999999999999",
        "limit=0",
        "limit=501",
        "limit=",
        "limit=1&limit=2",
        "after=-1",
        "after=x",
        "after=1&after=2",
        "state=NONSENSE",
        "state=",
        "state=FAILED&state=COMPLETED",
    ],
)
def test_a_malformed_parameter_is_refused_with_what_is_accepted(
    server: ServerProcess, query: str
) -> None:
    with Line(server) as line:
        bearer = ("Authorization", f"Bearer {server.token}")
        answer = line.ask("GET", f"/jobs?{query}", bearer)
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    assert answer.json["accepted"]
    assert answer.json["parameter"] == query.split("=", maxsplit=1)[0]


@pytest.mark.parametrize("length", ["1_0", "-1", "1e3", "٣", "9" * 30, "5, 6", "0x5"])
def test_a_malformed_content_length_is_refused(
    server: ServerProcess, length: str
) -> None:
    before = jobs(server)
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", ("Content-Length", length))
        line.send(b"hello")
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "malformed_request")
    assert jobs(server) == before


@pytest.mark.parametrize(
    "job",
    [
        "nothing",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "01A20327-A3A3-7460-AD93-E9A93F525AB8",
        "01a20327-a3a3-7460-ad93-e9a93f525ab8%0a",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/{}"),
        ("GET", "/jobs/{}"),
        ("GET", "/jobs/{}/files/original"),
        ("POST", "/jobs/{}/retry"),
        ("POST", "/jobs/{}/cancel"),
        ("DELETE", "/jobs/{}"),
    ],
)
def test_an_unknown_job_is_answered_404(
    server: ServerProcess, method: str, path: str, job: str
) -> None:
    with Line(server) as line:
        answer = line.ask(method, path.format(job))
    assert (answer.status, code_of(answer)) == (404, "job_not_found")


# ----- anything at all

WORDS = [
    b"GET", b"POST", b"PUT", b"PATCH", b"HEAD", b"DELETE", b"OPTIONS", b"BREW", b" ",
    b"/", b"/files", b"/files/", b"/upload", b"/upload/a", b"/status/", b"/jobs",
    b"/ws",
    b"?name=", b"%00", b"%", b"*", b"http://x/", b" HTTP/1.1", b" HTTP/1.0",
    b" HTTP/9.9",
    b"\r\n", b"\n", b"\r\n\r\n", b"Host: 127.0.0.1", b"Host: x", b"Content-Length: 5",
    b"Content-Length: -5", b"Transfer-Encoding: chunked", b"Upload-Length: 5",
    b"Upload-Offset: 0", b"Tus-Resumable: 1.0.0", b"Upload-Metadata: a \xc3\xa9",
    b"Content-Type: multipart/form-data; boundary=b", b"--b\r\n", b"--b--",
    b"Content-Type: application/offset+octet-stream", b"Expect: 100-continue",
    b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"hello",
    b"5\r\nhello\r\n0\r\n\r\n", b"\x00", b"\xff\xfe", b"a: " + b"x" * 9000, b":",
]  # fmt: skip


def rubbish(chance: random.Random) -> bytes:
    """Return something that may look like a request."""
    words = [chance.choice(WORDS) for _ in range(chance.randint(1, 25))]
    if chance.random() < 0.7:
        target = chance.choice([w for w in WORDS if w.startswith(b"/")])
        method = chance.choice(WORDS[:7])
        first = method + b" " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        lines = [chance.choice(WORDS) for _ in range(chance.randint(0, 8))]
        words = [
            first,
            b"\r\n".join([TUS[0].encode() + b": 1.0.0", *lines]),
            b"\r\n\r\n",
        ]
        words += [chance.choice(WORDS) for _ in range(chance.randint(0, 4))]
    return b"".join(words)


@pytest.mark.parametrize("seed", range(4))
def test_rubbish_is_survived_without_a_fault_of_ours(
    server: ServerProcess, seed: int
) -> None:
    chance = random.Random(seed)
    end = time.monotonic() + 3
    for _ in range(250):
        with Line(server) as line:
            line.sock.settimeout(0.02)
            data = rubbish(chance)
            try:
                line.send(data)
                got = line.sock.recv(65536)
            except (TimeoutError, ConnectionError):
                continue
            assert b" 500 " not in got[:20], data
        if time.monotonic() > end:
            break
    assert server.request("GET", "/livez").status == 200
    assert failures(server) == []


@pytest.mark.parametrize("size", ["-6", "-2", "+6", "0x6", "1_0", " 6", "", "g", "-0"])
def test_a_chunk_whose_size_is_no_number_is_refused_and_freezes_nothing(
    server: ServerProcess, size: str
) -> None:
    before = kept(server)
    with Line(server) as line:
        line.head("PUT", "/upload/a.txt", ("Transfer-Encoding", "chunked"))
        line.send(f"{size}\r\nX".encode())
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (400, "malformed_request")
    assert server.request("GET", "/livez").status == 200
    until(lambda: kept(server) <= before)
