"""Downloads: originals and derivatives, resumable, and harmless in a browser.

Rules
-----
- What somebody uploaded never runs on our origin: it is an attachment, in a sandbox, of
  no type that a page could use as script, style or markup. `?inline=1` shows pictures,
  PDF, plain text, JSON and video only.
- A file is opened once, without following links, and what was opened is what is sent:
  deleting it meanwhile changes nothing.
- A short or broken read breaks the connection; it never looks like a whole file.
- Someone who reads slowly costs a connection, no memory; someone who does not read for
  `write_timeout_s` loses it.
"""

import base64
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog
from aiohttp import hdrs, web

from asyncflow.errors import BlobNotFound, FileNotAvailable, ServerBusy, StoreError
from asyncflow.packing import unpacked
from asyncflow.processes import WANTS
from asyncflow.threads import begun
from asyncflow.web.auth import ADMIN, READ, require
from asyncflow.web.encodings import gzip_tag, takes_gzip
from asyncflow.web.names import content_disposition
from asyncflow.web.ranges import Served, choose, http_date
from asyncflow.web.sendfile import Sender

OCTETS: Final = "application/octet-stream"

#: shown in the browser when asked for
INLINE: Final = frozenset({
    "application/json",
    "application/pdf",
    "image/avif",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "text/plain",
    "text/vtt",
    "video/mp4",
    "video/webm",
})  # fmt: skip

#: types that a browser takes as code, style or markup when a page refers to them
_ACTIVE_SUBTYPES: Final = ("html", "xml", "script", "css", "json", "wasm", "svg")

SANDBOX: Final = "sandbox; default-src 'none'"
#: browsers open no PDF viewer in a sandbox; the viewer's own pages are not ours
_PDF_POLICY: Final = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
_GZIPPED: Mapping[str, str] = {"Content-Encoding": "gzip", "Accept-Ranges": "none"}
_MEDIA_POLICY: Final = f"{SANDBOX}; media-src 'self'; style-src 'unsafe-inline'"

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file that may be downloaded.

    *path* is where it lies on this machine, or None: then the store is read by *key*.
    *size* bytes are stored, in *coding* ('' or 'gzip'); unpacked they are *length*.
    *etag* is opaque, without quotes, and changes with the bytes. *modified* has a zone.
    *media_type* is what the content was found to be, not what somebody said it is.
    """

    path: Path | None
    key: str
    size: int
    length: int
    media_type: str
    file_name: str
    etag: str
    modified: datetime
    coding: str = ""
    #: of what is stored and of what it unpacks to, in hexadecimal; '': not known
    sha256: str = ""
    plain_sha256: str = ""


class Finder(Protocol):
    """Knows which files a job has."""

    async def find(self, job_id: str, name: str, *, is_operator: bool) -> Download:
        """Return the file. Raise JobNotFound or FileNotAvailable.

        The operator may also have what has not passed its gates.
        """
        ...


class Source(Protocol):
    """The part of a store that a download needs; see `store.base.Store.read`."""

    def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from *start* up to *end*. Raise BlobNotFound if absent."""
        ...


def add_downloads(
    app: web.Application,
    finder: Finder,
    store: Source,
    *,
    write_timeout_s: float = 60.0,
    threads: int = 4,
) -> None:
    """Add `GET` and `HEAD /jobs/{id}/files/{name}` to *app*."""
    pool = begun(threads, "download")
    downloads = Downloads(finder, store, Sender(pool, write_timeout_s=write_timeout_s))
    app.router.add_get("/jobs/{id}/files/{name}", downloads.serve)

    async def let_go(_: web.Application) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    app.on_cleanup.append(let_go)


