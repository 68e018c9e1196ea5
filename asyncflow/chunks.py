"""The upload engine: bytes at an offset, whatever the protocol.

Rules
-----
- An offset is told only after the bytes before it are on stable storage.
- Everything that arrived before a disconnect is kept; a failed write keeps what was
  written before it.
- One request at a time fills an upload: a newcomer stops the earlier one and proceeds
  only when the last write of that one has returned. Nobody waits behind a dead
  connection, and no late byte can land.
- The last byte makes the job: sync, then one transaction, then the answer.
- The blob's length is the offset: there is no second place that could disagree.

Theory of operation
-------------------
`append` opens a writer at the offset, moves buffers from the body to it, syncs, closes,
and only then answers. A crash at any point leaves a blob that is as long as what was
written; the next HEAD reads that length. If the transaction at the end fails (the disk
of the database is full, say), the upload stays whole and unaccepted; `finish_pending`
and any later request on it try again.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Change, Database, NewUpload, UploadRow
from asyncflow.engine import Engine
from asyncflow.errors import (
    BlobNotFound,
    ClientError,
    DatabaseUnavailable,
    DiskFull,
    EmptyFile,
    OffsetMismatch,
    PastUploadLength,
    ShuttingDown,
    TruncatedBody,
    TypeMismatch,
    TypeNotAllowed,
    UploadBusy,
    UploadComplete,
    UploadGone,
    UploadNotFound,
    UploadPreempted,
    UploadTooLarge,
)
from asyncflow.jobs import JobState
from asyncflow.store.base import Store, Writer

log = structlog.get_logger(__name__)

#: how long a newcomer waits for the disk to give back the earlier request's write
TAKE_OVER_S = 10.0


class Body(Protocol):
    """The bytes of one request, as the upload engine takes them."""

    async def read(self) -> bytes:
        """Return the next bytes as soon as there are any, empty at the clean end.

        Raise TruncatedBody or ConnectionError if the sender stopped or went away,
        SlowBody if it crawls; what arrived before is handed out first.
        """
        ...

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, or the next one, raise *error*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What a client says about a file before it sends it."""

    owner: str
    tenant: str
    file_name: str
    declared_type: str
    length: int | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw_metadata: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload as its client may know it. `expires` is None once it is complete."""

    id: str
    offset: int
    length: int | None
    expires: int | None
    raw_metadata: str = ""
    is_complete: bool = False


class _Turn:
    """One request that is filling an upload."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.over = asyncio.Event()
        self.offset = 0
        #: it ends the upload itself: nobody has to stop it
        self.refuses = False


