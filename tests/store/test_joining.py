"""Uploads joined from parts, on a store that can only do what every store must."""

import asyncio
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow.db.records import Once
from asyncflow.errors import (
    DatabaseUnavailable,
    PartNotUsable,
    QuotaExceeded,
)
from asyncflow.gathering import Received
from asyncflow.joining import AGAIN_MS, JOINS
from asyncflow.store.base import CanJoin
from asyncflow.store.memory import MemoryStore
from asyncflow.uploads import raw_key
from tests.store.engine_room import (
    EXPIRY_S,
    SAID,
    Body,
    Full,
    Gated,
    Place,
    Plain,
    place_on,
)


async def test_bytes_are_joined_by_reading_and_writing_them(place: Place) -> None:
    assert not isinstance(place.store, CanJoin)
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

        assert not (await place.joiner.settle(large.id)).is_complete

        assert (await place.joiner.settle(small.id)).length == 100
        assert not await place.is_complete(large.id)
        why = place.joiner.why(large.id)
        assert why is not None
        assert why.code == QuotaExceeded.code


async def test_what_had_no_room_is_joined_later_and_tried_more_and_more_rarely(
    tmp_path: Path,
) -> None:
    store = Full()
    async with place_on(tmp_path, store) as place:
        part = await place.begin()
        whole = (await place.join(part)).id
        await place.chunks.append(part, 0, Body(b"hello"), length=5)
        assert not (await place.joiner.settle(whole)).is_complete
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
        assert gaps == [2, 4, 8, 12, 12]

        store.is_full = False
        assert (await place.joiner.settle(whole)).is_complete


@pytest.mark.parametrize("parts", [1, 2])
async def test_what_cannot_be_looked_at_once_it_is_there_is_told_and_joined_later(
    place: Place, parts: int
) -> None:
    async def fail() -> None:
        raise DatabaseUnavailable

    named = [await place.part(b"hello") for _ in range(parts)]
    place.db.before = fail()
    made = await place.join(*named)
    assert not made.is_complete
    await place.joiner.again()
    assert (await place.joiner.settle(made.id)).length == 5 * parts


async def test_a_repeat_of_what_has_no_room_names_the_same_upload(
    tmp_path: Path,
) -> None:
    said = replace(SAID, concat="final", once=Once(key="a-key", fingerprint="same"))
    async with place_on(tmp_path, Full()) as place:
        part = await place.part(b"hello")
        made = await place.joiner.create(said, [part])
        again = await place.joiner.create(said, [part])
        assert (again.id, again.is_complete, again.is_known) == (made.id, False, True)


async def test_what_keeps_a_part_alive_keeps_what_waits_for_it_and_its_neighbours(
    place: Place,
) -> None:
    done, slow = await place.part(b"hello"), await place.begin(length=100)
    whole = await place.join(done, slow)
    for at in range(0, 100, 10):
        place.time.now_s += EXPIRY_S * 0.8
        await place.chunks.append(slow, at, Body(bytes(10)), length=10)
        assert await place.chunks.lookup.expire() == 0
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


async def test_what_waits_for_a_part_that_expires_has_expired(place: Place) -> None:
    whole = await place.join(await place.begin(), await place.begin())
    place.time.now_s += 2 * EXPIRY_S
    while await place.chunks.lookup.expire(limit=1):
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
        received.add(n, f"part {n}", 10)
    assert (received.count, received.missing(9)) == (2, (1, 2, 4))
    assert (received.bytes, received.percent, received.first) == (20, 40.0, "part 0")
    assert received.missing(2) == (1, 2)
    for n in range(5):
        received.add(n, "", 10)
    assert (received.is_all, received.missing(9)) == (True, ())
