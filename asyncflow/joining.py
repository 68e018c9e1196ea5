"""Joins parts into uploads: concatenation, whatever protocol asks for it.

Rules
-----
- A joined upload has so many places; each takes one part, and the first one stays.
- When every place holds a complete part, and not before, the store puts their bytes
  together and the upload becomes a job. Whoever notices first sees to it: the request
  that brings the last part, a look at the upload, a restart.
- A join that a crash cut off begins again from nothing: the parts are still there.
- What waits for a part that ends, ends with it.
- Parts are removed once their upload is a job: at once if nobody knows their names,
  else after `KEEP_MS`, so that a client that lost the answer may ask again.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from asyncflow import uploads
from asyncflow.chunks import Chunks
from asyncflow.db.base import Database, Place, UploadRow
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    BlobNotFound,
    ChunkConflict,
    ClientError,
    PartNotUsable,
    UploadGone,
)
from asyncflow.store.base import CanConcat, Store
from asyncflow.store.digests import digest_of
from asyncflow.turns import Announced, Upload

log = structlog.get_logger(__name__)

KEEP_MS = 3_600_000
COMPLETE = uploads.UploadState.COMPLETE


class Joiner:
    """Creates joined uploads and completes them."""

    def __init__(
        self, *, db: Database, engine: Engine, store: Store, chunks: Chunks
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._chunks = chunks
        self._running: dict[str, asyncio.Task[None]] = {}

    async def create(self, said: Announced, parts: Sequence[str]) -> Upload:
        """Create an upload of the bytes of *parts*, in this order.

        It is complete on return if they are.

        Raises:
            PartNotUsable: one of them is not there, or is no part of this owner's.
            ClientError, ServerBusy: as `Chunks.create` says.
        """
        lengths = [(await self._part(said, part)).length for part in parts]
        known = [length for length in lengths if length is not None]
        total = sum(known) if len(known) == len(lengths) else None
        said = replace(said, parts=len(parts), length=total)
        upload = await self._chunks.create(said)
        if not upload.is_known:
            for n, part in enumerate(parts):
                await self._db.take_place(upload.id, n, part)
        return await self.settle(upload.id)

    async def _part(self, said: Announced, part: str) -> UploadRow:
        try:
            row = await self._db.find_upload(part)
        except ClientError:
            raise PartNotUsable(f"{part} is not there") from None
        is_theirs = (row.owner, row.tenant) == (said.owner, said.tenant)
        if not (row.is_part and is_theirs):
            raise PartNotUsable(f"{part} is not a partial upload")
        return row

    async def place(self, final: str, n: int, part: str) -> None:
        """Give a complete part its place, or end it if its bytes are there already.

        Raises:
            ChunkConflict: another one is there, with other bytes.
        """
        there = await self._db.take_place(final, n, part)
        if there == part:
            return
        if await self._hash(there) != await self._hash(part):
            raise ChunkConflict(f"chunk {n} has come before, with other bytes")
        await self._chunks.terminate(part)

    async def _hash(self, part: str) -> uploads.Checksum:
        return await digest_of(self._store, uploads.raw_key(part), "sha256")

    async def received(self, final: str) -> Sequence[int]:
        """Return which places hold a complete part."""
        return [p.n for p in await self._db.places(final) if p.state == COMPLETE]

    async def settle(self, final: str) -> Upload:
        """Complete a joined upload if all its parts are; return it as it is then.

        Raises:
            UploadGone: a part has ended before, and the upload with it.
            TypeMismatch, TypeNotAllowed, DigestMismatch: it has been refused and ended.
        """
        upload = await self._chunks.find(final)
        if upload.is_complete:
            return upload
        row = await self._db.find_upload(final)
        places = await self._db.places(final)
        if any(place.state is None for place in places):
            await self._give_up(final)
            raise UploadGone
        if len(places) == row.parts and all(p.state == COMPLETE for p in places):
            await self._join_once(row, places)
            upload = await self._chunks.find(final)
        return upload

    async def _join_once(self, row: UploadRow, places: Sequence[Place]) -> None:
        """Join, or wait for whoever does; it goes on when its client has gone."""
        task = self._running.get(row.id)
        if task is None:
            task = asyncio.create_task(self._join(row, places), name="join")
            self._running[row.id] = task
            task.add_done_callback(lambda done: self._joined(row.id, done))
        await asyncio.shield(task)

    def _joined(self, final: str, done: asyncio.Task[None]) -> None:
        del self._running[final]
        # whoever waited may have gone: a look at the upload tries again
        if not done.cancelled() and (error := done.exception()) is not None:
            code = error.code if isinstance(error, AsyncflowError) else repr(error)
            log.warning("join.failed", upload=final, error=code)

    async def _join(self, row: UploadRow, places: Sequence[Place]) -> None:
        total = sum(place.length or 0 for place in places)
        await self._chunks.endings.check_size(row.id, total)
        try:
            await self._concat(row.key, [place.key for place in places])
        except BlobNotFound:
            raise PartNotUsable("a part was removed while it was joined") from None
        await self._chunks.endings.complete_joined(row, total)
        later = self._engine.clock.now() + KEEP_MS
        for place in places:
            if row.concat:
                await self._db.extend_upload(place.part, later)
            else:
                with suppress(ClientError):
                    await self._chunks.terminate(place.part)

    async def _concat(self, key: str, parts: Sequence[str]) -> None:
        if isinstance(self._store, CanConcat):
            await self._store.concat(key, parts)
            return
        writer = await self._store.append(key, 0)
        try:
            for part in parts:
                async for data in self._store.read(part):
                    await writer.write(data)
            await writer.sync()
        finally:
            await writer.close()

    async def part_done(self, part: str) -> None:
        """Complete what waited for this part alone.

        What goes wrong with the joined upload is its own matter: the part is safe, and
        a look at the joined upload tries again.
        """
        for final in await self._db.finals_of(part):
            with suppress(AsyncflowError):  # `_joined` has logged it
                await self.settle(final)

    async def part_gone(self, part: str) -> None:
        """End what waits for this part: it could never become whole."""
        for final in await self._db.finals_of(part):
            await self._give_up(final)

    async def _give_up(self, final: str) -> None:
        detail = "a part was ended before the upload was whole"
        await self._chunks.endings.give_up(final, "part_gone", detail)

    async def recover(self, row: UploadRow) -> bool:
        """Complete an upload that was only to be joined when the server died.

        Tell whether it is a job now.
        """
        return row.parts is not None and (await self.settle(row.id)).is_complete

    async def stop(self) -> None:
        """Let running joins end."""
        if self._running:
            await asyncio.wait(list(self._running.values()))
