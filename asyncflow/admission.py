"""May this upload start? Asked before a byte of it is read.

A refusal here costs the client nothing but the request; every check that comes later
is a repetition of one of these on better knowledge.

Rules
-----
- Between the last question and what is held for the answer lies no await: whoever asks
  meanwhile is asked to make do with the rest. See `asyncflow.reservations`.
- What is held is given back unless somebody else counts it by then.
- An upload of unknown length is counted from before it exists until it has ended: what
  ends while somebody waits for an answer about it holds nothing afterwards.
- Nobody is refused on old knowledge: before that the disk or the database is looked at.
- Who has as many uploads open as they may holds nothing, not even for a moment.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from asyncflow import uploads
from asyncflow.errors import (
    AsyncflowError,
    BacklogFull,
    DiskFull,
    ShuttingDown,
    TooManyUploads,
    TypeNotAllowed,
    UploadGone,
    UploadTooLarge,
)
from asyncflow.prospects import Prospect, Prospects
from asyncflow.queues import Queue
from asyncflow.quotas import Look, Quotas, nobody_counts
from asyncflow.reservations import Ledger, Reservation
from asyncflow.store.base import Space

#: what a form may have beyond its files: names, other fields, boundaries
FORM_BYTES = 64 << 10
#: how much an upload of unknown length may bring before the disk is looked at again
ROOM_EVERY_BYTES = 8 << 20
#: clients that are remembered to have had too many uploads open
REMEMBERED = 1000
#: for so long a look at the disk is enough where there is room
RECENT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator allows. `fill_level` is a share of the disk, 0 to 100."""

    max_bytes: int
    allowed_types: tuple[str, ...]
    fill_level: float
    #: bytes that may be stored, in all and for one tenant
    quota_bytes: int = sys.maxsize
    tenant_quota_bytes: int = sys.maxsize
    #: unfinished uploads of one client
    open_uploads: int = 1000


async def _nobody_has_any(_client: str) -> int:
    return 0


