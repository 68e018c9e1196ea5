"""One worker process as the server holds it: its folder, its voice, its end.

Theory of operation
-------------------
A `Hand` is one process with a folder of its own, from its start to its death; it is
never repaired, only replaced. An `Attempt` is one run on it. Everything that can end a
run (the worker's report, its death, the clock, the memory budget, the pool's closing)
calls `Attempt.end`; the first one counts. The task that waits for the run sleeps on
`Attempt.news`, which also wakes it for progress and finished derivatives.

Rules
-----
- A worker speaks while it has an order and of that order only, and its report is the
  last word. What it says else ends it (`Hand.fault`), and so does an empty message,
  which nobody can tell from the end of the socket. Noise is passed over meanwhile.
- A run has a token that cannot be guessed, and there is nothing in the socket when an
  order is given: so no report can have been written before.
"""

import asyncio
import collections
import contextlib
import enum
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from asyncflow import agreement, parcels, processes, worker
from asyncflow.nursery import Nursery
from asyncflow.prints import NAME, Prints
from asyncflow.sharing import Shared

_KIND: Final = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
#: messages taken at once; a worker that says more waits until the pause is over
_MESSAGES: Final = 32
_PAUSE_S: Final = 0.05
#: an honest processor starts one program, perhaps with helpers, and a thread or two
#: for each core; the machine has 32,768 in all as it comes, a service often 4,915
_MOST_PROCESSES: Final = 256
_MOST_THREADS: Final = 512
#: of all of them together; a machine of two gigabytes has some 200,000
_MOST_FILES: Final = 16_384
#: threads or open files that a run's libraries may keep, if they say that they do
_MOST_KEPT: Final = 64
_PATIENCE_S: Final = (0.001, 0.004, 0.02)

#: why a worker can be used no more
_DIED: Final = "no process"
_HUNG_UP: Final = "no connection"
_UNASKED: Final = "words of its own"

#: derivatives that a worker may hand over faster than they are stored
MAX_ANNOUNCED: Final = 256


class End(enum.Enum):
    """What ended a run."""

    REPORTED = "reported"
    DIED = "died"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CROWD = "crowd"
    SPACE = "space"
    CLOSED = "closed"