class Downloads:
    """Serves files that a finder knows."""

    def __init__(self, finder: Finder, store: Source, sender: Sender) -> None:
        self._finder, self._store, self._sender = finder, store, sender

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET or HEAD for one file."""
        is_operator = ADMIN in require(request, READ).scopes
        names = request.match_info
        found = await self._finder.find(
            names["id"], names["name"], is_operator=is_operator
        )
        as_stored = not found.coding or takes_gzip(request.headers)
        if found.coding and as_stored:
            found = replace(found, etag=gzip_tag(found.etag), length=found.size)
        served = choose(
            request.method,
            request.headers,
            etag=found.etag,
            modified=found.modified,
            size=found.length,
        )
        if served.kind == "not modified":
            return web.Response(status=304, headers=_validators(found))
        inline = request.query.get("inline") == "1" and _base(found) in INLINE
        headers = headers_of(found, served, inline=inline)
        if found.coding and as_stored:
            headers |= _GZIPPED
        if digest := found.sha256 if as_stored else found.plain_sha256:
            headers["Repr-Digest"] = _digest(digest)
        status = 206 if served.kind == "part" else 200
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = served.end - served.start
        if found.path is not None and as_stored:
            return await self._from_file(request, response, found.path, found, served)
        reader = _stored_pieces if as_stored else plain_pieces
        pieces = reader(self._store, found, served.start, served.end)
        return await self._from_store(request, response, pieces, served)

    async def _from_file(
        self,
        request: web.Request,
        response: web.StreamResponse,
        path: Path,
        found: Download,
        served: Served,
    ) -> web.StreamResponse:
        fd = await self._sender.in_thread(_open, path, found.size)
        try:
            if request.method == hdrs.METH_HEAD:
                await response.prepare(request)
            else:
                await self._sender.send(request, response, fd, served.start, served.end)
        finally:
            os.close(fd)
        await response.write_eof()
        return response

    async def _from_store(
        self,
        request: web.Request,
        response: web.StreamResponse,
        reading: AsyncGenerator[bytes, None],
        served: Served,
    ) -> web.StreamResponse:
        if request.method == hdrs.METH_HEAD or served.start == served.end:
            await response.prepare(request)
            await response.write_eof()
            return response
        left = served.end - served.start
        async with aclosing(reading) as pieces:
            # the first piece comes before the head: a blob that is gone is still a 404
            piece = await anext(pieces, b"")
            await response.prepare(request)
            while piece and left > 0:
                left -= len(piece)
                await self._sender.write(request, response, piece)
                piece = await anext(pieces, b"")
        if left:
            raise StoreError(f"{left} bytes of a stored file are missing")
        await response.write_eof()
        return response


async def plain_pieces(
    store: Source, found: Download, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a file from *start* up to *end*, unpacked if need be.

    Raise FileNotAvailable if it is gone, StoreError if it is damaged.
    """
    if not found.coding:
        async with aclosing(_stored_pieces(store, found, start, end)) as pieces:
            async for piece in pieces:
                yield piece
        return
    at = 0
    async with (
        aclosing(_stored_pieces(store, found, 0, found.size)) as stored,
        aclosing(unpacked(stored)) as pieces,
    ):
        last = b""
        async for piece in pieces:
            wanted = piece[max(0, start - at) : max(0, end - at)]
            at += len(piece)
            if wanted and last:
                yield last
            last = wanted or last
            if at > end:
                break
        # only now is it known that nothing before it was damaged
        yield last


async def _stored_pieces(
    store: Source, found: Download, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    reading = store.read(found.key, start, end)
    try:
        async for piece in reading:
            if piece:
                yield piece
    except BlobNotFound:
        raise FileNotAvailable from None
    finally:
        # a client that leaves half-way must not leave a file or a connection open
        if isinstance(reading, AsyncGenerator):
            await reading.aclose()


def headers_of(
    found: Download, served: Served, *, inline: bool = False
) -> dict[str, str]:
    """Return what is said about a file that is sent, but for its length."""
    headers = {
        **_validators(found),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CONTENT_TYPE: _shown_type(found, inline=inline),
        hdrs.CONTENT_DISPOSITION: content_disposition(found.file_name, inline=inline),
        hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
        "Content-Security-Policy": _policy(found, inline=inline),
    }
    if served.kind == "part":
        span = f"bytes {served.start}-{served.end - 1}/{found.length}"
        headers[hdrs.CONTENT_RANGE] = span
    return headers


def _digest(sha256: str) -> str:
    """Return *sha256* as a digest field has it (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _validators(found: Download) -> dict[str, str]:
    vary = {"Vary": "Accept-Encoding"} if found.coding else {}
    return {
        **vary,
        hdrs.ETAG: f'"{found.etag}"',
        hdrs.LAST_MODIFIED: http_date(found.modified),
        # kept, but asked about each time: what is deleted is gone at once
        hdrs.CACHE_CONTROL: "private, no-cache",
    }


def _base(found: Download) -> str:
    return found.media_type.partition(";")[0].strip().lower()


def _shown_type(found: Download, *, inline: bool) -> str:
    base = _base(found)
    kind, slash, subtype = base.partition("/")
    plain = slash and base.isascii() and base.isprintable() and " " not in base
    if inline and base in INLINE:
        # a sandbox around it and no guessing: a browser shows it and runs nothing
        return f"{base}; charset=utf-8" if kind == "text" else base
    if not plain or any(active in subtype for active in _ACTIVE_SUBTYPES):
        return OCTETS
    return base


def _policy(found: Download, *, inline: bool) -> str:
    base = _base(found)
    if not inline:
        return SANDBOX
    if base == "application/pdf":
        return _PDF_POLICY
    return _MEDIA_POLICY if base.startswith("video/") else SANDBOX


def _open(path: Path, size: int) -> int:
    """Open a regular file of *size* bytes, never a link to one."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno in WANTS:
            raise ServerBusy(error.strerror) from error
        # deleted since it was found, or a link where none may be
        raise FileNotAvailable from error
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise FileNotAvailable
    if facts.st_size != size:
        os.close(fd)
        raise StoreError(f"a stored file has {facts.st_size} bytes instead of {size}")
    return fd
