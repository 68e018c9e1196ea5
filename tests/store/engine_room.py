"""An engine room around a store: what joining is tried in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from asyncflow.admission import Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chance import Clock
from asyncflow.chunks import Chunks
from asyncflow.db.records import Place as Seat
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Engine
from asyncflow.errors import (
    DiskFull,
)
from asyncflow.gathering import Received, Say, say_nothing
from asyncflow.jobs import Limits
from asyncflow.joining import JOINS, Joiner
from asyncflow.progress import Hub
from asyncflow.store.base import Piece, Store, Writer
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Announced, Ends, Upload

SAID = Announced(
    owner="anna",
    tenant="north",
    file_name="words.txt",
    declared_type="text/plain",
    length=5,
    dialect="tus",
)


def never() -> bool:
    return False


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

    async def put(
        self, key: str, source_fd: int, *, is_over: Callable[[], bool] = never
    ) -> int:
        return await self._blobs.put(key, source_fd, is_over=is_over)

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


class Gated(MemoryStore):
    """A store that joins when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_join = asyncio.Event()
        self.begun = asyncio.Event()
        self.busy = asyncio.Event()
        self.joined: list[str] = []

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = never,
    ) -> None:
        self.joined.append(key)
        self.begun.set()
        if len(self.joined) == JOINS:
            self.busy.set()
        await self.may_join.wait()
        await super().copy(key, at, pieces, is_over=is_over)


class Watched(SqliteDatabase):
    """A database that counts how often all places of an upload are read."""

    looks = 0
    #: whether there is no room to note anything of parts
    is_full = False
    #: what happens before the next of them
    before: Awaitable[None] | None = None

    async def places(self, final_id: str) -> Sequence[Seat]:
        self.looks += 1
        if self.before is not None:
            before, self.before = self.before, None
            await before
        return await super().places(final_id)

    async def give_up_strays(self, last: int) -> None:
        if self.is_full:
            raise DiskFull
        await super().give_up_strays(last)


class Time:
    """Time that passes when it is told to."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


EXPIRY_S = 60.0


class Place:
    """An engine room without a pool."""

    def __init__(self, folder: Path, store: Store, *, quota_bytes: int = 5000) -> None:
        self.store = store
        self.time, self.ticks = Time(), Time()
        self.engine = Engine(
            doorbell=LocalDoorbell(),
            clock=Clock(wall_s=self.time, mono_s=self.ticks),
            limits=Limits(),
            worker="test",
            node="test",
            lease_s=30.0,
        )
        self.db = Watched(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        rules = Rules(
            max_bytes=1000,
            allowed_types=(),
            fill_level=100,
            quota_bytes=quota_bytes,
        )
        self.admission = Admission(rules, space=None)
        self.chunks = Chunks(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=self.admission,
            expiry_s=EXPIRY_S,
        )
        self.new_joiner()

    def new_joiner(self) -> None:
        """Begin with a joiner that knows nothing, as a restart does."""
        self.joiner = Joiner(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=self.admission,
            chunks=self.chunks,
        )
        self.chunks.endings.on_part = self.joiner.part_done
        self.chunks.endings.on_end = self.joiner.part_gone

    async def begin(self, *, length: int | None = 5) -> str:
        """Return a part that has no bytes."""
        said = replace(SAID, is_part=True, concat="partial", length=length)
        return (await self.chunks.create(said)).id

    async def part(self, data: bytes) -> str:
        """Return a complete part of five bytes."""
        part = await self.begin()
        await self.chunks.append(part, 0, Body(data), length=5)
        return part

    async def join(self, *parts: str) -> Upload:
        """Create what is joined from *parts*."""
        return await self.joiner.create(replace(SAID, concat="final"), parts)

    async def is_complete(self, upload: str) -> bool:
        return (await self.chunks.find(upload)).is_complete


@asynccontextmanager
async def place_on(
    folder: Path, store: Store, *, quota_bytes: int = 5000
) -> AsyncIterator[Place]:
    made = Place(folder, store, quota_bytes=quota_bytes)
    await made.db.start()
    try:
        yield made
    finally:
        await made.joiner.stop()
        await made.engine.hub.close()
        await made.db.close()


class Full(MemoryStore):
    """A store that has no room for what is joined, at first."""

    tries = 0
    is_full = True

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = never,
    ) -> None:
        self.tries += 1
        if self.is_full:
            raise DiskFull
        await super().copy(key, at, pieces, is_over=is_over)


async def chunk(
    place: Place, whole: Upload, total: int, n: int, say: Say = say_nothing
) -> Received | None:
    """Bring a chunk of a file."""
    said = replace(SAID, length=None, dialect="", is_part=True)
    part = await place.chunks.create(said)
    body = Body(b"12345")
    part = await place.chunks.append(part.id, 0, body, length=5, ends=Ends.WITH_BODY)
    return await place.joiner.gathering.place(whole, total, n, part, say)
