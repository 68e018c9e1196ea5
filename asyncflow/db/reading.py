"""What is read of the database: by connections that cannot write."""

import asyncio
import sqlite3
import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import aiosqlite
import msgspec

from asyncflow import uploads
from asyncflow.db import intake, rows
from asyncflow.db.oversight import Cause, LogOffset, Paused, Registered
from asyncflow.db.queries import load
from asyncflow.db.records import (
    Once,
    Owner,
    Page,
    Place,
    StoredFile,
    Trash,
    UploadRow,
    Usage,
)
from asyncflow.db.writer import translate
from asyncflow.errors import FileNotAvailable, JobNotFound, UploadNotFound
from asyncflow.estimates import Spent
from asyncflow.jobs import JobState, Subscription
from asyncflow.queues import LaneWaits
from asyncflow.views import (
    AttemptView,
    AuditView,
    DeadView,
    EventView,
    JobView,
    RunningView,
)

SQL = load("uploads.sql", "steps.sql", "jobs.sql")
READERS = 2
#: events that are looked at for the last hour
NEWEST_EVENTS = 100_000
READ_TIMEOUT_S = 30.0


class Reading:
    """The reading half of `asyncflow.db.base.Database`, on one file."""

    def __init__(self) -> None:
        self._readers: list[aiosqlite.Connection] = []
        self._turn = 0

    async def open_readers(self, path: Path) -> None:
        """Open the connections to a file, by its whole path, that is up to date."""
        uri = f"{path.as_uri()}?mode=ro"
        for _ in range(READERS):
            reader = await aiosqlite.connect(uri, uri=True, isolation_level=None)
            reader.row_factory = sqlite3.Row
            await reader.execute("PRAGMA query_only=1")
            self._readers.append(reader)

    async def close_readers(self) -> None:
        """Let go of them."""
        for reader in self._readers:
            await reader.close()

    async def _rows(self, name: str, args: Mapping[str, object]) -> list[sqlite3.Row]:
        self._turn = (self._turn + 1) % len(self._readers)
        reader = self._readers[self._turn]
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return list(await reader.execute_fetchall(SQL[name], args))
        except sqlite3.Error as error:
            raise translate(error) from error

    # ----- uploads

    async def created_before(self, owner: str, tenant: str, once: Once) -> str | None:
        """Return what a request with this Idempotency-Key has created."""
        args = {"owner": owner, "tenant": tenant, "key": once.key}
        found = await self._rows("find_creation", args)
        return intake.creation(found[0] if found else None, once)

    async def has_created(self, owner: str, tenant: str, key: str) -> bool:
        """Tell whether some request with this Idempotency-Key has created a job."""
        args = {"owner": owner, "tenant": tenant, "key": key}
        found = await self._rows("find_creation", args)
        return bool(found) and found[0]["state"] != "ended"

    async def find_upload(self, upload_id: str) -> UploadRow:
        """Return the upload."""
        found = await self._rows("find_upload", {"pid": upload_id})
        if not found:
            raise UploadNotFound
        return rows.upload_row(found[0])

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
                is_taken=bool(row["taken"]),
            )
            for row in found
        ]

    async def span_of(self, final_id: str, n: int) -> tuple[int, int] | None:
        """Return where in a joined upload the bytes of place *n* begin and end."""
        (found,) = await self._rows("span", {"pid": final_id, "n": n})
        return (found["begins"], found["ends"]) if found["known"] == n + 1 else None

    async def finals_of(self, part_id: str) -> Sequence[str]:
        """Return the unfinished uploads that a part has a place in."""
        return [row["pid"] for row in await self._rows("finals_of", {"pid": part_id})]

    async def open_uploads_of(self, client: str) -> int:
        """Return how many unfinished uploads are counted for a client."""
        (found,) = await self._rows("open_of_client", {"client": client})
        return int(found["n"])

    async def expired_uploads(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of unfinished uploads, and of parts, whose time is over."""
        args = {"now": now, "limit": limit}
        return [row["pid"] for row in await self._rows("expired_uploads", args)]

    async def latest_upload(self) -> int:
        """Return the row id of the upload that was created last."""
        return int((await self._rows("latest_upload", {}))[0]["n"])

    async def unfinished_uploads(self, after: int, limit: int) -> Sequence[UploadRow]:
        """Return a page of unfinished uploads, oldest first."""
        args = {"after": after, "limit": limit}
        return [
            rows.upload_row(r) for r in await self._rows("unfinished_uploads", args)
        ]

    # ----- jobs and steps

    async def registry(self, node: str) -> Sequence[Registered]:
        """Return every registered consumer once, by name."""
        found = await self._rows("registry", {"node": node})
        return [
            Registered(
                subscription=msgspec.json.decode(
                    first["definition"], type=Subscription
                ),
                nodes=tuple(row["host"] for row in (first, *others)),
                seen=max(row["seen"] for row in (first, *others)),
                is_here=bool(first["is_here"]),
            )
            for _name, (first, *others) in groupby(found, itemgetter("name"))
        ]

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

    async def audits(
        self, *, before: int | None, limit: int, of_alerts: bool = False
    ) -> Sequence[AuditView]:
        """Return a page of what was done by hand, or of alerts, newest first."""
        args = {"before": before or sys.maxsize, "limit": limit}
        args["of_alerts"] = of_alerts
        return [rows.audit(row) for row in await self._rows("audits", args)]

    async def finished_jobs(self, before: int, limit: int) -> Sequence[str]:
        """Return ids of jobs that ended before *before*, oldest first."""
        args = {"before": before, "limit": limit}
        return [row["pid"] for row in await self._rows("finished_jobs", args)]

    async def orphans(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of *keys* that no row names and no running step has made."""
        found = []
        for key in keys:
            step, token = uploads.attempt_of(key) or (0, 0)
            args = {"key": key, "step": step, "token": token}
            if not await self._rows("is_named", args):
                found.append(key)
        return found

    async def usage(self) -> Mapping[str, int]:
        """Return how many bytes each tenant has."""
        found = await self._rows("usage", {})
        return {row["tenant"]: row["bytes"] for row in found}

    async def usage_of(self, tenants: Collection[str]) -> Usage:
        """Return what is counted for all, and for some tenants."""
        wanted = msgspec.json.encode(list(tenants)).decode()
        found = await self._rows("usage_of", {"tenants": wanted})
        by_tenant = {row["tenant"]: int(row["bytes"]) for row in found}
        return Usage(total=by_tenant.pop(None), by_tenant=by_tenant)

    async def lately(self, since: int) -> Sequence[tuple[int, str, int]]:
        """Return how many uploads and ends of jobs there were in each minute."""
        found = await self._rows("lately", {"since": since, "most": NEWEST_EVENTS})
        return [(row["minute"], row["type"], row["n"]) for row in found]

    async def tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each consumer has in each state."""
        found = await self._rows("tallies", {})
        return {(row["consumer"], row["state"]): row["n"] for row in found}

    async def waiting_lanes(self) -> Mapping[str, LaneWaits]:
        """Count what waits by lane: reads as many steps as there wait."""
        found = await self._rows("waiting_lanes", {})
        return {
            row["lane"]: LaneWaits(
                ready=row["ready"], delayed=row["delayed"], due=row["due"]
            )
            for row in found
        }

    async def tenant_tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each tenant has in each state."""
        found = await self._rows("tenant_tallies", {})
        return {(row["tenant"], row["state"]): row["n"] for row in found}

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
            Spent(
                consumer=row["consumer"],
                seconds=row["ms"] / 1000,
                size=row["size"],
                pages=row["pages"],
            )
            for row in reversed(await self._rows("latest_done", {"limit": limit}))
        ]

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
