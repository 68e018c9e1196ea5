"""Hostile files among good ones, through a whole server: only they come to harm."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.server_process import ServerProcess
from tests.tasks.asking import ended, submit
from tests.web.live import failures, healthy_server, metric, rows, until

#: what the worst libraries do, each behind the name of a file
PROCESSOR = '''
"""A processor that does what the worst libraries do."""
import ctypes
import os
import re
import subprocess
import sys
import time

from asyncflow.processors.base import Result, Work, processor


@processor("victim", accepts=("text/*",), outputs=(), wall_s=6.0)
def victim(work: Work) -> Result:
    match work.file_name:
        case "abort.txt":
            os.abort()
        case "segfault.txt":
            ctypes.string_at(0)
        case "loop.txt":
            # one call into C that never lets go of the interpreter
            re.match("(a|a)*b", "a" * 100)
        case "hog.txt":
            hoard = []
            while True:
                hoard.append(b"x" * (16 << 20))
        case "forks.txt":
            for _ in range(5):
                if os.fork() == 0:
                    try:
                        os.setsid()
                    finally:
                        time.sleep(600)
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            os.abort()
    return Result(facts={"bytes": work.source.stat().st_size})
'''

POISON = {
    "abort.txt": "crashed",
    "segfault.txt": "crashed",
    "loop.txt": "timeout",
    "hog.txt": "out_of_memory",
    "forks.txt": "crashed",
}
GOOD = 20
WORKERS = 2
IDLE = 'asyncflow_workers{state="idle"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "victims.py").write_text(PROCESSOR)
    with healthy_server(
        tmp_path,
        processors="victims",
        workers=str(WORKERS),
        # all of them from the start, so that processes can be counted
        workers_min=str(WORKERS),
        attempts="1",
        slot_memory_bytes="300MiB",
    ) as found:
        yield found


def upload_all(server: ServerProcess) -> dict[str, str]:
    """Upload good files with the poison among them; return the jobs by name."""
    names = [f"good-{number}.txt" for number in range(GOOD)]
    for place, poison in enumerate(POISON):
        names.insert(4 * place + 2, poison)
    return {name: server.upload(name, b"hello") for name in names}


def step(job: Any, name: str) -> Any:
    return next(one for one in job["steps"] if one["name"] == name)


def family(pid: int) -> set[int]:
    """Return all processes below *pid*."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, (task / "children").read_text().split()):
                with contextlib.suppress(FileNotFoundError):
                    found |= {child} | family(child)
    return found


def has_processes_of(folder: Path) -> bool:
    """Tell whether a process works in *folder* or below it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(folder):
                    return True
    return False


@pytest.mark.timeout(120)
def test_poison_harms_only_itself(server: ServerProcess) -> None:
    healthy = family(server.pid)
    jobs = upload_all(server)
    ended = {name: server.finished(job) for name, job in jobs.items()}
    until(lambda: metric(server, IDLE) == WORKERS)

    for name, reason in POISON.items():
        assert ended[name]["status"] == "FAILED", name
        assert ended[name]["error"]["code"] == reason, ended[name]["error"]
        assert ended[name]["error"]["step"] == "victim"
        assert step(ended[name], "identify")["status"] == "done"
    good = [name for name in jobs if name.startswith("good")]
    assert {ended[name]["status"] for name in good} == {"COMPLETED"}
    assert {step(ended[name], "victim")["attempts"] for name in good} <= {0, 1}
    failed = rows(
        server,
        "SELECT DISTINCT file_name FROM attempt JOIN step ON step.id=step_id "
        "JOIN job ON job.id=job_id",
    )
    assert {name for (name,) in failed} == set(POISON)

    until(lambda: len(family(server.pid)) == len(healthy))
    assert server.finished(server.upload("after.txt", b"hello"))["status"] == (
        "COMPLETED"
    )
    assert failures(server) == []


#: what a function can do to its worker, each under the name of a task
LEAVINGS = """
import asyncflow.worker
import os
import resource
import signal
import threading

