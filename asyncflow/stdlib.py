"""What this program needs of the standard library and the library keeps to itself.

Rules
-----
- A private name of the standard library is used here and nowhere else, but for the
  methods that `nursery` overrides. `missing` knows them all, and no pool starts where
  one is missing: a Python that is too new says so, not the first worker that hangs.
- Workers load this, too.
"""

import os
import socket
import sys
from multiprocessing import context, forkserver, popen_forkserver, resource_tracker
from multiprocessing.connection import (
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any, Final

#: the fork server wants to know who asks, and would wait for ever
_HAS_KEY: Final = sys.version_info >= (3, 14)


class ForkServer(forkserver.ForkServer):
    """A fork server besides the program's own."""

    _forkserver_address: str
    _forkserver_alive_fd: int
    _forkserver_authkey: bytes
    _forkserver_pid: int | None

    @property
    def pid(self) -> int | None:
        """Its process id; None before it runs."""
        return self._forkserver_pid

    @property
    def alive_fd(self) -> int:
        """The end of a pipe that shows it, as long as it is open, that we live."""
        return self._forkserver_alive_fd

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._forkserver_address

    @address.setter
    def address(self, address: str) -> None:
        self._forkserver_address = address

    def greet(self, client: socket.socket) -> None:
        """Show that we may ask, where it wants to know."""
        if not _HAS_KEY:
            return
        key = self._forkserver_authkey
        link: Any = Connection(client.fileno())
        try:
            answer_challenge(link, key)
            deliver_challenge(link, key)
        finally:
            link._detach()  # noqa: SLF001 -- the socket is not its own

    def reap(self) -> None:
        """Wait for its end, and forget it."""
        self._stop()  # type: ignore[attr-defined]


def close_handle(process: context.ForkServerProcess) -> None:
    """Close what this process holds of *process*, which has ended or been killed."""
    handle: Any = getattr(process, "_popen", None)
    if handle is not None:
        handle.close()


def part_from_helpers() -> None:
    """Close what a new worker holds of the processes that help to start others."""
    helper: Any = resource_tracker._resource_tracker  # noqa: SLF001
    starter: Any = forkserver._forkserver  # noqa: SLF001
    os.close(helper._fd)  # noqa: SLF001
    os.close(starter._forkserver_alive_fd)  # noqa: SLF001
    helper._fd = starter._forkserver_alive_fd = None  # noqa: SLF001


def environment() -> dict[bytes, bytes]:
    """Return the environment as the interpreter keeps it: twenty times faster."""
    return os.environb._data  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001


def missing() -> list[str]:
    """Return the names that this needs and this Python does not have."""
    server = ForkServer()
    needed = [
        (server, "_forkserver_address"),
        (server, "_forkserver_alive_fd"),
        (server, "_forkserver_pid"),
        (server, "_stop"),
        (forkserver, "_forkserver"),
        (getattr(resource_tracker, "_resource_tracker", None), "_fd"),
        (context.ForkServerProcess, "_Popen"),
        (popen_forkserver.Popen, "_launch"),
        (os.environb, "_data"),
    ]
    if _HAS_KEY:
        needed += [(server, "_forkserver_authkey"), (Connection, "_detach")]
    return [name for owner, name in needed if not hasattr(owner, name)]
