"""A small world around a database under test: a clock, ids, and what was told.

It does what the engine does between the database and everybody else, with a clock that
moves only when a test says so.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from asyncflow import uploads
from asyncflow.db.base import Database
from asyncflow.db.oversight import Note
from asyncflow.db.records import (
    Change,
    Claimed,
    Demand,
    Ended,
    NewUpload,
    Published,
    Submission,
)
from asyncflow.jobs import (
    ACCEPTED,
    UPLOADED,
    JobKind,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
)

GATE = PlanEntry(consumer="identify", on=UPLOADED, gate=True, priority=-10)
SCAN = PlanEntry(consumer="scan", on=UPLOADED, gate=True, priority=-10)
IMAGE = PlanEntry(consumer="image", on=ACCEPTED)
TEXT = PlanEntry(consumer="text", on=ACCEPTED, required=False)
SEARCH = PlanEntry(consumer="search", on="text.completed", required=False)
#: what has to be, after what may fail
INDEX = PlanEntry(consumer="search", on="text.completed")

LEASE_MS = 30_000
HOUR_MS = 3_600_000
EVERYBODY = ("identify", "scan", "image", "text", "search")

Told = Callable[[Change], None]


@dataclass(slots=True, kw_only=True)
class World:
    """A database, its changes in the order they were told, and a clock."""

    make: Callable[[Told], Awaitable[Database]]
    db: Database = field(init=False)
    changes: list[Change] = field(default_factory=list)
    now: int = 1_700_000_000_000
    mono: int = 5_000
    limits: Limits = field(default_factory=Limits)
    made: int = 0

    async def start(self) -> None:
        """Open the database; again after `db.close`, as a restart does."""
        self.db = await self.make(self.changes.append)
        await self.db.start()

    # ----- uploads

    async def upload(
        self, *, length: int | None = 10, name: str = "a.jpg", **more: Any
    ) -> str:
        """Create an upload, *more* being members of `NewUpload`; return its id."""
        self.made += 1
        upload_id = uploads.new_id(self.now, self.made.to_bytes(10, "big"))
        new = NewUpload(
            id=upload_id,
            key=uploads.raw_key(upload_id),
            owner="local",
            tenant="local",
            file_name=name,
            declared_type="image/jpeg",
            length=length,
            metadata={"album": "été"},
            raw_metadata="album w6l0w6k=",
            expires=self.now + 60_000,
            now=self.now,
        )
        return await self.db.create_upload(replace(new, **more))

    async def submit(
        self,
        *plan: PlanEntry,
        kind: JobKind = JobKind.TASK,
        name: str = "report",
        payload: str = "null",
        **more: Any,
    ) -> str:
        """Submit a task or an event, *more* being members of `Submission`."""
        self.made += 1
        new = Submission(
            id=uploads.new_id(self.now, self.made.to_bytes(10, "big")),
            kind=kind,
            name=name,
            payload=payload,
            plan=plan,
            owner="local",
            tenant="local",
            now=self.now,
        )
        return await self.db.submit(replace(new, **more))

    async def accepted(self, *gates: PlanEntry, **more: Any) -> str:
        """Create an upload and make it complete; return the job's id."""
        job = await self.upload(**more)
        await self.accept(job, *(gates or (GATE,)))
        return job

    async def accept(self, job: str, *plan: PlanEntry) -> None:
        """Make an upload complete."""
        await self.db.accept(job, size=10, gates=plan, now=self.now)

    async def end_upload(self, job: str) -> bool:
        """End an unfinished upload, as its expiry does."""
        return await self.db.end_upload(
            job,
            state=JobState.CANCELLED,
            code="expired",
            detail="too late",
            now=self.now,
        )

    async def past_gate(self, *plan: PlanEntry) -> str:
        """Return a job whose gate said yes and set *plan*."""
        job = await self.accepted()
        await self.done(await self.take("identify"), plan=(GATE, *plan))
        return job

    async def failed(self) -> str:
        """Return a job that has FAILED because `image` is dead."""
        job = await self.past_gate(IMAGE)
        await self.end(await self.take("image"), Verdict.BAD_FILE, "damaged")
        return job

    async def register(self, *entries: PlanEntry, node: str = "here") -> None:
        """Put the consumers of *entries*, which *node* has, into the registry."""
        known = [Subscription(entry=entry) for entry in entries]
        await self.db.register(known, node=node, now=self.now)

    # ----- steps

    async def claim(
        self, *consumers: str, limit: int = 100, worker: str = "w1", **more: Any
    ) -> Sequence[Claimed]:
        """Claim for *consumers*, or for everybody; *more* as `Demand` has it."""
        return await self.db.claim(
            Demand(
                wants=dict.fromkeys(consumers or EVERYBODY, limit),
                limit=limit,
                worker=worker,
                lease_until=self.mono + LEASE_MS,
                now=self.now,
                **more,
            )
        )

    async def take(self, consumer: str) -> Claimed:
        """Claim the only ready step of *consumer*."""
        (one,) = await self.claim(consumer)
        return one

    async def beat(self, *running: Claimed) -> Sequence[tuple[int, int]]:
        """Renew the leases of *running* and free what is over."""
        return await self.db.beat(
            [(one.step_id, one.token) for one in running],
            lease_until=self.mono + LEASE_MS,
            mono=self.mono,
            now=self.now,
            limits=self.limits,
        )

    async def settle(self, claimed: Claimed, ended: Ended) -> StepState | None:
        """Settle an attempt."""
        return await self.db.settle(
            claimed.step_id, claimed.token, ended, limits=self.limits, now=self.now
        )

    async def done(
        self, claimed: Claimed, plan: tuple[PlanEntry, ...] | None = None
    ) -> StepState | None:
        """Settle an attempt that succeeded."""
        facts = {"by": claimed.consumer}
        ended = Ended(verdict=Verdict.DONE, facts=facts, plan=plan)
        return await self.settle(claimed, ended)

    async def end(
        self, claimed: Claimed, verdict: Verdict, code: str = "error"
    ) -> StepState | None:
        """Settle an attempt that did not succeed."""
        ended = Ended(verdict=verdict, code=code, detail=f"because of {code}")
        return await self.settle(claimed, ended)

    async def publish(self, claimed: Claimed, name: str = "thumbnail") -> bool:
        """Publish a derivative of an attempt."""
        made = Published(
            name=name,
            key=uploads.derivative_key(
                claimed.job_id, claimed.step_id, claimed.token, name, "image/webp"
            ),
            media_type="image/webp",
            size=3,
            facts={"width": 1},
        )
        return await self.db.publish(claimed.step_id, claimed.token, made, self.now)

    async def note(self, actor: str, action: str, target: str) -> int:
        """Write a line of the audit; return its id."""
        note = Note(actor=actor, action=action, target=target, at=self.now)
        return await self.db.note(note)

    # ----- what can be seen

    async def state(self, job: str) -> JobState:
        """Return the state of a job."""
        return (await self.db.job(job)).status

    async def steps(self, job: str) -> dict[str, StepState]:
        """Return the state of each of the job's steps."""
        return {one.name: one.status for one in (await self.db.job(job)).steps}

    def terminals(self, job: str) -> list[str]:
        """Return the terminal events of a job, one for each run that is over."""
        return [
            one.terminal
            for one in self.changes
            if one.job_id == job and one.terminal is not None
        ]

    def last(self, job: str) -> Change:
        """Return the last change of a job."""
        return [one for one in self.changes if one.job_id == job][-1]

    async def trash(self) -> dict[str, bool]:
        """Return what is to be removed: key to whether it is a prefix."""
        return {one.key: one.is_prefix for one in await self.db.trash(1000)}

    async def counted(self) -> Counter[tuple[str, str]]:
        """Count the steps of every job by consumer and state, one by one."""
        page = await self.db.jobs(state=None, before=None, limit=10_000)
        found: Counter[tuple[str, str]] = Counter()
        for job in page.jobs:
            for step in (await self.db.job(job.job_id)).steps:
                if step.status is not StepState.WAITING:
                    found[step.name, step.status] += 1
        return found

    async def tallies(self) -> Counter[tuple[str, str]]:
        """Return the database's own counters, without zeros."""
        return +Counter(dict(await self.db.tallies()))
