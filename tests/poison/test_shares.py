"""What all processes of a user, or of the machine, have together: no run takes it."""

import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow import syscalls
from tests.server_process import ServerProcess
from tests.tasks.asking import ended, submit
from tests.web.live import healthy_server

CROWD = "too_many_processes"

needs_filter = pytest.mark.skipif(
    not syscalls.can_filter() or platform.machine() != "x86_64",
    reason="the numbers of calls are those of x86_64 under Linux",
)

MODULE = r'''
"""Functions that take what others need, and what honest ones do instead."""
import asyncio
import ctypes
import errno
import multiprocessing
import os
import resource
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait

from asyncflow import task

LIBC = ctypes.CDLL(None, use_errno=True)
CHILD = (
    "import asyncio, select, selectors\n"
    "async def main(): await asyncio.sleep(0); return 'slept'\n"
    "print(asyncio.run(main()), selectors.DefaultSelector.__name__)\n"
)


def call(number, *words):
    if LIBC.syscall(number, *map(ctypes.c_long, words)) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def send_a_file():
    one, other = socket.socketpair()
    with one, other:
        try:
            socket.send_fds(one, [b"x"], [0])
        except PermissionError:
            return "EPERM"
    return "done"


@task("takes", attempts=1)
def takes(work):
    room = ctypes.create_string_buffer(8)
    (work.out / "file").write_text("x")
    file = os.open(work.out / "file", os.O_WRONLY)
    space = ctypes.create_string_buffer(48)
    thread_without_its_files = 0x10000 | 0x800 | 0x100
    return {
        "epoll_create": call(213, 1),
        "epoll_create1": call(291, 0),
        "io_setup": call(206, 1, ctypes.addressof(room)),
        "send a file": send_a_file(),
        "a thread with files of its own": call(56, thread_without_its_files, 0),
        "room beyond a file": call(285, file, 1, 0, 1 << 20),
        "room beyond the output": call(285, 1, 1, 0, 1 << 20),
        "a hole": call(285, file, 3, 0, 1),
        "room, as once": call(16, file, 0x4030582A, ctypes.addressof(space)),
        "a file's own room": call(285, file, 0, 0, 1 << 20),
        "processes for others": resource.getrlimit(resource.RLIMIT_NPROC)[0]
        < work.payload,
        "signals that wait": resource.getrlimit(resource.RLIMIT_SIGPENDING)[1] <= 256,
    }


async def speak():
    cat = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await cat.communicate(b"x" * 300_000)
    fast = await asyncio.wait_for(asyncio.to_thread(len, said), 10)
    return fast, cat.returncode


@task("works", attempts=1)
def works(work):
    child = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True
    )
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send("hello")
    wait([reader])
    child_process = multiprocessing.get_context("fork").Process(target=bool)
    child_process.start()
    child_process.join()
    with selectors.DefaultSelector() as selector:
        name = type(selector).__name__
    return {
        "asyncio": list(asyncio.run(speak())),
        "a program": child.stdout.split(),
        "a pipe": reader.recv(),
        "a process": child_process.exitcode,
        "selector": name,
    }


@task("threads", attempts=1)
def threads(work):
    threading.stack_size(64 << 10)
    stop = threading.Event()
    for _ in range(work.payload):
        threading.Thread(target=stop.wait, daemon=True).start()
    stop.wait(work.payload / 1000)
    return threading.active_count()


@task("grandchildren", attempts=1)
def grandchildren(work):
    """Have many processes below one that has lost its parent."""
    if os.fork() == 0:
        if os.fork() == 0:
            for _ in range(300):
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
            time.sleep(60)
        os._exit(0)
    os.wait()
    time.sleep(50)


@task("files", attempts=1)
def files(work):
    """Have many open files, in few processes."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(4000)]
    for _ in range(10):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    time.sleep(10)


@task("hides", attempts=1, wall_s=30)
def hides(work):
    """Hoard behind a first thread that has ended: the process seems to have nothing."""

    def hoard():
        time.sleep(0.5)
        kept = []
        for _ in range(60):
            kept.append(b"x" * (16 << 20))
        time.sleep(60)

    if work.payload == "in a child" and os.fork():
        time.sleep(20)
        return
    threading.Thread(target=hoard).start()
    LIBC.syscall(60, 0)


@task("innocent", attempts=1)
def innocent(work):
    return "well"
'''


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "sharing.py").write_text(MODULE)
    with healthy_server(
        tmp_path, processors="sharing", workers="1", slot_memory_bytes="300MiB"
    ) as found:
        yield found


def run(server: ServerProcess, name: str, payload: object = None) -> Any:
    found = ended(server, submit(server, name, payload))
    innocent = ended(server, submit(server, "innocent"))
    assert innocent["result"] == "well"
    return found


@needs_filter
def test_a_task_takes_nothing_that_is_counted_for_all_of_its_user(
    server: ServerProcess,
) -> None:
    """Used up, the watches of epoll would end the server itself."""
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    assert run(server, "takes", processes)["result"] == {
        "epoll_create": "EPERM",
        "epoll_create1": "EPERM",
        "io_setup": "EPERM",
        "send a file": "EPERM",
        "a thread with files of its own": "EPERM",
        "room beyond a file": "ENOTSUP",
        "room beyond the output": "ENOTSUP",
        "a hole": "ENOTSUP",
        "room, as once": "EPERM",
        "a file's own room": "done",
        "processes for others": processes != resource.RLIM_INFINITY,
        "signals that wait": True,
    }


def test_loops_programs_and_pools_work_in_a_worker_without_epoll(
    server: ServerProcess,
) -> None:
    found = run(server, "works")
    result = found["result"]
    assert result is not None, found

    assert result["asyncio"] == [300_000, 0]
    assert result["a program"][0] == "slept"
    assert (result["a pipe"], result["a process"]) == ("hello", 0)
    if syscalls.can_filter():
        assert result["selector"] == "PollSelector"


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="counted in /proc")


@needs_proc
def test_a_task_with_too_many_threads_is_ended(server: ServerProcess) -> None:
    found = run(server, "threads", 5000)

    assert found["status"] == "FAILED"
    assert found["error"]["code"] == CROWD


@pytest.mark.skipif(not Path("/proc/self/fd").stat().st_size, reason="from Linux 6.2")
def test_a_task_with_too_many_open_files_is_ended(server: ServerProcess) -> None:
    found = run(server, "files")

    assert found["status"] == "FAILED"
    assert found["error"]["code"] == CROWD


@needs_proc
def test_what_an_orphan_has_started_counts(server: ServerProcess) -> None:
    found = run(server, "grandchildren")

    assert found["status"] == "FAILED"
    assert found["error"]["code"] == CROWD


@needs_proc
def test_some_hundred_threads_are_an_honest_thing(server: ServerProcess) -> None:
    assert run(server, "threads", 300)["result"] == 301


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of a call")
@pytest.mark.parametrize("where", ["in itself", "in a child"])
def test_nobody_hides_memory_behind_a_thread_that_has_ended(
    server: ServerProcess, where: str
) -> None:
    found = run(server, "hides", where)

    assert (found["status"], found["error"]["code"]) == ("FAILED", "out_of_memory")
