"""What a pool leaves behind when its server is killed, and what it never runs twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncflow import syscalls
from asyncflow.pool import Pool
from tests.pool.test_walls import is_alive

ROOT = Path(__file__).resolve().parents[2]
#: an embedding script as people write them: no `if __name__ == "__main__"`
SCRIPT = """
import asyncio, pathlib, sys
from asyncflow.pool import Order, Pool

folder = pathlib.Path(sys.argv[1])
with (folder / "started").open("a") as file:
    file.write("x")
(folder / "blob").write_text("x")


async def main():
    pool = Pool(size=3, folder=folder / "slots", modules=("tests.pool.hostile",))
    await pool.start()
    spinning = asyncio.Event()

    async def run(name, **options):
        order = Order(label=name, processor=name, source=folder / "blob",
                      file_name="f", media_type="", options=options, wall_s=100)
        return await pool.run(order, on_progress=lambda _p: spinning.set(),
                              on_derivative=None)

    if sys.argv[2] == "leave":
        print((await run("echo")).verdict, flush=True)
        await pool.close()
        return
    if sys.argv[2] == "with children":
        async def tell(made):
            workers = [info.pid for info in pool.workers()] + [pool.fork_server_pid]
            print(*workers, *made.facts["pids"], flush=True)

        order = Order(label="forks", processor="forks", source=folder / "blob",
                      file_name="f", media_type="", options={"then": "wait"})
        await pool.run(order, on_progress=print, on_derivative=tell)
    tasks = [asyncio.create_task(run("spins", gil=g)) for g in (True, False)]
    await spinning.wait()
    pids = [info.pid for info in pool.workers()] + [pool.fork_server_pid]
    print(*pids, flush=True)
    await asyncio.sleep(100)


asyncio.run(main())
"""


def start(tmp_path: Path, how: str) -> subprocess.Popen[str]:
    script = tmp_path / "embedding.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_an_unguarded_script_runs_once(tmp_path: Path) -> None:
    with start(tmp_path, "leave") as process:
        out, _ = process.communicate(timeout=30)
    assert out == "done\n"
    assert process.returncode == 0
    assert (tmp_path / "started").read_text() == "x"


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
@pytest.mark.parametrize(("how", "count"), [("stay", 4), ("with children", 6)])
def test_no_process_outlives_a_killed_server(
    tmp_path: Path, how: str, count: int
) -> None:
    with start(tmp_path, how) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == count
        assert all(map(is_alive, pids))
        helpers = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        give_up_at = time.monotonic() + 1
        while any(map(is_alive, [*pids, *helpers])):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)


@pytest.mark.skipif(not syscalls.can_filter(), reason="no seccomp for this machine")
def test_who_holds_an_old_slot_is_ended_at_the_next_start(tmp_path: Path) -> None:
    with start(tmp_path, "with children") as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        workers, nursery, orphans = pids[:3], pids[3], pids[4:]
        # the server must not see that its fork server has been killed
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(nursery, signal.SIGKILL)
        while any(map(is_alive, workers)):
            time.sleep(0.01)
        process.kill()
    assert all(map(is_alive, orphans))

    async def begin_again() -> None:
        pool = Pool(size=1, folder=tmp_path / "slots", modules=("tests.pool.hostile",))
        await pool.start()
        await pool.close()

    asyncio.run(begin_again())

    assert not any(map(is_alive, orphans))


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_no_worker(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path, "stay") as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        for pid in pids:
            os.kill(pid, number)
        time.sleep(0.1)  # a signal that was not ignored would have ended them by now
        assert all(map(is_alive, pids))
        process.kill()
