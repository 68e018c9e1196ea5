"""What the upload engine is told and tells: announcements, bodies, turns at an upload.

What becomes of the bytes is decided in `asyncflow.chunks`.
"""

import asyncio
import enum
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Final, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from asyncflow import uploads
from asyncflow.db.records import NewUpload, Once, UploadRow
from asyncflow.errors import DigestConflict, ShuttingDown, UploadBusy, UploadPreempted
from asyncflow.jobs import JobState, lane_of
from asyncflow.reservations import Reservation
from asyncflow.store.base import Burst, TakesBursts, Writer

T = TypeVar("T")

#: how long a newcomer waits for the disk to give back the earlier request's write
TAKE_OVER_S: Final = 10.0

#: the dialects that an upload remembers to have been created in
TUS: Final = "tus"
IETF: Final = "ietf"

#: hears which upload has ended, and by which code
OnEnd = Callable[[str, str], Awaitable[None]]


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


@runtime_checkable
class CanBurst(Protocol):
    """A body whose bytes need not pass through the program."""

    async def burst(self, room: int) -> Burst | None:
        """Return what moves the next bytes, once there are any; None: `read` them.

        Before the next call the burst has run. Nothing is moved of a body that has more
        than *room* bytes to come.
        """
        ...


class Ends(enum.Enum):
    """What makes an upload whole."""

    #: its bytes reach its length
    AT_LENGTH = "at its length"
    #: the clean end of this body, and then its length must be right
    WITH_BODY = "with this body"
    #: a later request, whatever its offset is by then
    LATER = "later"


#: returns the checksums that were said; asked when the body has ended
Digests = Callable[[], Sequence[uploads.Checksum]]


def _no_digests() -> Sequence[uploads.Checksum]:
    """Return none."""
    return ()


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says that the bytes are.

    *part*: the checksums of its body; *is_certain*: there is one, and until all have
    been seen to be right no byte of the body counts; *whole*: the digests of the file,
    one by each algorithm, asked before the body too.
    """

    part: Digests = _no_digests
    is_certain: bool = False
    whole: Digests = _no_digests

    def agree_with(self, known: str) -> None:
        """Return unless they name another digest of the file than the *known* one.

        Raises:
            DigestConflict: they do.
        """
        digests = self.whole() if known else ()
        if digests and known not in map(str, digests):
            algorithm = uploads.Checksum.parse(known).algorithm
            raise DigestConflict(f"a digest by {algorithm} was announced, not this one")


NO_CLAIMS: Final = Claims()


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says about a file before it sends it.

    *id*: its own choice of an id; *is_part*: it only holds bytes for another upload;
    *parts*: it is joined from so many of those, *places*: by name, where they are known
    at once; *digest*: what the whole must have; *has_end*: its length is its end.
    """

    owner: str
    tenant: str
    file_name: str
    declared_type: str
    length: int | None
    metadata: Mapping[str, str] = {}
    raw_metadata: str = ""
    #: who is counted for it while it is open; empty: nobody
    client: str = ""
    dialect: str = ""
    has_end: bool = True
    id: str | None = None
    is_part: bool = False
    parts: int | None = None
    places: tuple[str, ...] = ()
    #: how many of its bytes count in quotas already, as those of its parts
    counted: int = 0
    #: and how many take no room on the disk beside them
    shared: int = 0
    #: what the file holds of which it is a chunk
    within: Reservation | None = None
    concat: str = ""
    digest: uploads.Checksum | None = None
    once: Once | None = None

    @property
    def lane(self) -> str | None:
        """Whose work it is; None: a chunk or joined parts of what was taken before."""
        has_begun = bool(self.places) or (self.is_part and not self.concat)
        return None if has_begun else lane_of(self.tenant, self.owner, self.client)

    def row(
        self, upload_id: str, *, now: int, expiry_ms: int, client_limit: int
    ) -> NewUpload:
        """Return what is to be stored of it."""
        return NewUpload(
            id=upload_id,
            key=uploads.raw_key(upload_id),
            owner=self.owner,
            tenant=self.tenant,
            file_name=self.file_name,
            declared_type=self.declared_type,
            length=self.length,
            metadata=self.metadata,
            raw_metadata=self.raw_metadata,
            expires=now + expiry_ms,
            now=now,
            client=self.client,
            client_limit=client_limit,
            dialect=self.dialect,
            has_end=self.has_end,
            is_part=self.is_part,
            parts=self.parts,
            places=self.places,
            concat=self.concat,
            digest="" if self.digest is None else str(self.digest),
            chosen=self.id is not None,
            once=self.once,
        )


