"""The engine room: the only part that writes jobs, steps and events.

It lends the database operations a clock, ids, chance and the registry of consumers,
and passes each committed change on: to watchers, to doorbells, to whoever must stop.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from asyncflow import jobs, uploads
from asyncflow.broker.base import Doorbell
from asyncflow.db.base import Change, Claimed, Database, Ended, NewUpload, Published
from asyncflow.jobs import (
    UPLOADED,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
)
from asyncflow.progress import Hub

log = structlog.get_logger(__name__)

#: steps that a consumer should take, now or soon
WAITING = frozenset({StepState.READY, StepState.RETRYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where time, chance and ids come from; tests bring their own."""

    wall_s: Callable[[], float] = time.time
    mono_s: Callable[[], float] = time.monotonic
    spread: Callable[[], float] = random.random
    entropy: Callable[[int], bytes] = field(default=os.urandom)

    def now(self) -> int:
        """Return milliseconds since 1970 (UTC)."""
        return int(self.wall_s() * 1000)

    def mono(self) -> int:
        """Return milliseconds on this host's monotonic clock."""
        return int(self.mono_s() * 1000)

    def new_id(self) -> str:
        """Return a fresh id."""
        return uploads.new_id(self.now(), self.entropy(10))


class Estimates:
    """How long attempts take: a moving average per consumer, in seconds."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def add(self, consumer: str, seconds: float) -> None:
        """Note a successful attempt."""
        before = self._mean.get(consumer, seconds)
        self._mean[consumer] = before + self.WEIGHT * (seconds - before)

    def of(self, consumers: Sequence[str]) -> float | None:
        """Return the sum for *consumers*; None: one of them has no history."""
        means = [self._mean.get(consumer) for consumer in consumers]
        known = [mean for mean in means if mean is not None]
        return sum(known) if len(known) == len(means) else None


class Engine:
    """Jobs, steps and events, and everybody who must hear of them."""

    def __init__(
        self,
        *,
        doorbell: Doorbell,
        clock: Clock,
        limits: Limits,
        worker: str,
        lease_s: float,
    ) -> None:
        self.doorbell = doorbell
        self.clock = clock
        self.limits = limits
        self.worker = worker
        self.lease_s = lease_s
        self.estimates = Estimates()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.tallies: Mapping[tuple[str, str], int] = {}
        #: called with each committed change, in commit order
        self.listeners: list[Callable[[Change], None]] = []
        #: called after each end of an attempt, with how many seconds it took
        self.on_attempt: Callable[[Claimed, Ended, float], None] = (
            lambda _claimed, _ended, _seconds: None
        )
        self._db: Database
        self.hub: Hub

    def attach(self, db: Database, hub: Hub) -> None:
        """Give the engine its database and its hub, before `start`."""
        self._db, self.hub = db, hub

    async def start(self, consumers: Sequence[Subscription]) -> int:
        """Register *consumers*, free what a dead server left; return how many steps.

        If the database cannot write, those count that were registered before.
        """
        self.subscriptions = tuple(await self._db.consumers())
        now = self.clock.now()
        freed = await self._db.recover(limits=self.limits, now=now)
        await self._db.register(consumers, now)
        self.subscriptions = tuple(await self._db.consumers())
        await self.refresh()
        self.doorbell.ring(s.entry.consumer for s in self.subscriptions)
        return freed

    async def refresh(self) -> None:
        """Read how many steps wait where, and ring for those: no lost ring stays lost.

        A restart loses the timers of retrying steps, an unknown outcome its rings.
        """
        self.tallies = await self._db.tallies()
        self.doorbell.ring(
            {
                name
                for (name, state), n in self.tallies.items()
                if n and state in WAITING
            }
        )

    @property
    def backlog(self) -> int:
        """How many steps wait, as of the last refresh."""
        return sum(n for (_name, state), n in self.tallies.items() if state in WAITING)

    def changed(self, change: Change) -> None:
        """Pass a committed change on; the database calls it in commit order."""
        self.hub.changed(change)
        for listener in self.listeners:
            listener(change)
        if change.ring:
            self.doorbell.ring(change.ring)
        if change.due_s:
            loop = asyncio.get_running_loop()
            names = [step.name for step in change.steps]
            for delay in change.due_s:
                loop.call_later(delay + 0.001, self.doorbell.ring, names)

    def doubt(self) -> None:
        """Trust nothing that is remembered: a commit's outcome is not known."""
        self.hub.doubt()
        self.doorbell.ring(s.entry.consumer for s in self.subscriptions)

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> str:
        """Store an upload and its job; return the id, of one that was there as well."""
        return await self._db.create_upload(new)

    async def accept(self, upload_id: str, size: int) -> None:
        """Turn a whole upload into work, in one transaction."""
        gates = [
            s.entry
            for s in self.subscriptions
            if s.entry.gate and s.entry.on == UPLOADED
        ]
        now = self.clock.now()
        await self._db.accept(upload_id, size=size, gates=gates, now=now)

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str
    ) -> bool:
        """End an unfinished upload; tell whether it was open."""
        now = self.clock.now()
        return await self._db.end_upload(
            upload_id, state=state, code=code, detail=detail, now=now
        )

    # ----- steps

    async def claim(self, consumers: Sequence[str], limit: int) -> Sequence[Claimed]:
        """Take up to *limit* ready steps of *consumers*."""
        return await self._db.claim(
            consumers,
            limit,
            worker=self.worker,
            lease_until=self._lease_until(),
            now=self.clock.now(),
        )

    def _lease_until(self) -> int:
        return self.clock.mono() + int(self.lease_s * 1000)

    async def beat(
        self, running: Sequence[tuple[int, int]]
    ) -> Sequence[tuple[int, int]]:
        """Renew the leases of *running*; return those that are no longer ours."""
        return await self._db.beat(
            running,
            lease_until=self._lease_until(),
            mono=self.clock.mono(),
            now=self.clock.now(),
            limits=self.limits,
        )

    async def publish(self, claimed: Claimed, made: Published) -> bool:
        """Make a derivative visible; False: the step is no longer ours."""
        now = self.clock.now()
        return await self._db.publish(claimed.step_id, claimed.token, made, now)

    async def settle(
        self, claimed: Claimed, ended: Ended, seconds: float
    ) -> StepState | None:
        """Store how an attempt ended; None: the step is no longer ours."""
        state = await self._db.settle(
            claimed.step_id,
            claimed.token,
            ended,
            limits=self.limits,
            now=self.clock.now(),
        )
        if state is not None:
            self.on_attempt(claimed, ended, seconds)
            if state is StepState.DONE:
                self.estimates.add(claimed.consumer, seconds)
        return state

    def plan(self, media_type: str) -> tuple[PlanEntry, ...]:
        """Return which consumers a file of *media_type* meets."""
        return jobs.plan_for(media_type, self.subscriptions)

    def estimate_s(self, media_type: str) -> float | None:
        """Return how long a new file of *media_type* should take; None: unknown."""
        return self.estimates.of([e.consumer for e in self.plan(media_type)])

    # ----- jobs

    async def retry(self, job_id: str) -> int:
        """Start a new run of what did not succeed; return its number."""
        return await self._db.retry(job_id, self.clock.now())

    async def cancel(self, job_id: str) -> bool:
        """Close a job; False: it was over already."""
        return await self._db.cancel(job_id, self.clock.now())

    async def delete(self, job_id: str) -> None:
        """Forget a job and give up its bytes."""
        await self._db.delete(job_id)
