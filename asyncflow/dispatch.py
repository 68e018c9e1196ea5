"""The loop that turns ready steps into finished ones, whoever does the work.

Theory of operation
-------------------
A dispatcher serves the consumers of one kind (in the pool, or on the loop). It waits
for a ring, claims as many steps as there is room for and as each consumer's pace
allows, and gives each a task: do the work, settle. While steps are short, a few more
are claimed than there is room for: those wait for a place, and are given back when
what is before them turns out to be long, or when they are paused.

A claimed step stays ours by the beat of `Dispatchers`, one for all of them: it renews
all that is ours before it frees what nobody renewed, and names those that we lost,
whose work is stopped. What a database in trouble cannot settle is settled as soon as it
can; if the step has become somebody else's by then, the database refuses it.
"""

import asyncio
import dataclasses
import sys
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import structlog

from asyncflow.causes import cause_of, trace_of
from asyncflow.db.records import Change, Claimed, Ended
from asyncflow.engine import Engine
from asyncflow.errors import (
    BlobNotFound,
    DatabaseUnavailable,
    DiskFull,
    OutputRefused,
    ServerBusy,
    TryLater,
)
from asyncflow.jobs import JobKind, StepState, Verdict
from asyncflow.orders import Outcome
from asyncflow.pace import LONG_S, Lookahead, Pace, Restraint
from asyncflow.processes import WANTS

log = structlog.get_logger(__name__)

#: six beats to a lease: five may be lost before we give a step away
BEATS_PER_LEASE = 6
#: how long to wait before a database in trouble is asked again
AGAIN_S = 0.5
#: how long a database in trouble may take, at a stop, for how steps ended
STORE_S = 5.0
#: how long a step waits for a full disk
NO_ROOM_S = 5.0
#: and how long for what else the server lacks
LACK_S = 2.0

T = TypeVar("T")
#: a claimed step: its id and its token
Held = tuple[int, int]
#: called when the work on a step begins: before, it waits for a place
Begun = Callable[[], None]


class StepLost(Exception):
    """The step is somebody else's now."""


class _Attempt:
    """A step that is ours, from its claim until its end is stored."""

    __slots__ = (
        *("began", "consumer", "has_started", "is_released", "settles", "task"),
        *("job", "tenant"),
    )

    def __init__(self, claimed: Claimed, task: asyncio.Task[None]) -> None:
        self.job = claimed.job_id
        self.consumer = claimed.consumer
        self.tenant = claimed.tenant
        self.task = task
        #: None while it waits for a place
        self.began: float | None = None
        #: its end is being stored: the database tells whether it was ours
        self.settles = False
        self.has_started = False
        #: it is given back, unless it has ended by itself
        self.is_released = False

    @property
    def waits(self) -> bool:
        """Whether the work has not begun."""
        return self.began is None and not (self.settles or self.is_released)

    def release(self) -> None:
        """Give the step back, unless it is over."""
        self.is_released = True
        # a task that is cancelled before its first line never gets there
        if self.has_started and not self.settles:
            self.task.cancel()


