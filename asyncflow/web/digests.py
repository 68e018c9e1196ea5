"""Digests of complete files: each is computed once, for all who ask.

Rules
-----
- A complete file never changes: a digest of it that was said and compared, or computed
  before, is known, and costs nothing. One that nobody has said is stored.
- Who asks for what is being computed waits for that; so many files are read at once,
  and so many may be waited for. Whoever comes beyond that is told to come back.
- What nobody waits for any more is given up, and its file is closed.
"""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import web

from asyncflow.db.base import Database
from asyncflow.db.records import UploadRow
from asyncflow.errors import AsyncflowError, ServerBusy
from asyncflow.store.base import Store
from asyncflow.store.digests import digest_of
from asyncflow.uploads import Checksum

#: so many files are read at once
AT_ONCE: Final = 2
#: so many requests may wait for digests
MOST_ASKERS: Final = 64
#: digests that are remembered, each some 300 bytes
REMEMBERED: Final = 2000
#: how often it is looked whether who asked is still there
LOOK_EVERY_S: Final = 0.25

#: the row id of an upload, which is never used again, and an algorithm
_Key = tuple[int, str]


class _Computation:
    """A digest in the making."""

    def __init__(self, task: asyncio.Task[Checksum]) -> None:
        self.task = task
        self.askers = 0


class FileDigests:
    """Knows or computes the digests of complete files."""

    def __init__(self, *, db: Database, store: Store) -> None:
        self._db = db
        self._store = store
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._running: dict[_Key, _Computation] = {}
        self._askers = 0
        self._known: dict[_Key, Checksum] = {}

    async def of(self, request: web.Request, upload: str, algorithm: str) -> Checksum:
        """Return the digest of the complete file of *upload*, for this request.

        Raises:
            UploadNotFound, BlobNotFound: it was removed.
            ServerBusy: too many wait for digests.
            ConnectionResetError: the client has gone.
        """
        row = await self._db.find_upload(upload)
        key = (row.seq, algorithm)
        if row.digest.startswith(f"{algorithm}:"):
            return Checksum.parse(row.digest)
        if (known := self._known.get(key)) is not None:
            return known
        if self._askers >= MOST_ASKERS:
            raise ServerBusy("too many requests wait for the digests of files")
        running = self._running.get(key) or self._begin(row, algorithm)
        running.askers += 1
        self._askers += 1
        try:
            return await _while_there(request, running.task)
        finally:
            self._askers -= 1
            running.askers -= 1
            if not running.askers:
                running.task.cancel()
                # who comes now begins anew
                self._forget(key, running)

    def _begin(self, row: UploadRow, algorithm: str) -> _Computation:
        key = (row.seq, algorithm)
        task = asyncio.create_task(self._compute(row, algorithm), name="digest")
        running = self._running[key] = _Computation(task)
        task.add_done_callback(lambda _done: self._forget(key, running))
        return running

    def _forget(self, key: _Key, running: _Computation) -> None:
        if self._running.get(key) is running:
            del self._running[key]

    async def _compute(self, row: UploadRow, algorithm: str) -> Checksum:
        async with self._at_once:
            found = await digest_of(self._store, row.key, algorithm)
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[row.seq, algorithm] = found
        if not row.digest:
            # without it the next start would compute it again: no more than that
            with suppress(AsyncflowError):
                await self._db.note_digest(row.id, str(found))
        return found


async def _while_there(request: web.Request, task: asyncio.Task[Checksum]) -> Checksum:
    """Return what *task* returns. Raise ConnectionResetError when the client goes."""
    while not task.done():
        await asyncio.wait([task], timeout=LOOK_EVERY_S)
        if not task.done() and not request.protocol.connected:
            raise ConnectionResetError("the client has gone")
    return task.result()
