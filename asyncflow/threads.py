"""Threads for work that blocks, with as little ado for each piece of it as can be.

Rules
-----
- A caller that is cancelled waits until its thread is done all the same, and what was
  made in vain is undone: nothing happens late.
- As many threads are begun as there is work at one time, up to the limit.
- Where no thread can be begun those do the work that are there. If none is, the work is
  refused: what has not begun counts nowhere.

Theory of operation
-------------------
The executors of the standard library make a future with a lock of its own for each
piece of work, another for the loop, and chain the two. Here one small object goes
through a queue to a thread and comes back to the loop by `call_soon_threadsafe`.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from asyncflow.errors import ServerBusy, StartError

T = TypeVar("T")


class _Errand(Generic[T]):
    """A piece of work, on its way to a thread and back."""

    __slots__ = ("_args", "_work", "error", "is_over", "loop", "result", "waiter")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[..., T],
        args: tuple[object, ...],
    ) -> None:
        self.loop = loop
        self._work = work
        self._args = args
        self.waiter = loop.create_future()
        self.is_over = False
        self.result: T
        self.error: BaseException | None = None

    def do(self) -> None:
        """Do the work, on a thread."""
        try:
            self.result = self._work(*self._args)
        except BaseException as error:  # noqa: BLE001 -- it is the caller's
            self.error = error
        # where the loop has gone nobody waits any more
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.is_over = True
        if not self.waiter.done():
            self.waiter.set_result(None)


class Threads:
    """At most *limit* threads called *name*, each of which runs *begin* first."""

    def __init__(
        self, limit: int, name: str, begin: Callable[[], None] = lambda: None
    ) -> None:
        self._limit = limit
        self._name = name
        self._begin = begin
        self._queue: SimpleQueue[_Errand[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: pieces of work that are not over; only the loop counts
        self._open = 0
        self._closed = False

    async def do(
        self,
        work: Callable[..., T],
        *args: object,
        undo: Callable[[T], None] | None = None,
    ) -> T:
        """Run *work* on a thread; when cancelled, wait for its end, then *undo* it.

        Raises:
            RuntimeError: the threads have been let go.
            ServerBusy: there is no thread, and none can be begun now.
        """
        if self._closed:
            raise RuntimeError(f"the threads {self._name} have ended")
        errand = _Errand(asyncio.get_running_loop(), work, args)
        self._open += 1
        try:
            if self._open > len(self._threads) < self._limit:
                self._add_thread()
            self._queue.put(errand)
            cancelled = await self._end_of(errand)
        finally:
            self._open -= 1
        if cancelled is not None:
            if errand.error is None and undo is not None:
                undo(errand.result)
            raise cancelled
        if errand.error is not None:
            raise errand.error
        return errand.result

    @staticmethod
    async def _end_of(errand: _Errand[Any]) -> asyncio.CancelledError | None:
        """Wait until *errand* is over; return the cancellation that came meanwhile."""
        cancelled = None
        while not errand.is_over:
            try:
                await errand.waiter
            except asyncio.CancelledError as asked:
                cancelled = asked
                if not errand.is_over:
                    errand.waiter = errand.loop.create_future()
        return cancelled

    def _add_thread(self) -> None:
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise ServerBusy("no thread can be begun just now") from error
            return
        self._threads.append(thread)

    def _run(self) -> None:
        self._begin()
        while (errand := self._queue.get()) is not None:
            errand.do()
            del errand  # what it holds is not to be kept until the next one comes

    def close(self) -> None:
        """Let go of the threads, after what they still do; this blocks."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()


def begun(limit: int, name: str) -> ThreadPoolExecutor:
    """Return *limit* threads called *name*, all of which are there.

    Begun as work comes, one that cannot be begun would leave its piece of work in the
    queue: it would be done late, although its caller was told that it failed.

    Raises:
        StartError: so many threads cannot be begun.
    """
    pool = ThreadPoolExecutor(limit, thread_name_prefix=name)
    together = threading.Barrier(limit + 1)
    try:
        for _ in range(limit):
            pool.submit(together.wait)
    except RuntimeError as error:
        together.abort()
        pool.shutdown(wait=False)
        raise StartError(
            f"{limit} threads called {name} cannot be begun: raise the limit "
            "(ulimit -u, or TasksMax= of the service)"
        ) from error
    together.wait()
    return pool
