"""Processors that reach for what lies outside of their walls, and say what they got."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from asyncflow import syscalls
from asyncflow.processors.base import Result, Work, processor

ANY = ("*",)

Tries = dict[str, Callable[[], object]]


@processor("peeks", accepts=ANY)
def peeks(work: Work) -> Result:
    """Try what the sandbox forbids; tell what worked."""
    other = Path(str(work.options["secret"]))
    done = []
    tries: Tries = {
        "read a secret": other.read_text,
        "write outside": lambda: other.with_name("new").write_text("x"),
        "write the source": lambda: work.source.write_text("x"),
        "cut the source": lambda: os.truncate(work.source, 0),
        "link the source": lambda: (work.out / "x").hardlink_to(work.source),
        "connect": lambda: socket.create_connection(
            ("127.0.0.1", int(str(work.options["port"]))), timeout=2
        ).close(),
        "bind": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "see who listens": Path("/proc/self/net/unix").read_text,
        "see who listens, as a thread": lambda: Path(
            f"/proc/self/task/{os.getpid()}/net/unix"
        ).read_text(),
        "see what is mounted": Path("/proc/self/mountinfo").read_text,
        "signal the server": lambda: os.kill(int(str(work.options["server"])), 0),
        "read the server": lambda: Path(
            f"/proc/{work.options['server']}/environ"
        ).read_bytes(),
    }
    for what, attempt in tries.items():
        with contextlib.suppress(OSError):
            attempt()
            done.append(what)
    return Result(facts={"done": done})


#: what a worker may do; the rest is refused
ALLOWED = (
    "speak on a socketpair",
    "have a pair of packets",
    "run a program",
    "start a thread",
    "set its own limits",
    "slow itself down",
    "lock its own file",
    "name itself",
    "ask for its personality",
    *(("ask for its registers",) if platform.machine() == "x86_64" else ()),
)


@processor("calls", accepts=ANY)
def calls(work: Work) -> Result:
    """Make system calls that a filter may refuse; say what went through.

    Whatever is not refused fails all the same, for its arguments, or does no harm.
    """
    server = int(str(work.options["server"]))
    done, refused = [], []
    for what, attempt in (
        _to_speak(work)
        | _to_touch_others(server)
        | _to_hold_files(work, server)
        | _to_stay_different()
    ).items():
        try:
            attempt()
            done.append(what)
        except PermissionError:
            refused.append(what)
    return Result(facts={"done": done, "refused": refused})


def _to_speak(work: Work) -> Tries:
    one, other = socket.socketpair()

    def pair(kind: int) -> None:
        for end in socket.socketpair(socket.AF_UNIX, kind):
            end.close()

    def speak(family: int, kind: int) -> Callable[[], None]:
        return lambda: socket.socket(family, kind).close()

    return {
        "speak on a socketpair": lambda: one.send(b"x"),
        "have a pair of packets": lambda: pair(socket.SOCK_SEQPACKET),
        "have datagrams": lambda: pair(socket.SOCK_DGRAM),
        "speak to a service": speak(socket.AF_UNIX, socket.SOCK_STREAM),
        "connect what is connected": lambda: one.connect("/nowhere"),
        "give it a name": lambda: other.bind(str(work.out / "name")),
        "speak TCP": speak(socket.AF_INET, socket.SOCK_STREAM),
        "speak UDP": speak(socket.AF_INET, socket.SOCK_DGRAM),
        "speak UDP over IPv6": speak(socket.AF_INET6, socket.SOCK_DGRAM),
        "open a raw socket": speak(socket.AF_INET, socket.SOCK_RAW),
        "ask the kernel by netlink": speak(socket.AF_NETLINK, socket.SOCK_RAW),
    }


def _to_touch_others(server: int) -> Tries:
    return {
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "start a thread": _run_a_thread,
        "set its own limits": lambda: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0)),
        "slow itself down": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
        "leave the namespace": lambda: _call("unshare", 0x10000000),
        # in a user namespace of its own, a process cannot share its folder
        "clone into a namespace": lambda: _call("clone", 0x10000200 | signal.SIGCHLD),
        # with CLONE_SIGHAND alone, which the kernel does not take either
        "have a child of the fork server's": lambda: _call("clone", 0x8800),
        "ask for the server's limits": lambda: resource.prlimit(
            server, resource.RLIMIT_NOFILE
        ),
        "slow the server down": lambda: os.setpriority(os.PRIO_PROCESS, server, 19),
        "slow the user down": lambda: os.setpriority(os.PRIO_USER, 0, 19),
        "choose the server's cores": lambda: os.sched_setaffinity(
            server, os.sched_getaffinity(0)
        ),
        "move the server's memory": lambda: _call("migrate_pages", server, 0, 0, 0),
        "signal everybody": lambda: os.kill(-1, 0),
        "outlive the server": lambda: _call("prctl", 1, 0, 0, 0, 0),
    }


def _to_hold_files(work: Work, server: int) -> Tries:
    source = os.open(work.source, os.O_RDONLY)
    out = os.open(work.out, os.O_RDONLY)
    pipe, _ = os.pipe()
    return {
        "lock its own file": lambda: fcntl.flock(out, fcntl.LOCK_EX),
        "mark a file": lambda: os.setxattr(work.out, "user.mark", b"x"),
        "hold up who opens the source": lambda: fcntl.fcntl(
            source, fcntl.F_SETLEASE, fcntl.F_RDLCK
        ),
        "be told of new files": lambda: fcntl.fcntl(out, fcntl.F_NOTIFY, 0),
        "send signals by a pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, server),
        "send signals by asking": lambda: fcntl.ioctl(pipe, 0x8901, bytes(4)),
        "lock the source for ever": lambda: fcntl.ioctl(source, 0x40086602, bytes(8)),
    }


def _to_stay_different() -> Tries:
    """Change what the next run in this process would suffer from."""

    def prctl(*words: int) -> Callable[[], None]:
        return lambda: _call("prctl", *words, *(0,) * (5 - len(words)))

    name = ctypes.create_string_buffer(b"worker")
    idle = os.sched_param(0)
    return {
        "name itself": prctl(15, ctypes.addressof(name)),
        "make the clock a fault": prctl(26, 2),
        "be late": prctl(29, 10**11),
        "hide from the server": prctl(4, 0),
        "adopt orphans": prctl(36, 1),
        "never run what it has written": prctl(65, 1),
        "ask for its personality": lambda: _call("personality", 0xFFFFFFFF),
        "have another personality": lambda: _call("personality", 0x0040000),
        "run only when nobody else does": lambda: os.sched_setscheduler(
            0, os.SCHED_IDLE, idle
        ),
        "build a wall": lambda: _call("landlock_restrict_self", -1, 0),
        "keep all memory": lambda: _call("mlockall", 2),
        "share memory": lambda: mmap.mmap(-1, 4096).close(),
        "have memory in no process": lambda: os.close(os.memfd_create("x")),
    } | ({} if platform.machine() != "x86_64" else _to_change_the_processor())


def _to_change_the_processor() -> Tries:
    room = ctypes.create_string_buffer(8)

    def arch(*words: int) -> Callable[[], None]:
        return lambda: _call("arch_prctl", *words)

    return {
        "ask for its registers": arch(0x1003, ctypes.addressof(room)),
        "make the processor's name a fault": arch(0x1012, 0),
    }


def _call(name: str, *words: int) -> None:
    """Make a system call for which the C library may have no function."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = syscalls.numbers(platform.machine())[name]
    if libc.syscall(number, *map(ctypes.c_long, words)) < 0:
        raise OSError(ctypes.get_errno(), name)


