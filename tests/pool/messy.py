"""Functions that leave something of theirs in the worker, and one that looks for it."""

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from asyncflow.processors.base import Derivative, Result, Work, processor

ANY = ("*",)

_KEPT: list[object] = []
_FOREVER = threading.Event()


def _a_thread_that_ends() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()


def _an_open_file() -> None:
    _KEPT.append(os.open("/dev/null", os.O_RDONLY))


def _a_file_that_nobody_holds() -> None:
    circle: list[object] = [*socket.socketpair()]
    circle.append(circle)


def _a_time_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def _a_time_zone_without_its_variable() -> None:
    _a_time_zone()
    del os.environ["TZ"]


def _all_files() -> None:
    with contextlib.suppress(OSError):
        while True:
            _an_open_file()


def _an_alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def _close_the_stream() -> None:
    sys.stdout.close()


def _a_broken_worker() -> None:
    """Keep the next run from saying anything that can be understood."""
    vars(sys.modules["asyncflow.worker"])["_Run"].go = lambda *_: {"token": 0}


def _a_worker_that_dies() -> None:
    vars(sys.modules["asyncflow.worker"])["_Run"].go = lambda *_: os._exit(3)


def _a_worker_that_hangs() -> None:
    vars(sys.modules["asyncflow.worker"])["_Run"].go = lambda *_: _FOREVER.wait()


def _say(*messages: bytes) -> None:
    """Speak as the worker, as a function that knows it could."""
    for message in messages:
        vars(sys.modules["asyncflow.worker"])["_desks"][0].voice.send(message)


def _report(token: int) -> bytes:
    report = {"token": token, "verdict": "done", "facts": {"pid": "forged"}}
    return json.dumps({"token": token, "report": report}).encode()


def _reports_for_others() -> None:
    """Say the last word, and behind it what the next ones shall have said.

    As much comes before it as the server takes at once: the rest waits in the socket.
    """
    own = _token()
    noise = [b"noise"] * 31
    _say(*noise, _report(own), *(_report(own + n) for n in range(1, 120)))


def _nothing_at_all() -> None:
    """Say the last word, and behind it an empty one."""
    _say(_report(_token()), b"")


def _a_timer() -> None:
    libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
    assert libc.timer_create(time.CLOCK_MONOTONIC, None, ctypes.byref(timer)) == 0


def _a_limit(which: int, soft: int, hard: int | None = None) -> None:
    _, before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before if hard is None else hard))


