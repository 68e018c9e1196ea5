"""The process pool: one file, one worker process, one verdict.

Theory of operation
-------------------
The pool is an array of slots (`places`). A slot holds one `crew.Hand`: a worker process
behind a one-worker executor, with a folder of its own. `run` takes a free slot, puts
the file into it, gives the order, passes on progress and finished derivatives, and
turns the end into an `Outcome` (`runs`, which also says who is to blame). A worker that
died, was killed, spoke without being asked or left its slot in disorder is replaced at
once, folder and all, so that nothing of a hostile file meets the next one.

The pool grows and shrinks: it begins with *least* workers, starts another one when an
order finds none free and there is memory for it, and lets one go that was idle for
long. A slot for which no worker can be started (no memory, no descriptors) is left
alone for a moment and tried again by the watch, whether or not there are orders.

Rules
-----
- `run` never raises for what the file or the worker did; it does for what its caller's
  `on_derivative` raised, and when it is cancelled. In both cases the worker is killed.
- What the server lacks is charged to nobody: the order comes back as RELEASED.
- Workers are started on the main thread only; everything here runs on the loop.
- Nothing that a worker says is believed: see `parcels`.
"""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final, Literal

import structlog

from asyncflow import agreement, parcels, processes, sandbox, worker
from asyncflow.capacity import available_memory, default_memory, default_size
from asyncflow.causes import in_one_line
from asyncflow.crew import Attempt, End, Hand
from asyncflow.errors import ShuttingDown, StartError
from asyncflow.greetings import default_modules, first_words
from asyncflow.holdings import Disk
from asyncflow.jobs import Verdict
from asyncflow.nursery import Nursery
from asyncflow.orders import Made, OnDerivative, OnProgress, Order, Outcome, WorkerInfo
from asyncflow.places import Places, Slot
from asyncflow.runs import Blame, Run, plain, server_lacks
from asyncflow.strays import Strays
from asyncflow.watch import Watch

__all__ = ["Made", "Order", "Outcome", "Pool", "WorkerInfo", "default_size"]

log = structlog.get_logger(__name__)

_TIDY_EVERY_S: Final = 2.0
#: a worker is replaced after this many runs, or when it stays this large while idle
MAX_RUNS: Final = 20_000
_MAX_IDLE_BYTES: Final = 384 << 20
#: memory that must be free for one worker more: it needs a quarter of this at once
_ROOM_TO_GROW: Final = 512 << 20
#: a worker that had nothing to do for so long is let go
IDLE_S: Final = 60.0
LOAD_S: Final = 60.0
_START_PAUSES_S: Final = (0.0, 0.2, 0.4, 0.6)
_EXIT_S: Final = 1.0


