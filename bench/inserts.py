"""Durable inserts through the group-commit writer, beside the obvious way."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiosqlite

from asyncflow import uploads
from asyncflow.db.base import NewUpload
from asyncflow.db.queries import load
from asyncflow.db.sqlite import SqliteDatabase
from bench.machine import syncs_ms
from bench.rows import Row, percentile

SQL: Final = load("uploads.sql")
_CLIENTS: Final = (1, 64)
_serial = itertools.count()
Insert = Callable[[NewUpload], Awaitable[None]]


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return rates of both ways, in turns, and their ratio."""
    rounds, seconds = (1, 0.1) if quick else (4, 1.5)
    synced = syncs_ms(folder, count=100)
    rows = asyncio.run(_measure(folder, rounds, seconds))
    sync = percentile(synced, 50)
    return [*rows, Row(what="fdatasync of 4 KiB p50", value=sync, unit="ms")]


async def _measure(folder: Path, rounds: int, seconds: float) -> list[Row]:
    ours = SqliteDatabase(folder / "ours.db")
    await ours.start()
    naive = await _Naive.open(folder / "naive.db")
    rates: dict[tuple[str, int], list[float]] = {}
    try:
        for _, clients in itertools.product(range(rounds), _CLIENTS):
            for name, insert in (("ours", ours.create_upload), ("naive", naive.insert)):
                rate = await _rate(insert, clients, seconds)
                rates.setdefault((name, clients), []).append(rate)
    finally:
        await ours.close()
        await naive.close()
    return [row for clients in _CLIENTS for row in _compared(rates, clients)]


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
        await make_schema(path)
        connection = await aiosqlite.connect(path, isolation_level=None)
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        return cls(connection)

    async def insert(self, new: NewUpload) -> None:
        async with self._lock:
            await self._connection.execute("BEGIN IMMEDIATE")
            found = await self._connection.execute_fetchall(
                SQL["insert_job"],
                {
                    "id": new.id,
                    "owner": new.owner,
                    "tenant": new.tenant,
                    "file_name": new.file_name,
                    "declared_type": new.declared_type,
                    "length": new.length,
                    "metadata": "{}",
                    "now": new.now,
                },
            )
            upload = {
                "job": next(iter(found))[0],
                "key": new.key,
                "length": new.length,
                "raw_metadata": new.raw_metadata,
                "expires": new.expires,
            }
            await self._connection.execute(SQL["insert_upload"], upload)
            await self._connection.execute("COMMIT")

    async def close(self) -> None:
        await self._connection.close()