@processor("holds", accepts=ANY)
def holds(_work: Work) -> Result:
    """Tell which files and sockets the process has open."""
    names = os.listdir("/proc/self/fd")  # noqa: PTH208 -- with the descriptor it uses
    open_now = [f"/proc/self/fd/{one}" for one in names]
    kinds = [os.readlink(one) for one in open_now if os.path.lexists(one)]  # noqa: PTH115
    return Result(facts={"files": kinds})


def _run_a_thread() -> None:
    thread = threading.Thread(target=bool)
    thread.start()
    thread.join()


@processor("refusals", accepts=ANY)
def refusals(_work: Work) -> Result:
    """Make all calls that nobody may make, with words that make no sense of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = syscalls.numbers(platform.machine())
    words = (-1,) * 6
    said: dict[str, object] = {}
    for name in (*syscalls.REFUSED, "clone3"):
        if name in numbers:
            libc.syscall(numbers[name], *words)
            said[name] = errno.errorcode.get(ctypes.get_errno(), "done")
            ctypes.set_errno(0)
    return Result(facts=said)


@processor("pretends", accepts=ANY)
def pretends(work: Work) -> Result:
    """Change modes, owners and times by every way there is; hear of no error."""
    other = Path(str(work.options["secret"]))
    made = work.out / "it"
    made.write_text("hello")
    shutil.copymode(made, other)
    for path in (other, other.parent, work.source):
        path.chmod(0o777)
        os.chown(path, 12345, 12345)
        os.utime(path, (1, 1))
    fd = os.open(work.source, os.O_RDONLY)
    os.fchmod(fd, 0o777)
    os.fchown(fd, 12345, 12345)
    os.close(fd)
    return Result()


@processor("touches", accepts=ANY)
def touches(work: Work) -> Result:
    new, old = work.out / "new", work.out / "old"
    old.write_text("text")
    for path in (new, old):
        path.touch()
    subprocess.run(["/usr/bin/touch", str(work.out / "more")], check=True)
    return Result(
        facts={
            "new": new.exists(),
            "old": old.read_text(),
            "by a program": (work.out / "more").exists(),
        }
    )