from asyncflow import task

KEPT = []


@task("descriptors", attempts=1)
def descriptors(work):
    try:
        while True:
            KEPT.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return os.getpid()


@task("alarm", attempts=1)
def alarm(work):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    return os.getpid()


@task("thread", attempts=1)
def thread(work):
    def wait():
        while True:
            threading.Event().wait(0.01)
            os.environ["SECRET"] = "from a thread"
    threading.Thread(target=wait, daemon=True).start()
    return os.getpid()


@task("surroundings", attempts=1)
def surroundings(work):
    os.umask(0o777)
    os.chdir("/usr")
    os.environ["SECRET"] = work.payload
    resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
    return os.getpid()


@task("patch", attempts=1)
def patch(work):
    asyncflow.worker._Run.go = lambda *_: {}
    return os.getpid()


@task("innocent", attempts=1)
def innocent(work):
    threading.Event().wait(0.3)
    (work.out / "file").write_text("x")
    return {
        "text": (work.out / "file").read_text(),
        "folder": os.getcwd(),
        "secret": os.environ.get("SECRET"),
    }
"""


def test_what_one_task_leaves_in_its_worker_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "leavings.py").write_text(LEAVINGS)
    with healthy_server(tmp_path, processors="leavings", workers="1") as server:

        def result_of(name: str, payload: str) -> object:
            done = ended(server, submit(server, name, payload))
            assert done["status"] == "COMPLETED", (name, done)
            return done["result"]

        for name in ("descriptors", "alarm", "thread", "surroundings", "patch"):
            result_of(name, "a secret")
            assert result_of("innocent", "") == {
                "text": "x",
                "folder": "/",
                "secret": None,
            }, name


MODEL = """
import mmap

from asyncflow import task

KEPT = []


@task("model", attempts=1, memory_bytes=16 << 30)
def model(work):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    KEPT.append(mmap.mmap(-1, 6 << 30, flags=flags, prot=mmap.PROT_READ))
"""


def test_a_task_that_keeps_addresses_has_no_picture_refused(tmp_path: Path) -> None:
    (tmp_path / "keeping.py").write_text(MODEL)
    picture = io.BytesIO()
    PIL.Image.new("RGB", (640, 360), (200, 30, 40)).save(picture, "png")
    with healthy_server(tmp_path, processors="keeping", workers="1") as server:
        for _ in range(3):
            kept = ended(server, submit(server, "model", ""))
            assert kept["status"] == "COMPLETED", kept

            job = server.finished(server.upload("good.png", picture.getvalue()))
            assert job["status"] == "COMPLETED", job["error"]


PEEKS = """
from asyncflow import task


@task("peek", attempts=1)
def peek(work):
    try:
        return open(work.payload).read()
    except PermissionError:
        return "refused"
"""


def test_a_task_in_the_folder_of_the_data_does_not_read_the_token(
    tmp_path: Path,
) -> None:
    """The folder of a package is read as a whole, but not what the server keeps."""
    (tmp_path / "__init__.py").write_text(PEEKS)
    # the server's folder, under the name of a package
    (tmp_path / "peeking").symlink_to(".")
    with healthy_server(tmp_path, processors="peeking", workers="1") as server:
        for private in (server.data_dir / "token", server.data_dir / "asyncflow.db"):
            assert private.exists()
            done = ended(server, submit(server, "peek", str(private)))
            assert done["result"] == "refused"


def test_a_stopped_server_leaves_no_process(server: ServerProcess) -> None:
    everyone = family(server.pid)
    assert len(everyone) > WORKERS
    server.upload("forks.txt", b"hello")
    server.upload("loop.txt", b"hello")
    assert server.stop() == 0
    until(lambda: not [pid for pid in everyone if Path(f"/proc/{pid}").exists()])
    until(lambda: not has_processes_of(server.data_dir.parent))
    server.start()
