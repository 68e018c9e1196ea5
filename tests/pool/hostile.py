"""Processors that misbehave in every way that a decoder or a plugin can."""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable  # noqa: TC003 -- needed by a local annotation
from pathlib import Path
from typing import Any

from asyncflow.errors import BadFile, Skip, TryLater
from asyncflow.processors.base import Derivative, Result, Work, processor

ANY = ("*",)


def listed(work: Work, name: str, text: str = "hello") -> Derivative:
    path = work.out / f"{name}.txt"
    path.write_text(text)
    return Derivative(name=name, path=path, media_type="text/plain", facts={"n": 1})


@processor("echo", accepts=ANY)
def echo(work: Work) -> Result:
    return Result(facts={"text": work.source.read_text(), "type": work.media_type})


@processor("noop", accepts=ANY)
def noop(_work: Work) -> Result:
    return Result()


@processor("patient", accepts=ANY)
def patient(work: Work) -> Result:
    """Take as long as it is told."""
    time.sleep(float(str(work.options["seconds"])))
    return Result()


@processor("surroundings", accepts=ANY)
def surroundings(_work: Work) -> Result:
    return Result(
        facts={
            "pid": os.getpid(),
            "group": os.getpgid(0),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "environ": dict(os.environ),
            "argv": sys.argv,
            "modules": sorted(sys.modules),
            "term": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
            "int": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "score": int(Path("/proc/self/oom_score_adj").read_text()),
            "limits": Path("/proc/self/limits").read_text(),
        }
    )


@processor("raises", accepts=ANY)
def raises(work: Work) -> Result:
    where = str(work.source)
    kinds: dict[object, BaseException] = {
        "bad": BadFile("damaged", f"cannot read {where}"),
        "later": TryLater(7.5, "come back"),
        "skip": Skip("no tool"),
        "value": ValueError(where),
        "exit": SystemExit(3),
        "memory": MemoryError(),
        "interrupt": KeyboardInterrupt(),
        "long": BadFile("damaged", "x" * 100_000),
        "odd": BadFile("Not A Code!", "a\x1b[31mb\nc"),
    }
    raise kinds[work.options["kind"]]


@processor("dies", accepts=ANY)
def dies(work: Work) -> Result:
    match work.options["how"]:
        case "abort":
            os.abort()
        case "segv":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass
    return Result()


@processor("spins", accepts=ANY)
def spins(work: Work) -> Result:
    work.progress(1)
    if work.options.get("gil"):
        # PyDLL keeps the interpreter lock: no thread, no signal handler ever runs
        ctypes.PyDLL(None).usleep(60_000_000)
    while True:
        pass


@processor("hogs", accepts=ANY, memory_bytes=1 << 30)
def hogs(work: Work) -> Result:
    kept = []
    size = int(str(work.options["block"])) << 20
    while True:
        kept.append(b"x" * size)
        time.sleep(0.001)


@processor("forks", accepts=ANY)
def forks(work: Work) -> Result:
    """Start children as told, then end as told."""
    loud = f"echo $$ >> {work.out}/pids; exec sleep 1000"
    away = work.options.get("away") is True
    for _ in range(2):
        subprocess.Popen(["/bin/sh", "-c", loud], start_new_session=away)
    while len((work.out / "pids").read_text().split()) < 2 if _there(work) else True:
        pass
    pids = [int(p) for p in (work.out / "pids").read_text().split()]
    work.publish(
        Derivative(
            name="pids",
            path=work.out / "pids",
            media_type="text/plain",
            facts={"pids": pids},
        )
    )
    if work.options["then"] == "crash":
        time.sleep(0.2)
        os.abort()
    if work.options["then"] == "wait":
        time.sleep(1000)
    return Result()


def _there(work: Work) -> bool:
    return (work.out / "pids").exists()


@processor("bombs", accepts=ANY)
def bombs(_work: Work) -> Result:
    while True:
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                time.sleep(1000)


@processor("publishes", accepts=ANY, outputs=("first", "second", "third"))
def publishes(work: Work) -> Result:
    work.publish(listed(work, "first"))
    work.progress(float(str(work.options.get("percent", 50))))
    work.publish(listed(work, "second"))
    if work.options.get("then") == "fail":
        raise BadFile("damaged", "after all")
    return Result(derivatives=(listed(work, "third"),), facts={"done": True})


@processor("leaves", accepts=ANY, outputs=("it",))
def leaves(work: Work) -> Result:  # noqa: C901 -- a list of cases
    """List something that is not a plain file of its own."""
    path = work.out / "it"
    name = "it"
    match work.options["what"]:
        case "symlink":
            path.symlink_to("/etc/hostname")
        case "inner symlink":
            (work.out / "other").write_text("x")
            path.symlink_to("other")
        case "hard link":
            (work.out / "other").write_text("x")
            path.hardlink_to(work.out / "other")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "outside":
            path = Path("/etc/hostname")
        case "climbing":
            path = work.out / ".." / "in" / "source"
        case "undeclared":
            path.write_text("x")
            name = "another"
        case "name":
            path.write_text("x")
            name = "../it"
        case "report":
            path = work.out / "result.json"
        case _:  # nothing at all
            pass
    made = Derivative(name=name, path=path, media_type="text/plain")
    return Result(derivatives=(made,))


@processor("rewrites", accepts=ANY)
def rewrites(work: Work) -> Result:
    """Change a derivative after it was announced, until somebody objects."""
    made = listed(work, "it")
    work.publish(made)
    while True:
        made.path.write_text(str(time.monotonic()))


