"""How the bytes of one request get into a blob.

Rules
-----
- What arrived is kept, whatever breaks off: it is durable before the reason is told.
- A small body that is there as a whole is written, synced and closed on one turn of a
  thread; others move as they come.
- A file that is plainly not what it was declared to be is refused as soon as its first
  bytes are there.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.records import UploadRow
from asyncflow.endings import Endings
from asyncflow.errors import (
    DiskFull,
    PastUploadLength,
    TypeMismatch,
    TypeNotAllowed,
    UploadTooLarge,
)
from asyncflow.offsets import Offsets
from asyncflow.store.base import CanAppendWhole, Store, Writer
from asyncflow.turns import Ends, Head, Turn, even_if_cancelled

#: so much of a body may wait in memory: what the connection itself may hold
SMALL_BYTES: Final = 256 << 10

#: hears of bytes that are in the blob; may say that no more are to come
OnMove = Callable[[UploadRow, Turn], Awaitable[None]]


class Filling:
    """Writes bodies durably."""

    def __init__(
        self,
        *,
        store: Store,
        admission: Admission,
        offsets: Offsets,
        endings: Endings,
        on_move: OnMove,
    ) -> None:
        self._store = store
        self._whole = store if isinstance(store, CanAppendWhole) else None
        self._admission = admission
        self._offsets = offsets
        self._endings = endings
        self._on_move = on_move

    async def write(
        self,
        row: UploadRow,
        turn: Turn,
        offset: int,
        *,
        length: int | None,
        ends: Ends,
    ) -> int:
        """Write a body of *length* bytes (None: unknown); return the offset behind it.

        Raises:
            TypeMismatch, TypeNotAllowed: the upload has been refused and ended.
            PastUploadLength, UploadTooLarge, DiskFull, QuotaExceeded: it stops there.
        """
        turn.offset = offset
        data = b""
        if self._whole is not None and length is not None and length <= SMALL_BYTES:
            data = await turn.body.read()
            # one that is too long is cut off at its limit
            if 0 < len(data) == length <= self._limit(row) - offset:
                return await self._write_whole(self._whole, row, turn, data, ends)
        writer = await self._store.append(row.key, offset)
        try:
            await self._move(row, turn, writer, data, ends)
        finally:
            at = await even_if_cancelled(
                self._offsets.make_durable(row.key, writer, offset)
            )
        return at

    async def _write_whole(
        self, store: CanAppendWhole, row: UploadRow, turn: Turn, data: bytes, ends: Ends
    ) -> int:
        head = Head(await self._first_bytes(row, turn.offset))
        await self._look(row, turn, head, data)
        await self._look_at_end(row, turn, head, ends, turn.offset + len(data))
        if row.length is None:
            await self._admission.take(row.id, turn.offset + len(data))
        await even_if_cancelled(self._keep(store, row, turn, data))
        # nothing more comes, but a reason may
        await turn.body.read()
        return turn.offset

    async def _keep(
        self, store: CanAppendWhole, row: UploadRow, turn: Turn, body: bytes
    ) -> None:
        offsets, start = self._offsets, turn.offset
        try:
            turn.offset = await offsets.append(store, row.key, start, body)
        except DiskFull:
            turn.offset = await offsets.of(row.key)
            raise
        await self._on_move(row, turn)

    async def _move(
        self, row: UploadRow, turn: Turn, writer: Writer, data: bytes, ends: Ends
    ) -> None:
        """Move *data* and the rest of the body, watching its type and its length."""
        limit = self._limit(row)
        head = Head(await self._first_bytes(row, writer.offset))
        while data := data or await turn.body.read():
            await self._look(row, turn, head, data)
            room = limit - writer.offset
            kept = data if len(data) <= room else memoryview(data)[:room]
            if row.length is None:
                await self._admission.take(row.id, writer.offset + len(kept))
            await writer.write(kept)
            turn.offset = writer.offset
            await self._on_move(row, turn)
            if len(data) > room:
                self._refuse_surplus(row)
            if not head.wants_more:
                async for _at in turn.bursts(writer, limit):
                    await self._on_move(row, turn)
            data = b""
        await self._look_at_end(row, turn, head, ends, writer.offset)

    def _limit(self, row: UploadRow) -> int:
        return self._admission.rules.max_bytes if row.length is None else row.length

    def _refuse_surplus(self, row: UploadRow) -> None:
        if row.length is None:
            raise UploadTooLarge(length=None, max_bytes=self._admission.rules.max_bytes)
        raise PastUploadLength(f"the upload's length is {row.length} bytes")

    # ----- the first bytes

    async def _first_bytes(self, row: UploadRow, offset: int) -> bytes | None:
        """Return what is there of the signature; None: there is nothing to check."""
        if row.is_part or offset >= uploads.SIGNATURE_BYTES:
            return None
        if offset == 0:
            # nothing is there: opening the blob would cost four turns of a thread
            return b""
        return b"".join([part async for part in self._store.read(row.key, 0, offset)])

    async def _look(self, row: UploadRow, turn: Turn, head: Head, data: bytes) -> None:
        """Check the first bytes once they are there."""
        if head.wants_more:
            head.add(data)
            if not head.wants_more:
                await self._check_head(row, turn, head)

    async def _look_at_end(
        self, row: UploadRow, turn: Turn, head: Head, ends: Ends, at: int
    ) -> None:
        """Check the first bytes of a file that has no more than them."""
        is_whole = ends is Ends.WITH_BODY or at == row.length
        if head.wants_more and head.data and is_whole:
            await self._check_head(row, turn, head)

    async def _check_head(self, row: UploadRow, turn: Turn, head: Head) -> None:
        """Refuse a file whose first bytes are plainly not of the declared kind."""
        try:
            self._endings.judge(row, bytes(head.data))
        except (TypeMismatch, TypeNotAllowed) as refused:
            turn.refuses = True
            await self._endings.refuse(row.id, refused)
            raise
