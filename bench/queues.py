"""Other job queues, for comparison: Celery and Dramatiq, both on Redis.

Neither is part of the program. pip puts them into an environment in the user's cache,
once; Redis is used when the system has it. What is not there is left out.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CACHE: Final = Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "asyncflow-bench"
)
_VENV: Final = _CACHE / "queues"
_PACKAGES: Final = ("celery[redis]==5.6.*", "dramatiq[redis]==2.*")
_INSTALL_S: Final = 240.0
_START_S: Final = 30.0
_DONE_S: Final = 180.0

_CELERY: Final = """
import os
import sys

import redis
from celery import Celery

app = Celery("queue", broker=os.environ["QUEUE_URL"])
app.conf.task_acks_late = True
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 4
counter = redis.Redis.from_url(os.environ["QUEUE_URL"])


@app.task(name="tasks.noop")
def noop(n):
    counter.incr("done")


if __name__ == "__main__":
    for n in range(int(sys.argv[1])):
        noop.delay(n)
"""
_DRAMATIQ: Final = """
import os
import sys

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["QUEUE_URL"]))
counter = redis.Redis.from_url(os.environ["QUEUE_URL"])


@dramatiq.actor
def noop(n):
    counter.incr("done")


if __name__ == "__main__":
    for n in range(int(sys.argv[1])):
        noop.send(n)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue that can be measured: how it is fed and how its workers start."""

    name: str
    code: str
    worker: tuple[str, ...]


QUEUES: Final = (
    Queue(
        name="Celery on Redis (acks late)",
        code=_CELERY,
        worker=("celery", "-A", "tasks", "worker", "-c", "{workers}", "-l", "ERROR"),
    ),
    Queue(
        name="Dramatiq on Redis",
        code=_DRAMATIQ,
        worker=("dramatiq", "tasks", "-p", "{workers}", "-t", "1"),
    ),
)


def measure(folder: Path, *, count: int, workers: int) -> dict[str, float]:
    """Return how many no-ops a second each queue that is to be had works off."""
    if shutil.which("redis-server") is None or not _is_installed():
        return {}
    found = {}
    for queue in QUEUES:
        place = folder / queue.name.split()[0]
        place.mkdir()
        try:
            found[queue.name] = _rate(queue, place, count=count, workers=workers)
        except (subprocess.SubprocessError, TimeoutError) as error:
            print(f"{queue.name} was not measured: {error}", file=sys.stderr)
    return found


def _is_installed() -> bool:
    if (_VENV / "bin" / "dramatiq").exists():
        return True
    _CACHE.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(  # noqa: S603 -- argv is built from constants
            [sys.executable, "-m", "venv", str(_VENV)], check=True, timeout=60
        )
        subprocess.run(  # noqa: S603 -- argv is built from constants
            [str(_VENV / "bin" / "pip"), "install", "--quiet", *_PACKAGES],
            check=True,
            timeout=_INSTALL_S,
        )
    except subprocess.SubprocessError:
        shutil.rmtree(_VENV, ignore_errors=True)
        return False
    return True


def _rate(queue: Queue, folder: Path, *, count: int, workers: int) -> float:
    (folder / "tasks.py").write_text(queue.code, encoding="utf-8")
    with _redis(folder) as url:
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "QUEUE_URL": url}
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        words = [word.format(workers=workers) for word in queue.worker]
        command = [str(_VENV / "bin" / words[0]), *words[1:]]
        _feed(folder, env, 20)
        with _process(command, folder, env) as worker:
            _until_done(port, 20, _START_S)
            # all of them wait before the first is taken
            os.killpg(worker, signal.SIGSTOP)
            _feed(folder, env, count)
            began = time.perf_counter()
            os.killpg(worker, signal.SIGCONT)
            _until_done(port, 20 + count, _DONE_S)
            return count / (time.perf_counter() - began)


def _feed(folder: Path, env: dict[str, str], count: int) -> None:
    subprocess.run(  # noqa: S603 -- argv is built here
        [str(_VENV / "bin" / "python"), "tasks.py", str(count)],
        cwd=folder,
        env=env,
        check=True,
        timeout=_DONE_S,
    )


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis that keeps what it has, as its manual advises for queues."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    words += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    with _process(["redis-server", *words], folder, dict(os.environ)):
        end = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise TimeoutError("redis does not start") from None
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def _process(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[int]:
    """Run *command* in a group of its own; yield the group's id."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 -- argv is built here
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_done(port: int, count: int, patience_s: float) -> None:
    """Ask Redis itself, in its own words, until so many tasks have said they ran."""
    end = time.monotonic() + patience_s
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        while True:
            link.sendall(b"GET done\r\n")
            answer = link.recv(4096).split(b"\r\n")
            if answer[0] != b"$-1" and int(answer[1]) >= count:
                return
            if time.monotonic() > end:
                raise TimeoutError("the tasks are not done in time")
            time.sleep(0.005)
