"""The SQLite database: one connection writes, a few only read.

WAL, `synchronous=FULL`: what was answered for survives a power cut. Pool processes
never open the file; a second server on the same folder is kept out by a lock that is
taken before this is opened.
"""

import asyncio
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import aiosqlite
import msgspec
import structlog

from asyncflow import uploads
from asyncflow.db import control, intake, rows, work
from asyncflow.db.base import (
    Change,
    Claimed,
    Demand,
    Ended,
    NewUpload,
    Owner,
    Page,
    Place,
    Published,
    StoredFile,
    Submission,
    Trash,
    UploadRow,
)
from asyncflow.db.oversight import AUDIT_KEPT, Cause, LogOffset, Paused
from asyncflow.db.queries import load, migrations
from asyncflow.db.schema import connect, migrate
from asyncflow.db.writer import Batch, GroupWriter, Operation, translate
from asyncflow.errors import FileNotAvailable, JobNotFound, UploadNotFound
from asyncflow.estimates import Spent
from asyncflow.jobs import JobState, Limits, PlanEntry, StepState, Subscription
from asyncflow.views import (
    AttemptView,
    AuditView,
    DeadView,
    EventView,
    JobView,
    RunningView,
)

log = structlog.get_logger(__name__)

SQL = load("uploads.sql", "steps.sql", "jobs.sql")
READERS = 2
#: events that are looked at for the last hour
NEWEST_EVENTS = 100_000
READ_TIMEOUT_S = 30.0