def said_of(row: UploadRow) -> uploads.Said:
    """Return what is said of a file."""
    return uploads.Said(
        file_name=row.file_name,
        declared_type=row.declared_type,
        raw_metadata=row.raw_metadata,
        digest=row.digest,
    )


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload as its client may know it. `expires` is None once it is a job.

    *is_known*: it was there, or complete, before the request came that tells of it.
    """

    id: str
    offset: int
    length: int | None
    expires: int | None
    raw_metadata: str = ""
    is_complete: bool = False
    dialect: str = ""
    concat: str = ""
    is_part: bool = False
    is_joined: bool = False
    is_known: bool = False
    job_state: JobState = JobState.UPLOADING

    @property
    def told_state(self) -> JobState:
        """What the sender of the last byte hears: its work begins with the answer."""
        return self.job_state if self.is_known else JobState.PENDING

    @classmethod
    def of(cls, row: UploadRow, offset: int, *, is_known: bool = False) -> "Upload":
        """Return what a client may know of *row*."""
        return cls(
            id=row.id,
            offset=offset,
            length=row.length,
            expires=row.expires,
            raw_metadata=row.raw_metadata,
            is_complete=row.state == uploads.UploadState.COMPLETE,
            dialect=row.dialect,
            concat=row.concat,
            is_part=row.is_part,
            is_joined=row.parts is not None,
            is_known=is_known,
            job_state=row.job_state,
        )


@lru_cache(maxsize=64)
def _can(kind: type, capability: type) -> bool:
    """Tell whether objects of *kind* have a capability: to ask each of them is slow."""
    return issubclass(kind, capability)


class Turn:
    """One request that is filling an upload."""

    def __init__(self, body: Body) -> None:
        self.body = body
        #: when the time of its upload is over; None: it is not looked at
        self.expires: int | None = None
        self.over = asyncio.Event()
        self.offset = 0
        #: it ends the upload itself: nobody has to stop it
        self.refuses = False

    async def bursts(self, writer: Writer, limit: int) -> AsyncIterator[int]:
        """Let the kernel move what it can of the body; yield the offset every time."""
        if not (_can(type(self.body), CanBurst) and _can(type(writer), TakesBursts)):
            return
        body, taker = cast("CanBurst", self.body), cast("TakesBursts", writer)
        while burst := await body.burst(limit - writer.offset):
            await taker.take(burst)
            self.offset = writer.offset
            yield self.offset


class Turns:
    """Who is filling which upload: one request at a time."""

    def __init__(self) -> None:
        self._of: dict[str, Turn] = {}

    def __contains__(self, upload_id: str) -> bool:
        return upload_id in self._of

    def get(self, upload_id: str) -> Turn | None:
        """Return the turn of the request that fills the upload now."""
        return self._of.get(upload_id)

    def begin(self, upload_id: str, body: Body) -> Turn:
        """Give a request its turn: nobody else may have one."""
        turn = self._of[upload_id] = Turn(body)
        return turn

    def end(self, upload_id: str, turn: Turn) -> None:
        """Take a request's turn back; its last write has returned."""
        turn.over.set()
        if self._of.get(upload_id) is turn:
            del self._of[upload_id]

    def __len__(self) -> int:
        return len(self._of)

    async def take_over(self, upload_id: str) -> bool:
        """Stop the request that fills the upload and wait for its last write.

        Tell whether there was one: then what was known of the upload is old.
        """
        waited = False
        while (turn := self._of.get(upload_id)) is not None:
            waited = True
            turn.body.stop(UploadPreempted())
            try:
                async with asyncio.timeout(TAKE_OVER_S):
                    await turn.over.wait()
            except TimeoutError:
                raise UploadBusy from None
        return waited

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within *grace_s*, then stop them; bytes are kept."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self._of and loop.time() < end:
            turn = next(iter(self._of.values()))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await turn.over.wait()
        for turn in tuple(self._of.values()):
            turn.body.stop(ShuttingDown())
        for turn in tuple(self._of.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout(TAKE_OVER_S):
                    await turn.over.wait()


class Legacy:
    """Uploads that an earlier server left: here there are none."""

    #: all of them have been looked at
    is_over = True

    async def seen(self, row: UploadRow) -> UploadRow:
        """Look at an upload that is about to be used; return what is stored of it."""
        return row


class Repeats:
    """Requests of one owner with one Idempotency-Key, one after the other."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str, str], asyncio.Event] = {}

    def runs(self, owner: str, tenant: str, key: str) -> bool:
        """Tell whether one of them runs now."""
        return (tenant, owner, key) in self._running

    @asynccontextmanager
    async def turn(self, owner: str, tenant: str, once: Once) -> AsyncIterator[None]:
        """Wait for whoever runs with the same key; then nobody else does."""
        key = (tenant, owner, once.key)
        while (running := self._running.get(key)) is not None:
            await running.wait()
        over = self._running[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._running[key]
            over.set()


class Head:
    """Collects the first bytes of a file for the signature check.

    *known* is what is there of them already; None: they were checked, or need not be.
    """

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


async def nobody_waits(_upload: str, _code: str) -> None:
    """Do nothing: nothing waits for this upload."""


async def even_if_cancelled(work: Coroutine[None, None, T]) -> T:
    """Finish *work* before a cancellation goes on: nobody may overtake a write.

    However often it is asked for: who stops waiting at the second one lets bytes land
    behind the back of whoever comes next.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        # a future of its own takes the cancellation, and the work goes on
        over = loop.create_future()
        task.add_done_callback(partial(_wake, over))
        try:
            await over
        except asyncio.CancelledError as asked:
            cancelled = asked
    if cancelled is None:
        return task.result()
    with suppress(Exception):  # retrieved: the cancellation is what is told
        task.result()
    raise cancelled


def _wake(over: asyncio.Future[None], _task: object) -> None:
    if not over.done():
        over.set_result(None)
