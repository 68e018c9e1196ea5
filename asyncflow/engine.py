"""The engine room: the only part that writes jobs, steps and events.

It lends the database operations a clock, ids, chance and the registry of consumers,
and passes each committed change on: to watchers, to doorbells, to whoever must stop.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import msgspec
import structlog

from asyncflow import events, jobs
from asyncflow.broker.base import Doorbell
from asyncflow.chance import Clock
from asyncflow.db.base import Database
from asyncflow.db.oversight import Note, Paused, Registered
from asyncflow.db.records import (
    Change,
    Claimed,
    Demand,
    Ended,
    NewUpload,
    Once,
    Published,
    Submission,
)
from asyncflow.errors import (
    InvalidEventType,
    JobNotRetryable,
    StepNotFound,
    StepNotRetryable,
    UnknownConsumer,
    UnknownPipeline,
    UnknownTask,
)
from asyncflow.estimates import Estimates, Spent, pages_of
from asyncflow.jobs import (
    NOBODY,
    SUBMITTED,
    UPLOADED,
    JobKind,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
)
from asyncflow.logs import hidden, request_of_now
from asyncflow.pipelines import Pipelines
from asyncflow.progress import Hub
from asyncflow.queues import Queue
from asyncflow.shapes import unknown

log = structlog.get_logger(__name__)

#: steps that a consumer should take, now or soon
WAITING = frozenset({StepState.READY, StepState.RETRYING})
#: steps that a claim may find: those whose time comes are told by nothing else
RUNG_FOR = WAITING | {StepState.WAITING}
#: for what is due later than this no timer is kept
TIMER_S = 60.0
#: dead letters, or jobs of a replay, that one transaction moves
PORTION = 20
#: how many events of the log one call of a replay looks at
REPLAY_MOST = 10_000
#: steps of before that estimates are made from at a start
LEARNT_FROM = 1000
#: the key of an upload's metadata that chooses a pipeline
PIPELINE = "pipeline"


class Engine:
    """Jobs, steps and events, and everybody who must hear of them."""

    def __init__(
        self,
        *,
        doorbell: Doorbell,
        clock: Clock,
        limits: Limits,
        worker: str,
        node: str,
        lease_s: float,
        backlog_limit: int = sys.maxsize,
    ) -> None:
        self.doorbell = doorbell
        self.clock = clock
        self.limits = limits
        self.worker = worker
        self.node = node
        self.lease_s = lease_s
        self.estimates = Estimates()
        #: all consumers by name, also those whose code is on other nodes
        self.registry: Mapping[str, Registered] = {}
        self.subscriptions: tuple[Subscription, ...] = ()
        self.tallies: Mapping[tuple[str, str], int] = {}
        #: steps whose time has come, and those that wait for it
        self.waiting, self.delayed = Queue(backlog_limit), Queue(backlog_limit)
        self.paused = Paused()
        #: set while an operator wants no step to begin; a restart forgets it
        self.is_drained = False
        self.pipelines = Pipelines()
        #: how many steps of one tenant may run at once
        self.tenant_limit = sys.maxsize
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
        await self.look_up()
        now = self.clock.now()
        freed = await self._db.recover(limits=self.limits, now=now)
        await self._db.register(consumers, node=self.node, now=now)
        await self.look_up()
        self.paused = await self._db.pauses()
        await self.learn()
        await self.refresh()
        self.ring()
        return freed

    async def look_up(self) -> None:
        """Read who is registered."""
        found = await self._db.registry(self.node)
        self.registry = {one.subscription.entry.consumer: one for one in found}
        self.subscriptions = tuple(one.subscription for one in found)

    async def refresh(self) -> None:
        """Read how many steps wait where, and ring for those: no lost ring stays lost.

        A restart loses the timers of retrying steps, an unknown outcome its rings.
        """
        looks = self.waiting.begin_look(), self.delayed.begin_look()
        self.tallies = await self._db.tallies()
        waiting = sum(n for (_, state), n in self.tallies.items() if state in WAITING)
        delayed = sum(n for (_, s), n in self.tallies.items() if s == StepState.WAITING)
        is_full = self.waiting.needs_lanes(waiting) or self.delayed.needs_lanes(delayed)
        lanes = await self._db.waiting_lanes() if is_full else {}
        ready = {name: one.ready for name, one in lanes.items()}
        later = {name: one.delayed for name, one in lanes.items()}
        due = {name: one.due for name, one in lanes.items() if one.due is not None}
        self.waiting.end_look(looks[0], waiting, ready)
        self.delayed.end_look(looks[1], delayed, later, due)
        self.doorbell.ring(
            {
                name
                for (name, state), n in self.tallies.items()
                if n and state in RUNG_FOR
            }
        )

    def changed(self, change: Change) -> None:
        """Pass a committed change on; the database calls it in commit order."""
        self.hub.changed(change)
        again = sum(one.status is StepState.RETRYING for one in change.steps)
        self.waiting.changed(len(change.ring) + again)
        self.delayed.changed(len(change.due) - again)
        for listener in self.listeners:
            listener(change)
        if change.ring:
            self.doorbell.ring(change.ring)
        if change.due:
            loop = asyncio.get_running_loop()
            for name, delay in change.due:
                # what is further away is rung for by `refresh`
                if delay <= TIMER_S:
                    loop.call_later(delay + 0.001, self.doorbell.ring, (name,))

    def ring(self) -> None:
        """Let everybody look whether there is something to do."""
        self.doorbell.ring(s.entry.consumer for s in self.subscriptions)

    def doubt(self) -> None:
        """Trust nothing that is remembered: a commit's outcome is not known."""
        self.hub.doubt()
        self.ring()

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> str:
        """Store an upload and its job; return the id, of one that was there as well.

        The upload's metadata may choose a pipeline by its name.

        Raises:
            UnknownPipeline: there is none of this name.
            KeyReused, TooManyUploads: as the database says.
        """
        name = "" if new.is_part else new.metadata.get(PIPELINE, "")
        chosen = self.pipelines.find(name)
        if chosen is None:
            raise UnknownPipeline(unknown("pipeline", name, self.pipelines.names))
        return await self._db.create_upload(
            msgspec.structs.replace(
                new,
                pipeline=name,
                priority=chosen.priority,
                request=request_of_now(),
            )
        )

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

    @property
    def holds_some_back(self) -> bool:
        """Whether some steps, or all, may not begin."""
        return self.is_drained or bool(self.paused.consumers or self.paused.tenants)

    def holds_back(self, consumer: str, tenant: str) -> bool:
        """Tell whether no step of a consumer, or of a tenant, may begin."""
        paused = self.paused
        return (
            self.is_drained or consumer in paused.consumers or tenant in paused.tenants
        )

    async def claim(
        self,
        wants: Mapping[str, int],
        limit: int,
        *,
        long: frozenset[str] = frozenset(),
        most_long: int = 0,
    ) -> Sequence[Claimed]:
        """Take up to *limit* ready steps, and so many of each consumer at most.

        Of the consumers *long* together at most *most_long*.
        """
        free = {n: most for n, most in wants.items() if n not in self.paused.consumers}
        if self.is_drained or not free:
            return ()
        claimed = await self._db.claim(
            Demand(
                wants=free,
                limit=limit,
                long=long,
                most_long=most_long,
                worker=self.worker,
                lease_until=self._lease_until(),
                now=self.clock.now(),
                paused=self.paused.tenants,
                tenant_limit=self.tenant_limit,
            )
        )
        self.waiting.changed(-len(claimed))
        return claimed

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
        self, claimed: Claimed, ended: Ended, seconds: float, *, patient: bool = False
    ) -> StepState | None:
        """Store how an attempt ended; None: the step is no longer ours.

        What it says of a failure is stored without secrets, as it is in the log. If
        *patient*, that may wait a moment for other writes.
        """
        if ended.verdict is not Verdict.DONE:
            ended = replace(
                ended,
                detail=hidden(ended.detail),
                cause=hidden(ended.cause),
                trace=hidden(ended.trace),
            )
        state = await self._db.settle(
            claimed.step_id,
            claimed.token,
            ended,
            limits=self.limits,
            now=self.clock.now(),
            patient=patient,
        )
        if state is not None:
            self.on_attempt(claimed, ended, seconds)
            if state is StepState.DONE:
                self.estimates.add(
                    Spent(
                        consumer=claimed.consumer,
                        seconds=seconds,
                        size=claimed.size or 0,
                        pages=pages_of(claimed.facts),
                    )
                )
        return state

    def plan(self, media_type: str, pipeline: str = "") -> tuple[PlanEntry, ...]:
        """Return which consumers a file of *media_type* meets."""
        return self.pipelines.plan(pipeline, media_type, self.subscriptions)

    def estimate_s(self, media_type: str, size: int, workers: int) -> float | None:
        """Return how long a new file should take, with its share of the queue.

        None: some consumer has no history yet, or is paused.
        """
        consumers = [entry.consumer for entry in self.plan(media_type)]
        own = self.estimates.work_s(consumers, size)
        if own is None or self.is_held(consumers):
            return None
        return own + self.queue_s(workers)

    def is_held(self, consumers: Iterable[str]) -> bool:
        """Tell whether somebody has to act before all of *consumers* can begin."""
        return self.is_drained or not self.paused.consumers.isdisjoint(consumers)

    def queue_s(self, workers: int) -> float:
        """Return how long *workers* should need for all that waits."""
        waiting: Counter[str] = Counter()
        for (name, state), n in self.tallies.items():
            if state in WAITING:
                waiting[name] += n
        return self.estimates.queue_s(waiting, workers)

    async def learn(self) -> None:
        """Take estimates from the steps that were done before this start."""
        for spent in await self._db.latest_done(LEARNT_FROM):
            self.estimates.add(spent)

    # ----- without a file

    async def submit_task(
        self,
        name: str,
        payload: str,
        *,
        owner: str = NOBODY,
        tenant: str = NOBODY,
        client: str = "",
        priority: int = 0,
        run_at: int | None = None,
        once: Once | None = None,
    ) -> str:
        """Store a task with its JSON *payload*; return its job's id.

        *run_at*: not before, in milliseconds since 1970.

        Raises:
            UnknownTask: no task has this name.
            KeyReused: another request has used the Idempotency-Key.
        """
        plan = jobs.plan_of_task(name, self.subscriptions)
        if plan is None:
            raise UnknownTask(unknown("task", name, jobs.tasks(self.subscriptions)))
        return await self._submit(
            Submission(
                id=self.clock.new_id(),
                kind=JobKind.TASK,
                name=name,
                payload=payload,
                plan=plan,
                owner=owner,
                tenant=tenant,
                lane=jobs.lane_of(tenant, owner, client),
                priority=priority,
                run_at=run_at,
                once=once,
                now=self.clock.now(),
            )
        )

    async def submit_event(
        self,
        kind: str,
        payload: str,
        *,
        owner: str = NOBODY,
        tenant: str = NOBODY,
        client: str = "",
        priority: int = 0,
        once: Once | None = None,
    ) -> str:
        """Store an application event with its JSON data; return its job's id.

        Raises:
            InvalidEventType: its name is not well formed, or one of ours.
            KeyReused: another request has used the Idempotency-Key.
        """
        names = [s.entry.consumer for s in self.subscriptions]
        if not events.is_application_type(kind, names):
            raise InvalidEventType(
                f"the type is {kind[:80]!r}; accepted: two to five words with dots "
                "between them, such as order.paid, the first of them none of "
                f"{', '.join(sorted(events.RESERVED))} and no consumer's name"
            )
        return await self._submit(
            Submission(
                id=self.clock.new_id(),
                kind=JobKind.EVENT,
                name=kind,
                payload=payload,
                plan=jobs.plan_of_event(kind, self.subscriptions),
                owner=owner,
                tenant=tenant,
                lane=jobs.lane_of(tenant, owner, client),
                priority=priority,
                once=once,
                now=self.clock.now(),
            )
        )

    async def _submit(self, new: Submission) -> str:
        queue = self.waiting if new.run_at is None else self.delayed
        with queue.coming(new.lane):
            request = request_of_now()
            return await self._db.submit(msgspec.structs.replace(new, request=request))

    async def announce(self, kind: str, data: Mapping[str, object]) -> None:
        """Write an event of the server's own, if some consumer listens to it."""
        plan = jobs.plan_of_event(kind, self.subscriptions)
        if not plan:
            return
        await self._db.submit(
            Submission(
                id=self.clock.new_id(),
                kind=JobKind.EVENT,
                name=kind,
                payload=msgspec.json.encode(data).decode(),
                plan=plan,
                owner=NOBODY,
                tenant="",
                now=self.clock.now(),
            )
        )

    # ----- by hand

    def subscription(self, consumer: str) -> Subscription:
        """Return a registered consumer. Raise UnknownConsumer."""
        for one in self.subscriptions:
            if one.entry.consumer == consumer:
                return one
        raise UnknownConsumer(unknown("consumer", consumer, self.registry))

    # Each is noted in its own transaction. What takes several, or none, is noted first.

    async def pause_consumer(self, consumer: str, note: Note, *, on: bool) -> None:
        """Let a consumer begin no more steps, or let it go on; a restart keeps this."""
        self.subscription(consumer)
        await self._pause("consumer", consumer, note, on=on)

    async def pause_tenant(self, tenant: str, note: Note, *, on: bool) -> None:
        """Let no more steps of a tenant begin, or let them; a restart keeps this."""
        await self._pause("tenant", tenant, note, on=on)

    async def _pause(self, kind: str, name: str, note: Note, *, on: bool) -> None:
        try:
            await self._db.pause(kind, name, on=on, now=note.at, note=note)
        finally:
            # also where nobody knows what has become of it
            self.paused = await self._db.pauses()
            self.ring()

    async def drain(self, note: Note, *, on: bool) -> None:
        """Let no step begin any more, or let them again."""
        await self._db.note(note)
        self.is_drained = on
        self.ring()

    async def retry_step(self, step_id: int, note: Note) -> None:
        """Give one dead step another chance. Raise StepNotFound, StepNotRetryable."""
        await self._db.retry_step(step_id, note.at, note)

    async def retry_dead(
        self, consumer: str, note: Note, *, refused: bool = False
    ) -> int:
        """Give every dead letter of a consumer another chance; return how many.

        Files that it has *refused* end the same way, unless a limit was raised.
        """
        self.subscription(consumer)
        entry = await self._db.note(note)
        after = count = 0
        pages = partial(self._db.dead_steps, consumer, limit=PORTION, refused=refused)
        while portion := await pages(after=after):
            for step_id in portion:
                with suppress(StepNotFound, StepNotRetryable, JobNotRetryable):
                    await self._db.retry_step(step_id, self.clock.now())
                    count += 1
            after = portion[-1]
        await self._db.amend(entry, {**note.detail, "steps": count})
        return count

    async def cancel_step(self, step_id: int, note: Note) -> None:
        """Take one open step back. Raise StepNotFound, StepNotOpen."""
        await self._db.cancel_step(step_id, note.at, note)

    async def replay(
        self, consumer: str, note: Note, *, since: int, after: int = 0
    ) -> tuple[int, int | None]:
        """Give a consumer the events since *since* (ms) once more, beside their runs.

        Looks at `REPLAY_MOST` events behind *after* at most. Returns how many steps
        that made, and where to go on (None: it is through).
        """
        one = self.subscription(consumer)
        if one.entry.on == SUBMITTED:
            raise UnknownConsumer(f"{consumer} is a task: submit it again instead")
        entry = await self._db.note(note)
        made, following = await self._replay(one, since, after)
        await self._db.amend(entry, {**note.detail, "steps": made})
        return made, following

    async def _replay(
        self, one: Subscription, since: int, after: int
    ) -> tuple[int, int | None]:
        made = seen = 0
        while seen < REPLAY_MOST:
            causes = await self._db.causes(
                one.entry.on, since=since, after=after, limit=PORTION
            )
            if not causes:
                return made, None
            wanted = [
                cause
                for cause in causes
                if not one.accepts or one.wants(cause.media_type or "")
            ]
            if wanted:
                made += await self._db.replay(wanted, one.entry, self.clock.now())
            after, seen = causes[-1].seq, seen + len(causes)
        return made, after

    # ----- jobs

    async def retry(self, job_id: str, note: Note | None = None) -> int:
        """Start a new run of what did not succeed; return its number."""
        return await self._db.retry(job_id, self.clock.now(), note)

    async def cancel(self, job_id: str, note: Note | None = None) -> bool:
        """Close a job; False: it was over already."""
        return await self._db.cancel(job_id, self.clock.now(), note)

    async def delete(self, job_id: str, note: Note | None = None) -> None:
        """Forget a job and give up its bytes."""
        await self._db.delete(job_id, self.clock.now(), note)