class Dispatcher:
    """Claims the steps of *consumers* and has *work* done for each.

    *room* tells how many steps may be ours at once. *work* says when it begins and
    returns how an attempt ended; it raises StepLost when the step turned out not to be
    ours.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        name: str,
        consumers: Mapping[str, Restraint],
        room: Callable[[], int],
        work: Callable[[Claimed, Begun], Awaitable[Ended]],
    ) -> None:
        self._engine = engine
        self._name = name
        self._paces = {one: Pace(limit) for one, limit in consumers.items()}
        self._names = frozenset(consumers)
        self._capacity = room
        self._work = work
        self._running: dict[Held, _Attempt] = {}
        self._wake = asyncio.Event()
        #: consumers that have no more ready steps: only a ring is worth another claim
        self._dry: set[str] = set()
        self._rings = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._lookahead = Lookahead()
        #: how long the latest claim took
        self._claim_s = 0.0
        self._look: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many steps are ours now."""
        return len(self._running)

    @property
    def held(self) -> tuple[Held, ...]:
        """The steps that are ours now."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Held, ...]:
        """Those of them that wait for a place."""
        return tuple(held for held, one in self._running.items() if one.waits)

    async def start(self) -> None:
        """Begin to claim."""
        for part in (self._listen, self._dispatch):
            name = f"{self._name}-{part.__name__.strip('_')}"
            self._tasks.append(asyncio.create_task(part(), name=name))

    async def stop(self, grace_s: float) -> None:
        """Stop claiming, give what runs *grace_s* seconds, release the rest."""
        await _end(self._tasks)
        if self._look is not None:
            self._look.cancel()
        tasks = {one.task for one in self._running.values()}
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=grace_s)
            for one in self._running.values():
                one.release()
            if late:
                _done, late = await asyncio.wait(late, timeout=STORE_S)
            await _end(late)

    def lose(self, lost: Sequence[Held]) -> None:
        """Stop the attempts whose steps are somebody else's now."""
        for held in lost:
            if self._stop_working(held):
                log.warning("step.lost", step=held[0], token=held[1])

    def changed(self, change: Change) -> None:
        """Stop the attempts that a committed change took out of our hands."""
        for held in change.stop:
            self._stop_working(held)

    def _stop_working(self, held: Held) -> bool:
        """Stop an attempt; tell whether there was one that has not ended by itself."""
        one = self._running.get(held)
        if one is None or one.settles:
            return False
        return one.task.cancel()

    # ----- claim

    async def _listen(self) -> None:
        while True:
            await self._engine.doorbell.wait(self._names)
            self._rings += 1
            self._dry.clear()
            self._wake.set()
            if self._engine.holds_some_back:
                for one in self._running.values():
                    if one.waits and self._engine.holds_back(one.consumer, one.tenant):
                        one.release()

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            room = self._room()
            wants, wait_s = self._wants() if room > 0 else ({}, None)
            if not wants:
                await self._woken(wait_s)
                continue
            rings = self._rings
            long = frozenset(n for n in wants if not self._lookahead.is_short(n))
            most_long = max(0, self._capacity() - self._long())
            claimed = await self._try_claim(wants, room, long, most_long)
            if claimed is None:
                await asyncio.sleep(AGAIN_S)
                continue
            for one in claimed:
                self._begin(one)
            self._look_later()
            if len(claimed) < room and rings == self._rings:
                found = Counter(one.consumer for one in claimed)
                is_held_back = sum(found[name] for name in long) >= most_long
                self._dry |= {
                    name
                    for name, most in wants.items()
                    if found[name] < most and not (is_held_back and name in long)
                }

    def _room(self) -> int:
        """Return how many steps may be claimed now; several at once if they are short.

        A claim that would only add a few to those that wait already can itself wait.
        Nothing is claimed ahead while a long step is ours: what came before it in the
        order of claims would stand before it for ever, and it before others.
        """
        places, ours = self._capacity(), len(self._running)
        now = self._engine.clock.mono_s()
        ahead = 0 if self._long() else self._lookahead.steps(now, self._claim_s)
        if not ahead:
            # a place is free as soon as the work is over
            ours -= sum(one.settles for one in self._running.values())
        if ours > places + ahead // 2:
            return 0
        return places + ahead - ours

    def _long(self) -> int:
        """Return how many steps that are not known to be short are in work, or wait."""
        ours = Counter(o.consumer for o in self._running.values() if not o.settles)
        return sum(n for name, n in ours.items() if not self._lookahead.is_short(name))

    # ----- what was claimed before its time

    def _look_later(self) -> None:
        """Look soon whether what waits for a place should still be ours."""
        if self._look is None and len(self._running) > self._capacity():
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(LONG_S, self._give_back)

    def _give_back(self) -> None:
        """Give back what waits behind steps that have turned out to be long."""
        self._look = None
        now = self._engine.clock.mono_s()
        for one in self._running.values():
            if one.began is not None and not one.settles and now - one.began > LONG_S:
                self._lookahead.took(one.consumer, now - one.began)
        more = self._long() - self._capacity()
        for one in reversed(self._running.values()):
            if more <= 0:
                break
            if one.waits and not self._lookahead.is_short(one.consumer):
                one.release()
                more -= 1
        self._look_later()

    def _wants(self) -> tuple[dict[str, int], float | None]:
        """Return how many steps of whom may begin, and when a rate will allow more."""
        now = self._engine.clock.mono_s()
        allowed = {
            name: pace.allowance(now)
            for name, pace in self._paces.items()
            if name not in self._dry
        }
        waits = [
            wait
            for name, most in allowed.items()
            if most <= 0 and (wait := self._paces[name].wait_s()) is not None
        ]
        return {n: m for n, m in allowed.items() if m > 0}, min(waits, default=None)

    async def _woken(self, wait_s: float | None) -> None:
        if wait_s is None:
            await self._wake.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    async def _try_claim(
        self, wants: Mapping[str, int], room: int, long: frozenset[str], most_long: int
    ) -> Sequence[Claimed] | None:
        """Claim; None: not now."""
        claim = self._engine.claim(wants, room, long=long, most_long=most_long)
        asked = self._engine.clock.mono_s()
        try:
            return await self._claim(claim)
        except (DatabaseUnavailable, DiskFull) as error:
            log.warning("consumers.claim_failed", error=error.detail)
        except Exception:  # the supervisor of all steps: it must go on
            log.exception("consumers.claim_failed")
        finally:
            self._claim_s = self._engine.clock.mono_s() - asked
        return None

    async def _claim(
        self, claiming: Coroutine[Any, Any, Sequence[Claimed]]
    ) -> Sequence[Claimed]:
        claim = asyncio.ensure_future(claiming)
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            # The write goes on without us: give back what it takes.
            with suppress(DatabaseUnavailable, DiskFull):
                for one in await claim:
                    released = Ended(verdict=Verdict.RELEASED)
                    await self._engine.settle(one, released, 0.0)
            raise

    def _begin(self, claimed: Claimed) -> None:
        held = (claimed.step_id, claimed.token)
        pace = self._paces[claimed.consumer]
        pace.begun()
        task = asyncio.create_task(
            self._attempt(claimed), name=f"step-{claimed.step_id}-{claimed.token}"
        )
        self._running[held] = _Attempt(claimed, task)
        task.add_done_callback(lambda _task: self._ended(held, pace))

    def _ended(self, held: Held, pace: Pace) -> None:
        one = self._running.pop(held)
        self._engine.hub.over(one.job, one.consumer)
        pace.ended()
        if self._engine.tenant_limit < sys.maxsize:
            # who was held back by what has ended may go on, wherever that works
            self._engine.ring()
        self._wake.set()

    # ----- one attempt

    async def _attempt(self, claimed: Claimed) -> None:
        held, clock = (claimed.step_id, claimed.token), self._engine.clock
        one = self._running[held]
        one.has_started = True
        # for every line of this attempt, whoever writes it
        structlog.contextvars.bind_contextvars(
            job=claimed.job_id,
            step=claimed.consumer,
            attempt=claimed.attempt,
            **({"request_id": claimed.request} if claimed.request else {}),
        )
        try:
            if one.is_released:
                raise asyncio.CancelledError  # noqa: TRY301 -- as if it had come later
            begun = partial(self._begun, held)
            ended = _of_task(claimed, await self._work(claimed, begun))
        except asyncio.CancelledError:
            if not one.is_released:
                log.info("step.stopped")
                return
            ended = Ended(verdict=Verdict.RELEASED)
        except StepLost:
            log.info("step.stopped")
            return
        except (OutputRefused, ServerBusy) as error:
            ended = self._ended_by(error)
        except Exception as error:  # the supervisor of a step: it must end somehow
            log.exception("step.failed_in_server")
            ended = self._ended_by(error)
        now = clock.mono_s()
        seconds = 0.0 if one.began is None else now - one.began
        if one.began is not None:
            self._lookahead.over(one.consumer, seconds, now)
        one.settles = True
        self._wake.set()
        try:
            state = await self._settle(claimed, ended, seconds)
        except Exception as error:  # what cannot be stored must not hold the step
            log.exception("step.failed_in_server")
            ended = self._ended_by(error)
            state = await self._settle(claimed, ended, seconds)
        log.info(
            "step.ended",
            state=state or "stale",
            code=ended.code,
            seconds=round(seconds, 3),
        )

    def _begun(self, held: Held) -> None:
        self._running[held].began = self._engine.clock.mono_s()

    async def _settle(
        self, claimed: Claimed, ended: Ended, seconds: float
    ) -> StepState | None:
        # while others wait for a place, nobody waits for this
        patient = len(self._running) > self._capacity()
        return await insist(
            lambda: self._engine.settle(claimed, ended, seconds, patient=patient),
            claimed,
        )

    def _ended_by(self, error: Exception) -> Ended:
        if isinstance(error, DiskFull):
            return no_room()
        if (lack := lacked(error)) is not None:
            return put_off(lack)
        code, detail = "error", "the step failed inside the server"
        if isinstance(error, OutputRefused):
            code, detail = "bad_output", error.detail
        if isinstance(error, BlobNotFound):
            detail = "the uploaded bytes are not in the store"
        return Ended(
            verdict=Verdict.ERROR,
            code=code,
            detail=detail,
            cause=cause_of(error),
            trace=trace_of(error),
            spread=self._engine.clock.spread(),
        )