class Attempt:
    """One run on one worker, as the waiting task sees it."""

    __slots__ = ("_loop", "_news", "announced", "ended", "percent", "report", "token")

    def __init__(self, token: int, loop: asyncio.AbstractEventLoop) -> None:
        self.token = token
        self.percent: float | None = None
        self.announced: collections.deque[parcels.Listed] = collections.deque()
        self.ended: End | None = None
        #: what the worker reported at its end
        self.report = b""
        self._loop = loop
        self._news: asyncio.Future[None] | None = None

    def hear(self, message: parcels.Message) -> None:
        """Take in what the worker says of it."""
        if message.percent is not None:
            self.percent = min(100.0, max(0.0, message.percent))
        # what is not heard here is listed again in the worker's report
        if message.made is not None and len(self.announced) < MAX_ANNOUNCED:
            self.announced.append(message.made)
        if isinstance(message.report, msgspec.Raw) and self.ended is None:
            self.report = bytes(message.report)
            self.ended = End.REPORTED
        self._wake()

    def end(self, how: End) -> None:
        """Say that the run is over; only the first reason counts."""
        if self.ended is None:
            self.ended = how
            self._wake()

    async def news(self) -> None:
        """Return once there is something new; only one task may wait."""
        if self.percent is None and not self.announced and self.ended is None:
            self._news = self._loop.create_future()
            await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Hand:
    """One worker process."""

    def __init__(
        self,
        *,
        folder: Path,
        nursery: Nursery,
        modules: tuple[str, ...],
        nice: int,
        max_file_bytes: int,
        asks: tuple[agreement.Ask, ...],
        private: tuple[Path, ...],
        on_death: Callable[[], None],
    ) -> None:
        self.folder = folder
        self._when_dead = on_death
        #: its runs, and how much of its address space is in use before the next one
        self.jobs_done = self.mapped = 0
        self.attempt: Attempt | None = None
        self.exitcode: int | None = None
        self.gone = self.is_met = False
        #: how the process was before its first run, and after what libraries may keep
        self._first: processes.Condition | None = None
        self._latest: processes.Condition | None = None
        #: why no order may be given to it any more; "" as long as one may
        self.fault = ""
        #: the module that it loads now
        self.loading = ""
        #: what it can do; empty until it has greeted
        self.greeting = b""
        self.peak_rss = self.peak_mapped = 0
        self._shared = Shared()
        #: where its processes were seen at the latest look
        self.faces: list[int] = []
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        #: True when the worker greets, False when it dies before
        self.greeted: asyncio.Future[bool] = self._loop.create_future()
        self.exited = asyncio.Event()
        with contextlib.ExitStack() as failed:
            failed.callback(self._unmake_folders)
            self._make_folders()
            self.prints = Prints(folder)
            failed.callback(self.prints.close)
            self._ear, voice = socket.socketpair(socket.AF_UNIX, _KIND)
            failed.callback(self._ear.close)
            self._ear.settimeout(0)
            with voice:
                nursery.ensure_running()
                setup = agreement.Setup(
                    folder=str(folder),
                    modules=modules,
                    parent_pid=nursery.pid or 0,
                    nice=nice,
                    max_file_bytes=max_file_bytes,
                    voice=voice,
                    asks=asks,
                    private=tuple(map(str, private)),
                )
                self._executor = self._start(nursery, setup)
            failed.pop_all()
        self._loop.add_reader(self._ear, self._listen)

    def _make_folders(self) -> None:
        for name in ("", "in", "out"):
            (self.folder / name).mkdir(mode=0o700)

    def _unmake_folders(self) -> None:
        """Remove the folders of a worker that never was; this takes no descriptor."""
        with contextlib.suppress(OSError):
            (self.folder / NAME).unlink(missing_ok=True)
            for name in ("in", "out", ""):
                (self.folder / name).rmdir()

    def _start(self, nursery: Nursery, setup: agreement.Setup) -> ProcessPoolExecutor:
        executor, context = nursery.hire(worker.begin, setup)
        self._release = context.release
        try:
            life = executor.submit(worker.serve)
        except BaseException:
            context.abandon()
            raise
        context.results.drop_writer()
        context.on_exit(self._tell(self._on_exit))
        self.pid = context.pid
        self.pidfd = processes.open_pidfd(self.pid)
        if self.pidfd is not None:
            self._loop.add_reader(self.pidfd, self._on_death)
        life.add_done_callback(self._tell(self._on_leave))
        return executor

    def _tell(self, call: Callable[..., None]) -> Callable[..., None]:
        """Wrap *call* so that another thread may make it; after the loop's end: no."""

        def told(*args: object) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *args)

        return told

    def is_fit(self) -> bool:
        """Tell whether an order may be given to it: it lives and has nothing to say."""
        if self.is_met and not self.gone and not self.fault:
            said = self._receive()
            if said is not None:
                self.fault = _UNASKED if said else _HUNG_UP
        return not self.gone and not self.fault

    def begin(self, attempt: Attempt, order: bytes) -> None:
        """Give the worker an order; its end will be the attempt's."""
        self.attempt = attempt
        self._shared = Shared()
        self.peak_rss = self.peak_mapped = 0
        if self.fault:
            attempt.end(End.DIED)
            return
        try:
            self._ear.send(order)
        except OSError:  # it died unnoticed, or does not listen
            attempt.end(End.DIED)

    def meet(self) -> int:
        """Take in how the worker is before its first run; return its threads."""
        self.is_met = True
        self._first = self._latest = first = processes.condition(self.pid)
        if first is None:
            return 1
        self.mapped = first.mapped
        return first.threads

    async def remains(self, *, resident: bool) -> str:
        """Return what the latest run has left in the process; "" for nothing.

        *resident*: its libraries may keep threads, open files and signal handlers.
        """
        left = self._left(resident=resident)
        for pause_s in _PATIENCE_S:
            # a thread that has been joined is there for a moment more
            if left != "threads":
                break
            await asyncio.sleep(pause_s)
            left = self._left(resident=resident)
        return left

    def _left(self, *, resident: bool) -> str:
        first, latest = self._first, self._latest
        now = processes.condition(self.pid)
        if now is None or first is None or latest is None:
            return "" if now is first else "no process"
        self.mapped = now.mapped
        if now.has_children:
            return "processes"
        if now.mapped > first.mapped + agreement.MOST_LEFT_MAPPED:
            return "addresses"
        if now.rest != first.rest:
            return "another state"
        if resident:
            self._latest = now
            most = first.threads + _MOST_KEPT, first.files + _MOST_KEPT
        else:
            most = latest.threads, latest.files
        if now.threads > most[0]:
            return "threads"
        if now.files > most[1]:
            return "open files"
        if not resident and (now.files, now.signals) != (latest.files, latest.signals):
            return "another state"
        return ""

    def sample(self, orphans: list[int], *, max_bytes: int) -> None:
        """Measure the worker and what it started; end the run that has too much."""
        family = processes.family([self.pid, *orphans])
        self.faces = family.faces
        sizes = [processes.rss_bytes(face) for face in family.faces]
        resident = sum(sizes) - self._shared.bytes_twice()
        self.peak_rss = max(self.peak_rss, resident)
        mapped = processes.mapped_bytes(self.pid) - self.mapped
        self.peak_mapped = max(self.peak_mapped, mapped)
        if (
            len(family.pids) > _MOST_PROCESSES
            or family.threads > _MOST_THREADS
            or family.files > _MOST_FILES
        ):
            self.stop(End.CROWD)
        elif max(sizes, default=0) > max_bytes:
            self.stop(End.MEMORY)
        elif resident > max_bytes:
            tell = functools.partial(self.stop, End.MEMORY, self.attempt)
            self._shared.look(family.faces, sum(sizes), max_bytes, tell)

    def stop(self, why: End, attempt: Attempt | None = None) -> None:
        """Kill the worker unless its run, or this *attempt*, is over already."""
        attempt = attempt or self.attempt
        if attempt is not None and attempt is self.attempt and attempt.ended is None:
            attempt.end(why)
            self.kill()

    def kill(self) -> None:
        """End the worker and all that it started; calling twice is not an error."""
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._ear)
        self._ear.close()
        # those that left the group can be found only while their parent lives
        strays = processes.tree(self.pid)[1:]
        processes.kill_group(self.pid, self.pidfd)
        for stray in strays:
            processes.kill_stray(stray)
        if self.pidfd is not None:
            self._loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.prints.close()
        if not self.greeted.done():
            self.greeted.set_result(False)

    async def end(self, within_s: float) -> str:
        """Wait for the end of a worker that dies and say how it was."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), within_s)
        with contextlib.suppress(ValueError):
            return signal.Signals(-(self.exitcode or 0)).name
        return f"exit code {self.exitcode}"

    async def bury(self, within_s: float) -> None:
        """Wait for the killed worker's end and close what is left of it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), within_s)
            self._release()

    def _receive(self) -> bytes | None:
        """Return the next message, b"" at the end of them all; None: not yet."""
        try:
            return self._ear.recv(agreement.MAX_MESSAGE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def _listen(self) -> None:
        for _ in range(_MESSAGES):
            data = self._receive()
            if data is None:
                return
            self._take(data)
            attempt = self.attempt
            if self.fault or (attempt is not None and attempt.ended is not None):
                return  # nothing more is expected; whether it comes, `is_fit` will see
        self._loop.remove_reader(self._ear)
        self._loop.call_later(_PAUSE_S, self._listen_again)

    def _take(self, data: bytes) -> None:
        if not data:
            self._fail(_HUNG_UP)
        elif self.is_met and (self.attempt is None or self.attempt.ended is not None):
            self._fail(_UNASKED)
        elif (message := parcels.decode_message(data)) is not None:
            self._hear(message)

    def _hear(self, message: parcels.Message) -> None:
        if message.token != agreement.NO_RUN:
            if self.attempt is not None and self.attempt.token == message.token:
                self.attempt.hear(message)
            else:
                self._fail(_UNASKED)
        elif message.loading is not None:
            self.loading = message.loading
        elif isinstance(message.report, msgspec.Raw) and not self.greeted.done():
            self.greeting = bytes(message.report)
            self.greeted.set_result(True)

    def _listen_again(self) -> None:
        if not self.gone and not self.fault:
            self._loop.add_reader(self._ear, self._listen)

    def _on_leave(self, _life: Future[int]) -> None:
        """See that the worker takes no more orders, whether it lives or not."""
        self._on_death()

    def _on_death(self) -> None:
        if not self.gone and not self.fault:
            # what it may have said just before
            self._listen()
        self._fail(_DIED)

    def _fail(self, why: str) -> None:
        """See that the worker is used no more, and whoever waits for it is told."""
        if self.gone:
            return
        self.fault = self.fault or why
        self._loop.remove_reader(self._ear)
        if self.pidfd is not None:
            self._loop.remove_reader(self.pidfd)
        if self.attempt is not None:
            self.attempt.end(End.DIED)
        if not self.greeted.done():
            self.greeted.set_result(False)
        self._when_dead()

    def _on_exit(self, exitcode: int) -> None:
        self.exitcode = exitcode
        self.exited.set()