class Admission:
    """Decides on uploads that want to start, and holds what they were granted.

    *space* tells the room under the store (None: the store cannot fill up), *backlog*
    and *delayed* how many steps wait (None: any number may), *usage* what the database
    counts in quotas, *open_uploads* how many uploads a client has open.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        space: Callable[[], Awaitable[Space]] | None,
        backlog: Queue | None = None,
        delayed: Queue | None = None,
        usage: Look = nobody_counts,
        open_uploads: Callable[[str], Awaitable[int]] = _nobody_has_any,
        on_refusal: Callable[[str], None] = lambda _code: None,
    ) -> None:
        self.rules = rules
        self.on_refusal = on_refusal
        self._space = space
        self._backlog = backlog or Queue()
        self._delayed = delayed or Queue()
        self._open_uploads = open_uploads
        #: clients that had too many open when they came last
        self._crowded: dict[str, None] = {}
        self.quotas = Quotas(
            usage, all_bytes=rules.quota_bytes, tenant_bytes=rules.tenant_quota_bytes
        )
        self._room = Ledger()
        #: of uploads whose length nobody has said: the database does not count these
        self._unmeasured: dict[str, Reservation] = {}
        self.prospects = Prospects(self._new, self._hold_both)
        #: what the disk was like when it was looked at
        self._last: Space | None = None
        self._looked = 0.0
        self._looking = asyncio.Lock()
        #: set while the server stops
        self.closed = False

    @asynccontextmanager
    async def admitted(
        self,
        *,
        length: int | None,
        declared_type: str,
        counted: int = 0,
        shared: int = 0,
        tenant: str = "",
        client: str = "",
        lane: str | None = None,
    ) -> AsyncIterator[Reservation]:
        """Hold what an upload takes that may start; give back what is left at the end.

        *counted*: how many bytes of it the database counts already; *shared*: how many
        take no room of their own; *lane*: whose work it is; None: it belongs to what
        was taken before.

        Raises:
            ShuttingDown, BacklogFull, DiskFull, QuotaExceeded, TooManyUploads: not now.
            UploadTooLarge, TypeNotAllowed: never.
        """
        held = self._new(tenant)
        with self._refusals():
            self._check_length(length)
            self.check_type(declared_type)
            if lane is not None:
                self.check_backlog(lane)
            await self._check_crowded(client)
            size = length or 0
            await self._hold(held, size - counted, size - shared)
        try:
            yield held
        except TooManyUploads as refused:
            self._crowded[client] = None
            if len(self._crowded) > REMEMBERED:
                del self._crowded[next(iter(self._crowded))]
            self.on_refusal(refused.code)
            raise
        finally:
            held.release()

    async def _check_crowded(self, client: str) -> None:
        """Refuse who had too many uploads open a moment ago and has them still."""
        if client in self._crowded:
            limit = self.rules.open_uploads
            if await self._open_uploads(client) >= limit:
                raise TooManyUploads(limit)
            self._crowded.pop(client, None)

    @asynccontextmanager
    async def joined(self, tenant: str, *, more: int, room: int) -> AsyncIterator[None]:
        """Hold *more* bytes of the quota and *room* on the disk while parts are joined.

        What needs none of one is never refused for it.

        Raises:
            DiskFull, QuotaExceeded: not now.
        """
        held = self._new(tenant)
        with self._refusals():
            if room:
                await self._see(room)
            if more:
                await self.quotas.know(more, tenant)
                self.quotas.check(more, tenant)
            if room:
                self._check_room(room)
            held.hold(more, room)
        try:
            yield
            held.stored()
        finally:
            held.release()

    @asynccontextmanager
    async def moved(self, most: int, *, least: int) -> AsyncIterator[Reservation]:
        """Hold room for bytes that are stored anew before they go where they were.

        For as many of *most* as leave as much room to others, and for *least* in any
        case: the disk is no fuller afterwards.
        """
        await self._see(2 * most)
        room = most
        while room > least and not self._has(2 * room):
            room = max(least, room // 2)
        held = self._new("")
        held.hold(0, room)
        try:
            yield held
        finally:
            held.release()

    async def check_new(self, client: str, lane: str) -> None:
        """Return if *client* may begin an upload in *lane* now; nothing is held.

        Raises:
            ShuttingDown, BacklogFull, TooManyUploads: not now.
        """
        with self._refusals():
            self.check_backlog(lane)
            await self._check_crowded(client)

    async def foresee(
        self, upload_id: str | None, tenant: str, *, least: int, most: int
    ) -> Prospect:
        """Hold what a file will take, as `Prospects.enter` says.

        Raises:
            DiskFull, QuotaExceeded: not now.
        """
        most = min(most, self.rules.max_bytes)
        with self._refusals():
            return await self.prospects.enter(
                upload_id, tenant, least=min(least, most), most=most
            )

    @asynccontextmanager
    async def made(self, tenant: str, *, count: int, room: int) -> AsyncIterator[None]:
        """Hold what a derivative takes; at a good end database and disk count it.

        Raises:
            DiskFull, QuotaExceeded: not now.
        """
        held = self._new(tenant)
        await self._hold(held, count, room)
        try:
            yield
            held.counted()
            held.stored()
        finally:
            held.release()

    async def check_form(
        self,
        length: int | None,
        *,
        tenant: str = "",
        is_repeat: bool,
        is_chunk: bool = False,
    ) -> None:
        """Return if a form of *length* bytes, its own included, may be read.

        What it asks for is there already if it is a repeat: then only its size is
        looked at. So it may be for a chunk, if files are foreseen that hold as much.
        Nothing is held: that is for each of its files.

        Raises:
            ShuttingDown, DiskFull, QuotaExceeded: not now.
            UploadTooLarge: no file may be as large as this.
        """
        files = max(0, (length or 0) - FORM_BYTES)
        with self._refusals():
            if files > self.rules.max_bytes:
                raise UploadTooLarge(
                    length=length, max_bytes=self.rules.max_bytes, what="form"
                )
            if is_repeat:
                return
            if self.closed:
                raise ShuttingDown
            await self._see(files)
            await self.quotas.know(files, tenant)
            count, room = self.prospects.sums(tenant) if is_chunk else (0, 0)
            if files > count or not files:
                self.quotas.check(files - count, tenant)
            if files > room or not files:
                self._check_room(files - room)

    async def check_room(self) -> None:
        """Return if there is room for anything.

        Raises:
            DiskFull: the disk is filled as far as it may be.
        """
        await self._see(0)
        self._check_room(0)

    # ----- uploads of unknown length

    def counts(self, upload_id: str) -> bool:
        """Tell whether an upload is counted here, by its bytes."""
        return upload_id in self._unmeasured

    def found(
        self,
        upload_id: str,
        tenant: str,
        at: int,
        within: Reservation | None = None,
    ) -> None:
        """Count an upload of unknown length, which holds *at* bytes, from now on.

        *within*: what the file holds of which it is a chunk.
        Who did not do so before anybody could end it, asks afterwards whether it is
        still there.
        """
        held = self._unmeasured.setdefault(upload_id, self._new(tenant, within))
        held.rest(at)

    def _found(self, upload_id: str, at: int) -> Reservation:
        held = self._unmeasured.get(upload_id)
        if held is None:
            raise UploadGone
        held.rest(at)
        return held

    async def grow(self, upload_id: str, at: int, *, more: int | None) -> None:
        """Return if an upload that holds *at* bytes may get *more*; None: any number.

        Raises:
            DiskFull, QuotaExceeded: it has taken all that it may.
            UploadGone: it has ended meanwhile.
        """
        held = self._found(upload_id, at)
        with self._refusals():
            if more is None:
                await self._promise(held)
            else:
                await self._hold(held, more, more)

    async def take(self, upload_id: str, end: int) -> None:
        """Return if an upload may be written up to *end*.

        Raises:
            QuotaExceeded: it has taken all that it may.
            UploadGone: it has ended meanwhile.
        """
        held = self._unmeasured.get(upload_id)
        if held is None or end <= held.bytes:
            return
        with self._refusals():
            if more := held.beyond(end - held.bytes, 0)[0]:
                await self.quotas.know(more, held.tenant)
                # it may have less by now
                more = held.beyond(end - held.bytes, 0)[0]
                self.quotas.check(more, held.tenant)
            held.hold(end - held.bytes, 0)

    async def go_on(self, upload_id: str, at: int) -> None:
        """Return if an upload that was written up to *at* may go on.

        Raises:
            DiskFull: it has taken all that it may.
            UploadGone: it has ended meanwhile.
        """
        held = self._unmeasured.get(upload_id)
        if held is None:
            return
        held.stored(at - held.at)
        held.at = at
        if held.is_endless and not held.room:
            with self._refusals():
                await self._promise(held)

    async def _promise(self, held: Reservation) -> None:
        """Hold the next room for an upload whose end nobody has told."""
        if held.beyond(1, 1) != (0, 0):
            await self._see(ROOM_EVERY_BYTES)
            await self.quotas.know(0, held.tenant)
            self.quotas.check(0, held.tenant)
        room = held.portion(ROOM_EVERY_BYTES)
        if beyond := held.beyond(0, room)[1]:
            self._check_room(0, promised=beyond)
        held.is_endless = True
        held.hold(0, room)

    def rest(self, upload_id: str, at: int) -> None:
        """Take note that nobody fills an upload now, which holds *at* bytes."""
        if (held := self._unmeasured.get(upload_id)) is not None:
            held.rest(at)

    @asynccontextmanager
    async def measured(
        self, upload_id: str, *, length: int, at: int
    ) -> AsyncIterator[None]:
        """Hold what an upload of *at* bytes takes now that it is to have *length*.

        At a good end the database counts it.

        Raises:
            DiskFull, QuotaExceeded: not now.
            UploadTooLarge: never.
            UploadGone: it has ended meanwhile.
        """
        held = self._found(upload_id, at)
        with self._refusals():
            self._check_length(length)
            await self._hold(held, length - at, length - at)
        try:
            yield
        except BaseException:
            held.rest(at)
            raise
        held.stored()
        self.counted(upload_id, held.tenant, length)

    def counted(self, upload_id: str, tenant: str, length: int) -> None:
        """Take note that the database counts an upload by its length from now on."""
        held = self._unmeasured.pop(upload_id, None) or self._new(tenant)
        held.settle(length)
        self.prospects.end(upload_id)

    def forget(self, upload_id: str) -> None:
        """Take note that an upload has ended."""
        self.prospects.end(upload_id)
        held = self._unmeasured.pop(upload_id, None)
        if held is not None:
            held.release()

    # ----- what is held

    def _new(self, tenant: str, within: Reservation | None = None) -> Reservation:
        return Reservation(self.quotas, self._room, tenant, within)

    async def _hold_both(self, held: Reservation, count: int) -> None:
        await self._hold(held, count, count)

    async def _hold(self, held: Reservation, count: int, room: int) -> None:
        await self._see(room)
        await self.quotas.know(count, held.tenant)
        self.quotas.check(count, held.tenant)
        self._check_room(room)
        held.hold(count, room)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except UploadGone:
            # nobody has refused it
            raise
        except AsyncflowError as refused:
            self.on_refusal(refused.code)
            raise

    # ----- the single conditions

    def check_backlog(self, lane: str | None = None) -> None:
        """Return if there may be more work, of *lane* if that is known already.

        Raises:
            ShuttingDown, BacklogFull: not now.
        """
        if self.closed:
            raise ShuttingDown
        self._check(self._backlog, lane, "are waiting")

    def check_delayed(self, lane: str, now: int) -> None:
        """Return if *lane* may have another task that waits for its time.

        They hold up nobody, so as many may wait as of those whose time has come.

        Raises:
            BacklogFull: not now, but probably when the first one's time has come.
        """
        try:
            self._check(self._delayed, lane, "wait for their time")
        except BacklogFull as refused:
            due = self._delayed.due(lane)
            if due is not None:
                refused.retry_after_s = max(1.0, (due - now) / 1000)
            raise

    @staticmethod
    def _check(queue: Queue, lane: str | None, how: str) -> None:
        if queue.has_room(lane):
            return
        said = f"{queue.total} steps {how}, the limit is {queue.limit}"
        if queue.has_room(None) and lane is not None:
            said += f"; {queue.of(lane)} of them are yours, and the rest is for others"
        raise BacklogFull(said)

    def check_type(self, media_type: str) -> None:
        """Return if files of *media_type* are taken.

        An unknown type passes for now: the first bytes will tell.
        """
        if media_type == "application/octet-stream":
            return
        if not uploads.is_allowed(media_type, self.rules.allowed_types):
            raise TypeNotAllowed(
                f"this server takes no {media_type}; accepted: "
                + ", ".join(self.rules.allowed_types)
            )

    def _check_length(self, length: int | None) -> None:
        if self.closed:
            raise ShuttingDown
        if length is not None and length > self.rules.max_bytes:
            raise UploadTooLarge(length=length, max_bytes=self.rules.max_bytes)

    async def _see(self, room: int) -> None:
        """Look at the disk, unless it had this *room* a moment ago."""
        if self._space is None:
            return
        now = time.monotonic()
        if now - self._looked < RECENT_S and self._has(room):
            return
        async with self._looking:
            if self._looked >= now:
                # somebody else has looked since
                return
            shown, began = self._room.begin_look(), time.monotonic()
            self._last = await self._space()
            self._looked = began
            self._room.end_look(shown)

    def _has(self, room: int) -> bool:
        space = self._last
        if space is None:
            return True
        used = space.total_bytes - space.free_bytes + self._room.total + room
        return used <= space.total_bytes * self.rules.fill_level / 100

    def _check_room(self, room: int, *, promised: int = 0) -> None:
        if not self._has(room + promised):
            level = f"{self.rules.fill_level:g} %"
            raise DiskFull(
                f"{room} bytes more would fill the disk above {level}"
                if room
                else f"the disk is filled above {level} already"
            )