class Chunks:
    """Creates, fills, completes and ends uploads."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        admission: Admission,
        expiry_s: float,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._admission = admission
        self._expiry_ms = int(expiry_s * 1000)
        self._turns: dict[str, _Turn] = {}
        #: whole uploads whose transaction failed: id -> size
        self._unaccepted: dict[str, int] = {}

    # ----- create

    async def create(self, said: Announced) -> Upload:
        """Create an empty upload, bytes reserved; a known length of 0 completes it.

        Raises:
            ClientError, ServerBusy: as `Admission.check` says.
        """
        await self._admission.check(
            length=said.length, declared_type=said.declared_type
        )
        now = self._engine.clock.now()
        upload_id = self._engine.clock.new_id()
        new = NewUpload(
            id=upload_id,
            key=uploads.raw_key(upload_id),
            owner=said.owner,
            tenant=said.tenant,
            file_name=said.file_name,
            declared_type=said.declared_type,
            length=said.length,
            metadata=said.metadata,
            raw_metadata=said.raw_metadata,
            expires=now + self._expiry_ms,
            now=now,
        )
        # The row comes first: a blob without a row would never be found again.
        await self._engine.create_upload(new)
        try:
            await self._store.create(new.key, length=said.length)
        except DiskFull:
            await self._end(upload_id, JobState.CANCELLED, "disk_full", "no room")
            raise
        if said.length == 0:
            await self._accept(upload_id, 0)
        return Upload(
            id=upload_id,
            offset=0,
            length=said.length,
            expires=None if said.length == 0 else new.expires,
            raw_metadata=said.raw_metadata,
            is_complete=said.length == 0,
        )

    # ----- look

    async def find(self, upload_id: str) -> Upload:
        """Return the upload with its durable offset, after stopping who fills it.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadBusy: the disk holds the earlier request's write.
        """
        row = await self._open(upload_id)
        if await self._take_over(upload_id):
            row = await self._open(upload_id)
        if row.state != uploads.UploadState.RECEIVING:
            return self._view(row, row.length or 0)
        offset = await self._offset(row)
        if offset == row.length:
            await self._accept(upload_id, offset)
            row = await self._open(upload_id)
        return self._view(row, offset)

    async def received(self, upload_id: str) -> int:
        """Return how many bytes have arrived, disturbing nobody."""
        turn = self._turns.get(upload_id)
        if turn is not None:
            return turn.offset
        try:
            return await self._store.size(uploads.raw_key(upload_id))
        except BlobNotFound:
            return 0

    async def _open(self, upload_id: str) -> UploadRow:
        """Return an upload that is there; one whose time is over ends now."""
        row = await self._db.find_upload(upload_id)
        if row.state == uploads.UploadState.ENDED:
            raise UploadGone
        if self._is_late(row):
            await self._expire(upload_id)
            raise UploadGone
        return row

    def _is_late(self, row: UploadRow) -> bool:
        # A request that fills it keeps it alive; a whole one is only not accepted yet.
        if row.expires is None or row.state != uploads.UploadState.RECEIVING:
            return False
        busy = row.id in self._turns or row.id in self._unaccepted
        return not busy and row.expires <= self._engine.clock.now()

    async def _offset(self, row: UploadRow) -> int:
        try:
            size = await self._store.size(row.key)
        except BlobNotFound:
            # The server died between the row and the blob.
            await self._store.create(row.key, length=row.length)
            try:
                await self._open(row.id)
            except ClientError:
                # It was ended and swept since *row* was read: leave no bytes behind.
                await self._store.delete(row.key)
                raise
            return 0
        return size if row.length is None else min(size, row.length)

    @staticmethod
    def _view(row: UploadRow, offset: int) -> Upload:
        return Upload(
            id=row.id,
            offset=offset,
            length=row.length,
            expires=row.expires,
            raw_metadata=row.raw_metadata,
            is_complete=row.state == uploads.UploadState.COMPLETE,
        )

    # ----- fill

    async def append(
        self,
        upload_id: str,
        offset: int,
        body: Body,
        *,
        length: int | None,
        is_rest: bool = False,
    ) -> Upload:
        """Append *body* (*length* bytes, None: unknown) at *offset*.

        Returns once the bytes are durable and, with the last one, the job exists.
        *is_rest*: the body's clean end is the file's end, whatever was announced.

        Raises:
            EmptyFile: the rest, and so the file, has no bytes.
            OffsetMismatch, PastUploadLength, UploadComplete: nothing was written.
            TypeMismatch, TypeNotAllowed: the upload has been refused and ended.
            TruncatedBody, DiskFull, UploadPreempted: what arrived is kept.
        """
        row = await self._open(upload_id)
        waited = await self._take_over(upload_id)
        # No await lies between the end of the last turn and this one.
        turn = self._turns[upload_id] = _Turn(body)
        try:
            if waited:
                row = await self._open(upload_id)
            if row.state == uploads.UploadState.COMPLETE:
                return self._append_to_complete(row, offset, length)
            self._check_start(row, await self._offset(row), offset, length)
            return await self._fill(row, turn, offset, is_rest=is_rest)
        finally:
            turn.over.set()
            if self._turns.get(upload_id) is turn:
                del self._turns[upload_id]
            self._engine.hub.upload_idle(upload_id)

    def _append_to_complete(
        self, row: UploadRow, offset: int, length: int | None
    ) -> Upload:
        end = row.length or 0
        if offset != end:
            raise OffsetMismatch(expected=end, received=offset)
        if length != 0:
            raise UploadComplete
        return self._view(row, end)

    def _check_start(
        self, row: UploadRow, at: int, offset: int, length: int | None
    ) -> None:
        """Refuse what could not end well, before a byte is read."""
        if offset != at:
            raise OffsetMismatch(expected=at, received=offset)
        if length is not None and row.length is not None and at + length > row.length:
            raise PastUploadLength(
                f"{length} bytes at {at} reach beyond the length {row.length}"
            )
        if self._admission.closed:
            raise ShuttingDown

    async def _fill(
        self, row: UploadRow, turn: _Turn, offset: int, *, is_rest: bool
    ) -> Upload:
        writer = await self._store.append(row.key, offset)
        turn.offset = at = offset
        try:
            await self._move(row, turn, writer, is_rest=is_rest)
        finally:
            at = await _even_if_cancelled(self._make_durable(writer))
        if is_rest and at == 0:
            raise EmptyFile
        if at == row.length or (is_rest and row.length is None):
            await self._accept(row.id, at)
            row = await self._open(row.id)
        elif row.expires is not None:
            row = await self._extend(row)
        return self._view(row, at)

    async def _move(
        self, row: UploadRow, turn: _Turn, writer: Writer, *, is_rest: bool
    ) -> None:
        """Move the body into the blob, watching its type and its length."""
        limit = self._limit(row)
        head = _Head(await self._first_bytes(row.key, writer.offset))
        while data := await turn.body.read():
            if head.wants_more:
                head.add(data)
                if not head.wants_more:
                    await self._check_head(row, turn, head)
            room = limit - writer.offset
            await writer.write(data if len(data) <= room else memoryview(data)[:room])
            turn.offset = writer.offset
            self._engine.hub.uploading(row.id, turn.offset)
            if len(data) > room:
                self._refuse_surplus(row)
        is_whole = is_rest if row.length is None else writer.offset == row.length
        if head.wants_more and head.data and is_whole:
            await self._check_head(row, turn, head)

    def _limit(self, row: UploadRow) -> int:
        return self._admission.rules.max_bytes if row.length is None else row.length

    def _refuse_surplus(self, row: UploadRow) -> None:
        if row.length is None:
            raise UploadTooLarge(length=None, max_bytes=self._admission.rules.max_bytes)
        raise PastUploadLength(f"the upload's length is {row.length} bytes")

    async def _first_bytes(self, key: str, offset: int) -> bytes | None:
        """Return what is there of the signature; None: it was checked already."""
        if offset >= uploads.SIGNATURE_BYTES:
            return None
        return b"".join([part async for part in self._store.read(key, 0, offset)])

    async def _check_head(self, row: UploadRow, turn: _Turn, head: "_Head") -> None:
        """Refuse a file whose first bytes are plainly not of the declared kind."""
        try:
            self._judge(row, bytes(head.data))
        except (TypeMismatch, TypeNotAllowed) as refused:
            turn.refuses = True
            self._admission.on_refusal(refused.code)
            await self._end(row.id, JobState.REJECTED, refused.code, refused.detail)
            raise

    def _judge(self, row: UploadRow, first: bytes) -> None:
        found = uploads.contradicts(row.declared_type, first)
        if found is not None:
            raise TypeMismatch(
                f"{row.file_name!r} is declared {row.declared_type} but is {found}"
            )
        self._admission.check_type(uploads.signature(first) or row.declared_type)

    async def _make_durable(self, writer: Writer) -> int:
        try:
            await writer.sync()
        finally:
            await writer.close()
        return writer.offset

    async def _extend(self, row: UploadRow) -> UploadRow:
        """Give an upload that moves more time, once half of it is gone."""
        now = self._engine.clock.now()
        if row.expires is None or row.expires - now > self._expiry_ms // 2:
            return row
        await self._db.extend_upload(row.id, now + self._expiry_ms)
        return await self._open(row.id)

    # ----- take over

    async def _take_over(self, upload_id: str) -> bool:
        """Stop the request that fills the upload and wait for its last write.

        Tell whether there was one: then what was known of the upload is old.
        """
        waited = False
        while (turn := self._turns.get(upload_id)) is not None:
            waited = True
            turn.body.stop(UploadPreempted())
            try:
                async with asyncio.timeout(TAKE_OVER_S):
                    await turn.over.wait()
            except TimeoutError:
                raise UploadBusy from None
        return waited

    # ----- complete and end

    async def _accept(self, upload_id: str, size: int) -> None:
        try:
            await self._engine.accept(upload_id, size)
        except (DatabaseUnavailable, DiskFull):
            self._unaccepted[upload_id] = size
            raise
        self._unaccepted.pop(upload_id, None)

    async def finish_pending(self) -> None:
        """Try again to accept whole uploads whose transaction failed."""
        for upload_id, size in list(self._unaccepted.items()):
            try:
                await self._accept(upload_id, size)
            except (UploadGone, UploadNotFound):
                self._unaccepted.pop(upload_id, None)

    async def recover(self) -> int:
        """Accept uploads that were whole when the server died; return how many."""
        found, after = 0, 0
        while page := await self._db.unfinished_uploads(after, 500):
            after = page[-1].seq
            for row in page:
                with suppress(UploadGone):  # its time was over as well
                    found += await self._recover(row)
        return found

    async def _recover(self, row: UploadRow) -> bool:
        if row.length is None or await self._offset(row) != row.length:
            return False
        await self._accept(row.id, row.length)
        return True

    async def terminate(self, upload_id: str) -> None:
        """End an unfinished upload at its client's wish and give up its bytes.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadComplete: it is a job now; delete the job instead.
        """
        row = await self._open(upload_id)
        await self._take_over(upload_id)
        ended = await self._end(
            row.id, JobState.CANCELLED, "terminated", "the client ended the upload"
        )
        if not ended:
            raise UploadComplete("the upload is complete: delete its job instead")

    async def abandon(self, upload_id: str, error: BaseException) -> None:
        """End an upload whose client cannot come back to it.

        One that is whole stays: only its transaction failed, and is tried again.
        """
        if upload_id in self._unaccepted:
            return
        detail = f"the request failed: {error}"
        await self._end(upload_id, JobState.CANCELLED, TruncatedBody.code, detail)

    async def expire(self, limit: int = 100) -> int:
        """End uploads that nobody finished in time; return how many."""
        ids = await self._db.expired_uploads(self._engine.clock.now(), limit)
        idle = [upload_id for upload_id in ids if upload_id not in self._turns]
        for upload_id in idle:
            await self._expire(upload_id)
        return len(idle)

    async def _expire(self, upload_id: str) -> None:
        detail = "nobody finished the upload in time"
        await self._end(upload_id, JobState.CANCELLED, "expired", detail)

    async def _end(
        self, upload_id: str, state: JobState, code: str, detail: str
    ) -> bool:
        self._unaccepted.pop(upload_id, None)
        return await self._engine.end_upload(
            upload_id, state=state, code=code, detail=detail
        )

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within *grace_s*, then stop them; bytes are kept."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self._turns and loop.time() < end:
            turn = next(iter(self._turns.values()))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await turn.over.wait()
        for turn in tuple(self._turns.values()):
            turn.body.stop(ShuttingDown())
        for turn in tuple(self._turns.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout(TAKE_OVER_S):
                    await turn.over.wait()

    def changed(self, change: Change) -> None:
        """Stop filling an upload whose job was closed by somebody else."""
        turn = self._turns.get(change.job_id)
        if turn is None or turn.refuses:
            return
        if change.terminal is not None or change.gone:
            turn.body.stop(UploadGone())


async def _even_if_cancelled(work: Coroutine[None, None, int]) -> int:
    """Finish *work* before a cancellation goes on: nobody may overtake a write."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class _Head:
    """Collects the first bytes of a file for the signature check."""

    def __init__(self, known: bytes | None) -> None:
        self.data = bytearray(known or b"")
        self._checked = known is None

    @property
    def wants_more(self) -> bool:
        """Tell whether the check still waits for bytes."""
        return not self._checked and len(self.data) < uploads.SIGNATURE_BYTES

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file."""
        self.data += data[: uploads.SIGNATURE_BYTES - len(self.data)]
