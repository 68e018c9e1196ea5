"""The fork server, as the standard library of this Python makes it."""

import re
import socket
import stat
import sys
from collections.abc import AsyncIterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from asyncflow import stdlib
from asyncflow.errors import StartError
from asyncflow.jobs import Verdict
from asyncflow.nursery import Nursery
from tests.pool.conftest import Crew, started

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
async def spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Crew]:
    """A pool in a program whose arguments are nobody's business."""
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--token", "a-secret"])
    async with started(tmp_path, "tests.pool.hostile") as crew:
        yield crew


@needs_linux
async def test_no_worker_is_shown_the_arguments_of_the_program(spoken_to: Crew) -> None:
    pool = spoken_to.pool
    await spoken_to.run("dies", how="kill")
    assert (await spoken_to.run("echo")).verdict is Verdict.DONE
    pids = [pool.fork_server_pid, *(one.pid for one in pool.workers())]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert len(lines) == 2
    assert all(b"multiprocessing" in line for line in lines)
    assert not any(b"a-secret" in line for line in lines)
    assert sys.argv[-1] == "a-secret"


def doors() -> list[str]:
    """Return the paths by which this process finds sockets that have no name."""
    return [
        str(link)
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink()
        and link.readlink().name.endswith(" (deleted)")
        and stat.S_ISSOCK(link.stat().st_mode)
    ]


@needs_linux
@pytest.mark.parametrize("is_asked", [True, False])
async def test_who_hangs_up_on_the_fork_server_costs_no_worker(
    tmp_path: Path, *, is_asked: bool
) -> None:
    async with started(tmp_path, "tests.pool.hostile") as crew:
        server = crew.pool.fork_server_pid
        (door,) = doors()
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(door)
            if is_asked and sys.version_info >= (3, 14):
                # it wants to know who we are; this goes unread
                link.recv(1, socket.MSG_PEEK)
        pid = (await crew.run("surroundings")).facts["pid"]
        await crew.run("dies", how="kill")

        assert (await crew.run("surroundings")).facts["pid"] != pid
        assert crew.pool.fork_server_pid == server


def test_a_python_that_lacks_what_is_needed_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stdlib.missing() == []
    monkeypatch.delattr(forkserver, "_forkserver")
    version = re.escape(sys.version.split()[0])
    with pytest.raises(StartError, match=f"{version}, has no _forkserver:"):
        Nursery(())
