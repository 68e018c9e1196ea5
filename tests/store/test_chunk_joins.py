"""Files that come in chunks, and what becomes of those."""

import asyncio
import dataclasses
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow.errors import (
    DatabaseUnavailable,
    InvalidParameter,
)
from asyncflow.recovery import Recovery
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Ends
from asyncflow.uploads import Checksum, Said, raw_key
from tests.store.engine_room import (
    EXPIRY_S,
    SAID,
    Body,
    Full,
    Gated,
    Place,
    chunk,
    place_on,
)


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
        assert await place.chunks.lookup.expire() == 0
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
    assert await place.chunks.lookup.expire() == 0
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
        assert not (await place.joiner.settle(whole.id)).is_complete
        place.time.now_s += 100 * EXPIRY_S
        assert await place.chunks.lookup.expire() == 0
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
    assert await place.chunks.lookup.expire() == 0
    for row in await place.db.unfinished_uploads(0, 100):
        await place.joiner.recover(row)

    assert (await place.joiner.settle(named.id)).length == 5
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
        return dataclasses.replace(before, digest=digest)

    at_once = [chunk(place, whole, 2, n, partial(say, f"sha256:0{n}")) for n in (0, 1)]
    ends = await asyncio.gather(*at_once, return_exceptions=True)
    assert [isinstance(end, InvalidParameter) for end in ends].count(True) == 1
    # and what contradicts has no place
    assert len(await place.db.places(whole.id)) == 1


async def test_a_chunk_that_comes_again_takes_no_place_in_a_complete_file(
    place: Place,
) -> None:
    whole = await place.chunks.create(replace(SAID, parts=2, length=None, dialect=""))
    for n in (0, 1):
        await chunk(place, whole, 2, n)
    assert (await place.joiner.settle(whole.id)).is_complete
    # whoever brought it had looked at the file before that
    assert await chunk(place, whole, 2, 1) is None
    assert all(one.state is None for one in await place.db.places(whole.id))


class Overtaken(MemoryStore):
    """A store that, once it is told so, reads only after something else is over."""

    before_reading: Callable[[], Awaitable[object]] | None = None

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        first, self.before_reading = self.before_reading, None
        pieces = [piece async for piece in super().read(key, start, end)]
        if first is not None:
            await first()
        for piece in pieces:
            yield piece


async def test_a_chunk_that_comes_again_while_its_file_is_completed_counts_all(
    tmp_path: Path,
) -> None:
    async with place_on(tmp_path, store := Overtaken()) as place:
        said = replace(SAID, parts=2, length=None, dialect="")
        whole = await place.chunks.create(said)
        for n in (0, 1):
            await chunk(place, whole, 2, n)
        place.new_joiner()
        # it is compared with the one that has come, and the file completed meanwhile
        store.before_reading = lambda: place.joiner.settle(whole.id)
        assert await chunk(place, whole, 2, 1) is None


class Endless(MemoryStore):
    """A store in which one blob has no end for whoever reads all of it, at first."""

    def __init__(self) -> None:
        super().__init__()
        self.endless = ""
        self.is_read = asyncio.Event()

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        while key == self.endless and end is None:
            self.is_read.set()
            yield b"12345"
        async for data in super().read(key, start, end):
            yield data


async def test_a_stop_waits_for_no_digest_and_a_start_computes_it(
    tmp_path: Path,
) -> None:
    store = Endless()
    async with place_on(tmp_path, store) as place, asyncio.timeout(10):
        digest = Checksum(algorithm="sha256", value=hashlib.sha256(b"12345").digest())
        said = replace(SAID, parts=1, length=None, dialect="", digest=digest)
        whole = await place.chunks.create(said)
        store.endless = raw_key(whole.id)
        await chunk(place, whole, 1, 0)
        settling = asyncio.create_task(place.joiner.settle(whole.id))
        await store.is_read.wait()

        try:
            await place.joiner.stop()
        finally:
            store.endless = ""

        # its chunk has come, and that is what is told
        assert not (await settling).is_complete
        place.new_joiner()
        for row in await place.db.unfinished_uploads(0, 100):
            await place.joiner.recover(row)
        assert (await place.joiner.settle(whole.id)).is_complete
