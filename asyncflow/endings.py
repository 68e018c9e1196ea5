"""How uploads end: as a job, refused, or given up.

Rules
-----
- What is whole becomes a job in one transaction. If that fails (the disk of the
  database is full, say), the upload stays whole and unaccepted, and is tried again.
- A file that is plainly not what it was declared to be never becomes a job.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from msgspec.structs import replace

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Database
from asyncflow.db.records import UploadRow
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    ClientError,
    DatabaseUnavailable,
    DigestMismatch,
    DiskFull,
    TruncatedBody,
    TypeMismatch,
    TypeNotAllowed,
    UploadGone,
    UploadNotFound,
    UploadTooLarge,
)
from asyncflow.jobs import JobState
from asyncflow.offsets import Offsets
from asyncflow.store.base import Store
from asyncflow.store.digests import digest_of, never
from asyncflow.turns import OnEnd, nobody_waits
from asyncflow.uploads import UploadState

#: the code of what nobody finished in time
EXPIRED: Final = "expired"


class Declared(Protocol):
    """What is said of a file's kind."""

    @property
    def file_name(self) -> str:
        """Its name."""
        ...

    @property
    def declared_type(self) -> str:
        """Its media type, as declared."""
        ...


class Endings:
    """Completes uploads and ends them."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        admission: Admission,
        offsets: Offsets,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._admission = admission
        self._offsets = offsets
        #: called when a part is complete that others may wait for
        self.on_part: Callable[[str], None] = lambda _part: None
        #: called when an unfinished upload has ended, which may be a part
        self.on_end: OnEnd = nobody_waits
        #: whole uploads whose transaction failed, with their sizes
        self._unaccepted: dict[str, tuple[UploadRow, int]] = {}

    def awaits(self, upload_id: str) -> bool:
        """Tell whether the upload is whole and only its transaction failed."""
        return upload_id in self._unaccepted

    @property
    def waiting(self) -> int:
        """How many of those there are."""
        return len(self._unaccepted)

    def judge(self, said: Declared, first: bytes) -> None:
        """Return if a file that begins with *first* may be what it is *said* to be.

        Raises:
            TypeMismatch, TypeNotAllowed: it may not.
        """
        found = uploads.contradicts(said.declared_type, first)
        if found is not None:
            raise TypeMismatch(
                f"{said.file_name!r} is declared {said.declared_type} but is {found}"
            )
        self._admission.check_type(uploads.signature(first) or said.declared_type)

    def judge_early(self, said: Declared, first: bytes) -> None:
        """Return if a file, of which no more than *first* may be here, can be taken.

        Raises:
            TypeMismatch, TypeNotAllowed: it cannot, whatever comes behind.
        """
        if len(first) >= uploads.SIGNATURE_BYTES:
            self.judge(said, first)
        else:
            self._admission.check_type(uploads.signature(first) or said.declared_type)

    def refuse_new(self, said: Declared, first: bytes) -> None:
        """Return if a new file that begins with *first* can be taken.

        Raises:
            TypeMismatch, TypeNotAllowed: it cannot, whatever comes behind.
        """
        try:
            self.judge_early(said, first)
        except ClientError as refused:
            self._admission.on_refusal(refused.code)
            raise

    async def refuse_if(
        self, upload_id: str, said: Declared, first: bytes, size: int
    ) -> None:
        """Return if a file that has *size* bytes and begins with *first* can be taken.

        Raises:
            UploadTooLarge, TypeMismatch, TypeNotAllowed: it cannot, whatever comes
                behind; it has been refused and ended.
        """
        try:
            self._check_size(size)
            self.judge_early(said, first)
        except ClientError as refused:
            await self.refuse(upload_id, refused)
            raise

    def _check_size(self, size: int) -> None:
        max_bytes = self._admission.rules.max_bytes
        if size > max_bytes:
            raise UploadTooLarge(length=size, max_bytes=max_bytes)

    async def complete(
        self, row: UploadRow, size: int, *, is_over: Callable[[], bool] = never
    ) -> UploadRow:
        """Accept an upload whose bytes are all there, if they are the right ones.

        Raises:
            DigestMismatch: they are not; it has been refused and ended.
            Interrupted: *is_over* was true before that was known.
        """
        if row.digest:
            expected = uploads.Checksum.parse(row.digest)
            found = await digest_of(
                self._store, row.key, expected.algorithm, is_over=is_over
            )
            if found != expected:
                refused = DigestMismatch()
                await self.end(row.id, JobState.REJECTED, refused.code, refused.detail)
                raise refused
        await self._accept(row, size)
        return replace(
            row,
            state=UploadState.COMPLETE,
            length=size,
            checked_from=None,
            expires=row.expires if row.is_part else None,
        )

    async def _accept(self, row: UploadRow, size: int) -> None:
        """Make a whole upload complete, and do all that follows from it."""
        try:
            await self._engine.accept(row.id, size)
        except (DatabaseUnavailable, DiskFull):
            self._unaccepted[row.id] = (row, size)
            raise
        self._unaccepted.pop(row.id, None)
        if row.length is None:
            self._admission.counted(row.id, row.tenant, size)
        self._offsets.forget(row.key)
        if row.is_part and row.concat:
            self.on_part(row.id)

    async def finish_pending(self) -> None:
        """Try again to accept whole uploads whose transaction failed."""
        for row, size in list(self._unaccepted.values()):
            try:
                await self._accept(row, size)
            except (UploadGone, UploadNotFound):
                self._unaccepted.pop(row.id, None)

    @asynccontextmanager
    async def joined(
        self, row: UploadRow, size: int, *, more: int, is_over: Callable[[], bool]
    ) -> AsyncIterator[None]:
        """Accept an upload of *size* bytes that the store puts together meanwhile.

        *more*: what the database does not count of them yet.

        Raises:
            QuotaExceeded: it may not take them now.
            UploadTooLarge, TypeMismatch, TypeNotAllowed, DigestMismatch: it has been
                refused and ended.
            Interrupted: *is_over* was true before it was accepted.
        """
        try:
            self._check_size(size)
        except UploadTooLarge as refused:
            await self.refuse(row.id, refused)
            raise
        async with self._admission.joined(row.tenant, more=more, room=0):
            yield
            await self._judge_joined(row)
            await self.complete(row, size, is_over=is_over)

    async def _judge_joined(self, row: UploadRow) -> None:
        end = uploads.SIGNATURE_BYTES
        first = b"".join([part async for part in self._store.read(row.key, 0, end)])
        try:
            self.judge(row, first)
        except (TypeMismatch, TypeNotAllowed) as refused:
            await self.refuse(row.id, refused)
            raise

    async def refuse(self, upload_id: str, refused: ClientError) -> None:
        """End an upload whose file is not taken, and count the reason."""
        self._admission.on_refusal(refused.code)
        await self.end(upload_id, JobState.REJECTED, refused.code, refused.detail)

    async def expire(self, upload_id: str) -> None:
        """End an upload that nobody finished in time."""
        detail = "nobody finished the upload in time"
        await self.end(upload_id, JobState.CANCELLED, EXPIRED, detail)

    async def give_up(self, upload_id: str, code: str, detail: str) -> None:
        """End an upload whose client cannot come back to it; it may have ended."""
        with suppress(UploadNotFound):
            await self.end(upload_id, JobState.CANCELLED, code, detail)

    async def abandon(self, upload_id: str, error: BaseException) -> None:
        """End an upload whose client cannot come back to it.

        One that is whole stays: only its transaction failed, and is tried again. But
        of a part without a name nobody would ever hear.
        """
        if self.awaits(upload_id):
            row, _ = self._unaccepted[upload_id]
            if not row.is_part or row.concat:
                return
        await self.give_up(upload_id, TruncatedBody.code, _why(error))

    async def end(
        self, upload_id: str, state: JobState, code: str, detail: str
    ) -> bool:
        """End an unfinished upload, give up its bytes; tell whether it was open."""
        self._unaccepted.pop(upload_id, None)
        ended = await self._engine.end_upload(
            upload_id, state=state, code=code, detail=detail
        )
        self._admission.forget(upload_id)
        self._offsets.forget(uploads.raw_key(upload_id))
        if ended:
            await self.on_end(upload_id, code)
        return ended


def _why(error: BaseException) -> str:
    """Return why nothing more of an upload comes, in words for whoever looks at it."""
    if isinstance(error, TruncatedBody):
        return "the connection ended before the file did"
    if isinstance(error, AsyncflowError):
        return f"the request failed: {error.detail}"
    if isinstance(error, asyncio.CancelledError):
        return "the request was broken off"
    return f"the request failed: {type(error).__name__}"
