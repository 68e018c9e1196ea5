"""Waiting for what a server does, from outside."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from asyncflow import processes
from tests.server_process import ServerProcess

T = TypeVar("T")


def until(ask: Callable[[], T], timeout: float = 60.0) -> T:
    """Return what *ask* returns, once it is true."""
    end = time.monotonic() + timeout
    while not (found := ask()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


def step(server: ServerProcess, job: str, name: str = "probe") -> dict[str, Any]:
    """Return one step of a job; empty before the server knows of it."""
    steps = server.status(job)["steps"]
    return next((one for one in steps if one["name"] == name), {})


def until_step(server: ServerProcess, job: str, *states: str) -> dict[str, Any]:
    """Return the probe's step once it is in one of *states*."""

    def look() -> dict[str, Any]:
        found = step(server, job)
        return found if found.get("status") in states else {}

    return until(look)


def until_working(server: ServerProcess, job: str, name: str = "probe") -> None:
    """Return once a worker is inside the processor."""
    until(lambda: step(server, job, name).get("progress", 0) > 0)


def worker(server: ServerProcess) -> int:
    """Return the process id of the server's only worker."""

    def look() -> list[int]:
        family = processes.tree(server.pid)
        leaders = [pid for pid in family[1:] if not processes.children(pid)]
        return [pid for pid in leaders if is_worker(pid)]

    return until(look)[-1]


def is_worker(pid: int) -> bool:
    """Tell whether a process is less urgent than any other kind of ours."""
    try:
        return os.getpriority(os.PRIO_PROCESS, pid) >= 15
    except ProcessLookupError:
        return False


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


def until_gone(family: Iterable[int], timeout: float = 10.0) -> None:
    """Return once none of these processes runs any more."""
    until(lambda: not any(map(is_alive, family)), timeout)


def alerts(server: ServerProcess) -> set[str]:
    """Return the names of the alerts that are raised."""
    bearer: dict[str, Any] = {"Authorization": f"Bearer {server.token}"}
    found = server.request("GET", "/admin/alerts", **bearer).json["alerts"]
    return {one["alert"] for one in found}


def signal_family(server: ServerProcess, number: signal.Signals) -> None:
    """Send a signal to the server and to all that it started."""
    for pid in processes.tree(server.pid):
        os.kill(pid, number)


@contextlib.contextmanager
def limit(server: ServerProcess, what: int, most: int) -> Iterator[None]:
    """Let the server itself have no more than *most* of a resource (setrlimit(2))."""
    before = resource.prlimit(server.pid, what)
    resource.prlimit(server.pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, what, before)


def pause(seconds: float) -> None:
    """Let time itself pass: the subject of the test is a clock."""
    time.sleep(seconds)


def now() -> float:
    """Return the time of day in seconds."""
    return time.time()