@processor("forges", accepts=ANY)
def forges(work: Work) -> Result:
    """Write a report of our own and stop the worker from writing its."""
    text = work.options["report"]
    path = work.out / "result.json"
    if text == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif text == "fifo":
        os.mkfifo(path)
    elif text != "none":
        path.write_text(str(text))
    _speak(str(text) if work.options["in_a_message"] else "null")
    return Result()


def _frame_with(name: str) -> dict[str, Any]:
    """Return the variables of the function below us that has one called *name*."""
    frame = sys._getframe()  # noqa: SLF001 -- this is a break-in
    while name not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_locals


def _speak(report: str) -> None:
    """Report through the worker's voice, as a taken-over worker could."""
    found = _frame_with("desk")
    text = f'{{"token": {found["token"]}, "report": {report}}}'
    found["desk"].voice.send(text.encode())
    time.sleep(1000)


def _answer(result: object) -> None:
    """Answer through the executor's own pipe, as a taken-over worker could."""
    found = _frame_with("result_queue")
    item = found["call_item"]
    kind = vars(sys.modules["concurrent.futures.process"])["_ResultItem"]
    found["result_queue"].put(kind(item.work_id, result=result))
    time.sleep(1000)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (os.environ["TMPDIR"] + "/../../pwned",))


@processor("pickles", accepts=ANY)
def pickles(work: Work) -> Result:
    _answer(Payload() if work.options["payload"] else 0)
    return Result()


@processor("floods", accepts=ANY)
def floods(work: Work) -> Result:
    voice = vars(sys.modules["asyncflow.worker"])["_desks"][0].voice
    until = time.monotonic() + float(str(work.options["seconds"]))
    message = json.dumps({"token": 0, "percent": 3.0}).encode()
    while time.monotonic() < until:
        for data in (message, b"\xff{", b"[" * 4000):
            with contextlib.suppress(OSError):
                voice.send(data, socket.MSG_DONTWAIT)
    work.progress(77)
    work.publish(listed(work, "late"))
    return Result()


@processor("litters", accepts=ANY)
def litters(work: Work) -> Result:
    """Leave what is hard to remove."""
    (work.out / "link").symlink_to("/etc")
    at = os.open(work.out, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    (work.out / "locked").mkdir()
    (work.out / "locked" / "file").write_text("x")
    (work.out / "locked").chmod(0)
    (work.out / "never open").mkdir(mode=0)
    return Result()


@processor("peeks", accepts=ANY)
def peeks(work: Work) -> Result:
    """Try what the sandbox forbids; tell what worked."""
    other = Path(str(work.options["secret"]))
    done = []
    tries: dict[str, Callable[[], object]] = {
        "read a secret": other.read_text,
        "write outside": lambda: other.with_name("new").write_text("x"),
        "write the source": lambda: work.source.write_text("x"),
        "cut the source": lambda: os.truncate(work.source, 0),
        "link the source": lambda: (work.out / "x").hardlink_to(work.source),
        "connect": lambda: socket.create_connection(
            ("127.0.0.1", int(str(work.options["port"]))), timeout=2
        ).close(),
        "bind": lambda: socket.create_server(("127.0.0.1", 0)).close(),
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


@processor("calls", accepts=ANY)
def calls(work: Work) -> Result:
    """Make system calls that a filter may refuse; say what went through."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = int(str(work.options["server"]))

    def call(name: str, *words: int) -> None:
        if getattr(libc, name)(*words) < 0:
            raise OSError(ctypes.get_errno(), name)

    def pair() -> None:
        one, other = socket.socketpair()
        one.close()
        other.close()

    tries: dict[str, Callable[[], object]] = {
        "speak on a socketpair": pair,
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "speak UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "speak UDP over IPv6": lambda: socket.socket(
            socket.AF_INET6, socket.SOCK_DGRAM
        ).close(),
        "open a raw socket": lambda: socket.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
        ).close(),
        "ask the kernel by netlink": lambda: socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW
        ).close(),
        "trace the server": lambda: call(
            "ptrace", 0x4206, int(str(work.options["server"])), 0, 0
        ),
        "leave the namespace": lambda: call("unshare", 0x10000000),
        "load a program into the kernel": lambda: call("syscall", 321, 5, 0, 0),
        "ask for the server's limits": lambda: resource.prlimit(
            server, resource.RLIMIT_NOFILE
        ),
        "set its own limits": lambda: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0)),
        "slow the server down": lambda: os.setpriority(os.PRIO_PROCESS, server, 19),
        "slow the user down": lambda: os.setpriority(os.PRIO_USER, 0, 19),
        "slow itself down": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
        "choose the server's cores": lambda: os.sched_setaffinity(
            server, os.sched_getaffinity(0)
        ),
        "share memory with anybody": lambda: call("shmget", 0, 4096, 0o1600),
        "outlive the server": lambda: call("prctl", 1, 0, 0, 0, 0),
        "mark a file": lambda: os.setxattr(work.out, "user.mark", b"x"),
    }
    done, refused = [], []
    for what, attempt in tries.items():
        try:
            attempt()
            done.append(what)
        except OSError:
            refused.append(what)
    return Result(facts={"done": done, "refused": refused})


@processor("pretends", accepts=ANY)
def pretends(work: Work) -> Result:
    """Change modes, owners and times by every way there is; hear of no error."""
    other = Path(str(work.options["secret"]))
    made = listed(work, "it").path
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


@processor("facts", accepts=ANY)
def strange_facts(work: Work) -> Result:
    match work.options["kind"]:
        case "not json":
            return Result(facts={"x": object()})
        case "nan":
            return Result(facts={"x": float("nan")})
        case _:
            return Result(facts={"x": "x" * (2 << 20)})


@processor("unready", accepts=ANY, ready=lambda: "the tool")
def unready(_work: Work) -> Result:
    return Result()
