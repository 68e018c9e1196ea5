"""The SQLite database: one connection writes, a few only read.

WAL, `synchronous=FULL`: what was answered for survives a power cut. Pool processes
never open the file; a second server on the same folder is kept out by a lock that is
taken before this is opened.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from asyncflow.db import control, intake, work
from asyncflow.db.ballast import Ballast
from asyncflow.db.control import noted
from asyncflow.db.flow import to_json
from asyncflow.db.oversight import Cause, Note
from asyncflow.db.queries import load, migrations
from asyncflow.db.reading import Reading
from asyncflow.db.records import (
    Change,
    Claimed,
    Demand,
    Ended,
    NewUpload,
    Published,
    Submission,
)
from asyncflow.db.schema import connect, migrate
from asyncflow.db.writer import Batch, GroupWriter, Operation, translate
from asyncflow.errors import (
    DatabaseUnavailable,
    DiskFull,
    OutcomeUnknown,
    StartError,
)
from asyncflow.jobs import JobState, Limits, PlanEntry, StepState, Subscription
from asyncflow.uploads import Saying

log = structlog.get_logger(__name__)

T = TypeVar("T")

SQL = load("uploads.sql", "steps.sql", "jobs.sql")


class SqliteDatabase(Reading):
    """Implements `asyncflow.db.base.Database` on one file."""

    def __init__(
        self,
        path: Path,
        *,
        on_change: Callable[[Change], None] = lambda _change: None,
        on_doubt: Callable[[], None] = lambda: None,
        on_batch: Callable[[Batch], None] = lambda _batch: None,
    ) -> None:
        super().__init__()
        self.path = path
        self._on_change = on_change
        self._ballast = Ballast(path.with_name(f"{path.name}-ballast"))
        self._writer = GroupWriter(
            partial(connect, path), on_batch=on_batch, on_doubt=on_doubt
        )

    async def start(self) -> None:
        """Migrate and open."""
        try:
            await asyncio.to_thread(migrate, self.path, migrations())
        except sqlite3.Error as error:
            raise StartError(f"{self.path}: {translate(error)}") from error
        await self._writer.write(lambda _db: None)
        await self.open_readers(self.path.absolute())

    async def close(self) -> None:
        """Finish what is queued and let go."""
        await self.close_readers()
        await self._writer.close()

    @property
    def trouble(self) -> str | None:
        """Say why writing does not work just now; None: it does."""
        return self._writer.trouble

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    async def probe(self, now: int) -> None:
        """Write one durable row."""
        await self._write("pulse", {"now": now})

    # ----- how operations reach the writer and what follows a commit

    def _tell(self, changes: Change | Sequence[Change] | None) -> None:
        if changes is None:
            return
        for change in [changes] if isinstance(changes, Change) else changes:
            self._on_change(change)

    async def _change(self, operation: Operation[Change | None]) -> Change | None:
        return await self._writer.write(operation, after=self._tell)

    async def _make_room(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do what will make room, also on a disk that is full to the last byte."""
        try:
            return await write()
        except (DiskFull, OutcomeUnknown):
            if not await asyncio.to_thread(self._ballast.drop):
                raise
            return await write()

    async def _write(self, name: str, args: Mapping[str, object]) -> None:
        await self._writer.write(lambda db: db.execute(SQL[name], args))

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> str:
        """Store the upload and its job; return the id, also of one that was there."""
        made, _ = await self._writer.write(
            lambda db: intake.create(db, new), after=lambda r: self._tell(r[1])
        )
        return made

    async def accept(
        self, upload_id: str, *, size: int, gates: Sequence[PlanEntry], now: int
    ) -> None:
        """Make the upload complete and start its job."""
        await self._change(lambda db: intake.accept(db, upload_id, size, gates, now))

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str, now: int
    ) -> bool:
        """End an unfinished upload; tell whether it was open."""
        ended = await self._make_room(
            lambda: self._change(
                lambda db: intake.end(db, upload_id, state, code, detail, now)
            )
        )
        return ended is not None

    async def extend_upload(self, upload_id: str, expires: int) -> None:
        """Move the end of an unfinished upload's, or of a part's, time."""
        await self._writer.write(lambda db: intake.extend(db, upload_id, expires))

    async def give_up_strays(self, last: int) -> None:
        """Give up complete parts without a name and a place."""
        await self._make_room(lambda: self._write("give_up_strays", {"last": last}))

    async def drop_parts(self, limit: int) -> int:
        """Forget some of the parts that were given up; return how many."""
        dropped = await self._make_room(
            lambda: self._writer.write(
                lambda db: intake.drop_parts(db, limit), after=self._tell
            )
        )
        return len(dropped)

    async def set_length(
        self, upload_id: str, length: int, *, is_end: bool = False
    ) -> bool:
        """Store a length, and that it is the end; False: another one is known."""
        return await self._writer.write(
            lambda db: intake.set_length(db, upload_id, length, is_end=is_end)
        )

    async def set_checked_from(self, upload_id: str, at: int | None) -> None:
        """Store where a chunk begins whose checksum is still to be seen."""
        await self._write("set_checked_from", {"pid": upload_id, "at": at})

    async def set_joined(self, upload_id: str, at: int) -> None:
        """Store that a joined upload's own blob has its bytes from *at* on."""
        await self._writer.write(lambda db: intake.set_joined(db, upload_id, at))

    async def set_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that the whole unfinished upload must have."""
        await self._write("set_digest", {"pid": upload_id, "digest": digest})

    async def note_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that a complete upload has, if none is stored."""
        await self._write("note_digest", {"pid": upload_id, "digest": digest})

    async def say(self, upload_id: str, saying: Saying) -> bool:
        """Store what is said of an unfinished upload; False: it was not so before."""
        was_so, _ = await self._writer.write(
            lambda db: intake.say(db, upload_id, saying),
            after=lambda r: self._tell(r[1]),
        )
        return was_so

    async def take_place(
        self, final_id: str, n: int, part_id: str, saying: Saying | None = None
    ) -> str | None:
        """Put a part into place *n*; return which part is there."""
        there, _ = await self._writer.write(
            lambda db: intake.take_place(db, final_id, n, part_id, saying),
            after=lambda r: self._tell(r[1]),
        )
        return there

    # ----- steps

    async def register(
        self, consumers: Sequence[Subscription], *, node: str, now: int
    ) -> None:
        """Put the consumers of *node*, which is ours, into the registry."""
        by = {"node": node, "now": now}

        def put(db: sqlite3.Connection) -> list[Change]:
            db.execute(SQL["forget_consumers"], by)
            for one in consumers:
                text = msgspec.json.encode(one).decode()
                args = {**by, "name": one.entry.consumer, "definition": text}
                db.execute(SQL["put_consumer"], args)
            return work.skip_homeless(db, now)

        await self._writer.write(put, after=self._tell)

    async def forget(self, consumer: str, *, node: str, note: Note) -> None:
        """Forget who else has a consumer, and what waits for it if nobody has."""
        by = {"name": consumer, "node": node}

        def forget(db: sqlite3.Connection) -> list[Change]:
            db.execute(SQL["forget_elsewhere"], by)
            return work.skip_homeless(db, note.at)

        await self._writer.write(noted(forget, note), after=self._tell)

    async def claim(self, demand: Demand) -> Sequence[Claimed]:
        """Take ready steps: by priority, then by lane."""
        claimed, _ = await self._writer.write(
            lambda db: work.claim(db, demand), after=lambda r: self._tell(r[1])
        )
        return claimed

    async def beat(
        self,
        running: Sequence[tuple[int, int]],
        *,
        lease_until: int,
        mono: int,
        now: int,
        limits: Limits,
    ) -> Sequence[tuple[int, int]]:
        """Renew the leases of *running*, then free those that are over."""

        def renew(
            db: sqlite3.Connection,
        ) -> tuple[list[tuple[int, int]], list[Change]]:
            return work.beat(
                db, running, lease_until=lease_until, mono=mono, now=now, limits=limits
            )

        lost, _ = await self._writer.write(renew, after=lambda r: self._tell(r[1]))
        return lost

    async def publish(
        self, step_id: int, token: int, made: Published, now: int
    ) -> bool:
        """Make a derivative visible; False: the token is stale."""
        change = await self._change(
            lambda db: work.publish(db, step_id, token, made, now)
        )
        return change is not None

    async def settle(
        self,
        step_id: int,
        token: int,
        ended: Ended,
        *,
        limits: Limits,
        now: int,
        patient: bool = False,
    ) -> StepState | None:
        """Store how an attempt ended and all that follows; None: stale token."""

        def end(db: sqlite3.Connection) -> tuple[StepState, Change] | None:
            return work.settle(db, step_id, token, ended, limits=limits, now=now)

        settled = await self._writer.write(
            end,
            after=lambda r: self._tell(None if r is None else r[1]),
            patient=patient,
        )
        return None if settled is None else settled[0]

    async def recover(self, *, limits: Limits, now: int) -> int:
        """Free every lease; return how many there were."""
        freed = await self._writer.write(
            lambda db: work.recover(db, limits=limits, now=now), after=self._tell
        )
        return len(freed)

    # ----- jobs

    async def retry(self, job_id: str, now: int, note: Note | None = None) -> int:
        """Start a new run of what did not succeed; return its number."""
        run, _ = await self._writer.write(
            noted(lambda db: control.retry(db, job_id, now), note),
            after=lambda r: self._tell(r[1]),
        )
        return run

    async def cancel(self, job_id: str, now: int, note: Note | None = None) -> bool:
        """Close the job as CANCELLED; False: it was over already."""
        change = await self._change(
            noted(lambda db: control.cancel(db, job_id, now), note)
        )
        return change is not None

    async def delete(self, job_id: str, now: int, note: Note | None = None) -> None:
        """Forget the job; its bytes go to the trash."""
        await self._make_room(
            lambda: self._change(
                noted(lambda db: control.delete(db, job_id, now), note)
            )
        )

    # ----- without a file

    async def submit(self, new: Submission) -> str:
        """Store a task or an event as a job; return its id, or the one it had."""
        made, _ = await self._writer.write(
            lambda db: control.submit(db, new), after=lambda r: self._tell(r[1])
        )
        return made

    # ----- by hand

    async def retry_step(
        self, step_id: int, now: int, note: Note | None = None
    ) -> None:
        """Give one dead step another chance."""
        await self._change(noted(lambda db: control.retry_step(db, step_id, now), note))

    async def cancel_step(
        self, step_id: int, now: int, note: Note | None = None
    ) -> None:
        """Take one open step back; its job goes on without it."""
        await self._change(
            noted(lambda db: control.cancel_step(db, step_id, now), note)
        )

    async def pause(
        self, kind: str, name: str, *, on: bool, now: int, note: Note | None = None
    ) -> None:
        """Stop a consumer or a tenant for the time being, or let it go on."""
        args = {"kind": kind, "name": name, "now": now}
        query = SQL["pause" if on else "resume"]
        await self._writer.write(noted(lambda db: db.execute(query, args), note))

    async def replay(self, causes: Sequence[Cause], entry: PlanEntry, now: int) -> int:
        """Give the jobs of *causes* to a consumer once more, beside their runs."""
        changes = await self._writer.write(
            lambda db: control.replay(db, causes, entry, now),
            after=self._tell,
            bulk=True,
        )
        return len(changes)

    async def note(self, note: Note) -> int:
        """Keep what somebody has done by hand; only the newest are kept."""
        return await self._writer.write(lambda db: control.put_note(db, note))

    async def amend(self, entry: int, detail: Mapping[str, object]) -> None:
        """Say in an entry of the audit what has come of it."""
        await self._write("amend_audit", {"id": entry, "detail": to_json(detail)})

    # ----- what has had its time

    async def drop_originals(self, before: int, limit: int) -> int:
        """Give up the originals of jobs that ended before *before*."""
        changes = await self._make_room(
            lambda: self._writer.write(
                lambda db: control.drop_originals(db, before, limit),
                after=self._tell,
                bulk=True,
            )
        )
        return len(changes)

    # ----- numbers

    async def keep_room(self) -> None:
        """See that there is room for writes that make room."""
        try:
            await asyncio.to_thread(self._ballast.fill)
        except OSError as error:
            raise DatabaseUnavailable(f"its folder: {error.strerror}") from error

    async def forget_idle(self) -> None:
        """Drop counters that stand at nothing, and lanes that are not ahead."""

        def forget(db: sqlite3.Connection) -> None:
            db.execute(SQL["forget_lanes"])
            db.execute(SQL["forget_tallies"])
            db.execute(SQL["forget_tenant_tallies"])

        await self._writer.write(forget, bulk=True)

    async def forget_spent(self, before: int, limit: int) -> int:
        """Give back ids that clients chose; return how many."""

        def forget(db: sqlite3.Connection) -> int:
            args = {"before": before, "limit": limit}
            return db.execute(SQL["forget_spent"], args).rowcount

        return await self._writer.write(forget, bulk=True)

    async def drop_trash(self, removed: Sequence[str]) -> None:
        """Forget trash whose bytes are gone."""

        def drop(db: sqlite3.Connection) -> None:
            db.executemany(SQL["drop_trash"], [{"key": key} for key in removed])

        await self._writer.write(drop, bulk=True)
