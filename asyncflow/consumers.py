"""The loop that turns ready steps into finished ones.

Theory of operation
-------------------
One dispatcher serves all consumers that run in the pool. It waits for a ring, claims as
many steps as the pool can take, and gives each a task: fetch the input, run the
processor, put its files into the store, settle. A claimed step stays ours by one beat
for all of them; the beat names those that we lost, and their workers are killed. What
a database in trouble cannot settle is settled as soon as it can; if the step has become
somebody else's by then, the database refuses it.
"""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import aiofiles
import structlog

from asyncflow import uploads
from asyncflow.db.base import Change, Claimed, Ended, Published
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    BlobNotFound,
    DatabaseUnavailable,
    DiskFull,
    NameTaken,
    TypeNotAllowed,
)
from asyncflow.jobs import Verdict
from asyncflow.pool import Made, Order, Outcome, Pool
from asyncflow.store.base import HasLocalPath, Store

log = structlog.get_logger(__name__)

#: six beats to a lease: five may be lost before we give a step away
BEATS_PER_LEASE = 6
#: one step more than there are workers, so that a worker never waits for a claim
CLAIMED_AHEAD = 1
#: how long to wait before a database in trouble is asked again
AGAIN_S = 0.5
#: with less room than this no failure of a worker counts
SCARCE_BYTES = 16 << 20
#: how long a step waits for a full disk
NO_ROOM_S = 5.0
IDENTIFY = "identify"

T = TypeVar("T")


class _StepLost(Exception):
    """The step is somebody else's now."""


