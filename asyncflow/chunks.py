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
- A part (of an upload that is joined from parts) is filled like any other and becomes
  complete like any other, but never a job.

Theory of operation
-------------------
An upload is created (`asyncflow.creation`), looked up (`asyncflow.lookup`), filled and
ended. `append` is one turn at it: open a writer at the offset, move buffers from the
body to it, sync, close, and only then answer. A crash at any point leaves a blob that
is as long as what was written; the next HEAD syncs it and tells that length. How bytes
get into blobs, and which of them count, is decided in `asyncflow.filling`, how uploads
end in `asyncflow.endings`, how far they are in `asyncflow.offsets`.
"""

from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.creation import Creation
from asyncflow.db.base import Database
from asyncflow.db.records import Change, UploadRow
from asyncflow.endings import Endings
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    BlobNotFound,
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
from asyncflow.lookup import Lookup, is_whole
from asyncflow.offsets import Offsets
from asyncflow.store.base import Store
from asyncflow.turns import (
    NO_CLAIMS,
    Announced,
    Body,
    Claims,
    Ends,
    Turn,
    Turns,
    Upload,
    even_if_cancelled,
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
        self._turns = Turns()
        offsets = Offsets(store)
        self.endings = Endings(
            db=db, engine=engine, store=store, admission=admission, offsets=offsets
        )
        self.lookup = Lookup(
            db=db,
            store=store,
            clock=engine.clock,
            turns=self._turns,
            offsets=offsets,
            endings=self.endings,
            expiry_ms=int(expiry_s * 1000),
        )
        self.creation = Creation(
            db=db,
            engine=engine,
            store=store,
            admission=admission,
            offsets=offsets,
            endings=self.endings,
            lookup=self.lookup,
        )
        self._filling = Filling(
            db=db,
            store=store,
            admission=admission,
            offsets=offsets,
            endings=self.endings,
            on_move=self._moved,
        )

    async def create(self, said: Announced) -> Upload:
        """Create an upload, as `Creation.create` does."""
        return await self.creation.create(said)

    async def find(self, upload_id: str, *, at_length: bool = False) -> Upload:
        """Return an upload with its durable offset, as `Lookup.find` does."""
        return await self.lookup.find(upload_id, at_length=at_length)

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
        row = await self.lookup.open(upload_id)
        waited = await self._turns.take_over(upload_id)
        # No await lies between the end of the last turn and this one.
        turn = self._turns.begin(upload_id, body)
        turn.expires = row.expires
        try:
            if waited:
                row = await self.lookup.open(upload_id)
            if row.state == uploads.UploadState.COMPLETE:
                return await self._append_to_complete(row, offset, body)
            at = await self.lookup.offset_of(row)
            self._check_start(row, at, offset, length, total)
            claims.agree_with(row.digest)
            is_end = False
            if ends is Ends.WITH_BODY and length is not None:
                total = offset + length if total is None else total
                # a digest of the file counts only if this request comes to its end
                is_end = bool(row.digest) or not claims.whole()
            row = await self._count(row, offset)
            row = await self._settle_length(row, offset, total, is_end=is_end)
            if row.length is None:
                await self._admission.grow(row.id, offset, more=length)
            at = await self._filling.fill(
                row, turn, offset, length=length, claims=claims, ends=ends
            )
            row = await self._settle_digest(row, claims.whole())
            return await self._finish(row, turn, at, ends)
        except BlobNotFound:
            await self.lookup.open(upload_id)  # unless it was ended meanwhile
            raise
        finally:
            await self._end_turn(upload_id, turn, offset)

    async def _end_turn(self, upload_id: str, turn: Turn, offset: int) -> None:
        try:
            if turn.offset > offset and self.lookup.needs_time(turn.expires):
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
        self,
        row: UploadRow,
        at: int,
        offset: int,
        length: int | None,
        total: int | None,
    ) -> None:
        """Refuse what could not end well, before a byte is read."""
        if row.parts is not None:
            raise FinalUpload
        if offset != at:
            raise OffsetMismatch(expected=at, received=offset)
        end = total if row.length is None else row.length
        if length is not None and end is not None and at + length > end >= at:
            raise PastUploadLength(
                f"{length} bytes at {at} reach beyond the length {end}"
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
            row = await self.lookup.open(row.id)
        except BaseException:
            self._admission.forget(row.id)
            raise
        if row.length is not None:
            self._admission.forget(row.id)
        return row

    async def _settle_length(
        self, row: UploadRow, at: int, total: int | None, *, is_end: bool
    ) -> UploadRow:
        """Store the upload's length, and that it is the end, if that is new.

        So who is cut off with the last byte leaves a whole file, not one that waits
        for a request that never comes.
        """
        if total is None or (total == row.length and (row.has_end or not is_end)):
            return row
        if total == row.length:
            await self._db.set_length(row.id, total, is_end=True)
            return replace(row, has_end=True)
        if row.length is not None or total < at:
            raise LengthMismatch(
                f"the length is {total} now, but "
                + (f"{row.length} before" if row.length is not None else f"{at} came")
            )
        async with self._admission.measured(row.id, length=total, at=at):
            await self._store.reserve(row.key, total)
            if not await self._db.set_length(row.id, total, is_end=is_end):
                raise LengthMismatch
        return await self.lookup.open(row.id)

    async def _settle_digest(
        self, row: UploadRow, digests: Sequence[uploads.Checksum]
    ) -> UploadRow:
        """Store the file's digest if this request is the first to say it."""
        if row.digest or not digests:
            return row
        await self._db.set_digest(row.id, str(digests[0]))
        return replace(row, digest=str(digests[0]))

    async def _finish(self, row: UploadRow, turn: Turn, at: int, ends: Ends) -> Upload:
        """Turn an upload whose bytes are all there into a job; tell how it is."""
        if ends is Ends.WITH_BODY and row.length not in {None, at}:
            raise LengthMismatch(f"{at} bytes came, but the length is {row.length}")
        if ends is Ends.WITH_BODY or (
            at == row.length and (ends is Ends.AT_LENGTH or row.has_end)
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
            turn.expires = await self.lookup.keep_alive(upload_id, turn.expires)
        except AsyncflowError as error:
            log.warning("upload.not_extended", upload=upload_id, error=error.detail)
            turn.expires = None

    # ----- complete and end

    async def recover(self, row: UploadRow) -> bool:
        """Do with an upload what its request could not when the server died.

        Accept it if it was whole, end it if nobody can go on with it; tell whether it
        is a job now.
        """
        if row.parts is not None or row.id in self._turns:
            return False
        offset = await self.lookup.offset_of(row)
        if is_whole(row, offset):
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
        row = await self.lookup.open(upload_id)
        await self._turns.take_over(upload_id)
        ended = await self.endings.end(
            row.id, JobState.CANCELLED, "terminated", "the client ended the upload"
        )
        if not ended:
            raise UploadComplete("the upload is complete: delete its job instead")

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within *grace_s*, then stop them; bytes are kept."""
        await self._turns.drain(grace_s)

    def changed(self, change: Change) -> None:
        """Stop filling an upload whose job was closed by somebody else."""
        self.lookup.changed(change)
        if change.terminal is not None or change.gone:
            self._admission.forget(change.job_id)
        turn = self._turns.get(change.job_id)
        if turn is None or turn.refuses:
            return
        if change.terminal is not None or change.gone:
            turn.body.stop(UploadGone())
