"""The pool has as many workers as there is work and memory for."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from asyncflow.jobs import Verdict
from asyncflow.pool import Made, Order, Outcome, Pool

PLENTY = 64 << 30


@asynccontextmanager
async def started(
    folder: Path, *, memory: Callable[[], int] = lambda: PLENTY, idle_s: float = 60.0
) -> AsyncIterator[Pool]:
    (folder / "blob").write_text("the file")
    pool = Pool(
        size=3,
        least=1,
        folder=folder / "slots",
        modules=("tests.pool.hostile",),
        memory=memory,
        idle_s=idle_s,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def run(pool: Pool, folder: Path, processor: str = "patient") -> Outcome:
    return await pool.run(
        Order(
            label=processor,
            processor=processor,
            source=folder / "blob",
            file_name="file.txt",
            media_type="text/plain",
            options={"seconds": 0.2, "how": "kill"},
        ),
        on_progress=lambda _percent: None,
        on_derivative=ignore,
    )


async def ignore(made: Made) -> None:
    os.read(made.fd, 1)


async def until(ask: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not ask():  # noqa: ASYNC110 -- a pool tells nobody
            await asyncio.sleep(0.02)


async def test_it_grows_with_the_work_and_shrinks_when_there_is_none(
    tmp_path: Path,
) -> None:
    async with started(tmp_path, idle_s=0.3) as pool:
        assert len(pool.workers()) == 1
        assert (pool.capacity, pool.free) == (3, 3)

        ends = await asyncio.gather(*(run(pool, tmp_path) for _ in range(6)))

        assert {end.verdict for end in ends} == {Verdict.DONE}
        assert len(pool.workers()) == 3
        await until(lambda: len(pool.workers()) == 1)
        assert (await run(pool, tmp_path)).verdict is Verdict.DONE
        assert pool.free == 3


async def test_one_order_after_the_other_needs_one_worker(tmp_path: Path) -> None:
    async with started(tmp_path) as pool:
        for _ in range(3):
            await run(pool, tmp_path, "echo")

        assert [one.jobs_done for one in pool.workers()] == [3]


async def test_it_does_not_grow_without_memory_and_grows_once_there_is_some(
    tmp_path: Path,
) -> None:
    free = [0]
    async with started(tmp_path, memory=lambda: free[0]) as pool:
        await until(lambda: pool.capacity == 1)
        ends = await asyncio.gather(*(run(pool, tmp_path) for _ in range(3)))
        assert {end.verdict for end in ends} == {Verdict.DONE}
        assert len(pool.workers()) == 1

        more = [asyncio.create_task(run(pool, tmp_path)) for _ in range(8)]
        free[0] = PLENTY
        await until(lambda: len(pool.workers()) > 1)
        assert {end.verdict for end in await asyncio.gather(*more)} == {Verdict.DONE}


async def test_a_worker_that_dies_is_replaced_also_while_others_sleep(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as pool:
        await run(pool, tmp_path, "dies")

        assert (await run(pool, tmp_path, "echo")).verdict is Verdict.DONE
        assert pool.free == 3
