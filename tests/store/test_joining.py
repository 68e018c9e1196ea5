"""Uploads joined from parts, on a store that can only do what every store must."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from asyncflow.admission import Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chunks import Chunks
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Clock, Engine
from asyncflow.errors import PartNotUsable
from asyncflow.jobs import Limits
from asyncflow.joining import Joiner
from asyncflow.progress import Hub
from asyncflow.store.base import CanConcat, Store, Writer
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Announced
from asyncflow.uploads import raw_key

SAID = Announced(
    owner="anna",
    tenant="north",
    file_name="words.txt",
    declared_type="text/plain",
    length=5,
    dialect="tus",
)


class Plain:
    """A store without any capability."""

    def __init__(self) -> None:
        self._blobs = MemoryStore()

    async def create(self, key: str, *, length: int | None) -> None:
        await self._blobs.create(key, length=length)

    async def reserve(self, key: str, length: int) -> None:
        await self._blobs.reserve(key, length)

    async def append(self, key: str, offset: int) -> Writer:
        return await self._blobs.append(key, offset)

    async def size(self, key: str) -> int:
        return await self._blobs.size(key)

    async def sync(self, key: str) -> None:
        await self._blobs.sync(key)

    def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        return self._blobs.read(key, start, end)

    async def put(self, key: str, source_fd: int) -> int:
        return await self._blobs.put(key, source_fd)

    async def delete(self, key: str) -> None:
        await self._blobs.delete(key)

    async def delete_prefix(self, prefix: str) -> None:
        await self._blobs.delete_prefix(prefix)

    async def close(self) -> None:
        await self._blobs.close()


class Body:
    """A body that comes in one piece."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    async def read(self) -> bytes:
        return self._left.pop() if self._left else b""

    def stop(self, error: Exception) -> None:
        raise error


class Place:
    """An engine room without a pool."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = Plain()
        self.engine = Engine(
            doorbell=LocalDoorbell(),
            clock=Clock(),
            limits=Limits(),
            worker="test",
            lease_s=30.0,
        )
        self.db = SqliteDatabase(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        rules = Rules(
            max_bytes=1000, allowed_types=(), backlog_limit=10, fill_level=100
        )
        self.chunks = Chunks(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=Admission(rules, space=None, backlog=lambda: 0),
            expiry_s=60.0,
        )
        self.joiner = Joiner(
            db=self.db, engine=self.engine, store=self.store, chunks=self.chunks
        )

    async def part(self, data: bytes) -> str:
        """Return a complete part of five bytes."""
        part = await self.chunks.create(replace(SAID, is_part=True, concat="partial"))
        await self.chunks.append(part.id, 0, Body(data), length=5)
        return part.id


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.db.start()
    yield made
    await made.joiner.stop()
    await made.engine.hub.close()
    await made.db.close()


async def test_bytes_are_joined_by_reading_and_writing_them(place: Place) -> None:
    assert not isinstance(place.store, CanConcat)
    parts = [await place.part(data) for data in (b"hello", b" worl", b"ds...")]
    whole = await place.joiner.create(replace(SAID, concat="final"), parts)
    assert (whole.is_complete, whole.length) == (True, 15)
    pieces = [piece async for piece in place.store.read(raw_key(whole.id))]
    assert b"".join(pieces) == b"hello worlds..."


@pytest.mark.parametrize(("owner", "tenant"), [("bert", "north"), ("anna", "south")])
async def test_nobody_joins_the_parts_of_others(
    place: Place, owner: str, tenant: str
) -> None:
    part = await place.part(b"hello")
    said = replace(SAID, concat="final", owner=owner, tenant=tenant)
    with pytest.raises(PartNotUsable):
        await place.joiner.create(said, [part])
