"""Processors that misbehave in every way that a decoder or a plugin can."""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
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
            "status": Path("/proc/self/status").read_text(),
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
    for _ in range(2):
        subprocess.Popen(["/bin/sh", "-c", loud])
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


@processor("daemonises", accepts=ANY)
def daemonises(work: Work) -> Result:
    """Start a process as daemons do: nobody's child, in a session of its own."""
    reader, writer = os.pipe()
    done = 0
    if os.fork() == 0:
        for leave in (os.setsid, lambda: os.setpgid(0, 0), _join_another(work)):
            with contextlib.suppress(PermissionError):
                leave()
                done += 1
        if os.fork() == 0:
            os.write(writer, f"{os.getpid()} {done}".encode())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    pid, left = map(int, os.read(reader, 100).split())
    os.close(reader)
    os.close(writer)
    return Result(facts={"worker": os.getpid(), "daemon": pid, "left": left})


def _join_another(work: Work) -> Callable[[], None]:
    return lambda: os.setpgid(0, int(str(work.options["group"])))


def _there(work: Work) -> bool:
    return (work.out / "pids").exists()


@processor("bombs", accepts=ANY)
def bombs(_work: Work) -> Result:
    while True:
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                time.sleep(1000)


@processor("multiplies", accepts=ANY)
def multiplies(work: Work) -> Result:
    """Share memory with children, of which each takes some of its own as well."""
    said = {name: float(str(value)) for name, value in work.options.items()}
    kept = [b"x" * (int(said["shared"]) << 20)]
    children = []
    for _ in range(int(said["children"])):
        children.append(os.fork())
        if children[-1] == 0:
            kept.append(b"x" * (int(said["own"]) << 20))
            time.sleep(said["seconds"])
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    return Result()


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


@processor("fills", accepts=ANY)
def fills(work: Work) -> Result:
    """Fill the disk as told, as long as nobody objects; stop far above the bound."""
    how = work.options["how"]
    kept: list[object] = []
    if how == "where no path leads":
        deep = os.open(work.out, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=deep)
            deep = os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
    elif how == "too many files":
        for number in range(60_000):
            (work.out / str(number)).touch()
    else:
        for number in range(20):
            file = (work.out / str(number)).open("w+b")
            file.write(b"x" * (2 << 20))
            file.flush()
            if how != "files":
                (work.out / str(number)).unlink()
            if how != "mapped files":
                kept.append(file)
                continue
            kept.append(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE))
            file.close()
    time.sleep(50)
    return Result()


@processor("churns", accepts=ANY)
def churns(work: Work) -> Result:
    for number in range(30):
        path = work.out / str(number)
        path.write_bytes(b"x" * (2 << 20))
        time.sleep(0.02)
        path.unlink()
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
