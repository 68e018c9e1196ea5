"""Counts what happens, measures what is, and says when an operator should look.

Counters are added to as changes are committed and attempts end; gauges are set just
before they are read; alerts are judged every few seconds.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from asyncflow import __version__
from asyncflow.alerts import Alerts, Noted, Reading
from asyncflow.db.base import Database
from asyncflow.db.oversight import ALERTS_KEPT, Note
from asyncflow.db.records import Change, Claimed, Ended
from asyncflow.db.writer import Batch
from asyncflow.engine import Engine
from asyncflow.errors import AsyncflowError, DatabaseUnavailable, DiskFull
from asyncflow.history import MINUTE_S, MINUTES, History, Paces
from asyncflow.jobs import UPLOADED, JobKind, StepState, Verdict
from asyncflow.metrics import Metrics
from asyncflow.pool import Pool
from asyncflow.store.base import Space
from asyncflow.views import moment

log = structlog.get_logger(__name__)

RAISED: Final = "alert.raised"
CLEARED: Final = "alert.cleared"
LAG_EVERY_S: Final = 0.5
#: the worst lag of so many measurements is what counts: ten seconds
LAGS_KEPT: Final = 20
#: what the rates of alerts are taken from
WINDOW_S: Final = 300.0
MOST_ENDS: Final = 100_000
#: verdicts that say that an attempt has failed, whatever it was made on
FAULTS: Final = frozenset({Verdict.BAD_OUTPUT, Verdict.ERROR, Verdict.LOST})
#: a dead step whose file is at fault: not a state of its own, but a number
REFUSED: Final = "refused"
QUEUED: Final = (
    StepState.WAITING,
    StepState.READY,
    StepState.RUNNING,
    StepState.RETRYING,
    StepState.DEAD,
    REFUSED,
)


#: returns None if all is well, else the reason in plain words; may raise one of ours
Check = Callable[[], Awaitable[str | None]]


class HasWal(Protocol):
    """A database with a write-ahead log of its own."""

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        ...


class Gauges:
    """All numbers of one server.

    *space* tells the room under the store, None where it cannot fill up; *trouble* why
    nothing can be stored just now, *checks* what each condition of being ready lacks;
    *sockets* how many are open, *strays* how many functions ignore being stopped,
    *failing_joins* how many files have all their parts and cannot be put together,
    *stuck_keys* how many keys of deleted bytes cannot be removed.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        engine: Engine,
        db: Database,
        wal: HasWal,
        pool: Pool,
        fill_level: float,
        space: Callable[[], Awaitable[Space]] | None,
        trouble: Callable[[], str | None],
        checks: Mapping[str, Check],
        sockets: Callable[[], int],
        strays: Callable[[], int],
        failing_joins: Callable[[], int],
        stuck_keys: Callable[[], int],
    ) -> None:
        self.alerts = Alerts()
        #: the last hour, for the admin page
        self.history = History(engine.clock.wall_s)
        #: how each consumer did lately
        self.paces = Paces(engine.clock.mono_s)
        self._metrics, self._engine, self._db, self._wal = metrics, engine, db, wal
        self._pool, self._space = pool, space
        self._fill_level = fill_level / 100.0
        self._trouble, self._checks = trouble, checks
        self._sockets, self._strays = sockets, strays
        self._failing_joins, self._stuck_keys = failing_joins, stuck_keys
        #: files that consumers have refused, and what was dead when they were counted
        self._refusals: tuple[Mapping[str, int], Mapping[str, int]] | None = None
        self._lags: deque[float] = deque([0.0], maxlen=LAGS_KEPT)
        #: (when, whether it failed) of the latest attempts
        self._ends: deque[tuple[float, bool]] = deque(maxlen=MOST_ENDS)
        #: when workers died lately
        self._losses: deque[float] = deque(maxlen=MOST_ENDS)
        metrics.build.set(1, __version__)
        metrics.backlog_limit.set(engine.waiting.limit)
        metrics.on_scrape(self.measure)
        pool.on_busy = lambda seconds: metrics.worker_busy.inc(by=seconds)
        pool.on_loss = self._lost

    async def recall(self) -> None:
        """Begin with what happened before the start: the last hour, and alerts."""
        notes = await self._db.audits(before=None, limit=ALERTS_KEPT, of_alerts=True)
        self.alerts.recall(
            Noted(
                name=one.target, at=moment(one.at) or 0, is_raised=one.action == RAISED
            )
            for one in reversed(notes)
        )
        since = self._engine.clock.now() - MINUTES * MINUTE_S * 1000
        for minute, kind, count in await self._db.lately(since):
            name = "uploaded" if kind == UPLOADED else kind.removeprefix("job.")
            self.history.recall(minute * MINUTE_S, name, count)

    # ----- told by others

    def batch(self, batch: Batch) -> None:
        """Count a commit."""
        self._metrics.db_batch_size.observe(batch.items)
        self._metrics.db_commit_duration.observe(batch.seconds)
        if not batch.committed:
            self._metrics.db_failures.inc()

    def attempt(self, claimed: Claimed, ended: Ended, seconds: float) -> None:
        """Count an attempt that ended."""
        metrics = self._metrics
        metrics.steps_finished.inc(claimed.consumer, ended.verdict)
        metrics.step_duration.observe(seconds, claimed.consumer)
        failed = ended.verdict in FAULTS
        bad_task = _is_bad_task(ended.verdict, claimed.kind)
        self.paces.add(claimed.consumer, failed=failed or bad_task)
        now = self._engine.clock.mono_s()
        self._ends.append((now, failed))

    def _lost(self, code: str) -> None:
        """Count a worker that died of a run."""
        self._metrics.worker_crashes.inc(code)
        self._losses.append(self._engine.clock.mono_s())

    def changed(self, change: Change) -> None:
        """Count a committed change."""
        if change.died:
            self._refusals = None
        for consumer, verdict in change.died:
            # a file that is refused is its owner's matter: nobody has to mend anything
            if verdict is not Verdict.BAD_FILE or _is_bad_task(verdict, change.kind):
                self._metrics.dead_letters.inc(consumer)
        if change.terminal is not None:
            self._metrics.jobs_finished.inc(change.state)
            self.history.add(change.state.lower())
        if change.begins:
            self._metrics.jobs_created.inc(change.kind)
            if change.kind is JobKind.FILE:
                self._metrics.uploads_completed.inc()
                self.history.add("uploaded")
            return
        for consumer, _delay in change.due:
            self._metrics.step_retries.inc(consumer)

    # ----- looked at

    @property
    def loop_lag_s(self) -> float:
        """The worst lag of the last ten seconds."""
        return max(self._lags)

    async def tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each consumer has in each state.

        Refusals of files are told apart from the dead letters, as `refused`.
        """
        found = dict(await self._db.tallies())
        dead = {
            name: n for (name, state), n in found.items() if state == StepState.DEAD
        }
        # counting them is a walk through all that is dead
        if self._refusals is None or self._refusals[1] != dead:
            self._refusals = (await self._db.refusals(), dead)
        for name, refused in self._refusals[0].items():
            found[name, REFUSED] = refused
            found[name, StepState.DEAD] = dead.get(name, 0) - refused
        return {key: n for key, n in found.items() if n > 0}

    async def measure(self) -> None:
        """Set every gauge."""
        metrics = self._metrics
        met = {name: await _is_met(check) for name, check in self._checks.items()}
        metrics.is_ready.set(int(all(met.values())))
        for name, is_met in met.items():
            metrics.checks.set(int(is_met), name)
        workers = self._pool.workers()
        metrics.worker_memory.set(sum(one.rss_bytes for one in workers))
        states = Counter(one.state for one in workers)
        metrics.workers.set(states["idle"], "idle")
        metrics.workers.set(states["running"], "busy")
        metrics.workers.set(states["starting"], "starting")
        metrics.wal_bytes.set(self._wal.wal_bytes())
        metrics.websockets.set(self._sockets())
        metrics.loop_tasks.set(len(asyncio.all_tasks()))
        metrics.strays.set(self._strays())
        for name, is_raised in self.alerts.states().items():
            metrics.alerts.set(int(is_raised), name)
        await self._measure_queues()
        metrics.open_uploads.set(await self._db.open_uploads())
        metrics.storage_bytes.set(await self._db.stored_bytes())
        if self._space is not None:
            space = await self._space()
            metrics.storage_free_bytes.set(space.free_bytes)
            metrics.storage_total_bytes.set(space.total_bytes)

    async def _measure_queues(self) -> None:
        metrics, engine = self._metrics, self._engine
        tallies = await self.tallies()
        offsets = await self._db.log_offsets()
        now = engine.clock.now()
        for name in [one.entry.consumer for one in engine.subscriptions]:
            for state in QUEUED:
                metrics.queue_length.set(tallies.get((name, state), 0), name, state)
            metrics.paused.set(int(name in engine.paused.consumers), name)
            offset = offsets.get(name)
            if offset is not None:
                waited = 0 if offset.since is None else max(0, now - offset.since)
                metrics.oldest_wait.set(waited / 1000, name)
                metrics.log_lag.set(offset.head - offset.offset, name)

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop runs."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(LAG_EVERY_S)
            lag = max(0.0, loop.time() - asked - LAG_EVERY_S)
            self._lags.append(lag)
            self._metrics.loop_lag.observe(lag)

    # ----- alerts

    async def judge(self) -> None:
        """Raise and clear alerts, in the log and for consumers that listen."""
        for turn in self.alerts.judge(await self._reading(), self._engine.clock.now()):
            alert = turn.alert
            kind = RAISED if turn.is_raised else CLEARED
            tell = log.warning if turn.is_raised else log.info
            tell(kind, alert=alert.name, says=alert.says)
            now = self._engine.clock.now()
            try:
                said = {"alert": alert.name, "says": alert.says}
                await self._db.note(
                    Note(actor="server", action=kind, target=alert.name, at=now)
                )
                await self._engine.announce(kind, said)
            except (DatabaseUnavailable, DiskFull) as error:
                log.warning("alert.not_announced", alert=alert.name, why=error.detail)

    async def _reading(self) -> Reading:
        now = self._engine.clock.mono_s()
        while self._ends and self._ends[0][0] < now - WINDOW_S:
            self._ends.popleft()
        while self._losses and self._losses[0] < now - WINDOW_S:
            self._losses.popleft()
        return Reading(
            backlog=self._engine.waiting.total,
            delayed=self._engine.delayed.total,
            backlog_limit=self._engine.waiting.limit,
            oldest_wait_s=await self._oldest_wait_s(),
            attempts=len(self._ends),
            failures=sum(failed for _at, failed in self._ends),
            crashes=len(self._losses),
            disk_used=await self._disk_used(),
            fill_level=self._fill_level,
            loop_lag_s=self.loop_lag_s,
            wal_bytes=self._wal.wal_bytes(),
            trouble=self._trouble(),
            failing_joins=self._failing_joins(),
            stuck_keys=self._stuck_keys(),
        )

    async def _oldest_wait_s(self) -> float:
        """Return how long the oldest step waits that nobody has paused."""
        now, engine = self._engine.clock.now(), self._engine
        since = [
            one.since
            for name, one in (await self._db.log_offsets()).items()
            if one.since is not None and name not in engine.paused.consumers
        ]
        return 0.0 if engine.is_drained or not since else (now - min(since)) / 1000

    async def _disk_used(self) -> float:
        if self._space is None:
            return 0.0
        space = await self._space()
        return 1.0 - space.free_bytes / max(1, space.total_bytes)


def _is_bad_task(verdict: Verdict, kind: JobKind) -> bool:
    """Tell whether a function has refused what an application gave it."""
    return verdict is Verdict.BAD_FILE and kind is not JobKind.FILE


async def _is_met(check: Check) -> bool:
    try:
        return await check() is None
    except AsyncflowError:
        return False
