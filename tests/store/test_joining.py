"""Uploads joined from parts, on a store that can only do what every store must."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from asyncflow.admission import Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chunks import Chunks
from asyncflow.db.base import Once, Place as Seat
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Clock, Engine
from asyncflow.errors import (
    DatabaseUnavailable,
    DiskFull,
    InvalidParameter,
    PartNotUsable,
    QuotaExceeded,
)
from asyncflow.jobs import Limits
from asyncflow.joining import AGAIN_MS, JOINS, Joiner, Received, Say, say_nothing
from asyncflow.progress import Hub
from asyncflow.recovery import Recovery
from asyncflow.store.base import CanConcat, Store, Writer
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Announced, Ends, Upload
from asyncflow.uploads import Said, raw_key

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


def never() -> bool:
    return False


class Gated(MemoryStore):
    """A store that joins when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_join = asyncio.Event()
        self.begun = asyncio.Event()
        self.busy = asyncio.Event()
        self.joined: list[str] = []

    async def concat(
        self, key: str, parts: Sequence[str], *, is_over: Callable[[], bool] = never
    ) -> int:
        self.joined.append(key)
        self.begun.set()
        if len(self.joined) == JOINS:
            self.busy.set()
        await self.may_join.wait()
        return await super().concat(key, parts, is_over=is_over)


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
            lease_s=30.0,
        )
        self.db = Watched(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        rules = Rules(
            max_bytes=1000,
            allowed_types=(),
            backlog_limit=10,
            fill_level=100,
            quota_bytes=quota_bytes,
        )
        self.chunks = Chunks(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=Admission(rules, space=None, backlog=lambda: 0),
            expiry_s=EXPIRY_S,
        )
        self.new_joiner()

    def new_joiner(self) -> None:
        """Begin with a joiner that knows nothing, as a restart does."""
        self.joiner = Joiner(
            db=self.db, engine=self.engine, store=self.store, chunks=self.chunks
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


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_on(tmp_path, Plain()) as made:
        yield made


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[tuple[Place, Gated]]:
    store = Gated()
    async with place_on(tmp_path, store) as made:
        yield made, store
        store.may_join.set()


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
    with pytest.raises(PartNotUsable) as theirs:
        await place.joiner.create(said, [part])
    nobody = str(uuid.uuid4())
    with pytest.raises(PartNotUsable) as unknown:
        await place.joiner.create(said, [nobody])
    # whether there is such a part stays a secret
    assert theirs.value.detail.replace(part, nobody) == unknown.value.detail


async def test_who_brings_the_last_part_does_not_wait_for_the_join(
    gated: tuple[Place, Gated],
) -> None:
    place, store = gated
    parts = [await place.begin() for _ in range(2)]
    waiting = [(await place.join(*parts)).id for _ in range(JOINS + 2)]
    for part in parts:
        await place.chunks.append(part, 0, Body(b"hello"), length=5)
        assert await place.is_complete(part)
    assert not any([await place.is_complete(one) for one in waiting])

    store.may_join.set()
    await asyncio.gather(*(place.joiner.settle(one) for one in waiting))

    assert all([await place.is_complete(one) for one in waiting])
    # nothing is joined twice
    assert sorted(store.joined) == sorted(map(raw_key, waiting))


async def test_a_stop_ends_joins_that_run_and_a_start_makes_all(
    gated: tuple[Place, Gated],
) -> None:
    place, store = gated
    part = await place.begin()
    waiting = [(await place.join(part)).id for _ in range(JOINS + 2)]
    await place.chunks.append(part, 0, Body(b"hello"), length=5)
    await store.busy.wait()
    stopping = asyncio.create_task(place.joiner.stop())
    await asyncio.sleep(0)
    store.may_join.set()
    await stopping
    assert not any([await place.is_complete(one) for one in waiting])

    place.new_joiner()
    for row in await place.db.unfinished_uploads(0, 100):
        await place.joiner.recover(row)
    await asyncio.gather(*(place.joiner.settle(one) for one in waiting))

    assert all([await place.is_complete(one) for one in waiting])


async def test_what_is_joined_of_parts_without_lengths_must_fit_the_quota(
    tmp_path: Path,
) -> None:
    async with place_on(tmp_path, MemoryStore(), quota_bytes=300) as place:
        part = await place.begin(length=None)
        large = await place.join(*[part] * 20)
        small = await place.join(*[part] * 2)
        await place.chunks.append(part, 0, Body(bytes(50)), length=50, total=50)

        with pytest.raises(QuotaExceeded):
            await place.joiner.settle(large.id)

        assert (await place.joiner.settle(small.id)).length == 100
        assert not await place.is_complete(large.id)


class Full(MemoryStore):
    """A store that has no room for what is joined, at first."""

    tries = 0
    is_full = True

    async def concat(
        self, key: str, parts: Sequence[str], *, is_over: Callable[[], bool] = never
    ) -> int:
        self.tries += 1
        if self.is_full:
            raise DiskFull
        return await super().concat(key, parts, is_over=is_over)


async def test_what_had_no_room_is_joined_later_and_tried_more_and_more_rarely(
    tmp_path: Path,
) -> None:
    store = Full()
    async with place_on(tmp_path, store) as place:
        part = await place.begin()
        whole = (await place.join(part)).id
        await place.chunks.append(part, 0, Body(b"hello"), length=5)
        with pytest.raises(DiskFull):
            await place.joiner.settle(whole)
        tried_at = []
        for step in range(40):
            tried = store.tries
            place.ticks.now_s += AGAIN_MS / 1000
            await place.joiner.again()
            joins = [one for one in asyncio.all_tasks() if one.get_name() == "join"]
            if joins:
                await asyncio.wait(joins)
            if store.tries > tried:
                tried_at.append(step)
        gaps = [late - early for early, late in pairwise(tried_at)]
        assert gaps == [2, 4, 8, 16]

        store.is_full = False
        assert (await place.joiner.settle(whole)).is_complete


async def test_what_keeps_a_part_alive_keeps_what_waits_for_it_and_its_neighbours(
    place: Place,
) -> None:
    done, slow = await place.part(b"hello"), await place.begin(length=100)
    whole = await place.join(done, slow)
    for at in range(0, 100, 10):
        place.time.now_s += EXPIRY_S * 0.8
        await place.chunks.append(slow, at, Body(bytes(10)), length=10)
        assert await place.chunks.expire() == 0
    whole = await place.joiner.settle(whole.id)
    assert (whole.is_complete, whole.length) == (True, 105)


async def test_a_repeat_waits_for_what_it_repeats_and_is_not_refused(
    tmp_path: Path,
) -> None:
    said = replace(SAID, length=1000, once=Once(key="a-key", fingerprint="same"))
    async with place_on(tmp_path, Plain(), quota_bytes=1500) as place:
        made = await asyncio.gather(*(place.chunks.create(said) for _ in range(3)))
        assert len({one.id for one in made}) == 1
        assert [one.is_known for one in made] == [False, True, True]
        # others, that come at once, have to share the quota
        other = replace(said, once=None)
        tries = [place.chunks.create(other) for _ in range(3)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(end, QuotaExceeded) for end in ends) == 2


async def chunk(
    place: Place, whole: Upload, total: int, n: int, say: Say = say_nothing
) -> Received | None:
    """Bring a chunk of a file."""
    said = replace(SAID, length=None, dialect="", is_part=True)
    part = await place.chunks.create(said)
    await place.chunks.append(part.id, 0, Body(b"12345"), length=5, ends=Ends.WITH_BODY)
    return await place.joiner.place(whole, total, n, part.id, say)


async def test_who_looks_while_the_parts_of_a_file_are_removed_sees_it_complete(
    gated: tuple[Place, Gated],
) -> None:
    place, store = gated
    whole = await place.chunks.create(replace(SAID, parts=1, length=None, dialect=""))
    await chunk(place, whole, 1, 0)
    joining = asyncio.create_task(place.joiner.settle(whole.id))
    await store.begun.wait()

    async def be_joined() -> None:
        store.may_join.set()
        await joining

    place.db.before = be_joined()
    assert (await place.joiner.settle(whole.id)).is_complete
    # a chunk that comes too late has no place
    assert await place.db.drop_parts(9) == 1
    for one in await place.db.trash(9):
        await store.delete(one.key)
    assert await chunk(place, whole, 1, 0) is None


async def test_a_file_in_chunks_lives_as_long_as_chunks_come(place: Place) -> None:
    said = replace(SAID, id=str(uuid.uuid4()), parts=10, length=None, dialect="")
    whole = await place.chunks.create(said)
    for n in range(10):
        whole = await place.chunks.find(whole.id)
        there = await chunk(place, whole, 10, n)
        assert there is not None
        assert (there.count, there.missing(1)) == (n + 1, (n + 1,) if n < 9 else ())
        place.time.now_s += EXPIRY_S * 0.6
        assert await place.chunks.expire() == 0
    # the places were read once, not with each chunk
    assert place.db.looks == 1

    assert (await place.joiner.settle(whole.id)).length == 50

    # and its parts have gone
    assert [one.state for one in await place.db.places(whole.id)] == [None] * 10


async def test_a_file_whose_chunks_are_all_there_does_not_expire_while_it_is_joined(
    gated: tuple[Place, Gated],
) -> None:
    place, store = gated
    said = replace(SAID, parts=2, length=None, dialect="")
    whole = await place.chunks.create(said)
    for n in range(2):
        await chunk(place, whole, 2, n)
    joining = asyncio.create_task(place.joiner.settle(whole.id))
    await store.begun.wait()
    place.time.now_s += 100 * EXPIRY_S
    assert await place.chunks.expire() == 0
    assert (await place.chunks.find(whole.id)).expires is None
    store.may_join.set()
    assert (await joining).length == 10


async def test_a_file_whose_chunks_are_all_there_does_not_expire_while_there_is_no_room(
    tmp_path: Path,
) -> None:
    store = Full()
    async with place_on(tmp_path, store) as place:
        said = replace(SAID, parts=1, length=None, dialect="")
        whole = await place.chunks.create(said)
        await chunk(place, whole, 1, 0)
        with pytest.raises(DiskFull):
            await place.joiner.settle(whole.id)
        place.time.now_s += 100 * EXPIRY_S
        assert await place.chunks.expire() == 0
        store.is_full = False
        assert (await place.joiner.settle(whole.id)).length == 5


async def test_a_file_whose_chunks_are_all_there_does_not_expire_while_nothing_runs(
    gated: tuple[Place, Gated],
) -> None:
    place, store = gated
    part = await place.begin()
    named = await place.join(part)
    await place.chunks.append(part, 0, Body(b"hello"), length=5)
    said = replace(SAID, parts=1, length=None, dialect="")
    whole = await place.chunks.create(said)
    await chunk(place, whole, 1, 0)
    store.may_join.set()
    await place.joiner.stop()
    place.time.now_s += 100 * EXPIRY_S

    # the chores of the next server may come before its recovery
    place.new_joiner()
    assert await place.chunks.expire() == 0
    for row in await place.db.unfinished_uploads(0, 100):
        await place.joiner.recover(row)

    assert (await place.joiner.settle(named.id)).length == 5
    assert (await place.joiner.settle(whole.id)).length == 5


async def test_what_waits_for_a_part_that_expires_has_expired(place: Place) -> None:
    whole = await place.join(await place.begin(), await place.begin())
    place.time.now_s += 2 * EXPIRY_S
    while await place.chunks.expire(limit=1):
        pass
    error = (await place.db.job(whole.id)).error
    assert error is not None
    assert error.code == "expired"


async def test_a_repeat_is_answered_when_the_parts_have_gone(place: Place) -> None:
    said = replace(SAID, concat="final", once=Once(key="a-key", fingerprint="same"))
    part = await place.part(b"hello")
    made = await place.joiner.create(said, [part])
    await place.chunks.terminate(part)
    again = await place.joiner.create(said, [part])
    assert (again.id, again.is_complete, again.is_known) == (made.id, True, True)


async def test_a_join_without_a_blob_makes_it(place: Place) -> None:
    part = await place.begin()
    whole = await place.join(part)
    # as if the server had died between the row and the blob
    await place.store.delete(raw_key(whole.id))
    await place.chunks.append(part, 0, Body(b"hello"), length=5)
    assert (await place.joiner.settle(whole.id)).length == 5


async def test_a_chunk_that_has_its_place_stays_when_its_request_is_broken_off(
    place: Place,
) -> None:
    whole = await place.chunks.create(replace(SAID, parts=2, length=None, dialect=""))

    async def fail() -> None:
        raise DatabaseUnavailable

    # its place is taken; what is looked up after that fails
    place.db.before = fail()
    with pytest.raises(DatabaseUnavailable):
        await chunk(place, whole, 2, 0)
    (taken,) = await place.db.places(whole.id)
    await place.chunks.endings.abandon(taken.part, asyncio.CancelledError())
    await chunk(place, whole, 2, 1)
    assert (await place.joiner.settle(whole.id)).length == 10


async def test_chunks_without_a_place_go_after_a_crash_once_there_is_room(
    place: Place,
) -> None:
    async def lonely() -> str:
        said = replace(SAID, length=None, dialect="", is_part=True)
        part = (await place.chunks.create(said)).id
        await place.chunks.append(
            part, 0, Body(b"12345"), length=5, ends=Ends.WITH_BODY
        )
        return part

    left = await lonely()
    recovery = Recovery(db=place.db, chunks=place.chunks, joiner=place.joiner)
    await recovery.look()
    young = await lonely()
    place.db.is_full = True
    await recovery.run()
    assert await place.db.drop_parts(9) == 0

    place.db.is_full = False
    await recovery.again()

    assert await place.db.drop_parts(9) == 1
    assert [one.key for one in await place.db.trash(9)] == [raw_key(left)]
    # its request may be about to give it its place
    assert await place.is_complete(young)


async def test_what_two_chunks_say_at_once_does_not_contradict_itself(
    place: Place,
) -> None:
    whole = await place.chunks.create(replace(SAID, parts=2, length=None, dialect=""))

    def say(digest: str, before: Said) -> Said:
        if before.digest not in {"", digest}:
            raise InvalidParameter("sha256", digest, accepted="the other one")
        return replace(before, digest=digest)

    at_once = [chunk(place, whole, 2, n, partial(say, f"sha256:0{n}")) for n in (0, 1)]
    ends = await asyncio.gather(*at_once, return_exceptions=True)
    assert [isinstance(end, InvalidParameter) for end in ends].count(True) == 1
    # and what contradicts has no place
    assert len(await place.db.places(whole.id)) == 1


async def test_an_upload_that_moves_has_more_time_before_its_request_ends(
    place: Place,
) -> None:
    ends: list[int] = []
    upload = await place.chunks.create(replace(SAID, length=20))

    class Slow(Body):
        async def read(self) -> bytes:
            ends.append((await place.db.find_upload(upload.id)).expires or 0)
            place.time.now_s += EXPIRY_S
            return b"hello" if len(ends) < 4 else b""

    await place.chunks.append(upload.id, 0, Slow(b""), length=15)

    moved = [late - early for early, late in pairwise(ends)]
    assert moved == [EXPIRY_S * 1000] * 3


def test_what_is_missing_is_told_in_order_and_not_without_end() -> None:
    received = Received(5)
    for n in (3, 0, 3):
        received.add(n)
    assert (received.count, received.missing(9)) == (2, (1, 2, 4))
    assert received.missing(2) == (1, 2)
    for n in range(5):
        received.add(n)
    assert (received.is_all, received.missing(9)) == (True, ())
