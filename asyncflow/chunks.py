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
- The blob's length is the offset, except that bytes of a chunk with a checksum count
  only once it has been seen to be right: until then the row says where it begins.
- A part (of an upload that is joined from parts) is filled like any other and becomes
  complete like any other, but never a job.

Theory of operation
-------------------
`append` opens a writer at the offset, moves buffers from the body to it, syncs, closes,
and only then answers. A crash at any point leaves a blob that is as long as what was
written; the next HEAD reads that length. If the transaction at the end fails (the disk
of the database is full, say), the upload stays whole and unaccepted; `finish_pending`
and any later request on it try again.
"""

from contextlib import suppress
from dataclasses import replace

import structlog

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Change, Database, NewUpload, UploadRow
from asyncflow.engine import Engine
from asyncflow.errors import (
    BlobExists,
    BlobNotFound,
    ChecksumMismatch,
    ClientError,
    DatabaseUnavailable,
    DigestMismatch,
    DiskFull,
    EmptyFile,
    FinalUpload,
    LengthMismatch,
    OffsetMismatch,
    PastUploadLength,
    ShuttingDown,
    TruncatedBody,
    TypeMismatch,
    TypeNotAllowed,
    UploadComplete,
    UploadGone,
    UploadNotFound,
    UploadTooLarge,
)
from asyncflow.jobs import JobState
from asyncflow.store.base import Store, Writer
from asyncflow.store.digests import digest_of
from asyncflow.turns import (
    IETF,
    Announced,
    Body,
    Check,
    Ends,
    Head,
    OnPart,
    Turn,
    Turns,
    Upload,
    even_if_cancelled,
    nobody_waits,
)

log = structlog.get_logger(__name__)


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
        self._turns = Turns()
        #: called when a part is complete, before its client is told
        self.on_part: OnPart = nobody_waits
        #: whole uploads whose transaction failed: id -> size
        self._unaccepted: dict[str, int] = {}

    # ----- create

    async def create(self, said: Announced) -> Upload:
        """Create an empty upload, bytes reserved; a known length of 0 completes it.

        One that the same Idempotency-Key has created before is returned as it is now.

        Raises:
            ClientError, ServerBusy: as `Admission.check` says.
            KeyReused: the Idempotency-Key belongs to another request.
            TooManyUploads: the client should finish some first.
        """
        await self._admission.check(
            length=said.length, declared_type=said.declared_type
        )
        now = self._engine.clock.now()
        upload_id = said.id or self._engine.clock.new_id()
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
            client=said.client,
            client_limit=self._admission.rules.open_uploads,
            dialect=said.dialect,
            is_part=said.is_part,
            parts=said.parts,
            concat=said.concat,
            digest="" if said.digest is None else str(said.digest),
            chosen=said.id is not None,
            once=said.once,
        )
        # The row comes first: a blob without a row would never be found again.
        made = await self._engine.create_upload(new)
        if made != upload_id:
            return replace(await self.find(made), is_known=True)
        is_joined = said.parts is not None
        try:
            await self._store.create(new.key, length=None if is_joined else said.length)
        except DiskFull:
            await self._end(upload_id, JobState.CANCELLED, "disk_full", "no room")
            raise
        except BlobExists:
            # Another request for the same upload was here first: it has the turn.
            return Upload.of(await self._open(made), 0, is_known=True)
        try:
            row = await self._open(upload_id)
        except ClientError:
            # ended in between, or long ago if its client chose the id: keep no bytes
            await self._store.delete(new.key)
            raise
        if self._is_whole(row, 0):
            row = await self._complete(row, 0)
        return Upload.of(row, 0)

    # ----- look

    async def find(self, upload_id: str) -> Upload:
        """Return the upload with its durable offset, after stopping who fills it.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadBusy: the disk holds the earlier request's write.
        """
        row = await self._open(upload_id)
        if await self._turns.take_over(upload_id):
            row = await self._open(upload_id)
        if row.state != uploads.UploadState.RECEIVING:
            return Upload.of(row, row.length or 0)
        if row.parts is not None:
            return Upload.of(row, 0)
        offset = await self._offset(row)
        if self._is_whole(row, offset):
            row = await self._complete(row, offset)
        return Upload.of(row, offset)

    @staticmethod
    def _is_whole(row: UploadRow, offset: int) -> bool:
        """Tell whether an upload is complete though no request has said so.

        In the IETF draft only a request completes an upload, its length does not.
        """
        return row.parts is None and offset == row.length and row.dialect != IETF

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
        if row.expires is None:
            return False
        busy = row.id in self._turns or row.id in self._unaccepted
        return not busy and row.expires <= self._engine.clock.now()

    async def _offset(self, row: UploadRow) -> int:
        try:
            size = await self._store.size(row.key)
        except BlobNotFound:
            # The server died between the row and the blob.
            with suppress(BlobExists):  # or its creator was only slower than we
                await self._store.create(row.key, length=row.length)
            try:
                await self._open(row.id)
            except ClientError:
                # It was ended and swept since *row* was read: leave no bytes behind.
                await self._store.delete(row.key)
                raise
            return 0
        return uploads.offset_of(size, length=row.length, checked_from=row.checked_from)

    # ----- fill

    async def append(
        self,
        upload_id: str,
        offset: int,
        body: Body,
        *,
        length: int | None,
        ends: Ends = Ends.AT_LENGTH,
        total: int | None = None,
        check: Check | None = None,
    ) -> Upload:
        """Append *body* (*length* bytes, None: unknown) at *offset*.

        Returns once the bytes are durable and, with the last one, the job exists.
        *ends*: what makes the upload whole; *total*: its length, as this request says;
        *check*: the body's checksum.

        Raises:
            OffsetMismatch, PastUploadLength, UploadComplete, FinalUpload,
            LengthMismatch: nothing was written.
            ChecksumMismatch: nothing of the body is kept.
            DigestMismatch: the file is whole but another; it has been refused.
            TypeMismatch, TypeNotAllowed: the upload has been refused and ended.
            TruncatedBody, DiskFull, UploadPreempted: what arrived is kept.
        """
        row = await self._open(upload_id)
        waited = await self._turns.take_over(upload_id)
        # No await lies between the end of the last turn and this one.
        turn = self._turns.begin(upload_id, body)
        try:
            if waited:
                row = await self._open(upload_id)
            if row.state == uploads.UploadState.COMPLETE:
                return self._append_to_complete(row, offset, length)
            self._check_start(row, await self._offset(row), offset, length)
            if ends is Ends.WITH_BODY and total is None and length is not None:
                total = offset + length
            row = await self._settle_length(row, offset, total)
            if check is not None:
                return await self._fill_checked(row, turn, offset, check, ends)
            if row.checked_from is not None:
                # what lies behind was never seen to be right
                await self._cut_off(row, offset)
            return await self._fill(row, turn, offset, ends)
        finally:
            self._turns.end(upload_id, turn)
            self._engine.hub.upload_idle(upload_id)

    def _append_to_complete(
        self, row: UploadRow, offset: int, length: int | None
    ) -> Upload:
        end = row.length or 0
        if offset != end:
            raise OffsetMismatch(expected=end, received=offset, is_complete=True)
        if length != 0:
            raise UploadComplete
        return Upload.of(row, end)

    def _check_start(
        self, row: UploadRow, at: int, offset: int, length: int | None
    ) -> None:
        """Refuse what could not end well, before a byte is read."""
        if row.parts is not None:
            raise FinalUpload
        if offset != at:
            raise OffsetMismatch(expected=at, received=offset)
        if length is not None and row.length is not None and at + length > row.length:
            raise PastUploadLength(
                f"{length} bytes at {at} reach beyond the length {row.length}"
            )
        if self._admission.closed:
            raise ShuttingDown

    async def _settle_length(
        self, row: UploadRow, at: int, total: int | None
    ) -> UploadRow:
        """Store the upload's length if this request is the first to say it."""
        if total is None or total == row.length:
            return row
        if row.length is not None or total < at:
            raise LengthMismatch(
                f"the length is {total} now, but "
                + (f"{row.length} before" if row.length is not None else f"{at} came")
            )
        max_bytes = self._admission.rules.max_bytes
        if total > max_bytes:
            raise UploadTooLarge(length=total, max_bytes=max_bytes)
        if not await self._db.set_length(row.id, total):
            raise LengthMismatch
        return await self._open(row.id)

    async def _fill(
        self, row: UploadRow, turn: Turn, offset: int, ends: Ends
    ) -> Upload:
        at = await self._write(row, turn, offset, ends)
        return await self._finish(row, at, ends)

    async def _fill_checked(
        self, row: UploadRow, turn: Turn, offset: int, check: Check, ends: Ends
    ) -> Upload:
        """Fill with bytes that count only if their checksum is right."""
        if row.checked_from != offset:
            await self._db.set_checked_from(row.id, offset)
        try:
            at = await self._write(row, turn, offset, ends)
            await self._compare(row.key, check(), offset, at)
        except BaseException:
            if not turn.refuses:
                await even_if_cancelled(self._cut_off(row, offset))
            raise
        await self._db.set_checked_from(row.id, None)
        return await self._finish(row, at, ends)

    async def _compare(
        self, key: str, expected: uploads.Checksum, start: int, end: int
    ) -> None:
        algorithm = expected.algorithm
        if await digest_of(self._store, key, algorithm, start, end) != expected:
            raise ChecksumMismatch

    async def _cut_off(self, row: UploadRow, offset: int) -> int:
        """Take back the bytes behind *offset*, then the mark that they did not count.

        A crash in between leaves the mark, which says the same.
        """
        writer = await self._store.append(row.key, offset)
        await self._make_durable(writer)
        await self._db.set_checked_from(row.id, None)
        return offset

    async def _write(self, row: UploadRow, turn: Turn, offset: int, ends: Ends) -> int:
        """Write the body at *offset* durably; return the offset behind it."""
        writer = await self._store.append(row.key, offset)
        turn.offset = offset
        try:
            await self._move(row, turn, writer, ends)
        finally:
            at = await even_if_cancelled(self._make_durable(writer))
        return at

    async def _finish(self, row: UploadRow, at: int, ends: Ends) -> Upload:
        """Turn an upload whose bytes are all there into a job; tell how it is."""
        if ends is Ends.WITH_BODY and row.length not in {None, at}:
            raise LengthMismatch(f"{at} bytes came, but the length is {row.length}")
        if ends is Ends.WITH_BODY or (ends is Ends.AT_LENGTH and at == row.length):
            if at == 0 and not row.dialect:
                raise EmptyFile
            row = await self._complete(row, at)
        elif row.expires is not None:
            row = await self._extend(row)
        return Upload.of(row, at)

    async def _move(
        self, row: UploadRow, turn: Turn, writer: Writer, ends: Ends
    ) -> None:
        """Move the body into the blob, watching its type and its length."""
        limit = self._limit(row)
        head = Head(await self._first_bytes(row, writer.offset))
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
            if not head.wants_more:
                async for at in turn.bursts(writer, limit):
                    self._engine.hub.uploading(row.id, at)
        is_whole = ends is Ends.WITH_BODY or writer.offset == row.length
        if head.wants_more and head.data and is_whole:
            await self._check_head(row, turn, head)

    def _limit(self, row: UploadRow) -> int:
        return self._admission.rules.max_bytes if row.length is None else row.length

    def _refuse_surplus(self, row: UploadRow) -> None:
        if row.length is None:
            raise UploadTooLarge(length=None, max_bytes=self._admission.rules.max_bytes)
        raise PastUploadLength(f"the upload's length is {row.length} bytes")

    async def _first_bytes(self, row: UploadRow, offset: int) -> bytes | None:
        """Return what is there of the signature; None: there is nothing to check."""
        if row.is_part or offset >= uploads.SIGNATURE_BYTES:
            return None
        if offset == 0:
            # nothing is there: opening the blob would cost four turns of a thread
            return b""
        return b"".join([part async for part in self._store.read(row.key, 0, offset)])

    async def _check_head(self, row: UploadRow, turn: Turn, head: Head) -> None:
        """Refuse a file whose first bytes are plainly not of the declared kind."""
        try:
            self._judge(row, bytes(head.data))
        except (TypeMismatch, TypeNotAllowed) as refused:
            turn.refuses = True
            await self._refuse(row.id, refused)
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

    # ----- complete and end

    async def _complete(self, row: UploadRow, size: int) -> UploadRow:
        """Accept an upload whose bytes are all there, if they are the right ones."""
        if row.digest:
            expected = uploads.Checksum.parse(row.digest)
            found = await digest_of(self._store, row.key, expected.algorithm)
            if found != expected:
                refused = DigestMismatch()
                await self._end(row.id, JobState.REJECTED, refused.code, refused.detail)
                raise refused
        await self._accept(row.id, size)
        if row.is_part:
            await self.on_part(row.id)
        return await self._open(row.id)

    async def complete_joined(self, row: UploadRow, size: int) -> None:
        """Accept an upload whose bytes the store has put together.

        Raises:
            TypeMismatch, TypeNotAllowed, DigestMismatch: it has been refused and ended.
        """
        end = uploads.SIGNATURE_BYTES
        first = b"".join([part async for part in self._store.read(row.key, 0, end)])
        try:
            self._judge(row, first)
        except (TypeMismatch, TypeNotAllowed) as refused:
            await self._refuse(row.id, refused)
            raise
        await self._complete(row, size)

    async def check_size(self, upload_id: str, size: int) -> None:
        """Return if a joined upload may have *size* bytes.

        Raises:
            UploadTooLarge: it has been refused and ended.
        """
        max_bytes = self._admission.rules.max_bytes
        if size > max_bytes:
            refused = UploadTooLarge(length=size, max_bytes=max_bytes)
            await self._refuse(upload_id, refused)
            raise refused

    async def _refuse(self, upload_id: str, refused: ClientError) -> None:
        self._admission.on_refusal(refused.code)
        await self._end(upload_id, JobState.REJECTED, refused.code, refused.detail)

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
        if row.parts is not None or not self._is_whole(row, await self._offset(row)):
            return False
        await self._complete(row, row.length or 0)
        return True

    async def terminate(self, upload_id: str) -> None:
        """End an unfinished upload at its client's wish and give up its bytes.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadComplete: it is a job now; delete the job instead.
        """
        row = await self._open(upload_id)
        await self._turns.take_over(upload_id)
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
        with suppress(UploadNotFound):  # a part that was ended already
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
        await self._turns.drain(grace_s)

    def changed(self, change: Change) -> None:
        """Stop filling an upload whose job was closed by somebody else."""
        turn = self._turns.get(change.job_id)
        if turn is None or turn.refuses:
            return
        if change.terminal is not None or change.gone:
            turn.body.stop(UploadGone())
