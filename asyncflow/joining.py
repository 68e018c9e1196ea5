"""Joins parts into uploads: concatenation, whatever protocol asks for it.

Rules
-----
- When every place holds a complete part, and not before, the store puts their bytes
  together and the upload becomes a job. Whoever notices first sees to it: the request
  that brings the last part, a look at the upload, a restart.
- Joins are the server's own work, a few at a time: no client waits for one longer than
  `PATIENCE_S`, and whoever brings a part that has a name waits for none.
- A join that a crash cut off goes on, as `asyncflow.assembly` says.
- One that fails is tried again, whatever the reason, ever more rarely, and meanwhile
  its status and an alert say why. Only where bytes are gone it ends, and all that was
  to be made of them.
- That is the server's own matter: who has created an upload, or brought its last part,
  hears of it as of one that is not put together yet. Told of an error, a client would
  send the file again, and have it twice.
- Once all parts are complete, no time limit ends what is joined of them, nor them.
- What waits for a part that ends, ends with it. A part that no client can name, and
  that has a place, ends only with its upload: not because its request fails after that.
- With the end of an upload, as a job or not, the transaction gives up its parts if no
  client knows their names. Others stay for a while: their client may ask again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from msgspec.structs import replace

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.assembly import Assembly
from asyncflow.chunks import Chunks
from asyncflow.db.base import Database
from asyncflow.db.records import Change, Place, UploadRow
from asyncflow.endings import EXPIRED
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    BlobNotFound,
    ClientError,
    DiskFull,
    PartNotUsable,
    QuotaExceeded,
    ServerBusy,
    UploadGone,
)
from asyncflow.gathering import COMPLETE, Gathering
from asyncflow.store.base import CanJoin, Interrupted, Store
from asyncflow.turns import Announced, Upload
from asyncflow.views import ErrorView

log = structlog.get_logger(__name__)

#: so many joins are made at once
JOINS: Final = 2
#: how long the client that brought the last part may wait to hear of the job
PATIENCE_S: Final = 5.0
#: how long a join that failed waits for its next try, at first and at most
AGAIN_MS: Final = 5_000
AGAIN_MOST_MS: Final = 600_000
#: the same where only room is missing: to ask for it costs little
ROOM_AGAIN_MOST_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A join that is tried again: why, when, and how long it waits for that."""

    why: ErrorView
    due: int
    wait: int


