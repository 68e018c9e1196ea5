"""The first thing a fork server imports: it dies with the server, and of nothing else.

Theory of operation
-------------------
A worker dies with the fork server, but what a worker has started does not die with the
worker. So the fork server does not just die when the server does: it is told, kills
everybody below it, also those that it adopts then, and ends when nobody is left.

The fork server of the standard library lets one kind of failure pass, a connection that
was aborted, and ends of all others, with every worker: of a client that hangs up
before it has shown who it is or said what it wants, and of a fork that the system
refuses (too many processes, too little memory). `_Steady` makes those of the kind that
passes.

Rules
-----
- Nothing imported here may start a thread or use libvips: a worker forked afterwards
  would hang. Loading a library's code is enough to make the later forks quick.
- Importing this module anywhere but in our fork server changes nothing.
"""

import atexit
import contextlib
import errno
import functools
import importlib
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection, reduction
from typing import Any, Final

from asyncflow import agreement, processes, sandbox

#: carries the server's process id to its fork server
PARENT = "ASYNCFLOW_SERVER_PID"
#: loaded once, shared by every worker; absent ones are no error
HEAVY = ("pyvips", "magic", "PIL.Image", "PIL.ImageOps")

#: somebody who is held up inside the kernel cannot be killed: not for ever, then
_LOOKS: Final = 5000
_PAUSE_S: Final = 0.001


def settle(server_pid: int) -> None:
    """Tie this process to the server and prepare it for forking workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    end = functools.partial(_end_with_everybody, os.getpid())
    signal.signal(agreement.FAREWELL, end)
    # it may notice by itself that nobody can ask for a worker any more, and leave
    atexit.register(end)
    sandbox.die_with_parent(server_pid, by=agreement.FAREWELL)
    sandbox.adopt_orphans()
    _Steady().take_over()
    # what we adopt, the standard library's fork server reaps with a warning
    warnings.filterwarnings("ignore", message="forkserver: waitpid")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class _Steady:
    """Receives what a worker shall have, and forks it; a failure costs it alone."""

    def __init__(self) -> None:
        self._before: dict[tuple[Any, str], Callable[..., Any]] = {}
        self._fds: list[int] = []

    def take_over(self) -> None:
        """Stand in for the functions that the fork server calls."""
        for where, name, own in (
            (connection, "deliver_challenge", self.deliver_challenge),
            (connection, "answer_challenge", self.answer_challenge),
            (reduction, "recvfds", self.receive),
            (os, "fork", self.fork),
        ):
            self._before[where, name] = getattr(where, name)
            setattr(where, name, own)

    def deliver_challenge(self, link: connection.Connection, key: bytes) -> None:
        """Let a client show who it is."""
        with _for_client():
            self._before[connection, "deliver_challenge"](link, key)

    def answer_challenge(self, link: connection.Connection, key: bytes) -> None:
        """Show a client who we are."""
        with _for_client():
            self._before[connection, "answer_challenge"](link, key)

    def receive(self, sock: socket.socket, size: int) -> list[int]:
        """Return what a client has sent; raise ConnectionAbortedError for less."""
        with _for_client():
            self._fds = self._before[reduction, "recvfds"](sock, size)
        return [*self._fds]

    def fork(self) -> int:
        """Fork, or let the client see that there is no worker."""
        try:
            pid: int = self._before[os, "fork"]()
        except OSError as error:
            for fd in self._fds:
                os.close(fd)
            raise _aborted(error) from error
        if pid == 0:
            # nothing of this is for the worker
            for (where, name), before in self._before.items():
                setattr(where, name, before)
        return pid


@contextlib.contextmanager
def _for_client() -> Iterator[None]:
    """Make what goes wrong inside the block an aborted connection."""
    try:
        yield
    except (EOFError, OSError, RuntimeError, AssertionError) as error:
        raise _aborted(error) from error


def _aborted(error: BaseException) -> ConnectionAbortedError:
    return ConnectionAbortedError(errno.ECONNABORTED, str(error))


def _end_with_everybody(own_pid: int, *_signal: object) -> None:
    """Kill all that is below the fork server, then end it; in a worker do nothing."""
    if os.getpid() != own_pid:
        return
    for _ in range(_LOOKS):
        for child in processes.children(own_pid):
            group = processes.group_of(child) or own_pid
            with contextlib.suppress(OSError):
                if group != own_pid:
                    os.killpg(group, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(_PAUSE_S)
    os._exit(0)


if PARENT in os.environ:
    settle(int(os.environ.pop(PARENT)))
