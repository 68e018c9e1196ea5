"""A look that fails is not the last one, and the server says that it has failed."""

import asyncio
from pathlib import Path

from asyncflow.watch import Watch
from tests.tasks.asking import ended, submit
from tests.web.live import healthy_server, until

TASKS = """
import time

from asyncflow import task


@task("waits", attempts=1)
def waits(work):
    (work.out / "begun").touch()
    until = time.monotonic() + 60
    while not (work.out / "on").exists() and time.monotonic() < until:
        time.sleep(0.01)


@task("hoards", attempts=1)
def hoards(work):
    kept = []
    for _ in range(60):
        kept.append(b"x" * (10 << 20))
        time.sleep(0.02)
    time.sleep(20)
"""


def test_bounds_hold_again_after_a_moment_in_which_nobody_could_look(
    tmp_path: Path,
) -> None:
    (tmp_path / "watched.py").write_text(TASKS)
    with healthy_server(
        tmp_path,
        processors="watched",
        workers="1",
        slot_memory_bytes="256MiB",
    ) as server:
        slots, away = server.data_dir / "slots", server.data_dir / "slots.away"
        waits = submit(server, "waits")
        until(lambda: [*slots.glob("*/out/begun")])

        slots.rename(away)
        until(lambda: server.request("GET", "/readyz").status == 503)
        checks = server.request("GET", "/readyz").json["checks"]
        away.rename(slots)
        until(lambda: server.request("GET", "/readyz").status == 200)

        assert "nobody can watch over the disk" in checks["workers"]["reason"]
        assert all(check["ok"] for name, check in checks.items() if name != "workers")
        assert server.log().count("watch.failed") == 1
        for slot in slots.iterdir():
            (slot / "out" / "on").touch()
        assert ended(server, waits)["status"] == "COMPLETED"
        hoards = ended(server, submit(server, "hoards"))
        assert hoards["error"]["code"] == "out_of_memory"


async def test_what_fails_keeps_nothing_else_from_being_looked_at() -> None:
    is_broken, looked = True, asyncio.Event()

    def look() -> None:
        if is_broken:
            raise OSError("it is away")

    watch = Watch()
    assert watch.trouble is None
    watch.start({"one": look, "another": looked.set})
    await asyncio.wait_for(looked.wait(), 10)
    assert watch.trouble == "nobody can watch over one: it is away"

    is_broken = False
    await _again(looked)

    assert watch.trouble is None
    watch.stop()


async def test_a_watch_that_has_ended_says_so() -> None:
    looked = asyncio.Event()
    watch = Watch()
    watch.start({"one": looked.set})
    await asyncio.wait_for(looked.wait(), 10)
    watch.stop()

    # its task is told before this one comes again
    await asyncio.sleep(0)

    assert watch.trouble == "nobody watches over the workers any more"


async def _again(looked: asyncio.Event) -> None:
    """Return after a whole round that begins from now on."""
    for _ in range(2):
        looked.clear()
        await asyncio.wait_for(looked.wait(), 10)
