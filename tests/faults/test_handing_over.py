"""What a step hands over is admitted as uploads are, and its storing has an end."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncflow.consumers import Handed, TooMuch
from asyncflow.orders import Made
from tests.faults import watch
from tests.server_process import FINAL, ServerProcess

MIB = 1 << 20
#: of the disk that a step tries to fill
ROOM = 200 * MIB

MODULE = r'''
import ctypes
import mmap
import os
import time

from asyncflow import Derivative, task


def hand_over(work, name, kind="application/octet-stream"):
    work.publish(Derivative(name=name, path=work.out / name, media_type=kind))


@task("writes", attempts=1)
def writes(work):
    for number in range(work.payload):
        path = work.out / f"file{number}"
        path.write_bytes(os.urandom(1 << 20))
        hand_over(work, path.name)


@task("pretends", attempts=1)
def pretends(work):
    """Hand over large files that take no room where they are made."""
    for number in range(work.payload):
        path = work.out / f"file{number}"
        with path.open("wb") as file:
            file.truncate(8 << 20)
        hand_over(work, path.name)
        time.sleep(0.05)


@task("grows", attempts=1)
def grows(work):
    with (work.out / "file").open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        hand_over(work, "file", "text/plain")
        while True:
            file.write(bytes(1 << 16))


@task("endless", attempts=1, wall_s=WALL_S)
def endless(work):
    """Hand over a text that takes a minute to pack and no room where it was made."""
    with (work.out / "file").open("wb") as file:
        file.truncate(12 << 30)
    hand_over(work, "file", "text/plain")


@task("flies", attempts=1)
def flies(work):
    """Hold files that are neither named nor open, and hardly mapped."""
    libc = ctypes.CDLL(None)  # Python's own mmap keeps them open
    for number in range(18):
        path = work.out / f"file{number}"
        with path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 8 << 20)
            path.unlink()
            libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        time.sleep(0.05)
    time.sleep(5)


@task("innocent", attempts=1)
def innocent(work):
    return "well"
'''

Begin = Callable[..., ServerProcess]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Return how to start a server with these functions; none survives the test."""
    begun: list[ServerProcess] = []

    def start(
        *, data_dir: Path | None = None, wall_s: float = 600, **settings: str
    ) -> ServerProcess:
        (tmp_path / "handing.py").write_text(MODULE.replace("WALL_S", str(wall_s)))
        server = ServerProcess(
            data_dir=data_dir or tmp_path / "data",
            settings={"workers": "1", "processors": "handing", **settings},
            wrap=("env", f"PYTHONPATH={tmp_path}"),
        )
        begun.append(server)
        return server.start()

    yield start
    for server in begun:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def submit(server: ServerProcess, name: str, payload: object = None) -> str:
    said = json.dumps({"name": name, "payload": payload, "tenant": "north"}).encode()
    answer = server.request("POST", "/tasks", said)
    assert answer.status == 202, answer.body
    return str(answer.json["taskId"])


def look(server: ServerProcess, task: str) -> Any:
    return server.request("GET", f"/tasks/{task}").json


def ended(server: ServerProcess, task: str, within_s: float = 40.0) -> Any:
    watch.until(lambda: look(server, task)["status"] in FINAL, within_s)
    return look(server, task)


def stored(server: ServerProcess) -> int:
    """Return the bytes of all files in the store."""
    files = (server.data_dir / "store").rglob("*")
    return sum(path.stat().st_blocks * 512 for path in files if path.is_file())


@pytest.mark.parametrize("quota", ["quota_bytes", "tenant_quota_bytes"])
def test_a_step_hands_over_no_more_than_the_quota(begin: Begin, quota: str) -> None:
    server = begin(**{quota: "5MiB"})

    found = ended(server, submit(server, "writes", 12))

    assert (found["status"], found["error"]["code"]) == ("FAILED", "quota_exceeded")
    assert stored(server) <= 5 * MIB
    assert ended(server, submit(server, "innocent"))["result"] == "well"
    assert server.stop() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "small"]
    subprocess.run([*command, str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_step_fills_no_disk_above_its_level_by_files_that_seem_small(
    begin: Begin, disk: Path
) -> None:
    server = begin(data_dir=disk, fill_level="90")
    task, least = submit(server, "pretends", 40), ROOM

    def is_over() -> bool:
        nonlocal least
        found = os.statvfs(disk)
        least = min(least, found.f_bavail * found.f_frsize)
        return look(server, task)["status"] in FINAL

    watch.until(is_over, 60)

    found = look(server, task)
    assert (found["status"], found["error"]["code"]) == ("FAILED", "too_much_output")
    assert least >= ROOM // 10
    assert server.request("GET", "/readyz").status == 200
    assert ended(server, submit(server, "innocent"))["result"] == "well"
    assert server.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_step_whose_files_nobody_can_measure_has_none_of_the_last_room(
    begin: Begin, disk: Path
) -> None:
    server = begin(data_dir=disk, fill_level="90")

    found = ended(server, submit(server, "flies"))

    assert (found["status"], found["error"]["code"]) == ("FAILED", "too_much_output")
    assert ended(server, submit(server, "innocent"))["result"] == "well"
    assert server.stop() == 0


def test_a_file_that_grows_while_it_is_stored_is_refused(begin: Begin) -> None:
    server = begin()

    found = ended(server, submit(server, "grows"))

    assert (found["status"], found["error"]["code"]) == ("FAILED", "bad_output")
    assert stored(server) <= 2 * MIB
    assert server.stop() == 0


def test_the_time_of_a_step_includes_the_storing_of_what_it_made(
    begin: Begin,
) -> None:
    server = begin(wall_s=2)

    found = ended(server, submit(server, "endless"), 25)

    assert (found["status"], found["error"]["code"]) == ("FAILED", "timeout")
    assert stored(server) == 0
    assert ended(server, submit(server, "innocent"))["result"] == "well"
    assert server.stop() == 0


def until_packing(server: ServerProcess, task: str) -> None:
    """Return once the server has spent a second on what the step has made."""
    watch.until(lambda: look(server, task)["status"] == "PROCESSING")
    began = spent_s(server)
    watch.until(lambda: spent_s(server) > began + 1)


def spent_s(server: ServerProcess) -> float:
    numbers = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, numbers[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_cancel_ends_the_storing_of_what_a_step_made(begin: Begin) -> None:
    server = begin()
    task = submit(server, "endless")
    until_packing(server, task)

    assert server.request("POST", f"/jobs/{task}/cancel", b"").status == 200

    # there is one worker only
    assert ended(server, submit(server, "innocent"), 15)["result"] == "well"
    assert look(server, task)["status"] == "CANCELLED"
    assert stored(server) == 0
    assert server.stop() == 0


def test_a_stop_waits_for_no_file_that_is_being_stored(begin: Begin) -> None:
    server = begin(grace="1s")
    task = submit(server, "endless")
    until_packing(server, task)

    assert server.stop() == 0


async def test_a_step_hands_over_no_more_than_it_may_hold(tmp_path: Path) -> None:
    handed = Handed(AsyncExitStack())
    with (tmp_path / "file").open("wb") as file:
        file.truncate(9 << 30)
        made = Made(
            name="file",
            media_type="text/plain",
            size=9 << 30,
            facts={},
            fd=file.fileno(),
        )
        handed.count(made, 16 << 30)
        with pytest.raises(TooMuch):
            handed.count(made, 16 << 30)
