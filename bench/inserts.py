"""Durable inserts through the group-commit writer, beside the obvious way."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Final

import aiosqlite

from asyncflow import uploads
from asyncflow.db.records import NewUpload
from asyncflow.db.sqlite import SqliteDatabase
from bench.machine import syncs_ms
from bench.rows import Row, percentile

_JOB: Final = (
    "INSERT INTO job(pid, owner, state, file_name, declared_type, size, created)"
    " VALUES(?, ?, 'UPLOADING', ?, ?, ?, ?)"
)
_UPLOAD: Final = (
    "INSERT INTO upload(job_id, key, length, metadata, state, expires)"
    " VALUES(?, ?, ?, ?, 'receiving', ?)"
)
_CLIENTS: Final = (1, 64)
_serial = itertools.count()
Insert = Callable[[NewUpload], Awaitable[object]]


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return rates of both ways, in turns, and their ratio."""
    rounds, seconds = (1, 0.1) if quick else (4, 1.5)
    synced = syncs_ms(folder, count=100)
    rows = asyncio.run(_measure(folder, rounds, seconds))
    sync = percentile(synced, 50)
    return [*rows, Row(what="fdatasync of 4 KiB p50", value=sync, unit="ms")]


async def _measure(folder: Path, rounds: int, seconds: float) -> list[Row]:
    rates: dict[tuple[str, int], list[float]] = {}
    for number, clients in itertools.product(range(rounds), _CLIENTS):
        # new ones each time: the faster way must not pay for the rows it has written
        place = folder / f"{number}-{clients}"
        place.mkdir()
        ways = [("ours", _ours), ("naive", _naive)]
        # who comes second may write behind the other's backlog
        for name, rate in ways if number % 2 else reversed(ways):
            found = await rate(place / f"{name}.db", clients, seconds)
            rates.setdefault((name, clients), []).append(found)
    return [row for clients in _CLIENTS for row in _compared(rates, clients)]


async def _ours(path: Path, clients: int, seconds: float) -> float:
    db = SqliteDatabase(path)
    await db.start()
    try:
        return await _rate(db.create_upload, clients, seconds)
    finally:
        await db.close()


async def _naive(path: Path, clients: int, seconds: float) -> float:
    naive = await _Naive.open(path)
    try:
        return await _rate(naive.insert, clients, seconds)
    finally:
        await naive.close()


def _compared(rates: dict[tuple[str, int], list[float]], clients: int) -> list[Row]:
    ours, naive = rates["ours", clients], rates["naive", clients]
    crowd = "1 client" if clients == 1 else f"{clients} clients"
    ratios = [mine / other for mine, other in zip(ours, naive, strict=True)]
    return [
        Row(what=f"{crowd}", value=percentile(ours, 50), unit="/s"),
        Row(
            what=f"{crowd}, one aiosqlite connection and a lock",
            value=percentile(naive, 50),
            unit="/s",
        ),
        Row(what=f"{crowd}, ratio", value=percentile(ratios, 50), unit="x"),
    ]


async def _rate(insert: Insert, clients: int, seconds: float) -> float:
    """Return how many inserts a second *clients* get done together."""
    began = time.perf_counter()

    async def client() -> int:
        count = 0
        while time.perf_counter() - began < seconds:
            await insert(new_upload())
            count += 1
        return count

    counts = await asyncio.gather(*(client() for _ in range(clients)))
    return sum(counts) / (time.perf_counter() - began)


def new_upload() -> NewUpload:
    """Return an upload about to be created, as a photo would be."""
    now = time.time_ns() // 1_000_000
    upload = uploads.new_id(now, next(_serial).to_bytes(10, "big"))
    return NewUpload(
        id=upload,
        key=uploads.raw_key(upload),
        owner="local",
        tenant="",
        file_name="photo.jpg",
        declared_type="image/jpeg",
        length=1_000_000,
        metadata={"filename": "photo.jpg"},
        raw_metadata="filename cGhvdG8uanBn",
        expires=now + 86_400_000,
        now=now,
    )


async def make_schema(path: Path) -> None:
    """Make an empty database at *path*."""
    db = SqliteDatabase(path)
    await db.start()
    await db.close()


class _Naive:
    """What a handler would write first: a transaction for each upload."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> "_Naive":
        connection = await aiosqlite.connect(path, isolation_level=None)
        schema = resources.files("bench").joinpath("naive.sql").read_text("utf-8")
        await connection.executescript(schema)
        return cls(connection)

    async def insert(self, new: NewUpload) -> None:
        job = (new.id, new.owner, new.file_name, new.declared_type, new.length, new.now)
        async with self._lock:
            await self._connection.execute("BEGIN IMMEDIATE")
            inserted = await self._connection.execute(_JOB, job)
            upload = (inserted.lastrowid, new.key, new.length, new.raw_metadata)
            await self._connection.execute(_UPLOAD, (*upload, new.expires))
            await self._connection.execute("COMMIT")

    async def close(self) -> None:
        await self._connection.close()