def _map(size: int) -> None:
    """Take *size* bytes of the address space, and no memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    _KEPT.append(mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ))


#: those that `resource` has no name for, too
LIMITS = {
    "data": resource.RLIMIT_DATA,
    "file locks": 10,
    "locked memory": resource.RLIMIT_MEMLOCK,
    "queued messages": resource.RLIMIT_MSGQUEUE,
    "pending signals": resource.RLIMIT_SIGPENDING,
    "real time": resource.RLIMIT_RTTIME,
    "resident memory": resource.RLIMIT_RSS,
}


def _split() -> None:
    """Use up the mappings that a process may have; each second page is another one."""
    libc, size = ctypes.CDLL(None), 200 << 20
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    for _ in range(2):
        start = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, flags, -1, 0)
        for place in range(0, size, 2 * mmap.PAGESIZE):
            page = ctypes.c_void_p(start + place)
            if libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
                return


LEAVINGS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "a thread": lambda: threading.Thread(target=_FOREVER.wait, daemon=True).start(),
    "a thread that ends": _a_thread_that_ends,
    "an open file": _an_open_file,
    "an open file that nobody holds": _a_file_that_nobody_holds,
    "all files": _all_files,
    "an alarm": _an_alarm,
    "a timer": _a_timer,
    "a handler": lambda: signal.signal(signal.SIGCHLD, lambda *_: None),
    "a rare handler": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    # 1 is SIG_IGN
    "a handler of the C library": lambda: ctypes.CDLL(None).signal(
        int(signal.SIGUSR2), ctypes.c_void_p(1)
    ),
    "a blocked signal": lambda: signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGUSR1,)
    ),
    "a umask": lambda: os.umask(0o777),
    "a folder": lambda: os.chdir("/usr"),
    "a variable": lambda: os.environ.update(SECRET="x", TMPDIR="/nowhere"),
    "a time zone": _a_time_zone,
    "a time zone without its variable": _a_time_zone_without_its_variable,
    "a limit": lambda: _a_limit(resource.RLIMIT_NOFILE, 40),
    "a hard limit": lambda: _a_limit(resource.RLIMIT_NOFILE, 40, 40),
    "a limit of memory": lambda: _a_limit(resource.RLIMIT_AS, 1 << 20),
    "a lower priority": lambda: os.nice(1),
    "a gigabyte of addresses": lambda: _map(1 << 30),
    "some addresses": lambda: _map(300 << 20),
    "no mappings": _split,
    "a stream": lambda: setattr(sys, "stdout", None),
    "a broken worker": _a_broken_worker,
    "a closed stream": _close_the_stream,
    "a worker that dies": _a_worker_that_dies,
    "a worker that hangs": _a_worker_that_hangs,
    "reports for others": _reports_for_others,
    "an empty message": _nothing_at_all,
}


@processor("lowers", accepts=ANY)
def lowers(work: Work) -> Result:
    which = LIMITS[str(work.options["limit"])]
    _, hard = resource.getrlimit(which)
    lower = 1 << 40 if hard == resource.RLIM_INFINITY else hard // 2
    resource.setrlimit(which, (lower, lower))
    return Result(facts={"pid": os.getpid()})


@processor("maps", accepts=ANY, memory_bytes=400 << 20)
def maps(work: Work) -> Result:
    """Take as many bytes of the address space as told, and leave nothing."""
    for which in ("soft", "hard") if work.options.get("is_raised") else ():
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = hard if which == "soft" else resource.RLIM_INFINITY
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        _map(int(str(work.options["bytes"])))
    except OSError:
        return Result(facts={"pid": os.getpid(), "mapped": False})
    _KEPT.pop()
    return Result(facts={"pid": os.getpid(), "mapped": True})


@processor("leaves-behind", accepts=ANY)
def leaves_behind(work: Work) -> Result:
    LEAVINGS[str(work.options["what"])]()
    return Result(facts={"pid": os.getpid()})


@processor("resident", accepts=ANY, resident=True)
def resident(work: Work) -> Result:
    for what in str(work.options["what"]).split(","):
        LEAVINGS[what]()
    return Result(facts={"pid": os.getpid()})


@processor("stops", accepts=ANY)
def stops(work: Work) -> Result:
    """Report that all is well, and stand still."""
    work.progress(1)
    desk = vars(sys.modules["asyncflow.worker"])["_desks"][0]
    desk.voice.send(
        b'{"token": %d, "report": {"token": %d, "verdict": "done", "facts": {}}}'
        % (_token(), _token())
    )
    os.kill(os.getpid(), signal.SIGSTOP)
    return Result()


@processor("gives-and-dies", accepts=ANY, outputs=("it",))
def gives_and_dies(work: Work) -> Result:
    path = work.out / "it"
    path.write_text("hello")
    work.publish(Derivative(name="it", path=path, media_type="text/plain"))
    os._exit(3)


@processor("looks-around", accepts=ANY)
def looks_around(_work: Work) -> Result:
    mask = os.umask(0)
    os.umask(mask)
    sys.stdout.write("a line\n")
    return Result(
        facts={
            "pid": os.getpid(),
            "umask": mask,
            "folder": str(Path.cwd()),
            "environ": dict(os.environ),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "limits": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
            "room": _room(),
            "alarm": list(signal.getitimer(signal.ITIMER_REAL)),
            "handlers": [
                str(signal.getsignal(one)) for one in (signal.SIGUSR1, signal.SIGCHLD)
            ],
            "blocked": [
                int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            ],
            "threads": threading.active_count(),
            "time": [list(time.tzname), time.strftime("%H:%M %z", time.localtime(0))],
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
        }
    )


def _room() -> list[int]:
    """Return how much more can be mapped, now and at most, in quarters of gigabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    return [round((one - pages * mmap.PAGESIZE) / (256 << 20)) for one in limits]


@processor("waits", accepts=ANY)
def waits(work: Work) -> Result:
    time.sleep(float(str(work.options["seconds"])))
    return Result()


@processor("mumbles", accepts=ANY)
def mumbles(_work: Work) -> Result:
    """Report what cannot be understood."""
    desk = vars(sys.modules["asyncflow.worker"])["_desks"][0]
    desk.voice.send(b'{"token": %d, "report": []}' % _token())
    time.sleep(20)
    return Result()


def _token() -> int:
    frame = sys._getframe()  # noqa: SLF001 -- this is a break-in
    while "surroundings" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    found: int = frame.f_locals["token"]
    return found
