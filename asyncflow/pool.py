"""The process pool: one file, one worker process, one verdict.

Theory of operation
-------------------
The pool is an array of slots. A slot holds one `crew.Hand`: a worker process behind a
one-worker executor, with a folder of its own. `run` takes a free slot, puts the file
into it, gives the order, passes on progress and finished derivatives, and turns the end
into an `Outcome`. A worker that died, was killed, or left its slot in disorder is
replaced at once, folder and all, so that nothing of a hostile file meets the next one.

Rules
-----
- `run` never raises for what the file or the worker did; it does for what its caller's
  `on_derivative` raised, and when it is cancelled. In both cases the worker is killed.
- Workers are started on the main thread only; everything here runs on the loop.
- Nothing that a worker says is believed: see `parcels`.
"""

import asyncio
import collections
import contextlib
import importlib.metadata
import math
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from asyncflow import parcels, processes, sandbox, worker
from asyncflow.crew import Attempt, End, Hand
from asyncflow.errors import ShuttingDown, StartError
from asyncflow.jobs import REASONS, Verdict
from asyncflow.nursery import Nursery

ENTRY_POINTS: Final = "asyncflow.processors"
_SAMPLE_S: Final = 0.1
#: a worker is replaced after this many runs, or when it stays this large while idle
_MAX_RUNS: Final = 20_000
_MAX_IDLE_BYTES: Final = 384 << 20
#: this near the budget, a death is taken for one by lack of memory
_NEAR: Final = 0.7
_EXIT_S: Final = 1.0
_START_TRIES: Final = 5
_START_PAUSE_S: Final = 0.2
_SLOT_MEMORY_CAP: Final = 4 << 30
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_DETAIL: Final = 500
_MAX_AFTER_S: Final = 86_400.0

OnProgress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt at one step.

    `source` is a local file that the worker may read; `wall_s` None means the
    processor's own limit.
    """

    label: str
    processor: str
    source: Path
    file_name: str
    media_type: str
    options: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished derivative; `fd` is open for reading until `on_derivative` returns."""

    name: str
    media_type: str
    size: int
    facts: Mapping[str, object]
    fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    `code` is one of `jobs.REASONS` or the processor's own, `detail` a sentence for
    people, `trace` for the operator's log only.
    """

    verdict: Verdict
    code: str = ""
    detail: str = ""
    trace: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One worker process, for listings."""

    slot: int
    pid: int
    state: Literal["idle", "running", "starting"]
    label: str
    age_s: float
    rss_bytes: int
    jobs_done: int


OnDerivative = Callable[[Made], Awaitable[None]]


