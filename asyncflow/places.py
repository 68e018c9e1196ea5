"""The places of a pool: who has one, who waits for one, and which have no worker.

Theory of operation
-------------------
A place (a slot) holds one worker at a time. It is in one of four conditions:

- taken: an order has it;
- free: its worker waits for an order;
- asleep: it has no worker, because there is little to do; an order may wake it;
- vacant: it has no worker, because none could be started. No order gets it until the
  pool has found a worker for it: so nothing is begun, nor charged for, that cannot be
  done.

Nothing here starts or ends a process: that is for the pool.
"""

import asyncio
import heapq
from typing import TYPE_CHECKING, Final

from asyncflow.errors import ShuttingDown

if TYPE_CHECKING:
    from asyncflow.crew import Hand

#: how long a place stays vacant before a worker is tried again, longer each time
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0

#: an order without a worker: its place, its number, and what gives it a slot
_Waiter = tuple[tuple[int, int], int, "asyncio.Future[Slot]"]


class Slot:
    """A place for one worker at a time."""

    __slots__ = ("again_at", "hand", "idle_since", "label", "number", "tries", "why")

    def __init__(self, number: int) -> None:
        self.number = number
        self.label = ""
        self.idle_since = 0.0
        self.hand: Hand | None = None
        #: why its latest worker could not start, and when another one is tried
        self.why = ""
        self.again_at = 0.0
        self.tries = 0

    @property
    def is_ready(self) -> bool:
        """Tell whether there is a worker that has greeted, or has died before."""
        return self.hand is not None and self.hand.greeted.done()


class Places:
    """*size* places, of which *least* begin free and the others asleep."""

    def __init__(self, size: int, least: int) -> None:
        self.all = [Slot(number) for number in range(size)]
        #: the latest that became free is the last
        self.free = self.all[:least]
        self.asleep = self.all[least:]
        self.vacant: list[Slot] = []
        #: whether there is memory for one worker more
        self.may_grow = True
        #: set while no order has a place
        self.quiet = asyncio.Event()
        self.quiet.set()
        #: a heap: by their places, then as they came
        self._waiting: list[_Waiter] = []
        self._came = 0

    @property
    def untaken(self) -> int:
        """How many places no order has."""
        return len(self.free) + len(self.asleep) + len(self.vacant)

    @property
    def capacity(self) -> int:
        """How many orders can have a place at once, as things are now."""
        most = len(self.all) - len(self.vacant)
        return most if self.may_grow else most - len(self.asleep)

    @property
    def trouble(self) -> str | None:
        """Say why nobody can work; None: somebody can, or is not needed."""
        if not self.vacant or len(self.vacant) + len(self.asleep) < len(self.all):
            return None
        return "no worker process can be started"

    async def take(self, place: tuple[int, int]) -> Slot:
        """Wait for a place; of those who wait, the smallest *place* goes first."""
        slot = self._at_once()
        if slot is None:
            slot = await self._in_turn(place)
        self.quiet.clear()
        return slot

    def _at_once(self) -> Slot | None:
        best = next((slot for slot in reversed(self.free) if slot.is_ready), None)
        if best is None and self.asleep and self.may_grow:
            return self.asleep.pop(0)
        if best is None and self.free:
            best = self.free[-1]
        if best is not None:
            self.free.remove(best)
        return best

    async def _in_turn(self, place: tuple[int, int]) -> Slot:
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._came += 1
        heapq.heappush(self._waiting, (place, self._came, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.give_back(waiter.result())
            raise

    def give_back(self, slot: Slot) -> None:
        """Pass *slot* on to who is next; without a worker, it becomes vacant."""
        if slot.hand is None:
            self._vacate(slot)
        elif not self._pass_on(slot):
            slot.idle_since = asyncio.get_running_loop().time()
            self.free.append(slot)
        if self.untaken == len(self.all):
            self.quiet.set()

    def _pass_on(self, slot: Slot) -> bool:
        while self._waiting:
            _place, _came, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(slot)
                return True
        return False

    def _vacate(self, slot: Slot) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**slot.tries)
        slot.again_at = asyncio.get_running_loop().time() + pause_s
        slot.tries = min(slot.tries + 1, 10)
        self.vacant.append(slot)

    def lose(self, slot: Slot) -> None:
        """See that a place that was free has no worker any more."""
        self.free.remove(slot)
        self._vacate(slot)

    def due(self) -> list[Slot]:
        """Take the vacant places whose pause is over, to find workers for them."""
        now = asyncio.get_running_loop().time()
        found = [slot for slot in self.vacant if slot.again_at <= now]
        for slot in found:
            slot.again_at = float("inf")
        return found

    def fill(self, slot: Slot) -> None:
        """Take in that a vacant place has a worker, or has none after another try."""
        self.vacant.remove(slot)
        if slot.hand is not None:
            slot.tries, slot.why = 0, ""
        self.give_back(slot)

    def grow(self) -> bool:
        """Wake a place for an order that waits; tell whether there was one."""
        if not (self._waiting and self.asleep and self.may_grow):
            return False
        slot = self.asleep.pop(0)
        if self._pass_on(slot):
            return True
        self.asleep.insert(0, slot)
        return False

    def put_to_sleep(self, *, least: int, idle_s: float) -> list[Slot]:
        """Return places that were free for long and are asleep now; *least* stay."""
        now = asyncio.get_running_loop().time()
        idle = [slot for slot in self.free if now - slot.idle_since > idle_s]
        awake = len(self.all) - len(self.asleep)
        over = idle[: max(0, awake - least)]
        for slot in over:
            self.free.remove(slot)
            self.asleep.append(slot)
        return over

    def close(self) -> None:
        """Tell those who wait that there will be no place."""
        for _place, _came, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ShuttingDown())
