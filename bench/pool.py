"""The pool alone: how many runs a second, and what three sizes of a photo cost."""

import asyncio
import time
from pathlib import Path
from typing import Final

from asyncflow.greetings import default_modules
from asyncflow.jobs import Verdict
from asyncflow.pool import Made, Order, Pool, default_size
from bench import photo
from bench.machine import cpu_s, tree
from bench.rows import Row, percentile

_LEAST_RUNS: Final = 1200.0
_MOST_CPU_MS: Final = 115.0
#: as the consumers do: one run more than there are workers
_AHEAD: Final = 1


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return rates, and CPU time of workers, which no neighbour can distort."""
    seconds, rounds, photos = (0.2, 1, 2) if quick else (1.5, 4, 12)
    source = photo.write(folder / "photo.jpg", small=quick)
    return asyncio.run(_measure(folder, source, seconds, rounds, photos))


async def _measure(
    folder: Path, source: Path, seconds: float, rounds: int, photos: int
) -> list[Row]:
    modules = (*default_modules(), "bench.noop")
    pool = Pool(size=default_size(), folder=folder / "slots", modules=modules)
    await pool.start()
    try:
        return [
            *await _noops(pool, source, seconds, rounds),
            *await _photos(pool, source, photos),
        ]
    finally:
        await pool.close()


async def _run(pool: Pool, processor: str, source: Path) -> None:
    outcome = await pool.run(
        Order(
            label="bench",
            processor=processor,
            source=source,
            file_name=source.name,
            media_type="image/jpeg",
        ),
        on_progress=lambda _percent: None,
        on_derivative=_take,
    )
    if outcome.verdict is not Verdict.DONE:
        raise RuntimeError(f"a run ended as {outcome.verdict}: {outcome.detail}")


async def _take(made: Made) -> None:
    if made.size == 0:
        raise RuntimeError(f"the derivative {made.name} is empty")


async def _noops(pool: Pool, source: Path, seconds: float, rounds: int) -> list[Row]:
    rates, costs = [], []
    for _ in range(rounds):
        began, cpu = time.perf_counter(), time.process_time()
        count = await _many(pool, source, seconds)
        rates.append(count / (time.perf_counter() - began))
        costs.append((time.process_time() - cpu) / count * 1e6)
    workers = f"{pool.size} workers; the best of {rounds} rounds"
    return [
        Row(
            what="runs that do nothing",
            value=max(rates),
            unit="/s",
            least=_LEAST_RUNS,
            note=workers,
        ),
        Row(
            what="runs that do nothing, median", value=percentile(rates, 50), unit="/s"
        ),
        Row(what="the server's CPU for one", value=percentile(costs, 50), unit="us"),
    ]


async def _many(pool: Pool, source: Path, seconds: float) -> int:
    """Keep the pool busy for *seconds*; return how many runs it did."""
    end = time.perf_counter() + seconds

    async def feed() -> int:
        count = 0
        while time.perf_counter() < end:
            await _run(pool, "noop", source)
            count += 1
        return count

    counts = await asyncio.gather(*(feed() for _ in range(pool.size + _AHEAD)))
    return sum(counts)


async def _photos(pool: Pool, source: Path, photos: int) -> list[Row]:
    """Measure the CPU time of all workers together over *photos* pictures."""
    for _ in range(pool.size):
        await _run(pool, "image", source)
    before = _cpu_s(pool)
    walls = []
    for _ in range(photos):
        began = time.perf_counter()
        await _run(pool, "image", source)
        walls.append((time.perf_counter() - began) * 1000)
    cpu_ms = (_cpu_s(pool) - before) / photos * 1000
    return [
        Row(
            what="4K JPEG to three sizes, CPU",
            value=cpu_ms,
            unit="ms",
            most=_MOST_CPU_MS,
            note=f"mean of {photos}",
        ),
        Row(what="4K JPEG to three sizes, wall min", value=min(walls), unit="ms"),
        Row(
            what="4K JPEG to three sizes, wall p50",
            value=percentile(walls, 50),
            unit="ms",
        ),
    ]


def _cpu_s(pool: Pool) -> float:
    members = {member for worker in pool.workers() for member in tree(worker.pid)}
    return sum(cpu_s(member) for member in members)