class _Slot:
    """A place for one worker at a time."""

    __slots__ = ("hand", "label", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.label = ""
        self.hand: Hand | None = None

    @property
    def is_ready(self) -> bool:
        return self.hand is not None and self.hand.greeted.done()


class Pool:
    """Runs processors in worker processes.

    *folder* holds the slots; it must lie on the store's filesystem for inputs to be
    linked instead of copied. *slot_memory_bytes* None: a share of what this machine or
    container has.
    """

    def __init__(  # noqa: PLR0913 -- plain values, all with a default but two
        self,
        *,
        size: int,
        folder: Path,
        modules: tuple[str, ...] | None = None,
        slot_memory_bytes: int | None = None,
        nice: int = 15,
        max_file_bytes: int = 16 << 30,
    ) -> None:
        self.size = size
        self.slot_memory_bytes = slot_memory_bytes or default_memory(size)
        #: what workers cannot do, in plain words; known once started
        self.sandbox = ""
        #: the processors that the workers have, by name; known once started
        self.processors: Mapping[str, parcels.Card] = {}
        self._folder = folder
        self._modules = default_modules() if modules is None else modules
        self._nice = nice
        self._max_file_bytes = max_file_bytes
        self._link = False
        self._slots = [_Slot(number) for number in range(size)]
        self._free: list[_Slot] = []
        self._waiting: collections.deque[asyncio.Future[_Slot]] = collections.deque()
        self._nursery = Nursery((worker.__name__, *worker.BUILTIN))
        self._serial = 0
        self._endings: collections.Counter[str] = collections.Counter()
        self._chores: set[asyncio.Task[None]] = set()
        self._sampler: asyncio.Task[None] | None = None
        self._closed = False
        self._quiet: asyncio.Event = asyncio.Event()

    @property
    def free(self) -> int:
        """How many slots are not running anything."""
        return len(self._free)

    def crashes(self) -> int:
        """Return how many workers died by themselves while they ran."""
        return self._endings["crashed"]

    def endings(self) -> Mapping[str, int]:
        """Return how often runs ended, by verdict's code or "done"."""
        return dict(self._endings)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers as they are now."""
        now = asyncio.get_running_loop().time()
        return [
            WorkerInfo(
                slot=slot.number,
                pid=slot.hand.pid,
                state=self._state(slot),
                label=slot.label,
                age_s=now - slot.hand.started_at,
                rss_bytes=processes.rss_bytes(slot.hand.pid),
                jobs_done=slot.hand.jobs_done,
            )
            for slot in self._slots
            if slot.hand is not None
        ]

    def _state(self, slot: _Slot) -> Literal["idle", "running", "starting"]:
        if not slot.is_ready:
            return "starting"
        return "idle" if slot in self._free else "running"

    async def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raise StartError off the main thread, or when a processor cannot be loaded.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._folder.iterdir():
            await asyncio.to_thread(parcels.remove, stale)
        try:
            for slot in self._slots:
                slot.hand = self._hire(slot)
            for slot in self._slots:
                await self._greet(slot)
        except BaseException:
            await self.close()
            raise
        self._free = list(self._slots)
        self._sampler = asyncio.create_task(self._sample_forever())

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Take no more orders, wait up to *grace_s* for runs, then kill all workers."""
        self._closed = True
        for waiter in self._waiting:
            waiter.cancel()
        if grace_s > 0 and len(self._free) < self.size:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), grace_s)
        if self._sampler is not None:
            self._sampler.cancel()
        for slot in self._slots:
            if slot.hand is not None:
                if slot.hand.attempt is not None:
                    slot.hand.attempt.end(End.CLOSED)
                self._dismiss(slot.hand)
                slot.hand = None
        self._nursery.close()
        if self._chores:
            await asyncio.wait(self._chores)

    async def run(
        self, order: Order, *, on_progress: OnProgress, on_derivative: OnDerivative
    ) -> Outcome:
        """Run *order* on the next free worker and return how it ended.

        `on_derivative` is awaited once per name, in order, before a DONE is returned.
        Raise ShuttingDown after `close`, and whatever the two callbacks raise.
        """
        slot = await self._take()
        slot.label = order.label
        try:
            outcome = await self._attend(slot, order, on_progress, on_derivative)
        except BaseException:
            self._replace(slot)
            raise
        finally:
            slot.label = ""
            self._give_back(slot)
        self._endings[outcome.code or outcome.verdict.value] += 1
        return outcome

    # ----- slots

    async def _take(self) -> _Slot:
        if self._closed:
            raise ShuttingDown
        if self._free:
            best = next((s for s in self._free if s.is_ready), self._free[0])
            self._free.remove(best)
            return best
        waiter: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give_back(waiter.result())
            elif self._closed and waiter.cancelled():
                raise ShuttingDown from None
            raise

    def _give_back(self, slot: _Slot) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._free.append(slot)
        if len(self._free) == self.size:
            self._quiet.set()

    def _hire(self, slot: _Slot) -> Hand:
        self._serial += 1
        folder = self._folder / f"slot-{slot.number}-{self._serial}"
        return Hand(
            folder=folder,
            nursery=self._nursery,
            modules=self._modules,
            nice=self._nice,
            max_file_bytes=self._max_file_bytes,
            on_death=lambda: self._on_death(slot, folder),
        )

    def _on_death(self, slot: _Slot, folder: Path) -> None:
        """Replace a worker that died while nobody was using it."""
        hand = slot.hand
        if hand is not None and hand.folder == folder and hand.attempt is None:
            self._replace(slot)

    def _replace(self, slot: _Slot) -> None:
        """Put a new worker into *slot*; the old one and its folder go."""
        old, slot.hand = slot.hand, None
        if old is not None:
            self._dismiss(old)
        if self._closed:
            return
        try:
            slot.hand = self._hire(slot)
        except OSError:
            # no memory or no descriptors just now: `_ready` tries again
            slot.hand = None

    def _dismiss(self, hand: Hand) -> None:
        hand.attempt = None
        hand.kill()
        self._kill_strays()
        chore = asyncio.create_task(_remove(hand.folder))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _strays(self) -> dict[int, int | None]:
        """Return orphans that the fork server adopted, with their process groups."""
        nursery = self._nursery.pid
        known = {slot.hand.pid for slot in self._slots if slot.hand is not None}
        if nursery is None:
            return {}
        found = (pid for pid in processes.children(nursery) if pid not in known)
        return {pid: processes.group_of(pid) for pid in found}

    def _kill_strays(self) -> None:
        """Kill what left a dead worker's group; a living worker's group is its own."""
        living = {slot.hand.pid for slot in self._slots if slot.hand is not None}
        for pid, group in self._strays().items():
            if group not in living:
                processes.kill_stray(pid)

    async def _greet(self, slot: _Slot) -> None:
        """Learn what a new worker can do. Raise StartError if it cannot start."""
        hand = slot.hand
        if hand is None or not await hand.greeted:
            raise StartError("a worker process died while it started")
        try:
            greeting = parcels.decode_greeting(parcels.read_report(hand.folder))
        except parcels.BadOutput as error:
            raise StartError(f"a worker process could not start: {error}") from None
        parcels.clear(hand.folder)
        if greeting.error:
            raise StartError(f"a worker process could not start:\n{greeting.error}")
        self._link = greeting.abi >= sandbox.LINKS_ARE_SAFE
        self.sandbox = sandbox.describe(greeting.abi)
        self.processors = {card.name: card for card in greeting.processors}

    async def _ready(self, slot: _Slot) -> Hand | None:
        """Return the slot's worker once it is ready; None if none can be started."""
        for attempt in range(_START_TRIES):
            hand = slot.hand
            if hand is not None and hand.jobs_done > 0 and not hand.gone:
                return hand
            if hand is not None and await asyncio.shield(hand.greeted):
                if hand.jobs_done == 0:
                    parcels.clear(hand.folder)
                return hand
            if self._closed:
                return None
            if attempt > 0:
                await asyncio.sleep(_START_PAUSE_S * attempt)
            self._replace(slot)
        return None

    # ----- one run

    async def _attend(
        self,
        slot: _Slot,
        order: Order,
        on_progress: OnProgress,
        on_derivative: OnDerivative,
    ) -> Outcome:
        hand = await self._ready(slot)
        if hand is None:
            if self._closed:
                return _plain(Verdict.INTERRUPTED, "interrupted")
            return _plain(Verdict.LOST, "crashed", "no worker process could be started")
        card = self.processors.get(order.processor)
        if card is None:
            detail = f"there is no processor called {order.processor!r}"
            return _plain(Verdict.SKIPPED, "missing_tool", detail)
        try:
            if not parcels.bring(order.source, hand.folder, link=self._link):
                await asyncio.to_thread(parcels.copy, order.source, hand.folder)
        except OSError as error:
            self._replace(slot)
            why = f"the file could not be given to a worker: {error.strerror}"
            return _plain(Verdict.ERROR, "error", why)
        self._serial += 1
        attempt = Attempt(self._serial, asyncio.get_running_loop())
        run = _Run(hand, attempt, card, on_progress, on_derivative)
        outcome = await self._bounded(run, order)
        self._tidy(slot, hand, outcome)
        return outcome

    async def _bounded(self, run: "_Run", order: Order) -> Outcome:
        """Let *run* go its way within its wall time."""
        wall_s = order.wall_s or run.card.wall_s
        clock = asyncio.get_running_loop().call_later(wall_s, run.stop, End.TIMEOUT)
        try:
            run.begin(order)
            return await run.outcome(self.slot_memory_bytes, wall_s)
        finally:
            clock.cancel()

    def _tidy(self, slot: _Slot, hand: Hand, outcome: Outcome) -> None:
        """Make the slot fit for the next file: emptied, or with a new worker."""
        hand.attempt = None
        hand.jobs_done += 1
        if self._closed and slot.hand is None:
            return
        if (
            hand.gone
            or outcome.verdict is Verdict.LOST
            or hand.jobs_done >= _MAX_RUNS
            or outcome.code == "bad_output"
            or self._has_company(hand)
            or not _cleared(hand.folder)
        ):
            self._replace(slot)

    def _has_company(self, hand: Hand) -> bool:
        """Tell whether the worker left processes behind."""
        if processes.children(hand.pid):
            return True
        return hand.pid in self._strays().values()

    # ----- memory

    async def _sample_forever(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            running = [s.hand for s in self._slots if s.hand and s.hand.attempt]
            orphans = self._strays() if running else {}
            for hand in running:
                mine = [pid for pid, group in orphans.items() if group == hand.pid]
                if hand.sample(mine) > self.slot_memory_bytes:
                    _stop(hand, End.MEMORY)
            for slot in [s for s in self._free if s.is_ready and s.hand]:
                self._shrink(slot)

    def _shrink(self, slot: _Slot) -> None:
        """Replace an idle worker that kept too much memory."""
        hand = slot.hand
        limit = min(_MAX_IDLE_BYTES, self.slot_memory_bytes)
        if hand is not None and hand.jobs_done:
            if processes.rss_bytes(hand.pid) > limit:
                self._replace(slot)


class _Run:
    """One run on one worker: publishes what it makes, and explains its end."""

    def __init__(
        self,
        hand: Hand,
        attempt: Attempt,
        card: parcels.Card,
        on_progress: OnProgress,
        on_derivative: OnDerivative,
    ) -> None:
        self.card = card
        self._hand = hand
        self._attempt = attempt
        self._on_progress = on_progress
        self._on_derivative = on_derivative
        self._published: dict[str, parcels.Listed] = {}

    def begin(self, order: Order) -> None:
        """Give the worker the order."""
        self._hand.begin(
            self._attempt,
            order.processor,
            order.file_name,
            order.media_type,
            dict(order.options),
            dict(order.facts),
        )

    def stop(self, why: End) -> None:
        """Kill the worker."""
        _stop(self._hand, why)

    async def outcome(self, budget: int, wall_s: float) -> Outcome:
        """Wait for the end of the run and say how it was."""
        try:
            ended = await self._follow()
            if ended is End.ANSWERED:
                data = parcels.read_report(self._hand.folder)
                report = parcels.decode_report(data, self._attempt.token)
                return await self._conclude(report)
        except parcels.BadOutput as error:
            self.stop(End.CLOSED)
            return _plain(Verdict.ERROR, "bad_output", trace=str(error))
        match ended:
            case End.TIMEOUT:
                detail = f"{REASONS['timeout']}: {wall_s:g} s"
                return _plain(Verdict.ERROR, "timeout", detail)
            case End.MEMORY:
                return _out_of_memory(budget)
            case End.CLOSED:
                return _plain(Verdict.INTERRUPTED, "interrupted")
            case End.SILENT:
                return _plain(Verdict.ERROR, "error", trace="no report was written")
            case _:
                return await self._died(budget)

    async def _follow(self) -> End:
        """Pass on progress and derivatives until the run ends."""
        attempt = self._attempt
        while True:
            await attempt.news()
            percent, attempt.percent = attempt.percent, None
            if percent is not None:
                self._on_progress(percent)
            if attempt.ended is not None:
                return attempt.ended
            if attempt.announced:
                await self._publish(attempt.announced.popleft())

    async def _conclude(self, report: parcels.Report) -> Outcome:
        try:
            verdict = Verdict(report.verdict)
        except ValueError:
            raise parcels.BadOutput("the report has no known verdict") from None
        if verdict is Verdict.DONE:
            for listed in report.made:
                await self._publish(listed)
            return Outcome(verdict=verdict, facts=report.facts)
        code = report.code if _CODE.fullmatch(report.code) else "error"
        after_s = report.after_s if math.isfinite(report.after_s) else 0.0
        return Outcome(
            verdict=verdict,
            code=code,
            detail=self._clean(report.detail) or REASONS.get(code, ""),
            trace=report.trace,
            after_s=min(_MAX_AFTER_S, max(0.0, after_s)),
        )

    def _clean(self, detail: str) -> str:
        """Return *detail* in one line, without a path of this server."""
        for inner in ("in/source", "out/", "in/", ""):
            detail = detail.replace(f"{self._hand.folder}/{inner}", "")
        line = " ".join(detail.split())
        return "".join(c for c in line if c.isprintable())[:_MAX_DETAIL]

    async def _publish(self, listed: parcels.Listed) -> None:
        """Hand a derivative over, once. Raise BadOutput if it may not be."""
        known = self._published.get(listed.name)
        if known is not None:
            if known != listed:
                raise parcels.BadOutput(f"{listed.name} was announced differently")
            return
        parcels.check_listed(listed, self.card.outputs)
        fd, size = parcels.open_output(self._hand.folder, listed.file)
        try:
            before = parcels.fingerprint(fd)
            await self._on_derivative(
                Made(
                    name=listed.name,
                    media_type=listed.media_type,
                    size=size,
                    facts=listed.facts,
                    fd=fd,
                )
            )
            if parcels.fingerprint(fd) != before:
                raise parcels.BadOutput(f"{listed.name} changed after it was announced")
        finally:
            os.close(fd)
        self._published[listed.name] = listed

    async def _died(self, budget: int) -> Outcome:
        """Say why the worker died: for lack of memory, or otherwise."""
        hand = self._hand
        hand.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hand.exited.wait(), _EXIT_S)
        number = -(hand.exitcode or 0)
        near = (
            hand.peak_rss >= _NEAR * budget
            or hand.peak_mapped >= _NEAR * self.card.memory_bytes
        )
        if near and number in (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV):
            return _out_of_memory(budget)
        how = f"exit code {hand.exitcode}"
        with contextlib.suppress(ValueError):
            how = signal.Signals(number).name
        return _plain(Verdict.LOST, "crashed", f"{REASONS['crashed']} ({how})")


