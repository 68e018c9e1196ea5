"""The upload engine: bytes at an offset, whatever the protocol.

Rules
-----
- An offset is told only after the bytes before it are on stable storage; those that
  did not get there are cut off again.
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
written; the next HEAD syncs it and tells that length. How bytes get into
blobs is decided in `asyncflow.filling`, how uploads end in `asyncflow.endings`, how
far they are in `asyncflow.offsets`.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Database
from asyncflow.db.records import Change, NewUpload, UploadRow
from asyncflow.endings import Endings
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    BlobExists,
    BlobNotFound,
    ChecksumMismatch,
    ClientError,
    FinalUpload,
    LengthMismatch,
    OffsetMismatch,
    PastUploadLength,
    ShuttingDown,
    TruncatedBody,
    UploadComplete,
    UploadGone,
)
from asyncflow.filling import Filling
from asyncflow.jobs import JobState
from asyncflow.offsets import Offsets
from asyncflow.store.base import Store
from asyncflow.store.digests import digest_of
from asyncflow.turns import (
    IETF,
    NO_CLAIMS,
    TUS,
    Announced,
    Body,
    Claims,
    Ends,
    Legacy,
    Repeats,
    Turn,
    Turns,
    Upload,
    even_if_cancelled,
)

log = structlog.get_logger(__name__)

#: new uploads whose rows need not be read back for their first request
REMEMBERED = 256


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
        self._repeats = Repeats()
        self._offsets = Offsets(store)
        self.legacy = Legacy()
        #: uploads that nobody has asked for, or changed, since they were created here
        self._fresh: dict[str, UploadRow] = {}
        self.endings = Endings(
            db=db,
            engine=engine,
            store=store,
            admission=admission,
            offsets=self._offsets,
        )
        self._filling = Filling(
            store=store,
            admission=admission,
            offsets=self._offsets,
            endings=self.endings,
            on_move=self._moved,
        )

    # ----- create

    async def create(self, said: Announced) -> Upload:
        """Create an empty upload, bytes reserved; a known length of 0 completes it.

        One that the same Idempotency-Key has created before is returned as it is now.

        Raises:
            ClientError, ServerBusy: as `Admission.admitted` says.
            KeyReused: the Idempotency-Key belongs to another request.
            TooManyUploads: the client should finish some first.
        """
        if said.once is None:
            return await self._create(said)
        # a repeat waits for what it repeats, and is looked for before it can be refused
        async with self._repeats.turn(said.owner, said.tenant, said.once):
            made = await self._db.created_before(said.owner, said.tenant, said.once)
            if made is not None:
                return replace(await self.find(made), is_known=True)
            return await self._create(said)

    async def knows(self, owner: str, tenant: str, key: str) -> bool:
        """Tell whether a request with this Idempotency-Key has created, or does so."""
        if self._repeats.runs(owner, tenant, key):
            return True
        return await self._db.has_created(owner, tenant, key)

    async def _create(self, said: Announced) -> Upload:
        async with self._admission.admitted(
            length=said.length,
            declared_type=said.declared_type,
            tenant=said.tenant,
            client=said.client,
            lane=said.lane,
        ) as held:
            clock = self._engine.clock
            new = said.row(
                said.id or clock.new_id(),
                now=clock.now(),
                expiry_ms=self._expiry_ms,
                client_limit=self._admission.rules.open_uploads,
            )
            if new.length is None and new.parts is None:
                self._admission.found(new.id, new.tenant, 0)
            # The row comes first: a blob without one would never be found again.
            made = await self._create_row(new)
            if made != new.id:
                return replace(await self.find(made), is_known=True)
            row = await self._create_blob(new)
            held.counted()
            held.stored()
        if row is None:
            # Another request for the same upload was here first: it has the turn.
            return Upload.of(await self._open(made), 0, is_known=True)
        if self._is_whole(row, 0):
            row = await self.endings.complete(row, 0)
        return Upload.of(row, 0)

    async def _create_row(self, new: NewUpload) -> str:
        """Store a new upload, and remember it for its first request; return its id."""
        if not (new.chosen or new.is_part or new.parts is not None):
            self._fresh[new.id] = new.as_stored()
            if len(self._fresh) > REMEMBERED:
                del self._fresh[next(iter(self._fresh))]
        made = ""
        try:
            made = await self._engine.create_upload(new)
        finally:
            if made != new.id:
                self._fresh.pop(new.id, None)
                self._admission.forget(new.id)
        return made

    async def _create_blob(self, new: NewUpload) -> UploadRow | None:
        """Create the blob of a new row; return the row, None: the blob is there."""
        length = None if new.parts is not None else new.length
        try:
            await self._store.create(new.key, length=length)
        except BlobExists:
            return None
        except AsyncflowError as error:
            # who has chosen its id comes back to it, and others may use it by now
            if not new.chosen:
                await self.endings.give_up(new.id, error.code, error.detail)
            raise
        self._offsets.note(new.key, 0)
        if not new.chosen:
            return new.as_stored()
        try:
            return await self._open(new.id)
        except ClientError:
            # ended long ago, or by who knows the id as well: keep no bytes
            await self._store.delete(new.key)
            raise

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
            row = await self.endings.complete(row, offset)
        return Upload.of(row, offset)

    @staticmethod
    def _is_whole(row: UploadRow, offset: int) -> bool:
        """Tell whether an upload is complete though no request has said so.

        In the IETF draft only a request completes an upload, its length does not.
        """
        return row.parts is None and offset == row.length and row.dialect != IETF

    async def received(self, upload_id: str) -> int:
        """Return how many bytes have arrived, durable or not, disturbing nobody."""
        turn = self._turns.get(upload_id)
        if turn is not None:
            return turn.offset
        try:
            return await self._store.size(uploads.raw_key(upload_id))
        except BlobNotFound:
            return 0

    async def _open(self, upload_id: str) -> UploadRow:
        """Return an upload that is there; one whose time is over ends now."""
        row = self._fresh.pop(upload_id, None)
        if row is None:
            row = await self.legacy.seen(await self._db.find_upload(upload_id))
        if row.state == uploads.UploadState.ENDED:
            raise UploadGone
        if self._is_late(row):
            await self.endings.expire(upload_id)
            raise UploadGone
        return row

    def _is_late(self, row: UploadRow) -> bool:
        if row.expires is None or self._is_busy(row.id):
            return False
        return row.expires <= self._engine.clock.now()

    def _is_busy(self, upload_id: str) -> bool:
        # A request that fills it keeps it alive; a whole one is only not accepted yet.
        return upload_id in self._turns or self.endings.awaits(upload_id)

    async def _offset(self, row: UploadRow) -> int:
        try:
            size = await self._offsets.of(row.key)
        except BlobNotFound:
            await self.make_blob(row, length=row.length)
            return 0
        return uploads.offset_of(size, length=row.length, checked_from=row.checked_from)

    async def make_blob(self, row: UploadRow, *, length: int | None) -> None:
        """Create the blob that is missing if the server died between the row and it.

        Raises:
            UploadNotFound, UploadGone: the upload has ended meanwhile.
        """
        try:
            await self._store.create(row.key, length=length)
        except BlobExists:
            return  # or its creator was only slower than we
        try:
            await self._open(row.id)
        except ClientError:
            # It was ended and swept since *row* was read: leave no bytes behind.
            await self._store.delete(row.key)
            raise

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
        claims: Claims = NO_CLAIMS,
    ) -> Upload:
        """Append *body* (*length* bytes, None: unknown) at *offset*.

        Returns once the bytes are durable and, with the last one, the job exists.
        *ends*: what makes the upload whole; *total*: its length, as this request says;
        *claims*: its checksums. A digest of the whole file counts only if the request
        comes to a good end.

        Raises:
            OffsetMismatch, PastUploadLength, UploadComplete, FinalUpload,
            LengthMismatch, DigestConflict: nothing was written.
            ChecksumMismatch: nothing of the body is kept.
            DigestMismatch: the file is whole but another; it has been refused.
            TypeMismatch, TypeNotAllowed: the upload has been refused and ended.
            TruncatedBody, DiskFull, UploadPreempted: what arrived is kept.
        """
        row = await self._open(upload_id)
        waited = await self._turns.take_over(upload_id)
        # No await lies between the end of the last turn and this one.
        turn = self._turns.begin(upload_id, body)
        turn.expires = row.expires
        try:
            if waited:
                row = await self._open(upload_id)
            if row.state == uploads.UploadState.COMPLETE:
                return await self._append_to_complete(row, offset, body)
            self._check_start(row, await self._offset(row), offset, length)
            claims.agree_with(row.digest)
            if ends is Ends.WITH_BODY and total is None and length is not None:
                total = offset + length
            row = await self._count(row, offset)
            row = await self._settle_length(row, offset, total)
            if row.length is None:
                await self._admission.grow(row.id, offset, more=length)
            write = self._write_checked if claims.is_certain else self._write_unchecked
            at = await write(row, turn, offset, length=length, claims=claims, ends=ends)
            row = await self._settle_digest(row, claims.whole())
            return await self._finish(row, turn, at, ends)
        except BlobNotFound:
            await self._open(upload_id)  # unless it was ended meanwhile
            raise
        finally:
            await self._end_turn(upload_id, turn, offset)

    async def _end_turn(self, upload_id: str, turn: Turn, offset: int) -> None:
        try:
            if turn.offset > offset:
                # who was cut off in the middle shall have the time to come back
                await even_if_cancelled(self._extend(upload_id, turn))
        finally:
            self._admission.rest(upload_id, max(offset, turn.offset))
            self._turns.end(upload_id, turn)
            self._engine.hub.upload_idle(upload_id)

    async def _append_to_complete(
        self, row: UploadRow, offset: int, body: Body
    ) -> Upload:
        """Let a last request be repeated that brings nothing."""
        if row.parts is not None:
            raise FinalUpload
        if offset != row.length:
            raise OffsetMismatch(expected=row.length or 0, received=offset)
        if await body.read():
            raise UploadComplete
        return Upload.of(row, offset, is_known=True)

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

    async def _count(self, row: UploadRow, at: int) -> UploadRow:
        """Count an upload of unknown length that holds *at* bytes, if nobody does.

        An earlier server has begun it, or something has happened since *row* was read.
        """
        if row.length is not None or self._admission.counts(row.id):
            return row
        self._admission.found(row.id, row.tenant, at)
        try:
            row = await self._open(row.id)
        except BaseException:
            self._admission.forget(row.id)
            raise
        if row.length is not None:
            self._admission.forget(row.id)
        return row

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
        async with self._admission.measured(row.id, length=total, at=at):
            await self._store.reserve(row.key, total)
            if not await self._db.set_length(row.id, total):
                raise LengthMismatch
        return await self._open(row.id)

    async def _settle_digest(
        self, row: UploadRow, digests: Sequence[uploads.Checksum]
    ) -> UploadRow:
        """Store the file's digest if this request is the first to say it."""
        if row.digest or not digests:
            return row
        await self._db.set_digest(row.id, str(digests[0]))
        return replace(row, digest=str(digests[0]))

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
        at = await self._filling.write(row, turn, offset, length=length, ends=ends)
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
            at = await self._filling.write(row, turn, offset, length=length, ends=ends)
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

    async def _finish(self, row: UploadRow, turn: Turn, at: int, ends: Ends) -> Upload:
        """Turn an upload whose bytes are all there into a job; tell how it is."""
        if ends is Ends.WITH_BODY and row.length not in {None, at}:
            raise LengthMismatch(f"{at} bytes came, but the length is {row.length}")
        if ends is Ends.WITH_BODY or (
            at == row.length and (ends is Ends.AT_LENGTH or row.dialect == TUS)
        ):
            row = await self.endings.complete(row, at)
        else:
            await self._extend(row.id, turn)
            row = replace(row, expires=turn.expires or row.expires)
        return Upload.of(row, at)

    async def _moved(self, row: UploadRow, turn: Turn) -> None:
        """Tell how far an upload is; stop one of unknown length that takes too much."""
        self._engine.hub.uploading(row.id, turn.offset)
        await self._extend(row.id, turn)
        if row.length is None:
            await self._admission.go_on(row.id, turn.offset)

    async def _extend(self, upload_id: str, turn: Turn) -> None:
        """Give an upload that moves more time; its turn ends well without it, too."""
        try:
            turn.expires = await self.keep_alive(upload_id, turn.expires)
        except AsyncflowError as error:
            log.warning("upload.not_extended", upload=upload_id, error=error.detail)
            turn.expires = None

    async def keep_alive(self, upload_id: str, expires: int | None) -> int | None:
        """Give an upload more time once half of it is gone; return when it is over.

        What waits for a part, and that one's other parts, live as long.
        """
        now = self._engine.clock.now()
        if expires is None or expires - now > self._expiry_ms // 2:
            return expires
        await self._db.extend_upload(upload_id, now + self._expiry_ms)
        return now + self._expiry_ms

    # ----- complete and end

    async def recover(self, row: UploadRow) -> bool:
        """Do with an upload what its request could not when the server died.

        Accept it if it was whole, end it if nobody can go on with it; tell whether it
        is a job now.
        """
        if row.parts is not None or row.id in self._turns:
            return False
        offset = await self._offset(row)
        if self._is_whole(row, offset):
            await self.endings.complete(row, offset)
            return True
        if not row.dialect:
            # sent in one request, which no client can continue
            detail = f"the server stopped when {offset} bytes had come"
            await self.endings.give_up(row.id, TruncatedBody.code, detail)
        else:
            await self._count(row, offset)
        return False

    async def terminate(self, upload_id: str) -> None:
        """End an unfinished upload at its client's wish and give up its bytes.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadComplete: it is a job now; delete the job instead.
        """
        row = await self._open(upload_id)
        await self._turns.take_over(upload_id)
        ended = await self.endings.end(
            row.id, JobState.CANCELLED, "terminated", "the client ended the upload"
        )
        if not ended:
            raise UploadComplete("the upload is complete: delete its job instead")

    async def expire(self, limit: int = 100) -> int:
        """End uploads that nobody finished in time; return how many."""
        if not self.legacy.is_over:
            return 0  # some may be whole, and only not accepted yet
        # behind those that cannot be ended now, which come first each time
        look = limit + len(self._turns) + self.endings.waiting
        ids = await self._db.expired_uploads(self._engine.clock.now(), look)
        idle = [one for one in ids if not self._is_busy(one)][:limit]
        for upload_id in idle:
            await self.endings.expire(upload_id)
        return len(idle)

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within *grace_s*, then stop them; bytes are kept."""
        await self._turns.drain(grace_s)

    def changed(self, change: Change) -> None:
        """Stop filling an upload whose job was closed by somebody else."""
        if change.version > 1:  # the first is its creation
            self._fresh.pop(change.job_id, None)
        if change.terminal is not None or change.gone:
            self._admission.forget(change.job_id)
        turn = self._turns.get(change.job_id)
        if turn is None or turn.refuses:
            return
        if change.terminal is not None or change.gone:
            turn.body.stop(UploadGone())