class Pool:
    """Runs processors in worker processes.

    There are *least* workers at least (None: always all) and *size* at most; what is
    more goes after *idle_s* without an order. *memory* tells what is available.
    A worker has *load_s* seconds to load its modules. *asks* are the options that
    pipelines name: the workers know whether their processors take them.
    *folder* holds the slots; it must lie on the store's filesystem for inputs to be
    linked instead of copied. *private* are files and folders that no worker may read,
    wherever the code lies that it runs. *slot_memory_bytes* None: a share of what this
    machine or container has. *max_file_bytes* bounds each file that a run writes, and
    all that it has on the disk at once; *fill_level*: see `holdings.Disk`.
    """

    def __init__(
        self,
        *,
        size: int,
        folder: Path,
        private: tuple[Path, ...] = (),
        least: int | None = None,
        memory: Callable[[], int] = available_memory,
        idle_s: float = IDLE_S,
        load_s: float = LOAD_S,
        asks: tuple[agreement.Ask, ...] = (),
        modules: tuple[str, ...] | None = None,
        slot_memory_bytes: int | None = None,
        nice: int = 15,
        max_file_bytes: int = 16 << 30,
        fill_level: float = 100.0,
        max_runs: int = MAX_RUNS,
    ) -> None:
        self.size = size
        self.least = size if least is None else max(1, min(least, size))
        self.slot_memory_bytes = slot_memory_bytes or default_memory(size)
        #: what workers cannot do, in plain words; known once started
        self.sandbox = ""
        #: the processors that the workers have, by name; known once started
        self.processors: Mapping[str, parcels.Card] = {}
        #: what is wrong with the options that were asked for; known once started
        self.wrong: tuple[str, ...] = ()
        self._folder = folder
        self._private = (folder, *private)
        self._modules = default_modules() if modules is None else modules
        self._nice = nice
        #: what a run may hold, and hand over
        self.max_file_bytes = max_file_bytes
        self._max_runs = max_runs
        self._link = False
        self._memory = memory
        self._idle_s = idle_s
        self._load_s = load_s
        self._asks = asks
        self._places = Places(size, self.least)
        self._slots = self._places.all
        self._nursery = Nursery((worker.__name__, *agreement.BUILTIN))
        self._chores: set[asyncio.Task[None]] = set()
        #: folders of dead workers that could not be removed yet
        self._remains: set[Path] = set()
        self._strays = Strays(self._pids)
        self._disk = Disk(folder, max_file_bytes, fill_level)
        self._watch = Watch()
        self._tidied_at = 0.0
        self._closed = False
        #: told how many seconds a worker has spent on an order
        self.on_busy: Callable[[float], None] = lambda _seconds: None
        #: told why a worker had to die, also where its run is repeated
        self.on_loss: Callable[[str], None] = lambda _code: None
        #: called when a slot has a worker for which none could be started before
        self.on_recovery: Callable[[], None] = lambda: None

    @property
    def free(self) -> int:
        """How many slots are not running anything."""
        return self._places.untaken

    @property
    def capacity(self) -> int:
        """How many orders can run at once, with the memory that there is now."""
        return self._places.capacity

    @property
    def trouble(self) -> str | None:
        """Say what is wrong with the workers as a whole; None: nothing."""
        return self._places.trouble or self._watch.trouble

    @property
    def fork_server_pid(self) -> int | None:
        """The process that starts the workers, for who measures the whole tree."""
        return self._nursery.pid

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

    def _state(self, slot: Slot) -> Literal["idle", "running", "starting"]:
        if not slot.is_ready:
            return "starting"
        return "idle" if slot in self._places.free else "running"

    async def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raise StartError off the main thread, or when a processor cannot be loaded, and
        ShuttingDown after `give_up`.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._clean_up()
        try:
            first = tuple(self._places.free)
            for slot in first:
                slot.hand = self._hire(slot)
            for slot in first:
                await self._greet(slot)
        except OSError as error:
            await self.close()
            raise StartError(
                f"worker processes cannot be started ({error.strerror or error}): "
                "they need a writable /dev/shm, free memory and free descriptors"
            ) from error
        except BaseException:
            await self.close()
            raise
        self._watch.start(
            {
                "memory and processes": self._look_at_memory,
                "prints": self._look_at_prints,
                "the disk": self._look_at_disk,
                "idle workers": self._adjust,
                "folders of dead workers": self._tidy_up,
            }
        )

    async def _clean_up(self) -> None:
        """End and remove what a server that was killed has left."""
        left = tuple(self._folder.iterdir())
        if left:
            folder = str(self._folder.resolve())
            killed = await asyncio.to_thread(processes.kill_holders, folder)
            if killed:
                log.warning("pool.orphans_killed", count=killed)
        for stale in left:
            await _removed(stale)

    def give_up(self) -> None:
        """End a start that is under way, whatever the workers are loading."""
        if self._watch.has_begun:
            return
        self._closed = True
        for slot in self._slots:
            if slot.hand is not None:
                slot.hand.kill()

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Take no more orders, wait up to *grace_s* for runs, then kill all workers."""
        self._closed = True
        self._places.close()
        if grace_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._places.quiet.wait(), grace_s)
        self._watch.stop()
        for slot in self._slots:
            if slot.hand is not None:
                if slot.hand.attempt is not None:
                    slot.hand.attempt.end(End.CLOSED)
                self._empty(slot)
        if self._chores:
            await asyncio.wait(self._chores)
        await self._clear_remains()
        await self._disk.close()
        self._nursery.close()

    async def run(
        self,
        order: Order,
        *,
        on_progress: OnProgress,
        on_derivative: OnDerivative,
        on_begin: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run *order* on the next free worker and return how it ended.

        `on_begin` is called when it has one.
        `on_derivative` is awaited once per name, in order, before a DONE is returned.
        Raise ShuttingDown after `close`, and whatever the two callbacks raise.
        """
        if self._closed:
            raise ShuttingDown
        slot = await self._places.take(order.place)
        slot.label = order.label
        on_begin()
        try:
            outcome = await self._attend(slot, order, on_progress, on_derivative)
        except BaseException:
            self._replace(slot)
            raise
        finally:
            slot.label = ""
            self._give_back(slot)
        return outcome

    # ----- slots

    def _give_back(self, slot: Slot) -> None:
        if slot.hand is not None and slot.hand.fault:
            self._replace(slot)
        if slot.hand is None and not self._closed:
            log.warning("worker.missing", slot=slot.number, why=slot.why)
        self._places.give_back(slot)

    def _adjust(self) -> None:
        """Grow while orders wait and memory allows it; let go who was idle for long."""
        places = self._places
        for slot in [one for one in places.free if one.is_ready]:
            self._shrink(slot)
        places.may_grow = self._memory() >= _ROOM_TO_GROW
        if places.grow():
            places.may_grow = False  # one at a time: what it needs shows only later
        for slot in places.put_to_sleep(least=self.least, idle_s=self._idle_s):
            self._empty(slot)
        for slot in places.due():
            self._do(self._fill(slot))

    async def _fill(self, slot: Slot) -> None:
        """Find a worker for a vacant slot, if there can be one by now."""
        self._replace(slot)
        try:
            await self._greet(slot)
        except (StartError, ShuttingDown) as error:
            self._empty(slot, error.detail)
        self._places.fill(slot)
        if slot.hand is not None:
            log.info("worker.recovered", slot=slot.number)
            self.on_recovery()

    def _hire(self, slot: Slot) -> Hand:
        # never a name that a folder which could not be removed still has
        folder = self._folder / f"slot-{slot.number}-{secrets.token_hex(4)}"
        return Hand(
            folder=folder,
            nursery=self._nursery,
            modules=self._modules,
            nice=self._nice,
            max_file_bytes=self.max_file_bytes,
            asks=self._asks,
            private=self._private,
            on_death=lambda: self._on_death(slot, folder),
        )

    def _on_death(self, slot: Slot, folder: Path) -> None:
        """Replace a worker that died, or spoke, while nobody was using it."""
        hand = slot.hand
        if hand is None or hand.folder != folder or not self._watch.has_begun:
            return
        if slot not in self._places.free:  # who uses it will see
            return
        self.on_loss("crashed")
        if hand.is_met:
            self._renew(slot)
            return
        # it died while it loaded: another one at once would do the same
        self._empty(slot, "a worker process died while it started")
        self._vacate(slot)

    def _renew(self, slot: Slot) -> None:
        """Put a new worker into a free slot."""
        self._replace(slot)
        if slot.hand is None:
            self._vacate(slot)

    def _vacate(self, slot: Slot) -> None:
        """Leave a slot that was free without a worker for a moment."""
        log.warning("worker.missing", slot=slot.number, why=slot.why)
        self._places.lose(slot)

    def _replace(self, slot: Slot) -> None:
        """Put a new worker into *slot*; the old one and its folder go.

        Without memory or descriptors just now the slot is without one.
        """
        self._empty(slot)
        if self._closed:
            return
        try:
            slot.hand = self._hire(slot)
        except (OSError, EOFError, MemoryError, RuntimeError, StartError) as error:
            slot.why = in_one_line(str(error)) or type(error).__name__

    def _empty(self, slot: Slot, why: str = "") -> None:
        """Let the slot's worker go, if it has one."""
        old, slot.hand, slot.why = slot.hand, None, why
        if old is not None:
            self._dismiss(old)

    def _dismiss(self, hand: Hand) -> None:
        hand.attempt = None
        hand.kill()
        self._strays.dying.add(hand.pid)
        self._do(self._bury(hand))

    def _do(self, chore: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _bury(self, hand: Hand) -> None:
        """See that nothing of a killed worker is left: processes, then files."""
        await hand.bury(_EXIT_S)
        # only now does the fork server have its orphans
        self._strays.end(self._strays.find(self._nursery.pid))
        self._strays.dying.discard(hand.pid)
        if not await _removed(hand.folder):
            self._remains.add(hand.folder)

    async def _clear_remains(self) -> None:
        """Try again to remove what could not be removed, as without descriptors."""
        for folder in list(self._remains):
            if await _removed(folder):
                self._remains.discard(folder)

    def _pids(self) -> set[int]:
        return {slot.hand.pid for slot in self._slots if slot.hand is not None}

    async def _greet(self, slot: Slot) -> None:
        """Learn what a new worker can do. Raise StartError if it cannot start."""
        hand = slot.hand
        if hand is None:
            raise StartError(slot.why)
        try:
            greeting = await first_words(hand, self._load_s)
        except StartError:
            if self._closed:
                raise ShuttingDown from None
            raise
        if self._closed:
            raise ShuttingDown
        threads = hand.meet()
        if threads > 1:
            log.warning("worker.threads", threads=threads)
        self._link = greeting.abi >= sandbox.LINKS_ARE_SAFE
        self.sandbox = sandbox.describe(greeting.abi, filtered=greeting.filtered)
        self.processors = {card.name: card for card in greeting.processors}
        self.wrong = greeting.wrong

    async def _ready(self, slot: Slot) -> Hand | None:
        """Return the slot's worker once it is ready; None if none can be started."""
        for pause_s in _START_PAUSES_S:
            hand = slot.hand
            if hand is not None and hand.is_met and hand.is_fit():
                return hand
            if hand is None or not hand.is_fit():
                self._replace(slot)
            if self._closed:
                return None
            try:
                await self._greet(slot)
            except ShuttingDown:
                return None
            except StartError as error:
                self._empty(slot, error.detail)
                await asyncio.sleep(pause_s)
            else:
                return slot.hand
        return None

    # ----- one run

    async def _attend(
        self,
        slot: Slot,
        order: Order,
        on_progress: OnProgress,
        on_derivative: OnDerivative,
    ) -> Outcome:
        hand = await self._ready(slot)
        if hand is None:
            if self._closed:
                return plain(Verdict.INTERRUPTED, "interrupted")
            return Outcome(verdict=Verdict.RELEASED)
        card = self.processors.get(order.processor)
        if card is None:
            detail = f"there is no processor called {order.processor!r}"
            return plain(Verdict.SKIPPED, "missing_tool", detail)
        attempt = Attempt(agreement.new_token(), asyncio.get_running_loop())
        run = Run(hand, attempt, card, on_progress, on_derivative)
        try:
            source = order.source
            if source is not None and not parcels.bring(
                source, hand.folder, link=self._link
            ):
                await asyncio.to_thread(parcels.copy, source, hand.folder)
            message = run.prepare(order)
        except OSError as error:
            self._replace(slot)
            why = f"the file could not be given to a worker: {error.strerror}"
            if error.errno in processes.WANTS:
                return server_lacks(why)
            return plain(Verdict.ERROR, "error", why)
        outcome = await self._bounded(run, message, order.wall_s or card.wall_s)
        if run.was_fatal:
            self.on_loss(outcome.code)
        await self._tidy(slot, run)
        if run.blame is Blame.UNKNOWN:
            log.info("step.repeated", processor=card.name, code=outcome.code)
            return await self._attend(slot, order, on_progress, on_derivative)
        return outcome

    async def _bounded(self, run: Run, order: bytes, wall_s: float) -> Outcome:
        """Let *run* go its way within its wall time."""
        loop = asyncio.get_running_loop()
        began, clock = loop.time(), loop.call_later(wall_s, run.stop, End.TIMEOUT)
        try:
            run.begin(order, wall_s)
            return await run.outcome(self.slot_memory_bytes, wall_s)
        finally:
            clock.cancel()
            self.on_busy(loop.time() - began)

    async def _tidy(self, slot: Slot, run: Run) -> None:
        """Make the slot fit for the next file: emptied, or with a new worker."""
        hand = run.hand
        hand.attempt = None
        hand.jobs_done += 1
        if not await self._may_stay(run) and slot.hand is hand:
            self._replace(slot)

    async def _may_stay(self, run: Run) -> bool:
        """Tell whether the worker is fit for somebody else's file."""
        hand = run.hand
        return (
            not hand.gone
            and run.blame is Blame.NOBODY
            and hand.jobs_done < self._max_runs
            and not self._has_orphans(hand, run.card)
            and await self._is_as_before(hand, run.card)
            and _cleared(hand.folder)
        )

    def _has_orphans(self, hand: Hand, card: parcels.Card) -> bool:
        """Tell whether the run left processes whose parents have ended.

        Whose they are is known by their group. With the filter nobody can leave it;
        what has left it all the same ends now, and costs the worker that has just run.
        """
        strays = self._strays.find(self._nursery.pid)
        left = self._strays.end(strays) or hand.pid in strays.values()
        if left:
            log.info("worker.replaced", processor=card.name, left="processes")
        return left

    async def _is_as_before(self, hand: Hand, card: parcels.Card) -> bool:
        left = await hand.remains(resident=card.resident)
        if not left and not hand.is_fit():
            left = hand.fault
        if left:
            log.info("worker.replaced", processor=card.name, left=left)
        return not left

    # ----- looks, ten times a second

    def _running(self) -> list[Hand]:
        return [one.hand for one in self._slots if one.hand and one.hand.attempt]

    def _look_at_memory(self) -> None:
        orphans = self._strays.find(self._nursery.pid)
        self._strays.end(orphans)
        for hand in self._running():
            mine = [pid for pid, group in orphans.items() if group == hand.pid]
            hand.sample(mine, max_bytes=self.slot_memory_bytes)

    def _look_at_prints(self) -> None:
        for hand in self._running():
            hand.prints.bound()

    def _look_at_disk(self) -> None:
        running = self._running()
        if running and self._disk.is_look_due():
            for hand in running:
                tell = functools.partial(hand.stop, End.SPACE, hand.attempt)
                self._disk.look(hand.folder, hand.faces, tell)

    def _tidy_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._remains and self._tidied_at + _TIDY_EVERY_S < now:
            self._tidied_at = now
            self._do(self._clear_remains())

    def _shrink(self, slot: Slot) -> None:
        """Replace an idle worker that kept too much memory."""
        hand = slot.hand
        limit = min(_MAX_IDLE_BYTES, self.slot_memory_bytes)
        if hand is None or not hand.jobs_done:
            return
        if processes.rss_bytes(hand.pid) > limit:
            self._renew(slot)


def _cleared(folder: Path) -> bool:
    try:
        return parcels.clear(folder)
    except OSError:
        return False


async def _removed(folder: Path) -> bool:
    """Remove a dead worker's folder; tell whether it is gone."""
    try:
        await asyncio.to_thread(parcels.remove, folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("folder.stuck", folder=str(folder), error=str(error))
        return False
    return True