def _stop(hand: Hand, why: End) -> None:
    if hand.attempt is not None:
        hand.attempt.end(why)
    hand.kill()


def _plain(verdict: Verdict, code: str, detail: str = "", trace: str = "") -> Outcome:
    return Outcome(
        verdict=verdict, code=code, detail=detail or REASONS[code], trace=trace
    )


def _out_of_memory(budget: int) -> Outcome:
    detail = f"{REASONS['out_of_memory']}: {budget >> 20} MiB"
    return _plain(Verdict.LOST, "out_of_memory", detail)


def _cleared(folder: Path) -> bool:
    try:
        return parcels.clear(folder)
    except OSError:
        return False


async def _remove(folder: Path) -> None:
    """Remove a dead worker's folder; what cannot be removed goes at the next start."""
    with contextlib.suppress(OSError):
        await asyncio.to_thread(parcels.remove, folder)


def default_modules() -> tuple[str, ...]:
    """Return the modules that register processors: ours and installed ones."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return (*worker.BUILTIN, *sorted({entry.module for entry in found}))


def default_size() -> int:
    """Return how many cores the affinity mask and the cgroup give us, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cores()
    return cores if quota is None else max(1, min(cores, round(quota)))


def default_memory(size: int) -> int:
    """Return one slot's memory budget on this machine or in this container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    if limit is not None:
        total = min(total, limit)
    return min(_SLOT_MEMORY_CAP, max(256 << 20, total // (size + 1)))


def _cgroup_cores() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return int(quota) / int(period)
    quota_us = _cgroup_number("cpu/cpu.cfs_quota_us")
    period_us = _cgroup_number("cpu/cpu.cfs_period_us")
    if quota_us is None or period_us is None or quota_us <= 0:
        return None
    return quota_us / period_us


def _cgroup_number(*names: str) -> int | None:
    """Return the first of these cgroup files that holds a number."""
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text("ascii"))
    return None
