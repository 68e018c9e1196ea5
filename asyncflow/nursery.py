"""A fork server of our own, and executors whose workers it starts.

Theory of operation
-------------------
The standard library has one fork server per process, started with whatever environment
and `__main__` the program has at that moment. Ours is separate, so that neither a host
application's workers nor ours inherit from each other: it starts with a scrubbed
environment (no secrets; one thread per library), never sees the program's `__main__`
(an unguarded script would run again in each worker), and neither it nor they are shown
`sys.argv`, not even on their own command line.

A worker that a file has taken over could write anything into the pipe on which its
executor expects pickled results, and unpickling is code execution. So nothing is read
from there: `ResultPipe` calls every result a broken worker. Orders and reports have a
socket of their own (`crew`).

Rules
-----
- Everything here is called on the main thread: the parent-death signal follows the
  thread that started the process.
"""

import contextlib
import io
import os
import pickle
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import (
    context,
    forkserver,
    popen_forkserver,
    reduction,
    resource_tracker,
    util,
)
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

from asyncflow import forkside, stdlib
from asyncflow.errors import StartError

#: what workers may know of the server's environment
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
_SET: Final = {
    "VIPS_CONCURRENCY": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_THREAD_LIMIT": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_ARGV: Final = ("asyncflow-worker",)


def worker_environment() -> Mapping[str, str]:
    """Return the whole environment of the fork server and its workers."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(_search_path())
    return {**kept, **_SET, "PYTHONPATH": path, forkside.PARENT: str(os.getpid())}


def _search_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 -- strings


@contextlib.contextmanager
def _scrubbed() -> Iterator[None]:
    """Give processes started inside the block the workers' environment and arguments.

    Other threads see it too for that moment; no await happens inside.
    """
    before, argv = dict(os.environ), sys.argv
    wanted = worker_environment()
    try:
        os.environ.clear()
        os.environ.update(wanted)
        sys.argv = [*_ARGV]
        yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)


class _DeafReader(Connection):
    """The server's end of a result pipe."""

    def recv(self) -> NoReturn:
        """Refuse whatever there is; the executor takes the worker for broken then."""
        raise pickle.UnpicklingError("a worker has nothing to say here")


class ResultPipe:
    """What an executor takes for its result queue."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self._reader: Connection = _DeafReader(reader, writable=False)
        self._writer: Connection = Connection(writer, readable=False)

    def __getstate__(self) -> Connection:
        """Send a worker the writing end only."""
        return self._writer

    def __setstate__(self, writer: Connection) -> None:
        """Arrive in a worker."""
        self._writer = writer

    def put(self, item: object) -> None:
        """Send *item* to the server."""
        self._writer.send(item)

    def drop_writer(self) -> None:
        """Keep only the reading end, which then sees the end of the worker."""
        self._writer.close()

    def close(self) -> None:
        """Let go of both ends."""
        self._reader.close()
        self._writer.close()


def _pipe(*enders: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a new pipe, each of which is closed by one of *enders*."""
    ends = os.pipe()
    for ender, end in zip(enders, ends, strict=True):
        ender.callback(os.close, end)
    return ends


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class _Popen(popen_forkserver.Popen):
    """Starts a process through one given fork server, not the program's own."""

    def __init__(self, process: "_Process", nursery: "Nursery") -> None:
        self._nursery = nursery
        super().__init__(process)

    def _launch(self, process_obj: "_Process") -> None:
        parcel = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(_preparation(process_obj.name), parcel)
            reduction.dump(process_obj, parcel)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, entry = self._nursery.connect(self._fds)  # type: ignore[attr-defined]
        # the worker sees by the open end that its parent lives
        self.finalizer = util.Finalize(self, _close, (entry, self.sentinel))
        try:
            with open(entry, "wb", closefd=False) as pipe:
                pipe.write(parcel.getbuffer())
            self.pid = forkserver.read_signed(self.sentinel)
        except BaseException:
            self.finalizer()
            raise

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, None while running; tell whoever asked to know."""
        known = self.returncode
        code: int | None = super().poll(flag)
        if known is None and code is not None:
            self._nursery.tell_exit(self.pid, code)
        return code


class _Process(context.ForkServerProcess):
    def __init__(self, *args: Any, nursery: "Nursery", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._nursery: Nursery | None = nursery

    def _Popen(self, process_obj: "_Process") -> _Popen:  # type: ignore[override]  # noqa: N802 -- the standard library's name
        assert self._nursery is not None  # noqa: S101 -- only the child lacks it
        return _Popen(process_obj, self._nursery)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_nursery": None}


class _Context(context.ForkServerContext):
    """What an executor needs to know to start its one worker in a nursery."""

    def __init__(self, nursery: "Nursery") -> None:
        super().__init__()
        self._nursery = nursery
        self.results = ResultPipe()
        self.process: _Process | None = None

    @property
    def pid(self) -> int:
        """The worker's process id, once it has been started."""
        if self.process is None or self.process.pid is None:
            raise StartError("no worker process was started")
        return self.process.pid

    def abandon(self) -> None:
        """End a worker that was started for nothing, if it was."""
        if self.process is not None and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        self.release()

    def release(self) -> None:
        """Close what belonged to a worker that has ended; cycles would delay it."""
        self.results.close()
        if self.process is not None:
            stdlib.close_handle(self.process)

    def on_exit(self, tell: Callable[[int], None]) -> None:
        """Have *tell* called with the worker's exit code, on some other thread."""
        self._nursery.listen_exit(self.pid, tell)

    def SimpleQueue(self) -> ResultPipe:  # type: ignore[override]  # noqa: N802
        return self.results

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # noqa: N802
        self.process = _Process(*args, nursery=self._nursery, **kwargs)
        return self.process


def _preparation(name: str) -> dict[str, object]:
    """Return what a new worker is told before its work: nothing of our `__main__`."""
    return {
        "name": name,
        "sys_path": _search_path(),
        "sys_argv": [*_ARGV],
        "orig_dir": "/",
        "dir": "/",
        "authkey": os.urandom(32),
    }


def check_python(missing: Sequence[str]) -> None:
    """Raise StartError if this Python lacks what a nursery builds on."""
    if missing:
        raise StartError(
            f"this Python, {platform.python_version()}, has no {', '.join(missing)}: "
            "worker processes cannot be started with it; asyncflow is tested with "
            "Python 3.11 to 3.15"
        )


class Nursery:
    """One fork server; starts workers, each behind an executor of its own."""

    def __init__(self, preload: tuple[str, ...]) -> None:
        check_python(stdlib.missing())
        self._server = stdlib.ForkServer()
        self._server.set_forkserver_preload([forkside.__name__, *preload])
        self._exits: dict[int, Callable[[int], None]] = {}
        #: the fork server's socket, once it has no name any more
        self._door: int | None = None

    def listen_exit(self, pid: int, tell: Callable[[int], None]) -> None:
        """Have *tell* called with the exit code of worker *pid*."""
        self._exits[pid] = tell

    def tell_exit(self, pid: int, code: int) -> None:
        """Pass on that worker *pid* has ended with *code*; called on any thread."""
        tell = self._exits.pop(pid, None)
        if tell is not None:
            tell(code)

    @property
    def pid(self) -> int | None:
        """The fork server's process id; None before the first worker."""
        return self._server.pid

    def ensure_running(self) -> None:
        """Start the fork server if there is none; blocks for a moment."""
        if threading.current_thread() is not threading.main_thread():
            raise StartError("the process pool must be started on the main thread")
        with _scrubbed():
            self._server.ensure_running()
        if hasattr(os, "O_PATH"):
            self._hide()

    def _hide(self) -> None:
        """Take the name of the fork server's socket away: only we find it now.

        Whoever reaches it can have it start a process without walls.
        """
        name = self._server.address
        if name == self._hidden:
            return
        self._close_door()
        self._door = os.open(name, os.O_PATH | os.O_CLOEXEC)
        os.unlink(name)  # noqa: PTH108 -- a string
        self._server.address = self._hidden

    @property
    def _hidden(self) -> str:
        # followed by the kernel as the file itself; nobody else may look in there
        return f"/proc/self/fd/{self._door}"

    def _close_door(self) -> None:
        if self._door is not None:
            os.close(self._door)
            self._door = None

    def connect(self, fds: list[int]) -> tuple[int, int]:
        """Ask the fork server for a process that receives *fds*.

        Return where its process id and exit code will come from, and where what it
        shall do goes to. All that needs a descriptor is done before the fork server is
        called, for it waits then until it has been told everything.
        """
        self.ensure_running()
        with contextlib.ExitStack() as done, contextlib.ExitStack() as failed:
            status, its_status = _pipe(failed, done)
            its_orders, orders = _pipe(done, failed)
            tracker: int = resource_tracker.getfd()  # type: ignore[assignment]
            helpers = [self._server.alive_fd, tracker]
            client = done.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(self._server.address)
            self._server.greet(client)
            reduction.sendfds(client, [its_orders, its_status, *helpers, *fds])
            failed.pop_all()
        return status, orders

    def hire(
        self, initializer: Callable[..., object], *args: object
    ) -> tuple[ProcessPoolExecutor, _Context]:
        """Return an executor for one worker; its first `submit` starts the worker."""
        own = _Context(self)
        executor = ProcessPoolExecutor(
            max_workers=1, mp_context=own, initializer=initializer, initargs=args
        )
        return executor, own

    def close(self) -> None:
        """End the fork server; its workers must have been killed before."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self._door is not None:
            self._close_door()
            # such a name is nothing that has to be removed
            self._server.address = "\0"
        self._server.reap()
