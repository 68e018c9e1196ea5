"""Everything a job has as one zip: made while it is sent, never held as a whole.

Rules
-----
- The rules of single downloads hold: nothing before the gates have said yes, but for
  the operator; always an attachment.
- Pictures, PDF and video are stored as they are, since they do not get smaller; text is
  deflated.
- A name in the archive is one harmless path segment, and no two are alike.
- An archive that cannot be finished breaks the connection: it never looks whole.
"""

import io
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Final

from aiohttp import hdrs, web

from asyncflow.errors import FileNotAvailable, StoreError
from asyncflow.jobs import JobKind
from asyncflow.naming import fitted, parted
from asyncflow.packing import is_text
from asyncflow.store.base import Store
from asyncflow.threads import begun
from asyncflow.views import JobView
from asyncflow.web.auth import ADMIN, READ, require
from asyncflow.web.downloads import SANDBOX, Download, plain_pieces
from asyncflow.web.files import JobFiles
from asyncflow.web.jobs import job_id
from asyncflow.web.keys import runtime_key
from asyncflow.web.names import clean_name, content_disposition
from asyncflow.web.sendfile import Sender

#: the years that a zip can name
YEARS: Final = (1980, 2107)
#: for its owner to read and write, for others to read
MODE: Final = 0o644
THREADS: Final = 2


def add_archive(app: web.Application, files: JobFiles, store: Store) -> None:
    """Add `GET /jobs/{id}/files.zip` to *app*."""
    pool = begun(THREADS, "archive")
    app.router.add_get("/jobs/{id}/files.zip", Archives(files, store, pool).serve)

    async def let_go(_: web.Application) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    app.on_cleanup.append(let_go)


def _names(view: JobView) -> list[str]:
    """Name all files of a job. Raise FileNotAvailable if it has none."""
    has_original = view.kind is JobKind.FILE and view.original_kept
    names = ["original"] if has_original else []
    names += [made.name for made in view.files]
    if not names:
        raise FileNotAvailable("the job has no files")
    return names


class Archives:
    """Serves all files of a job at once."""

    def __init__(self, files: JobFiles, store: Store, pool: Executor) -> None:
        self._files, self._store, self._sender = files, store, Sender(pool)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET or HEAD for the archive of one job."""
        is_operator = ADMIN in require(request, READ).scopes
        job = job_id(request)
        view = await request.app[runtime_key].status(job)
        names = _names(view)
        found = [
            await self._files.find(job, name, is_operator=is_operator) for name in names
        ]
        response = web.StreamResponse(headers=_headers(view.file_name))
        if request.method == hdrs.METH_HEAD:
            await response.prepare(request)
            return response
        async with aclosing(self._pieces(found)) as pieces:
            # the first piece comes before the head: a file that is gone is still a 404
            piece = await anext(pieces)
            await response.prepare(request)
            await self._sender.write(request, response, piece)
            async for piece in pieces:
                await self._sender.write(request, response, piece)
        await response.write_eof()
        return response

    async def _pieces(self, found: Sequence[Download]) -> AsyncGenerator[bytes, None]:
        sink = _Sink()
        names = distinct([clean_name(one.file_name) for one in found])
        archive = zipfile.ZipFile(sink, "w")
        for one, name in zip(found, names, strict=True):
            with archive.open(_entry(one, name), "w") as member:
                async for piece in self._read(one):
                    await self._sender.in_thread(member.write, piece)
                    if taken := sink.take():
                        yield taken
        archive.close()
        yield sink.take()

    async def _read(self, found: Download) -> AsyncIterator[bytes]:
        left = found.length
        async with aclosing(plain_pieces(self._store, found, 0, left)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                yield piece
        if left:
            raise StoreError(f"the store's blob is not {found.length} bytes long")


class _Sink(io.RawIOBase):
    """Takes what the archive writes until somebody fetches it; it cannot seek back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        """Return what has come since the last time."""
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def distinct(names: Sequence[str]) -> list[str]:
    """Return *names* so changed that no two are alike, whatever their case."""
    taken: set[str] = set()
    result = []
    for name in names:
        (stem, suffix), number, free = parted(name), 1, name
        while free.casefold() in taken:
            number += 1
            free = fitted(stem, f" ({number}){suffix}")
        taken.add(free.casefold())
        result.append(free)
    return result


def _entry(found: Download, name: str) -> zipfile.ZipInfo:
    at = found.modified
    fits = YEARS[0] <= at.year <= YEARS[1]
    entry = zipfile.ZipInfo(
        name,
        (at.year, at.month, at.day, at.hour, at.minute, at.second)
        if fits
        else (YEARS[0], 1, 1, 0, 0, 0),
    )
    # known before: so the archive takes its large form where it must
    entry.file_size = found.length
    entry.external_attr = MODE << 16
    packed = is_text(found.media_type)
    entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    return entry


def _headers(file_name: str) -> dict[str, str]:
    name = fitted(parted(clean_name(file_name))[0], ".zip")
    return {
        hdrs.CONTENT_TYPE: "application/zip",
        hdrs.CONTENT_DISPOSITION: content_disposition(name),
        hdrs.CACHE_CONTROL: "private, no-store",
        hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
        "Content-Security-Policy": SANDBOX,
    }
