"""What happens while the system has no room for one process more."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.jobs import Verdict
from tests.pool.conftest import started
from tests.pool.test_growth import until
from tests.pool.test_walls import is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

HOSTILE = "tests.pool.hostile"
#: loaded by the fork server at its start: a system that refuses forks for a while
REFUSING = """
import errno, os, pathlib

fork = os.fork

def refused():
    if pathlib.Path({flag!r}).exists():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()

os.fork = refused
"""


def open_files() -> set[int]:
    with os.scandir("/proc/self/fd") as entries:
        return {int(entry.name) for entry in entries}


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let this process open *count* files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = open_files()
    free = [number for number in range(len(held) + count + 1) if number not in held]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("count", [0, 2, 3, 4, 5, 8])
async def test_a_worker_for_which_there_is_no_descriptor_costs_no_other_one(
    tmp_path: Path, count: int
) -> None:
    async with started(tmp_path, HOSTILE, size=2) as crew:
        pool, held = crew.pool, open_files()
        server = pool.fork_server_pid
        other = asyncio.create_task(crew.run("patient", seconds=0.5))
        await asyncio.sleep(0)
        with room_for(count):
            assert (await crew.run("dies", how="kill")).code == "crashed"

        assert (await other).verdict is Verdict.DONE
        await until(lambda: pool.free == 2 and pool.capacity == 2)
        assert pool.fork_server_pid == server
        await until(lambda: len(open_files()) <= len(held))


async def test_an_order_whose_worker_cannot_be_started_comes_back_uncharged(
    tmp_path: Path,
) -> None:
    async with started(tmp_path, HOSTILE) as crew:
        # the order is given a place before anybody knows that its worker is dead
        (worker,) = crew.pool.workers()
        os.kill(worker.pid, signal.SIGKILL)
        while is_alive(worker.pid):
            pass
        with room_for(0):
            outcome = await crew.run("echo")

        assert (outcome.verdict, outcome.code) == (Verdict.RELEASED, "")
        assert crew.losses == []
        assert (await crew.run("echo")).verdict is Verdict.DONE
        # what could not be removed without a descriptor is not left for the next start
        slots = tmp_path / "slots"
        await until(lambda: len(list(slots.iterdir())) == 1)


async def test_a_fork_that_is_refused_ends_no_other_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "refuse"
    (tmp_path / "sitecustomize.py").write_text(REFUSING.format(flag=str(flag)))
    monkeypatch.syspath_prepend(str(tmp_path))
    async with started(tmp_path, HOSTILE, size=2) as crew:
        pool = crew.pool
        server = pool.fork_server_pid
        flag.touch()
        other = asyncio.create_task(crew.run("patient", seconds=0.5))
        await asyncio.sleep(0)
        await crew.run("dies", how="kill")
        assert pool.capacity == 1
        assert pool.trouble is None

        assert (await other).verdict is Verdict.DONE
        await crew.run("dies", how="kill")
        assert pool.capacity == 0
        assert pool.trouble == "no worker process can be started"

        recovered = asyncio.Event()
        pool.on_recovery = recovered.set
        waiting = asyncio.create_task(crew.run("echo"))
        flag.unlink()
        # without any order: nobody sends one to a server that says that it cannot work
        await asyncio.wait_for(recovered.wait(), 20)
        assert pool.trouble is None
        assert (await waiting).verdict is Verdict.DONE
        await until(lambda: pool.capacity == 2)
        assert pool.fork_server_pid == server
