"""How the bytes of one request get into a blob.

Rules
-----
- What arrived is kept, whatever breaks off: it is durable before the reason is told.
- The blob's length is the offset, except that bytes of a body with a checksum count
  only once it has been seen to be right: until then the row says where it begins.
- A small body that is there as a whole is written, synced and closed on one turn of a
  thread; others move as they come.
- A file that is plainly not what it was declared to be is refused as soon as its first
  bytes are there.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Database
from asyncflow.db.records import UploadRow
from asyncflow.endings import Endings
from asyncflow.errors import (
    ChecksumMismatch,
    ClientError,
    DiskFull,
    PastUploadLength,
    TypeMismatch,
    TypeNotAllowed,
    UploadTooLarge,
)
from asyncflow.offsets import Offsets
from asyncflow.store.base import CanAppendWhole, Store, Writer
from asyncflow.store.digests import digest_of
from asyncflow.turns import Claims, Ends, Head, Turn, even_if_cancelled

#: so much of a body may wait in memory: what the connection itself may hold
SMALL_BYTES: Final = 256 << 10

#: hears of bytes that are in the blob; may say that no more are to come
OnMove = Callable[[UploadRow, Turn], Awaitable[None]]


class Filling:
    """Writes bodies durably."""

    def __init__(
        self,
        *,
        db: Database,
        store: Store,
        admission: Admission,
        offsets: Offsets,
        endings: Endings,
        on_move: OnMove,
    ) -> None:
        self._db = db
        self._store = store
        self._whole = store if isinstance(store, CanAppendWhole) else None
        self._admission = admission
        self._offsets = offsets
        self._endings = endings
        self._on_move = on_move

    async def fill(
        self,
        row: UploadRow,
        turn: Turn,
        offset: int,
        *,
        length: int | None,
        claims: Claims,
        ends: Ends,
    ) -> int:
        """Write a body of *length* bytes (None: unknown); return the offset behind it.

        Raises:
            ChecksumMismatch, DigestConflict: nothing of the body is kept.
            TypeMismatch, TypeNotAllowed: the upload has been refused and ended.
            PastUploadLength, UploadTooLarge, DiskFull, QuotaExceeded: it stops there.
        """
        write = self._write_checked if claims.is_certain else self._write_unchecked
        return await write(row, turn, offset, length=length, claims=claims, ends=ends)

    async def _write_unchecked(
        self,
        row: UploadRow,
        turn: Turn,
        offset: int,
        *,
        length: int | None,
        claims: Claims,
        ends: Ends,
    ) -> int:
        """Write a body that may yet tell its checksum, when it has ended."""
        if row.checked_from is not None:
            # what lies behind was never seen to be right
            await self._cut_off(row, offset)
        at = await self._write(row, turn, offset, length=length, ends=ends)
        try:
            await self._compare(row.key, claims.part(), offset, at)
            claims.agree_with(row.digest)
        except ClientError:
            await even_if_cancelled(self._cut_off(row, offset))
            raise
        return at

    async def _write_checked(
        self,
        row: UploadRow,
        turn: Turn,
        offset: int,
        *,
        length: int | None,
        claims: Claims,
        ends: Ends,
    ) -> int:
        """Write a body whose bytes count only if their checksums are right."""
        if row.checked_from != offset:
            await self._db.set_checked_from(row.id, offset)
        try:
            at = await self._write(row, turn, offset, length=length, ends=ends)
            await self._compare(row.key, claims.part(), offset, at)
            claims.agree_with(row.digest)
        except BaseException:
            if not turn.refuses:
                await even_if_cancelled(self._cut_off(row, offset))
            raise
        await self._db.set_checked_from(row.id, None)
        return at

    async def _compare(
        self, key: str, expected: Sequence[uploads.Checksum], start: int, end: int
    ) -> None:
        for one in expected:
            if await digest_of(self._store, key, one.algorithm, start, end) != one:
                raise ChecksumMismatch

    async def _cut_off(self, row: UploadRow, offset: int) -> int:
        """Take back the bytes behind *offset*, then the mark that they did not count.

        A crash in between leaves the mark, which says the same.
        """
        writer = await self._store.append(row.key, offset)
        await self._offsets.make_durable(row.key, writer, offset)
        await self._db.set_checked_from(row.id, None)
        return offset

    # ----- bodies

    async def _write(
        self,
        row: UploadRow,
        turn: Turn,
        offset: int,
        *,
        length: int | None,
        ends: Ends,
    ) -> int:
        """Write a body, whatever its checksum; return the offset behind it."""
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
