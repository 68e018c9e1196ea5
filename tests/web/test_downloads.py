import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web

from asyncflow.errors import BlobNotFound, FileNotAvailable
from asyncflow.web.auth import TokenAuth, authentication
from asyncflow.web.downloads import Download, add_downloads
from asyncflow.web.errors import problems
from asyncflow.web.names import clean_name, content_disposition
from asyncflow.web.ranges import http_date
from asyncflow.web.sendfile import SMALL
from tests.web.wire import Answer, Dial, Serve, Wire, until

MODIFIED = datetime(2026, 5, 4, 3, 2, 1, 999, tzinfo=UTC)
LARGE = os.urandom(3 * 1024 * 1024 + 17)
TINY = b"0123456789"


class Files:
    """A finder and a store: one job `j` with some files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Download] = {}
        self.blobs: dict[str, list[bytes]] = {}

    def add(self, name: str, data: bytes, **other: object) -> Download:
        path = self.folder / name
        path.write_bytes(data)
        found = Download(
            path=path,
            key=f"raw/{name}",
            size=len(data),
            length=len(data),
            media_type="image/jpeg",
            file_name=f"{name}.jpg",
            etag=f"tag-{name}",
            modified=MODIFIED,
        )
        self.known[name] = replace(found, **other)  # type: ignore[arg-type]
        return self.known[name]

    def add_blob(self, name: str, pieces: list[bytes], *, size: int) -> None:
        self.add(name, b"", path=None, size=size, length=size)
        self.blobs[f"raw/{name}"] = pieces

    async def find(self, job_id: str, name: str, *, is_operator: bool) -> Download:
        if job_id != "j" or name not in self.known:
            raise FileNotAvailable
        return self.known[name]

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        if key not in self.blobs:
            raise BlobNotFound
        data = b"".join(self.blobs[key])
        for at in range(start, len(data) if end is None else end, 1000):
            yield data[at : min(at + 1000, len(data) if end is None else end)]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.add("tiny", TINY)
    files.add("large", LARGE)
    files.add("empty", b"")
    files.add_blob("remote", [LARGE[:100_000]], size=100_000)
    return files


def app_of(files: Files, write_timeout_s: float = 5.0) -> web.Application:
    auth = TokenAuth("t" * 20, open_locally=True)
    app = web.Application(middlewares=[problems(), authentication(auth)])
    add_downloads(app, files, files, write_timeout_s=write_timeout_s)
    return app


@pytest.fixture
async def wire(serve: Serve, dial: Dial, files: Files) -> Wire:
    return await dial(await serve(app_of(files)))


async def get(wire: Wire, name: str, *fields: str, method: str = "GET") -> Answer:
    return await wire.ask(
        "\n".join([f"{method} /jobs/j/files/{name} HTTP/1.1", *fields])
    )


WHOLE = {"tiny": TINY, "large": LARGE, "empty": b"", "remote": LARGE[:100_000]}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_file_arrives_whole(wire: Wire, name: str) -> None:
    for _ in range(3):  # on one connection
        answer = await get(wire, name)
        assert answer.status == 200
        assert answer.body == WHOLE[name]
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["etag"] == f'"tag-{name}"'
        assert answer.headers["last-modified"] == "Mon, 04 May 2026 03:02:01 GMT"


@pytest.mark.parametrize("name", WHOLE)
async def test_head_tells_the_same_and_sends_nothing(wire: Wire, name: str) -> None:
    full = await get(wire, name)
    head = await get(wire, name, method="HEAD")
    changing = {"date", "x-request-id"}
    assert head.status == full.status
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in full.headers.items() if k not in changing
    }
    assert head.body == b""
    assert (await get(wire, "tiny")).body == TINY


@pytest.mark.parametrize(
    ("asked", "part", "span"),
    [
        ("0-0", slice(0, 1), "0-0"),
        ("5-", slice(5, None), "5-9"),
        ("-1", slice(9, None), "9-9"),
        ("-100", slice(0, None), "0-9"),
        ("2-5", slice(2, 6), "2-5"),
        ("8-1000000000000000000", slice(8, None), "8-9"),
    ],
)
async def test_one_range_is_served(
    wire: Wire, asked: str, part: slice, span: str
) -> None:
    answer = await get(wire, "tiny", f"Range: bytes={asked}")
    assert answer.status == 206
    assert answer.body == TINY[part]
    assert answer.headers["content-range"] == f"bytes {span}/10"


@pytest.mark.parametrize("name", ["large", "remote"])
async def test_a_range_in_the_middle_of_a_large_file_is_served(
    wire: Wire, name: str
) -> None:
    answer = await get(wire, name, f"Range: bytes=7-{SMALL + 20_000}")
    assert answer.status == 206
    assert answer.body == WHOLE[name][7 : SMALL + 20_001]


@pytest.mark.parametrize("asked", ["10-", "10-20", "-0", "9999999999-"])
async def test_a_range_beyond_the_end_is_answered_416(wire: Wire, asked: str) -> None:
    answer = await get(wire, "tiny", f"Range: bytes={asked}")
    assert (answer.status, answer.code) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10"
    assert answer.problem["size"] == 10


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",
        "bytes=" + ",".join(["0-9"] * 100),
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2 3",
        "bytes=٣-",
        "bytes=" + "9" * 400 + "-",
        "lines=1-2",
        "",
    ],
)
async def test_a_range_that_cannot_be_served_means_the_whole_file(
    wire: Wire, asked: str
) -> None:
    answer = await get(wire, "tiny", f"Range: {asked.encode().decode('latin-1')}")
    assert (answer.status, answer.body) == (200, TINY)


async def test_a_suffix_of_an_empty_file_is_the_empty_file(wire: Wire) -> None:
    answer = await get(wire, "empty", "Range: bytes=-5")
    assert (answer.status, answer.body) == (200, b"")


LATER = http_date(MODIFIED + timedelta(seconds=1))
SAME = http_date(MODIFIED)
EARLIER = http_date(MODIFIED - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"tag-tiny"', 206),
        ('"old"', 200),
        ('W/"tag-tiny"', 200),
        (SAME, 206),
        (EARLIER, 200),
        (LATER, 200),
        ("nonsense", 200),
    ],
)
async def test_if_range_decides_between_the_part_and_the_whole(
    wire: Wire, condition: str, status: int
) -> None:
    answer = await get(wire, "tiny", "Range: bytes=0-0", f"If-Range: {condition}")
    assert answer.status == status
    assert answer.body == (TINY[:1] if status == 206 else TINY)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ('If-None-Match: "tag-tiny"', 304),
        ('If-None-Match: W/"tag-tiny"', 304),
        ('If-None-Match: "other", "tag-tiny"', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "other"', 200),
        ("If-None-Match: tag-tiny", 200),
        (f"If-Modified-Since: {SAME}", 304),
        (f"If-Modified-Since: {EARLIER}", 200),
        ("If-Modified-Since: yesterday", 200),
        (f'If-None-Match: "other"\nIf-Modified-Since: {LATER}', 200),
        ('If-Match: "tag-tiny"', 200),
        ("If-Match: *", 200),
        ('If-Match: "other"', 412),
        ('If-Match: W/"tag-tiny"', 412),
        (f"If-Unmodified-Since: {SAME}", 200),
        (f"If-Unmodified-Since: {EARLIER}", 412),
    ],
)
async def test_conditions_are_honoured(wire: Wire, field: str, status: int) -> None:
    answer = await get(wire, "tiny", *field.split("\n"))
    assert answer.status == status
    assert answer.body == TINY if status == 200 else answer.body != TINY
    if status == 304:
        assert answer.headers["etag"] == '"tag-tiny"'
        assert "content-type" not in answer.headers


# ----- what a browser may do with it


async def test_a_download_can_do_nothing_in_a_browser(wire: Wire) -> None:
    answer = await get(wire, "tiny")
    assert answer.headers["content-disposition"] == 'attachment; filename="tiny.jpg"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["cache-control"].startswith("private")
    assert answer.headers["content-type"] == "image/jpeg"


ACTIVE = [
    "text/html",
    "TEXT/HTML; charset=utf-8",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/xml",
    "application/xml",
    "text/javascript",
    "application/ecmascript",
    "text/css",
    "application/wasm",
    "text/html\r\nX: y",
    "nonsense",
    "",
]


@pytest.mark.parametrize("media_type", ACTIVE)
async def test_active_content_is_an_attachment_of_no_type_even_when_asked_inline(
    wire: Wire, files: Files, media_type: str
) -> None:
    files.add("page", b"<script>", media_type=media_type)
    for query in ("", "?inline=1"):
        answer = await get(wire, f"page{query}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["content-security-policy"].startswith("sandbox;")


@pytest.mark.parametrize(
    ("media_type", "shown"),
    [
        ("image/png", "image/png"),
        ("application/pdf", "application/pdf"),
        ("application/json", "application/json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/vtt; charset=utf-8", "text/vtt; charset=utf-8"),
        ("video/mp4", "video/mp4"),
    ],
)
async def test_harmless_types_are_shown_inline_when_asked(
    wire: Wire, files: Files, media_type: str, shown: str
) -> None:
    files.add("it", b"data", media_type=media_type)
    answer = await get(wire, "it?inline=1")
    assert answer.headers["content-type"] == shown
    assert answer.headers["content-disposition"].startswith("inline;")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await get(wire, "it")).headers["content-disposition"].startswith("attach")


NAMES = {
    "quotes": ('a"b\\c.jpg', 'a"b_c.jpg'),
    "header injection": ("a\r\nSet-Cookie: x=y.jpg", "aSet-Cookie_ x=y.jpg"),
    "direction override": ("photo\u202egpj.exe", "photogpj.exe"),
    "path": ("../../etc/passwd", ".._.._etc_passwd"),
    "windows path": ("C:\\temp\\x", "C__temp_x"),
    "emoji": ("\U0001f600 \u00fc.png", "\U0001f600 \u00fc.png"),
    "percent": ("100%41.txt", "100%41.txt"),
    "NUL": ("a\0b", "ab"),
    "half a surrogate pair": ("a\ud800b", "ab"),
    "nothing": ("", "file"),
    "dots": ("..", "file"),
    "only unseen": ("\u200b\u202e", "file"),
}


@pytest.mark.parametrize(("given", "told"), NAMES.values(), ids=NAMES.keys())
async def test_any_name_makes_a_valid_header(
    wire: Wire, files: Files, given: str, told: str
) -> None:
    files.add("named", b"x", file_name=given)
    answer = await get(wire, "named")
    value = answer.headers["content-disposition"]
    assert value.isascii()
    assert value.isprintable()
    plain, _, extended = value.removeprefix("attachment; filename=").partition("; ")
    assert plain[0] == plain[-1] == '"'
    assert not set(plain[1:-1]) & set('"\\%')
    shown = unquote(extended.removeprefix("filename*=UTF-8''")) if extended else plain
    assert shown.strip('"') == told.strip('"')
    assert "set-cookie" not in answer.headers


def test_a_long_name_keeps_its_ending() -> None:
    name = clean_name("ü" * 300 + ".jpeg")
    assert len(name.encode()) <= 255
    assert name.endswith("ü.jpeg")


def test_emoji_that_are_joined_stay_together() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467.jpg"
    said = content_disposition(family).partition("UTF-8''")[2]
    assert unquote(said) == family


def test_a_long_ending_is_no_ending() -> None:
    assert len(clean_name("a." + "b" * 300).encode()) == 255


def test_extended_names_use_only_what_rfc_8187_allows() -> None:
    value = content_disposition("it's (1) *é*.txt").partition("UTF-8''")[2]
    assert value == "it%27s%20%281%29%20%2A%C3%A9%2A.txt"


# ----- what can go wrong


async def test_an_unknown_file_and_an_unknown_job_look_the_same(wire: Wire) -> None:
    answers = [
        await wire.ask(f"GET /jobs/{path} HTTP/1.1\nX-Request-Id: same")
        for path in ("j/files/nothing", "k/files/tiny", "j/files/..%2f..%2fetc")
    ]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].code == "file_not_available"


async def test_a_file_that_is_gone_is_404(wire: Wire, files: Files) -> None:
    path = files.known["tiny"].path
    assert path is not None
    path.unlink()
    assert (await get(wire, "tiny")).code == "file_not_available"


async def test_a_blob_that_is_gone_is_404(wire: Wire, files: Files) -> None:
    files.blobs.clear()
    assert (await get(wire, "remote")).code == "file_not_available"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
async def test_only_an_ordinary_file_is_served(
    wire: Wire, files: Files, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "odd"
    secret = tmp_path / "secret"
    secret.write_bytes(TINY)
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(secret),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    files.known["odd"] = replace(files.known["tiny"], path=path)
    answer = await get(wire, "odd")
    assert (answer.status, answer.code) == (404, "file_not_available")


async def test_a_file_of_another_size_is_our_fault(wire: Wire, files: Files) -> None:
    files.known["tiny"] = replace(files.known["tiny"], size=11, length=11)
    answer = await get(wire, "tiny")
    assert answer.status == 500
    assert b"10 bytes" not in answer.body


@pytest.mark.parametrize("name", ["large", "remote"])
async def test_a_file_that_turns_out_short_breaks_the_connection(
    serve: Serve, dial: Dial, files: Files, name: str
) -> None:
    wire = await dial(await serve(app_of(files)))
    if name == "remote":
        files.known["remote"] = replace(
            files.known["remote"], size=200_000, length=200_000
        )
    else:
        path = files.known["large"].path
        assert path is not None
        whole = len(LARGE) * 20
        with path.open("r+b") as file:
            file.truncate(whole)
        files.known["large"] = replace(files.known["large"], size=whole, length=whole)
    await wire.send(f"GET /jobs/j/files/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await wire.reader.readuntil(b"\r\n\r\n")
    if name == "large":
        os.truncate(files.known["large"].path or "", 5)
    got = 0
    try:
        while piece := await wire.reader.read(65536):
            got += len(piece)
    except ConnectionError:
        pass
    assert got < files.known[name].size


async def test_a_file_deleted_while_it_is_sent_arrives_whole(
    serve: Serve, dial: Dial, files: Files
) -> None:
    data = os.urandom(30 * 1024 * 1024)
    path = files.add("huge", data).path
    assert path is not None
    wire = await dial(await serve(app_of(files)))
    await wire.send(b"GET /jobs/j/files/huge HTTP/1.1\r\nHost: x\r\n\r\n")
    await wire.reader.readuntil(b"\r\n\r\n")
    path.unlink()
    assert await wire.reader.readexactly(len(data)) == data


@pytest.mark.parametrize("kind", ["kernel", "pieces"])
async def test_a_client_that_does_not_read_is_dropped(
    serve: Serve, dial: Dial, files: Files, kind: str
) -> None:
    size = 64 * 1024 * 1024
    if kind == "kernel":
        files.add("huge", b"")
        os.truncate(files.known["huge"].path or "", size)
        files.known["huge"] = replace(files.known["huge"], size=size, length=size)
    else:
        files.add_blob("huge", [bytes(size)], size=size)
    site = await serve(app_of(files, write_timeout_s=0.2))
    wire = await dial(site)
    await wire.send(b"GET /jobs/j/files/huge HTTP/1.1\r\nHost: x\r\n\r\n")
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: site.open_connections == 1)
    await until(lambda: site.open_connections == 0)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def test_a_client_that_leaves_half_way_leaves_no_descriptor_open(
    serve: Serve, dial: Dial, files: Files
) -> None:
    files.add("huge", b"")
    size = 64 * 1024 * 1024
    os.truncate(files.known["huge"].path or "", size)
    files.known["huge"] = replace(files.known["huge"], size=size, length=size)
    site = await serve(app_of(files))
    assert (await get(await dial(site), "large")).body == LARGE  # threads are up
    before = open_descriptors()
    for _ in range(10):
        wire = await dial(site)
        await wire.send(b"GET /jobs/j/files/huge HTTP/1.1\r\nHost: x\r\n\r\n")
        await wire.reader.readuntil(b"\r\n\r\n")
        wire.reset()
    await until(lambda: site.open_connections == 1 and open_descriptors() <= before)
    assert (await get(await dial(site), "tiny")).body == TINY
