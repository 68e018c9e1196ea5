"""Claim and settle on an empty database and on one with a million finished steps.

Both databases are measured in turns, so that a busy moment of the machine hits both.
"""

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from asyncflow.db.records import Claimed, Demand, Ended
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.jobs import UPLOADED, Limits, PlanEntry, Verdict
from bench.inserts import make_schema, new_upload
from bench.rows import Row, percentile

_GATE: Final = PlanEntry(consumer="noop", on=UPLOADED, gate=True)
_DONE: Final = Ended(verdict=Verdict.DONE)
_LIMITS: Final = Limits()
_LEASE_MS: Final = 30_000
_CROWD: Final = 16
#: the history may cost this much: what is left is noise
_MOST: Final = 1.15


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return what a cycle costs on both databases, and the ratio."""
    steps, rounds, cycles = (2000, 1, 16) if quick else (1_000_000, 8, 256)
    began = time.perf_counter()
    _fill(folder / "full.db", steps // 2)
    filled = time.perf_counter() - began
    rows = asyncio.run(_measure(folder, steps, rounds, cycles))
    return [*rows, Row(what="making the history", value=filled, unit="s")]


def _fill(path: Path, jobs: int) -> None:
    """Write *jobs* finished jobs, fast and not durably."""
    asyncio.run(make_schema(path))
    text = resources.files("bench").joinpath("history.sql").read_text("utf-8")
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        fast = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
        connection.executescript(f"{fast} {text.replace('JOBS', str(jobs))} COMMIT;")
    finally:
        connection.close()


async def _measure(folder: Path, steps: int, rounds: int, cycles: int) -> list[Row]:
    paths = {0: folder / "empty.db", steps: folder / "full.db"}
    found = {count: SqliteDatabase(path) for count, path in paths.items()}
    alone: dict[int, list[float]] = {count: [] for count in found}
    crowd: dict[int, list[float]] = {count: [] for count in found}
    for db in found.values():
        await db.start()
    try:
        for _, (count, db) in itertools.product(range(rounds), found.items()):
            await _enqueue(db, 2 * cycles)
            alone[count] += [await _cycle(db) for _ in range(cycles)]
            crowd[count].append(await _rate(db, cycles))
    finally:
        for db in found.values():
            await db.close()
    return [*_alone(alone, steps), *_together(crowd, steps)]


def _alone(taken: dict[int, list[float]], steps: int) -> list[Row]:
    middle = {count: percentile(times, 50) for count, times in taken.items()}
    return [
        *(
            Row(
                what=f"one cycle with {count:,} finished steps p50", value=ms, unit="ms"
            )
            for count, ms in middle.items()
        ),
        Row(
            what="one cycle, ratio of p50",
            value=middle[steps] / middle[0],
            unit="x",
            most=_MOST,
        ),
    ]


def _together(rates: dict[int, list[float]], steps: int) -> list[Row]:
    middle = {count: percentile(found, 50) for count, found in rates.items()}
    return [
        *(
            Row(
                what=f"{_CROWD} side by side with {count:,} finished steps",
                value=rate,
                unit="/s",
            )
            for count, rate in middle.items()
        ),
        Row(
            what=f"{_CROWD} side by side, ratio of rates",
            value=middle[0] / middle[steps],
            unit="x",
            most=_MOST,
        ),
    ]


async def _enqueue(db: SqliteDatabase, count: int) -> None:
    """Make *count* ready steps."""

    async def one() -> None:
        new = new_upload()
        await db.create_upload(new)
        await db.accept(new.id, size=1, gates=(_GATE,), now=new.now)

    await asyncio.gather(*(one() for _ in range(count)))


async def _cycle(db: SqliteDatabase) -> float:
    """Claim a step and settle it; return how many milliseconds that took."""
    began = time.perf_counter()
    (claimed,) = await _claim(db)
    await db.settle(
        claimed.step_id, claimed.token, _DONE, limits=_LIMITS, now=_now_ms()
    )
    return (time.perf_counter() - began) * 1000


async def _claim(db: SqliteDatabase) -> Sequence[Claimed]:
    lease = time.monotonic_ns() // 1_000_000 + _LEASE_MS
    return await db.claim(
        Demand(
            wants={_GATE.consumer: 1},
            limit=1,
            worker="bench",
            lease_until=lease,
            now=_now_ms(),
        )
    )


async def _rate(db: SqliteDatabase, cycles: int) -> float:
    """Return how many cycles a second several get done side by side."""
    began = time.perf_counter()

    async def client() -> None:
        for _ in range(cycles // _CROWD):
            await _cycle(db)

    await asyncio.gather(*(client() for _ in range(_CROWD)))
    return cycles / (time.perf_counter() - began)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
