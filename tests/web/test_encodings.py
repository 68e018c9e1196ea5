"""Text derivatives, compressed for whoever takes them so."""

import asyncio
import base64
import gzip
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from asyncflow.errors import BlobNotFound, FileNotAvailable
from asyncflow.packing import Packed, pack
from asyncflow.web.auth import TokenAuth, authentication
from asyncflow.web.downloads import Download, add_downloads
from asyncflow.web.encodings import takes_gzip
from asyncflow.web.errors import problems
from tests.web.wire import Answer, Dial, Serve, Wire

TEXT = "naïve words, one after the other\n".encode() * 50_000
SMALL = b"few words"
NOISE = os.urandom(5000)


def digest_of(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


class Files:
    """A finder and a store with some files, packed as consumers' files are."""

    def __init__(self, folder: Path) -> None:
        self.data = {"text": TEXT, "small": SMALL, "noise": NOISE, "image": TEXT}
        self.data["json"] = b'{"words": []}' * 1000
        self.kinds = {"image": "image/jpeg", "json": "application/json"}
        self.stored: dict[str, bytes] = {}
        self.packed: dict[str, Packed] = {}
        for name, data in self.data.items():
            (folder / name).write_bytes(data)
            with (folder / name).open("rb") as file:
                found = pack(file.fileno(), self._kind(name), folder, bool)
                with found.file or nullcontext(file) as source:
                    source.seek(0)
                    self.stored[name] = source.read()
            self.packed[name] = found

    def _kind(self, name: str) -> str:
        return self.kinds.get(name, "text/plain")

    async def find(self, job_id: str, name: str, *, is_operator: bool) -> Download:
        if name not in self.stored:
            raise FileNotAvailable
        packed = self.packed[name]
        return Download(
            path=None,
            key=name,
            size=len(self.stored[name]),
            length=packed.length,
            coding=packed.coding,
            sha256=packed.sha256,
            plain_sha256=packed.plain_sha256,
            media_type=self._kind(name),
            file_name=f"{name}.txt",
            etag=f"tag-{name}",
            modified=datetime(2026, 5, 4, tzinfo=UTC),
        )

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        if key not in self.stored:
            raise BlobNotFound
        for at in range(start, end or 0, 1000):
            yield self.stored[key][at : min(at + 1000, end or 0)]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
async def wire(serve: Serve, dial: Dial, files: Files) -> Wire:
    auth = TokenAuth("t" * 20, open_locally=True)
    app = web.Application(middlewares=[problems(), authentication(auth)])
    add_downloads(app, files, files)
    return await dial(await serve(app))


async def ask(wire: Wire, name: str, *fields: str, method: str = "GET") -> Answer:
    head = [f"{method} /jobs/j/files/{name} HTTP/1.1", *fields]
    answer = await wire.ask("\n".join(head))
    if answer.headers.get("transfer-encoding") != "chunked" or method == "HEAD":
        return answer
    body = b""
    while size := int(await wire.reader.readline(), 16):
        body += await wire.reader.readexactly(size)
        await wire.reader.readexactly(2)
    await wire.reader.readline()
    return Answer(
        status=answer.status, headers=answer.headers, body=body, pairs=answer.pairs
    )


@pytest.mark.parametrize("name", ["text", "json"])
async def test_text_comes_compressed_to_who_asks(
    wire: Wire, files: Files, name: str
) -> None:
    for _ in range(2):  # on one connection
        answer = await ask(wire, name, "Accept-Encoding: br, gzip")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["etag"] == f'"tag-{name}-gzip"'
        assert answer.headers["accept-ranges"] == "none"
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["repr-digest"] == digest_of(answer.body)
        assert gzip.decompress(answer.body) == files.data[name]
        assert len(answer.body) < len(files.data[name]) // 10


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity", "*;q=0"])
async def test_others_get_the_file_itself(wire: Wire, accepted: str) -> None:
    answer = await ask(wire, "text", f"Accept-Encoding: {accepted}")
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["etag"] == '"tag-text"'
    assert answer.headers["repr-digest"] == digest_of(TEXT)
    assert answer.body == TEXT


@pytest.mark.parametrize("name", ["small", "noise", "image"])
async def test_what_is_small_or_no_text_or_gets_no_smaller_is_left_alone(
    wire: Wire, files: Files, name: str
) -> None:
    answer = await ask(wire, name, "Accept-Encoding: gzip")
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers
    assert answer.headers["repr-digest"] == digest_of(files.data[name])
    assert answer.body == files.data[name]


async def test_a_range_is_one_of_the_file_itself(wire: Wire) -> None:
    answer = await ask(wire, "text", "Accept-Encoding: gzip", "Range: bytes=1000-1999")
    assert answer.status == 206
    assert answer.body == TEXT[1000:2000]
    assert answer.headers["content-range"] == f"bytes 1000-1999/{len(TEXT)}"
    assert answer.headers["etag"] == '"tag-text"'
    last = await ask(wire, "text", "Range: bytes=-5")
    assert (last.status, last.body) == (206, TEXT[-5:])


@pytest.mark.parametrize("damage", [slice(0, -9), slice(10, None)])
async def test_a_damaged_compressed_blob_never_looks_whole(
    wire: Wire, files: Files, damage: slice
) -> None:
    files.stored["text"] = files.stored["text"][damage]
    try:
        answer = await ask(wire, "text")
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    assert answer.status == 500


async def test_a_range_of_the_compressed_form_means_the_whole_file(wire: Wire) -> None:
    fields = ("Accept-Encoding: gzip", "Range: bytes=10-", 'If-Range: "tag-text-gzip"')
    answer = await ask(wire, "text", *fields)
    assert (answer.status, answer.body) == (200, TEXT)


@pytest.mark.parametrize(
    ("accepted", "known", "status"),
    [
        ("gzip", '"tag-text-gzip"', 304),
        ("gzip", '"tag-text"', 200),
        ("br", '"tag-text"', 304),
        ("br", '"tag-text-gzip"', 200),
    ],
)
async def test_each_form_is_remembered_by_its_own_tag(
    wire: Wire, accepted: str, known: str, status: int
) -> None:
    fields = (f"Accept-Encoding: {accepted}", f"If-None-Match: {known}")
    answer = await ask(wire, "text", *fields)
    assert answer.status == status
    assert answer.headers["vary"] == "Accept-Encoding"


async def test_head_tells_of_the_compressed_form(wire: Wire, files: Files) -> None:
    answer = await ask(wire, "text", "Accept-Encoding: gzip", method="HEAD")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) == len(files.stored["text"])
    assert (await ask(wire, "small")).body == SMALL


async def test_a_blob_that_is_gone_is_not_found(wire: Wire, files: Files) -> None:
    found = await files.find("j", "text", is_operator=False)
    assert found.size > 0
    files.read = _gone  # type: ignore[method-assign]
    assert (
        await ask(wire, "text", "Accept-Encoding: gzip")
    ).code == "file_not_available"


async def _gone(
    key: str, start: int = 0, end: int | None = None
) -> AsyncIterator[bytes]:
    raise BlobNotFound
    yield b""


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("gzip", True),
        ("GZIP ; Q=0.5", True),
        ("deflate, gzip;q=1.0, *;q=0", True),
        ("*", True),
        ("gzip;q=0.000", False),
        ("*;q=0.5, gzip;q=0", False),
        ("x-gzip", False),
        ("", False),
    ],
)
def test_what_a_client_accepts(value: str, taken: bool) -> None:  # noqa: FBT001 -- a table
    assert takes_gzip({"Accept-Encoding": value}) is taken