class Dispatchers:
    """All dispatchers of a server, and the beat that keeps their steps ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._all: tuple[Dispatcher, ...] = ()
        self._heart: list[asyncio.Task[None]] = []

    def add(self, *dispatchers: Dispatcher) -> None:
        """Take *dispatchers* in, before `start`."""
        self._all += dispatchers

    @property
    def running(self) -> int:
        """How many steps are ours now."""
        return sum(one.running for one in self._all)

    @property
    def waiting(self) -> tuple[Held, ...]:
        """Those of them that wait for a place."""
        return tuple(held for one in self._all for held in one.waiting)

    def changed(self, change: Change) -> None:
        """Stop the attempts that a committed change took out of our hands."""
        for one in self._all:
            one.changed(change)

    async def start(self) -> None:
        """Begin to claim."""
        self._heart.append(asyncio.create_task(self._beat(), name="heart"))
        for one in self._all:
            await one.start()

    async def drain(self, grace_s: float) -> None:
        """Stop claiming, give what runs *grace_s* seconds, release the rest."""
        await asyncio.gather(*(one.stop(grace_s) for one in self._all))

    async def stop(self) -> None:
        """Release everything, then beat no more."""
        await self.drain(0.0)
        await _end(self._heart)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._engine.lease_s / BEATS_PER_LEASE)
            held = [one for each in self._all for one in each.held]
            try:
                lost = await self._engine.beat(held)
            except (DatabaseUnavailable, DiskFull) as error:
                log.warning("consumers.beat_failed", error=error.detail)
                continue
            except Exception:  # without beats every step would be lost
                log.exception("consumers.beat_failed")
                continue
            for each in self._all:
                each.lose(lost)


async def insist(write: Callable[[], Awaitable[T]], claimed: Claimed) -> T:
    """Write until the database can take it: it refuses what is no longer ours."""
    while True:
        try:
            return await write()
        except (DatabaseUnavailable, DiskFull) as error:
            log.warning(
                "step.write_failed",
                job=claimed.job_id,
                step=claimed.consumer,
                error=error.detail,
            )
            await asyncio.sleep(AGAIN_S)


def _of_task(claimed: Claimed, ended: Ended) -> Ended:
    """Return how a step ended, as its job takes it: a task has nothing but its own.

    If that is skipped, nothing was done: the task has failed, and can be retried.
    """
    is_own = claimed.kind is JobKind.TASK and claimed.consumer == claimed.file_name
    if is_own and ended.verdict is Verdict.SKIPPED:
        return dataclasses.replace(ended, verdict=Verdict.BAD_FILE)
    return ended


def ended_by(claimed: Claimed, outcome: Outcome, spread: float) -> Ended:
    """Return what the engine stores of *outcome*; log what only an operator may see."""
    if outcome.cause:
        log.warning(
            "step.trace",
            job=claimed.job_id,
            step=claimed.consumer,
            cause=outcome.cause,
            trace=outcome.trace,
        )
    return Ended(
        verdict=outcome.verdict,
        code=outcome.code,
        detail=outcome.detail,
        cause=outcome.cause,
        trace=outcome.trace,
        after_s=outcome.after_s,
        spread=spread,
        facts=outcome.facts,
    )


def no_room() -> Ended:
    """Return the end of an attempt that found the disk full: it is tried again soon."""
    return Ended(
        verdict=Verdict.TRY_LATER,
        code=DiskFull.code,
        detail="the disk has no room for the result",
        after_s=NO_ROOM_S,
    )


def lacked(error: BaseException) -> str | None:
    """Say what the server has too little of just now; None: *error* says another thing.

    Threads, descriptors and memory are for all: whoever finds none is not to blame.
    """
    if isinstance(error, ServerBusy):
        return error.detail
    if isinstance(error, OSError) and error.errno in WANTS:
        return str(error)
    return None


def put_off(lack: str) -> Ended:
    """Return the end of an attempt that the server *lacked* something for."""
    log.warning("step.put_off", lack=lack)
    return Ended(
        verdict=Verdict.TRY_LATER,
        code=TryLater.code,
        detail=f"the server lacks something just now: {lack}",
        after_s=LACK_S,
    )


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