class Joiner:
    """Creates joined uploads and completes them."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        admission: Admission,
        chunks: Chunks,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._chunks = chunks
        self._assembly = Assembly(db=db, store=store, admission=admission)
        self.gathering = Gathering(
            db=db, engine=engine, store=store, chunks=chunks, assembly=self._assembly
        )
        self._creating = asyncio.Lock()
        self._at_once = asyncio.Semaphore(JOINS)
        #: joins that run or wait for their turn, by upload
        self._joins: dict[str, asyncio.Task[None]] = {}
        #: looks for what waits for a part
        self._looks: set[asyncio.Task[None]] = set()
        #: joins whose last try failed, by upload
        self._failed: dict[str, Failed] = {}
        #: complete parts of which nobody could be told what waits for them
        self._unseen: set[str] = set()
        self._stops = False

    async def create(self, said: Announced, parts: Sequence[str]) -> Upload:
        """Create an upload of the bytes of *parts*, in this order.

        It is complete on return if they are, and are soon put together.

        Raises:
            PartNotUsable: one of them is not there, or is no part of this owner's.
            TypeMismatch, TypeNotAllowed: so does no file begin that is taken.
            ClientError, ServerBusy: as `Chunks.create` says.
            UploadGone, DigestMismatch: as `settle` says; it has ended.
        """
        if said.once is not None:
            # before its parts are looked at, which may have gone since
            made = await self._db.created_before(said.owner, said.tenant, said.once)
            if made is not None:
                return replace(await self.settle(made), is_known=True)
        # one at a time: two files of the same parts do not both count in their place
        async with self._creating:
            whole = await self._chunks.create(await self._of_parts(said, parts))
        try:
            return await self.settle(whole.id)
        except ClientError:
            raise
        except AsyncflowError:
            # its client must learn where it is, and does not come back to have it seen
            self._unseen.add(parts[0])
            return whole

    async def _of_parts(self, said: Announced, parts: Sequence[str]) -> Announced:
        """Return what is said of an upload that its parts, named, say as well."""
        rows = [await self._part(said, part) for part in parts]
        if rows[0].state == COMPLETE:
            self._chunks.endings.refuse_new(said, await self.gathering.head(parts[0]))
        said = replace(said, places=tuple(parts), parts=len(parts), length=None)
        known = [row.length for row in rows if row.length is not None]
        if len(known) < len(rows):
            return said
        own = {row.id: row.length or 0 for row in rows if not row.is_taken}
        shared = self._store.shareable(known) if isinstance(self._store, CanJoin) else 0
        said = replace(said, length=sum(known), counted=sum(own.values()))
        return replace(said, shared=shared)

    async def _part(self, said: Announced, part: str) -> UploadRow:
        try:
            row = await self._db.find_upload(part)
        except ClientError:
            row = None
        owner = None if row is None else (row.owner, row.tenant)
        if row is None or not row.is_part or owner != (said.owner, said.tenant):
            # the same to whoever tries ids of others
            raise PartNotUsable(f"{part} is no partial upload of yours") from None
        return row

    def changed(self, change: Change) -> None:
        """Forget an upload that is over."""
        self.gathering.changed(change)
        if change.terminal is not None or change.gone:
            self._failed.pop(change.job_id, None)

    # ----- joins

    def why(self, final: str) -> ErrorView | None:
        """Return why an upload whose parts are all there is not complete yet.

        None: nothing is known to stand in its way.
        """
        failed = self._failed.get(final)
        return None if failed is None else failed.why

    @property
    def failing(self) -> int:
        """How many uploads have all their parts and could not be joined."""
        return len(self._failed)

    async def settle(self, final: str) -> Upload:
        """Complete a joined upload if all its parts are; return it as it is then.

        It may take longer than a client should wait, or fail for now and go on by
        itself, as `why` tells: then it is not complete yet.

        Raises:
            UploadGone: a part has ended before, or was lost, and the upload with it.
            UploadTooLarge, TypeMismatch, TypeNotAllowed, DigestMismatch: it has been
                refused and ended.
        """
        upload = await self._chunks.find(final)
        if upload.is_complete or self.gathering.lacks_some(final):
            return upload
        row = await self._db.find_upload(final)
        if not await self._places_if_whole(row):
            return await self._chunks.find(final)
        self._begin(final)
        join = self._joins[final]
        await asyncio.wait([join], timeout=PATIENCE_S)
        if not join.done():
            return upload
        if isinstance(error := join.exception(), ClientError):
            raise error
        return await self._chunks.find(final)

    async def _places_if_whole(self, row: UploadRow) -> Sequence[Place]:
        """Return the parts of an upload, none of them until all are complete.

        It ends if one of them has ended. If it is complete by now, nothing ends it.
        """
        places = await self._db.places(row.id)
        if any(place.state is None for place in places):
            await self._give_up(row.id)
            return ()
        is_whole = len(places) == row.parts and all(p.state == COMPLETE for p in places)
        return places if is_whole else ()

    def _begin(self, final: str) -> None:
        """See to it that a task joins an upload: one at most."""
        if final not in self._joins:
            join = asyncio.create_task(self._in_turn(final), name="join")
            self._joins[final] = join
            join.add_done_callback(lambda done: self._joined(final, done))

    async def _in_turn(self, final: str) -> None:
        async with self._at_once:
            # a restart finds what the stop left
            if self._stops:
                return
            # only now: an earlier join may have ended since somebody asked for this
            row = await self._db.find_upload(final)
            is_open = row.state == uploads.UploadState.RECEIVING
            if not is_open or self._chunks.endings.awaits(final):
                return
            if places := await self._places_if_whole(row):
                await self._join(row, places)

    def _joined(self, final: str, done: asyncio.Task[None]) -> None:
        del self._joins[final]
        before = self._failed.pop(final, None)
        if done.cancelled() or (error := done.exception()) is None:
            return
        if isinstance(error, ClientError):
            # deleted meanwhile, or refused: whose it is hears of it
            log.info("join.ended", upload=final, error=error.code)
            return
        if isinstance(error, Interrupted):
            return  # the next start makes it
        why = _why(error)
        if before is None:
            # once, and not at every try; what is a fault, with where it happened
            trace = None if isinstance(error, ServerBusy) else error
            log.warning(
                "join.failed",
                upload=final,
                error=why.code,
                why=repr(error),
                exc_info=trace,
            )
        needs_room = isinstance(error, DiskFull | QuotaExceeded)
        most = ROOM_AGAIN_MOST_MS if needs_room else AGAIN_MOST_MS
        wait = AGAIN_MS if before is None else min(2 * before.wait, most)
        due = self._engine.clock.mono() + wait
        self._failed[final] = Failed(why=why, due=due, wait=wait)

    async def _join(self, row: UploadRow, places: Sequence[Place]) -> None:
        total = sum(place.length or 0 for place in places)
        # parts without a name make way for the upload that they become, and with a name
        # they let it count in their place
        more = 0
        if row.concat and row.length is None:
            own = {p.part: p.length or 0 for p in places if not p.is_taken}
            more = total - sum(own.values())
        joined = self._chunks.endings.joined(
            row, total, more=more, is_over=lambda: self._stops
        )
        try:
            async with joined:
                await self._chunks.lookup.make_blob(row, length=None)
                await self._assembly.put_together(row, places, lambda: self._stops)
        except BlobNotFound:
            await self._chunks.find(row.id)  # unless it was ended meanwhile
            await self._end_if_lost(row.id, places)
            raise

    async def _end_if_lost(self, final: str, places: Sequence[Place]) -> None:
        """End an upload that can never become whole, for bytes of its parts are gone.

        Raises:
            UploadGone: so it is.
        """
        row = await self._db.find_upload(final)
        if detail := await self._assembly.lost(row, places):
            log.error("join.part_lost", upload=final, why=detail)
            await self._chunks.endings.give_up(final, "part_lost", detail)
            raise UploadGone(f"{detail}: send the file again") from None

    # ----- parts

    def part_done(self, part: str) -> None:
        """Complete what waited for this part alone, behind its client's back.

        What goes wrong with the joined upload is its own matter: the part is safe.
        """
        look = asyncio.create_task(self._look_for_finals(part), name="join-look")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look_for_finals(self, part: str) -> None:
        try:
            for final in await self._db.finals_of(part):
                await self._begin_if_whole(final)
        except AsyncflowError:  # nothing can be read now
            self._unseen.add(part)

    async def _begin_if_whole(self, final: str) -> bool:
        try:
            row = await self._db.find_upload(final)
            if row.state != uploads.UploadState.RECEIVING:
                return False
            if not await self._places_if_whole(row):
                await self.gathering.judge_parts(row)
                return False
        except ClientError:
            return False  # it has ended
        self._begin(final)
        return True

    async def part_gone(self, part: str, code: str) -> None:
        """End what waits for this part: it could never become whole."""
        for final in await self._db.finals_of(part):
            if code == EXPIRED:
                await self._chunks.endings.expire(final)
            else:
                await self._give_up(final)

    async def _give_up(self, final: str) -> None:
        detail = "a part was ended before the upload was whole"
        await self._chunks.endings.give_up(final, "part_gone", detail)

    # ----- start and stop

    async def recover(self, row: UploadRow) -> bool:
        """Begin to join an upload that was only to be joined when the server died.

        Tell whether it is a job now: never yet.
        """
        if row.parts is not None and await self._places_if_whole(row):
            self._begin(row.id)
        return False

    async def again(self) -> None:
        """Try again what has failed."""
        unseen, self._unseen = self._unseen, set()
        for part in unseen:
            await self._look_for_finals(part)
        now = self._engine.clock.mono()
        for final in [name for name, one in self._failed.items() if one.due <= now]:
            if not await self._begin_if_whole(final):
                self._failed.pop(final, None)

    async def stop(self) -> None:
        """End running joins; the next start makes them and those that were to come."""
        self._stops = True
        while running := [*self._looks, *self._joins.values()]:
            await asyncio.wait(running)


def _why(error: BaseException) -> ErrorView:
    """Return why a file is not put together yet, in words for whose it is."""
    code = error.code if isinstance(error, AsyncflowError) else AsyncflowError.code
    # others speak of places in the store, which are nobody's business
    reason = error.detail if isinstance(error, ServerBusy) else "the server has failed"
    detail = f"all bytes have come, and are put together as soon as it works: {reason}"
    return ErrorView(code=code, detail=detail)