class SqliteDatabase:
    """Implements `asyncflow.db.base.Database` on one file."""

    def __init__(
        self,
        path: Path,
        *,
        on_change: Callable[[Change], None] = lambda _change: None,
        on_doubt: Callable[[], None] = lambda: None,
        on_batch: Callable[[Batch], None] = lambda _batch: None,
    ) -> None:
        self.path = path
        self._on_change = on_change
        self._writer = GroupWriter(
            partial(connect, path), on_batch=on_batch, on_doubt=on_doubt
        )
        self._readers: list[aiosqlite.Connection] = []
        self._turn = 0

    async def start(self) -> None:
        """Migrate and open."""
        try:
            await asyncio.to_thread(migrate, self.path, migrations())
        except sqlite3.Error as error:
            raise translate(error) from error
        await self._writer.write(lambda _db: None)
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        for _ in range(READERS):
            reader = await aiosqlite.connect(uri, uri=True, isolation_level=None)
            reader.row_factory = sqlite3.Row
            await reader.execute("PRAGMA query_only=1")
            self._readers.append(reader)

    async def close(self) -> None:
        """Finish what is queued and let go."""
        for reader in self._readers:
            await reader.close()
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

    async def _write(self, name: str, args: Mapping[str, object]) -> None:
        await self._writer.write(lambda db: db.execute(SQL[name], args))

    async def _rows(self, name: str, args: Mapping[str, object]) -> list[sqlite3.Row]:
        self._turn = (self._turn + 1) % len(self._readers)
        reader = self._readers[self._turn]
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return list(await reader.execute_fetchall(SQL[name], args))
        except sqlite3.Error as error:
            raise translate(error) from error

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> str:
        """Store the upload and its job; return the id, also of one that was there."""
        made, _ = await self._writer.write(
            lambda db: intake.create(db, new), after=lambda r: self._tell(r[1])
        )
        return made

    async def find_upload(self, upload_id: str) -> UploadRow:
        """Return the upload."""
        found = await self._rows("find_upload", {"pid": upload_id})
        if not found:
            raise UploadNotFound
        return rows.upload_row(found[0])

    async def accept(
        self, upload_id: str, *, size: int, gates: Sequence[PlanEntry], now: int
    ) -> None:
        """Make the upload complete and start its job."""
        await self._change(lambda db: intake.accept(db, upload_id, size, gates, now))

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str, now: int
    ) -> bool:
        """End an unfinished upload; tell whether it was open."""
        ended = await self._change(
            lambda db: intake.end(db, upload_id, state, code, detail, now)
        )
        return ended is not None

    async def extend_upload(self, upload_id: str, expires: int) -> None:
        """Move the end of an unfinished upload's, or of a part's, time."""
        await self._write("extend_upload", {"pid": upload_id, "expires": expires})

    async def set_length(self, upload_id: str, length: int) -> bool:
        """Store a length not known before; False: it is known, and another."""
        return await self._writer.write(
            lambda db: intake.set_length(db, upload_id, length)
        )

    async def set_checked_from(self, upload_id: str, at: int | None) -> None:
        """Store where a chunk begins whose checksum is still to be seen."""
        await self._write("set_checked_from", {"pid": upload_id, "at": at})

    async def set_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that the whole unfinished upload must have."""
        await self._write("set_digest", {"pid": upload_id, "digest": digest})

    async def set_about(
        self, upload_id: str, *, file_name: str, declared_type: str, raw_metadata: str
    ) -> None:
        """Store what an unfinished upload is called and declared to be."""
        about = (file_name, declared_type, raw_metadata)
        await self._change(lambda db: intake.set_about(db, upload_id, *about))

    async def take_place(self, final_id: str, n: int, part_id: str) -> str:
        """Put a part into place *n*; return which part is there."""
        return await self._writer.write(
            lambda db: intake.take_place(db, final_id, n, part_id)
        )

    async def places(self, final_id: str) -> Sequence[Place]:
        """Return the parts of a joined upload in their order."""
        found = await self._rows("places", {"pid": final_id})
        return [
            Place(
                n=row["n"],
                part=row["part"],
                state=row["state"],
                length=row["length"],
                key=row["key"] or "",
            )
            for row in found
        ]

    async def finals_of(self, part_id: str) -> Sequence[str]:
        """Return the unfinished uploads that a part has a place in."""
        return [row["pid"] for row in await self._rows("finals_of", {"pid": part_id})]

    async def expired_uploads(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of unfinished uploads, and of parts, whose time is over."""
        args = {"now": now, "limit": limit}
        return [row["pid"] for row in await self._rows("expired_uploads", args)]

    async def unfinished_uploads(self, after: int, limit: int) -> Sequence[UploadRow]:
        """Return a page of unfinished uploads, oldest first."""
        args = {"after": after, "limit": limit}
        return [
            rows.upload_row(r) for r in await self._rows("unfinished_uploads", args)
        ]

    # ----- steps

    async def register(self, consumers: Sequence[Subscription], now: int) -> None:
        """Put consumers into the registry."""

        def put(db: sqlite3.Connection) -> list[Change]:
            # One host, one program: what it does not have now, nobody has.
            db.execute(SQL["forget_consumers"])
            for one in consumers:
                text = msgspec.json.encode(one).decode()
                args = {"name": one.entry.consumer, "definition": text, "now": now}
                db.execute(SQL["put_consumer"], args)
            return work.skip_homeless(db, now)

        await self._writer.write(put, after=self._tell)

    async def consumers(self) -> Sequence[Subscription]:
        """Return every registered consumer."""
        found = await self._rows("consumers", {})
        return [
            msgspec.json.decode(row["definition"], type=Subscription) for row in found
        ]

    async def claim(self, demand: Demand) -> Sequence[Claimed]:
        """Take ready steps: by priority, then by turn."""
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

    async def retry(self, job_id: str, now: int) -> int:
        """Start a new run of what did not succeed; return its number."""
        run, _ = await self._writer.write(
            lambda db: control.retry(db, job_id, now), after=lambda r: self._tell(r[1])
        )
        return run

    async def cancel(self, job_id: str, now: int) -> bool:
        """Close the job as CANCELLED; False: it was over already."""
        change = await self._change(lambda db: control.cancel(db, job_id, now))
        return change is not None

    async def delete(self, job_id: str) -> None:
        """Forget the job; its bytes go to the trash."""
        await self._change(lambda db: control.delete(db, job_id))

    async def job(self, job_id: str) -> JobView:
        """Return the job with its steps and files."""
        found = await self._rows("job_view", {"pid": job_id})
        if not found:
            raise JobNotFound
        return rows.job_view(found[0])

    async def jobs(
        self,
        *,
        state: JobState | None,
        before: int | None,
        limit: int,
        search: str = "",
    ) -> Page:
        """Return a page of jobs without their steps, newest first."""
        args = {"before": before or sys.maxsize, "limit": limit + 1}
        if search:
            found = await self._rows(
                "jobs_page_found", {**args, "state": state, "search": search}
            )
        elif state is None:
            found = await self._rows("jobs_page", args)
        else:
            found = await self._rows("jobs_page_of_state", {**args, "state": state})
        following = found[limit - 1]["id"] if len(found) > limit else None
        shown = tuple(rows.job_summary(row) for row in found[:limit])
        return Page(jobs=shown, next=following)

    async def attempts(self, job_id: str) -> Sequence[AttemptView]:
        """Return the attempts that did not succeed, oldest first."""
        return [rows.attempt(row) for row in await self._of_job("attempts", job_id)]

    async def events(self, job_id: str) -> Sequence[EventView]:
        """Return what happened to a job, oldest first."""
        return [rows.event(row) for row in await self._of_job("events", job_id)]

    async def _of_job(
        self, statement: str, job_id: str, **more: object
    ) -> list[sqlite3.Row]:
        found = await self._rows(statement, {"pid": job_id, **more})
        if not found and not await self._rows("job_exists", {"pid": job_id}):
            raise JobNotFound
        return found

    async def owner(self, job_id: str) -> Owner:
        """Return whose job it is."""
        found = await self._rows("job_owner", {"pid": job_id})
        if not found:
            raise JobNotFound
        return Owner(owner=found[0]["owner"], tenant=found[0]["tenant"])

    async def file(self, job_id: str, name: str) -> StoredFile:
        """Return one file of a job."""
        if name == "original":
            whole = await self._of_job("original_file", job_id)
            if not whole:
                raise FileNotAvailable
            if not whole[0]["original"]:
                raise FileNotAvailable("the original was removed after its time")
            if whole[0]["upload_state"] != "complete":
                raise FileNotAvailable("the upload is not complete")
            return rows.stored_file(whole[0], name)
        made = await self._of_job("derived_file", job_id, name=name)
        if not made:
            raise FileNotAvailable
        return rows.stored_file(made[0], name)

    # ----- without a file

    async def submit(self, new: Submission) -> str:
        """Store a task or an event as a job; return its id, or the one it had."""
        made, _ = await self._writer.write(
            lambda db: control.submit(db, new), after=lambda r: self._tell(r[1])
        )
        return made

    # ----- by hand

    async def retry_step(self, step_id: int, now: int) -> None:
        """Give one dead step another chance."""
        await self._change(lambda db: control.retry_step(db, step_id, now))

    async def dead_steps(
        self, consumer: str, after: int, limit: int, *, refused: bool
    ) -> Sequence[int]:
        """Return a page of a consumer's dead steps, oldest first."""
        args = {"consumer": consumer, "after": after, "limit": limit}
        args["refused"] = refused
        return [row["id"] for row in await self._rows("dead_steps", args)]

    async def dead_letters(
        self, consumer: str, *, before: int | None, limit: int, refused: bool
    ) -> Sequence[DeadView]:
        """Return a page of what `dead_steps` names, newest first."""
        args = {"consumer": consumer, "before": before or sys.maxsize, "limit": limit}
        args["refused"] = refused
        return [rows.dead_letter(r) for r in await self._rows("dead_letters", args)]

    async def refusals(self) -> Mapping[str, int]:
        """Return how many of each consumer's dead steps are refusals of a file."""
        return {row["consumer"]: row["n"] for row in await self._rows("refusals", {})}

    async def running_steps(self, limit: int) -> Sequence[RunningView]:
        """Return the steps that run now, oldest first."""
        found = await self._rows("running_letters", {"limit": limit})
        return [rows.running_step(row) for row in found]

    async def cancel_step(self, step_id: int, now: int) -> None:
        """Take one open step back; its job goes on without it."""
        await self._change(lambda db: control.cancel_step(db, step_id, now))

    async def pause(self, kind: str, name: str, *, on: bool, now: int) -> None:
        """Stop a consumer or a tenant for the time being, or let it go on."""
        args = {"kind": kind, "name": name, "now": now}
        await self._write("pause" if on else "resume", args)

    async def pauses(self) -> Paused:
        """Return what is stopped."""
        found = [(row["kind"], row["name"]) for row in await self._rows("pauses", {})]
        return Paused(
            consumers=frozenset(name for kind, name in found if kind == "consumer"),
            tenants=frozenset(name for kind, name in found if kind == "tenant"),
        )

    async def causes(
        self, kind: str, *, since: int, after: int, limit: int
    ) -> Sequence[Cause]:
        """Return a page of the log: events of one type, from a moment on."""
        args = {"type": kind, "since": since, "after": after, "limit": limit}
        return [
            Cause(
                seq=row["seq"],
                job=row["job"],
                job_id=row["pid"],
                media_type=row["media_type"],
            )
            for row in await self._rows("caused_by", args)
        ]

    async def replay(self, causes: Sequence[Cause], entry: PlanEntry, now: int) -> int:
        """Give the jobs of *causes* to a consumer once more, beside their runs."""
        changes = await self._writer.write(
            lambda db: control.replay(db, causes, entry, now),
            after=self._tell,
            bulk=True,
        )
        return len(changes)

    async def note(
        self,
        actor: str,
        action: str,
        target: str,
        detail: Mapping[str, object],
        now: int,
    ) -> None:
        """Keep what somebody has done by hand; only the newest are kept."""
        row = {"actor": actor, "action": action, "target": target, "now": now}
        text = msgspec.json.encode(detail).decode()

        def put(db: sqlite3.Connection) -> None:
            db.execute(SQL["insert_audit"], {**row, "detail": text})
            db.execute(SQL["forget_audits"], {"keep": AUDIT_KEPT})

        await self._writer.write(put)

    async def audits(self, *, before: int | None, limit: int) -> Sequence[AuditView]:
        """Return a page of what was done by hand, newest first."""
        args = {"before": before or sys.maxsize, "limit": limit}
        return [rows.audit(row) for row in await self._rows("audits", args)]

    # ----- what has had its time

    async def finished_jobs(self, before: int, limit: int) -> Sequence[str]:
        """Return ids of jobs that ended before *before*, oldest first."""
        args = {"before": before, "limit": limit}
        return [row["pid"] for row in await self._rows("finished_jobs", args)]

    async def drop_originals(self, before: int, limit: int) -> int:
        """Give up the originals of jobs that ended before *before*."""
        changes = await self._writer.write(
            lambda db: control.drop_originals(db, before, limit),
            after=self._tell,
            bulk=True,
        )
        return len(changes)

    async def orphans(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of *keys* that no row names and no running step has made."""
        found = []
        for key in keys:
            step, token = uploads.attempt_of(key) or (0, 0)
            args = {"key": key, "step": step, "token": token}
            if not await self._rows("is_named", args):
                found.append(key)
        return found

    # ----- numbers

    async def usage(self) -> Mapping[str, int]:
        """Return how many bytes each tenant has."""
        found = await self._rows("usage", {})
        return {row["tenant"]: row["bytes"] for row in found}

    async def lately(self, since: int) -> Sequence[tuple[int, str, int]]:
        """Return how many uploads and ends of jobs there were in each minute."""
        found = await self._rows("lately", {"since": since, "most": NEWEST_EVENTS})
        return [(row["minute"], row["type"], row["n"]) for row in found]

    async def tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each consumer has in each state."""
        return await self._tallies("consumer")

    async def tenant_tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each tenant has in each state."""
        return await self._tallies("tenant")

    async def _tallies(self, column: str) -> Mapping[tuple[str, str], int]:
        counts: Counter[tuple[str, str]] = Counter()
        for row in await self._rows("tallies", {}):
            counts[row[column], row["state"]] += row["n"]
        return counts

    async def log_offsets(self) -> Mapping[str, LogOffset]:
        """Return how far each registered consumer has come."""
        return {
            row["name"]: LogOffset(
                offset=(row["first"] or row["head"] + 1) - 1,
                head=row["head"],
                since=row["ready_since"],
            )
            for row in await self._rows("log_offsets", {})
        }

    async def latest_done(self, limit: int) -> Sequence[Spent]:
        """Return what the latest successful steps took, oldest first."""
        return [
            Spent(consumer=row["consumer"], seconds=row["ms"] / 1000, size=row["size"])
            for row in reversed(await self._rows("latest_done", {"limit": limit}))
        ]

    async def forget_idle(self) -> None:
        """Drop counters that stand at nothing, and lanes that are not ahead."""

        def forget(db: sqlite3.Connection) -> None:
            db.execute(SQL["forget_lanes"])
            db.execute(SQL["forget_tallies"])

        await self._writer.write(forget, bulk=True)

    async def open_uploads(self) -> int:
        """Return how many uploads are unfinished."""
        return int((await self._rows("open_uploads", {}))[0]["n"])

    async def stored_bytes(self) -> int:
        """Return how many bytes originals and derivatives have."""
        return int((await self._rows("stored_bytes", {}))[0]["n"])

    async def trash(self, limit: int) -> Sequence[Trash]:
        """Return bytes to remove."""
        found = await self._rows("trash", {"limit": limit})
        return [Trash(key=r["key"], is_prefix=bool(r["is_prefix"])) for r in found]

    async def drop_trash(self, removed: Sequence[str]) -> None:
        """Forget trash whose bytes are gone."""

        def drop(db: sqlite3.Connection) -> None:
            db.executemany(SQL["drop_trash"], [{"key": key} for key in removed])

        await self._writer.write(drop, bulk=True)