class Consumers:
    """Runs the steps of the consumers that work in the pool.

    *options* and *wall_s* (the longest attempt, in seconds) are the operator's, by
    consumer name; *check_type* raises TypeNotAllowed for what identify found.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: Pool,
        store: Store,
        names: frozenset[str],
        options: Mapping[str, Mapping[str, object]],
        wall_s: Mapping[str, float],
        check_type: Callable[[str], None],
        scratch: Path,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._store = store
        self._names = names
        self._options = options
        self._wall_s = wall_s
        self._check_type = check_type
        self._scratch = scratch
        self._running: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._draining = False
        self._loop: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many steps are ours now."""
        return len(self._running)

    async def start(self) -> None:
        """Begin to claim."""
        self._loop = asyncio.create_task(self._dispatch(), name="dispatch")
        self._beating = asyncio.create_task(self._beat(), name="beat")

    async def stop(self, grace_s: float) -> None:
        """Stop claiming, give what runs *grace_s* seconds, release the rest."""
        self._draining = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        tasks = set(self._running.values())
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=10.0)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])

    def changed(self, change: Change) -> None:
        """Kill the attempts that a committed change took out of our hands."""
        for held in change.stop:
            task = self._running.get(held)
            if task is not None:
                task.cancel()

    # ----- claim

    async def _dispatch(self) -> None:
        names = tuple(sorted(self._names))
        while True:
            room = self._pool.size + CLAIMED_AHEAD - len(self._running)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                claimed = await self._claim(names, room)
            except (DatabaseUnavailable, DiskFull) as error:
                log.warning("consumers.claim_failed", error=error.detail)
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:  # the supervisor of all steps: it must go on
                log.exception("consumers.claim_failed")
                await asyncio.sleep(AGAIN_S)
                continue
            for one in claimed:
                self._begin(one)
            if len(claimed) < room:
                await self._engine.doorbell.wait(self._names)

    async def _claim(self, names: Sequence[str], room: int) -> Sequence[Claimed]:
        claim = asyncio.ensure_future(self._engine.claim(names, room))
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
        task = asyncio.create_task(
            self._attempt(claimed), name=f"step-{claimed.step_id}-{claimed.token}"
        )
        self._running[held] = task
        task.add_done_callback(lambda _task: self._ended(held))

    def _ended(self, held: tuple[int, int]) -> None:
        self._running.pop(held, None)
        self._room.set()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._engine.lease_s / BEATS_PER_LEASE)
            try:
                lost = await self._engine.beat(tuple(self._running))
            except (DatabaseUnavailable, DiskFull) as error:
                log.warning("consumers.beat_failed", error=error.detail)
                continue
            except Exception:  # without beats every step would be lost
                log.exception("consumers.beat_failed")
                continue
            for held in lost:
                if held in self._running:
                    log.warning("step.lost", step=held[0], token=held[1])
                    self._running[held].cancel()

    # ----- one attempt

    async def _attempt(self, claimed: Claimed) -> None:
        began = self._engine.clock.mono_s()
        facts = {"job": claimed.job_id, "step": claimed.consumer}
        try:
            ended = await self._work(claimed)
        except asyncio.CancelledError:
            if not self._draining:
                log.info("step.stopped", **facts)
                return
            ended = Ended(verdict=Verdict.RELEASED)
        except _StepLost:
            log.info("step.stopped", **facts)
            return
        except Exception as error:  # the supervisor of a step: it must end somehow
            log.exception("step.failed_in_server", **facts)
            ended = self._ended_by(error)
        seconds = self._engine.clock.mono_s() - began
        await self._settle(claimed, ended, seconds)

    def _ended_by(self, error: Exception) -> Ended:
        if isinstance(error, DiskFull):
            return _no_room()
        if isinstance(error, NameTaken):
            return self._failed("bad_output", error.detail)
        if isinstance(error, BlobNotFound):
            return self._failed("error", "the uploaded bytes are not in the store")
        return self._failed("error", "the step failed inside the server")

    def _failed(self, code: str, detail: str) -> Ended:
        return Ended(
            verdict=Verdict.ERROR,
            code=code,
            detail=detail,
            spread=self._engine.clock.spread(),
        )

    async def _work(self, claimed: Claimed) -> Ended:
        async with self._local(claimed) as source:
            order = Order(
                label=f"{claimed.consumer} of {claimed.job_id}",
                processor=claimed.consumer,
                source=source,
                file_name=claimed.file_name,
                media_type=claimed.media_type or claimed.declared_type,
                options={
                    **self._options.get(claimed.consumer, {}),
                    **claimed.options,
                },
                facts=claimed.facts,
                wall_s=self._wall_s.get(claimed.consumer),
            )
            outcome = await self._pool.run(
                order,
                on_progress=lambda percent: self._engine.hub.running(
                    claimed.job_id, claimed.consumer, percent
                ),
                on_derivative=lambda made: self._publish(claimed, made),
            )
        if outcome.trace:
            log.warning(
                "step.trace",
                job=claimed.job_id,
                step=claimed.consumer,
                trace=outcome.trace,
            )
        return self._read(claimed, outcome)

    def _read(self, claimed: Claimed, outcome: Outcome) -> Ended:
        """Turn what the pool says into what the engine stores."""
        if outcome.verdict in {Verdict.ERROR, Verdict.LOST} and self._is_scarce():
            return _no_room()
        ended = Ended(
            verdict=outcome.verdict,
            code=outcome.code,
            detail=outcome.detail,
            after_s=outcome.after_s,
            spread=self._engine.clock.spread(),
            facts=outcome.facts,
        )
        if outcome.verdict is not Verdict.DONE or claimed.consumer != IDENTIFY:
            return ended
        media_type = str(outcome.facts["mediaType"])
        try:
            self._check_type(media_type)
        except TypeNotAllowed as refused:
            return Ended(
                verdict=Verdict.BAD_FILE, code=refused.code, detail=refused.detail
            )
        plan = self._engine.plan(media_type)
        return dataclasses.replace(ended, media_type=media_type, plan=plan)

    def _is_scarce(self) -> bool:
        """Tell whether a worker may have failed for want of room: not its fault."""
        disk = os.statvfs(self._scratch)
        return disk.f_bavail * disk.f_frsize < SCARCE_BYTES

    @asynccontextmanager
    async def _local(self, claimed: Claimed) -> AsyncIterator[Path]:
        """Yield the input as a local file, fetched if the store is elsewhere."""
        if isinstance(self._store, HasLocalPath):
            yield self._store.path(claimed.key)
            return
        with TemporaryDirectory(dir=self._scratch) as folder:
            path = Path(folder) / "input"
            await _fetch(self._store, claimed.key, path)
            yield path

    async def _publish(self, claimed: Claimed, made: Made) -> None:
        """Store a derivative, then make it visible, if the step is still ours."""
        key = uploads.derivative_key(
            claimed.job_id,
            claimed.step_id,
            claimed.token,
            made.name,
            made.media_type,
        )
        kept = False
        try:
            size = await self._store.put(key, made.fd)
            published = Published(
                name=made.name,
                key=key,
                media_type=made.media_type,
                size=size,
                facts=made.facts,
            )
            kept = await self._insist(
                lambda: self._engine.publish(claimed, published), claimed
            )
        finally:
            if not kept:
                # Nobody else knows of these bytes: the step may be closed already.
                with suppress(AsyncflowError):
                    await self._store.delete(key)
        if not kept:
            raise _StepLost

    async def _insist(self, write: Callable[[], Awaitable[T]], claimed: Claimed) -> T:
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

    async def _settle(self, claimed: Claimed, ended: Ended, seconds: float) -> None:
        state = await self._insist(
            lambda: self._engine.settle(claimed, ended, seconds), claimed
        )
        log.info(
            "step.ended",
            job=claimed.job_id,
            step=claimed.consumer,
            state=state or "stale",
            code=ended.code,
            seconds=round(seconds, 3),
        )


def _no_room() -> Ended:
    return Ended(
        verdict=Verdict.TRY_LATER,
        code=DiskFull.code,
        detail="the disk has no room for the result",
        after_s=NO_ROOM_S,
    )


async def _fetch(store: Store, key: str, path: Path) -> None:
    async with aiofiles.open(path, "wb") as file:
        async for part in store.read(key):
            await file.write(part)
