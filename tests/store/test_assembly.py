"""Bytes of parts on their way into one blob: none is lost, whatever breaks off."""

import hashlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow.admission import Admission, Rules
from asyncflow.assembly import Assembly, seated
from asyncflow.db.records import UploadRow
from asyncflow.errors import BlobNotFound, DiskFull, UploadGone
from asyncflow.jobs import JobState
from asyncflow.store.base import Interrupted, Piece, Space
from asyncflow.store.local import LocalStore
from asyncflow.turns import Ends
from asyncflow.uploads import raw_key
from tests.store.engine_room import SAID, Body, Place, never, place_on

#: of a few windows; parts of no bytes, of fewer than a window and of more
CHUNKS = (b"a" * 3, b"", b"bcdefghijklm", b"n", b"op", b"qrstuvwxyz0123456789" * 2)
FILE = b"".join(CHUNKS)
WINDOW = 8


class Breaks(Exception):
    """The process ends here."""


class Mortal(LocalStore):
    """A store whose process ends in the middle of what changes a blob, or behind it."""

    steps_left = 10_000
    #: room that copies need beyond what others hold, and that cuts give back
    room = 10_000

    def _live(self) -> None:
        self.steps_left -= 1
        if self.steps_left <= 0:
            raise Breaks

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = never,
    ) -> None:
        if self.room < sum(one.size for one in pieces):
            raise DiskFull
        self.room -= sum(one.size for one in pieces)
        if self.steps_left == 1:
            await super().copy(key, at, pieces[: len(pieces) // 2])
        self._live()
        await super().copy(key, at, pieces, is_over=is_over)
        self._live()

    async def cut(self, lengths: Mapping[str, int]) -> None:
        if self.steps_left == 1:
            await super().cut(dict(list(lengths.items())[::2]))
        self._live()
        for key, length in lengths.items():
            self.room += max(0, await self.size(key) - length)
        await super().cut(lengths)
        self._live()


class Overtaken(Mortal):
    """A store that, once it is told so, reads only after something else is over."""

    before_reading: Callable[[], Awaitable[None]] | None = None

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        before, self.before_reading = self.before_reading, None
        if before is not None:
            await before()
        async for data in super().read(key, start, end):
            yield data


async def chunked(place: Place) -> UploadRow:
    """Return a file of which all chunks are there, and that nobody joins."""
    said = replace(SAID, parts=len(CHUNKS), length=None, dialect="")
    whole = await place.chunks.create(said)
    for n, data in enumerate(CHUNKS):
        part = await place.chunks.create(
            replace(SAID, length=None, dialect="", is_part=True)
        )
        await place.chunks.append(
            part.id, 0, Body(data), length=len(data), ends=Ends.WITH_BODY
        )
        await place.db.take_place(whole.id, n, part.id)
    return await place.db.find_upload(whole.id)


def assembly(place: Place, *, window: int = WINDOW) -> Assembly:
    """Return what joins with small windows."""
    return Assembly(
        db=place.db, store=place.store, admission=place.admission, window=window
    )


async def read(
    store: LocalStore, key: str, start: int, end: int | None = None
) -> bytes:
    return b"".join([data async for data in store.read(key, start, end)])


async def all_there_is(place: Place, store: LocalStore, row: UploadRow) -> bytes:
    """Return the file, each byte from where it should be."""
    seats = seated(await place.db.places(row.id))
    joined = len(FILE) if row.joined is None else row.joined
    parts = [
        await read(store, one.place.key, 0, min(one.end, joined) - one.start)
        for one in seats
        if one.start < joined
    ]
    return b"".join(parts) + await read(store, row.key, joined)


async def test_no_byte_is_lost_wherever_a_join_breaks_off(tmp_path: Path) -> None:
    breaks = 0
    for steps in range(1, 100):
        store = Mortal(tmp_path / f"store{steps}")
        (tmp_path / str(steps)).mkdir()
        async with place_on(tmp_path / str(steps), store) as place:
            row = await chunked(place)
            store.steps_left = steps
            places = await place.db.places(row.id)
            try:
                await assembly(place).put_together(row, places, never)
            except Breaks:
                breaks += 1
            else:
                break
            row = await place.db.find_upload(row.id)
            assert await all_there_is(place, store, row) == FILE
            # and the next server goes on from there
            store.steps_left = 10_000
            await assembly(place).put_together(row, places, never)
            assert await read(store, row.key, 0) == FILE
        await store.close()
    assert breaks > 2 * len(FILE) // WINDOW


async def test_a_join_needs_no_more_room_than_a_window(tmp_path: Path) -> None:
    store = Mortal(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)
        store.room = WINDOW - 1
        with pytest.raises(DiskFull):
            await assembly(place).put_together(row, places, never)
        store.room = WINDOW
        await assembly(place).put_together(row, places, never)
        assert await read(store, row.key, 0) == FILE
    await store.close()


class Short(LocalStore):
    """A store whose disk is full in the middle of a copy."""

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = never,
    ) -> None:
        await super().copy(key, at, pieces[:1], is_over=is_over)
        assert await self.size(key) > 0
        raise DiskFull


async def test_a_join_that_finds_no_room_gives_back_what_it_got(tmp_path: Path) -> None:
    store = Short(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)
        with pytest.raises(DiskFull):
            await assembly(place).put_together(row, places, never)
        assert await store.size(row.key) == 0
        for one, data in zip(places, CHUNKS, strict=True):
            assert await read(store, one.key, 0) == data
    await store.close()


async def test_a_window_is_as_large_as_there_is_room_and_never_too_small() -> None:
    left = 0

    async def space() -> Space:
        return Space(total_bytes=1000, free_bytes=left)

    rules = Rules(max_bytes=1, allowed_types=(), fill_level=50)
    for free, size in ((900, 200), (700, 100), (610, 50), (510, 8), (10, 8)):
        left = free
        admission = Admission(rules, space=space)
        async with admission.moved(200, least=8) as held:
            assert held.room == size
        async with admission.moved(5, least=8) as held:
            assert held.room == 5


async def test_a_part_that_is_in_the_file_by_half_is_still_known(
    tmp_path: Path,
) -> None:
    store = Mortal(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)
        store.steps_left = 12
        with pytest.raises(Breaks):
            await assembly(place).put_together(row, places, never)
        joined = (await place.db.find_upload(row.id)).joined or 0
        assert len(FILE) - len(CHUNKS[-1]) < joined < len(FILE)
        for one, data in zip(places, CHUNKS, strict=True):
            found = await assembly(place).digest(row.id, one.n, one.part)
            assert found.value == hashlib.sha256(data).digest()
    await store.close()


async def test_a_part_that_loses_bytes_while_it_is_compared_is_read_again(
    tmp_path: Path,
) -> None:
    store = Overtaken(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)

        async def join_some() -> None:
            store.steps_left = 12
            with pytest.raises(Breaks):
                await assembly(place).put_together(row, places, never)

        store.before_reading = join_some
        last = places[-1]
        found = await assembly(place).digest(row.id, last.n, last.part)
        assert await store.size(last.key) < len(CHUNKS[-1])
        assert found.value == hashlib.sha256(CHUNKS[-1]).digest()
    await store.close()


async def test_what_others_may_name_loses_nothing_and_gives_room_back_if_it_fails(
    tmp_path: Path,
) -> None:
    store = Mortal(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        parts = [await place.part(data) for data in (b"hello", b"world")]
        whole = await place.join(*parts)
        assert whole.is_complete
        for part, data in zip(parts, (b"hello", b"world"), strict=True):
            assert await read(store, raw_key(part), 0) == data
        row = await place.db.find_upload(whole.id)
        places = await place.db.places(whole.id)
        with pytest.raises(Interrupted):
            await assembly(place).put_together(row, places, lambda: True)
        assert await store.size(row.key) == 0
    await store.close()


async def test_a_file_that_has_ended_takes_nothing_out_of_its_parts(
    tmp_path: Path,
) -> None:
    store = Mortal(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)
        await place.engine.end_upload(
            row.id, state=JobState.CANCELLED, code="terminated", detail="so"
        )
        with pytest.raises(UploadGone):
            await assembly(place).put_together(row, places, never)
        for one, data in zip(places, CHUNKS, strict=True):
            assert await read(store, one.key, 0) == data
    await store.close()


@pytest.mark.parametrize("lost", ["a part", "the end of a part", "the file"])
async def test_bytes_that_are_lost_are_not_taken_for_joined_ones(
    tmp_path: Path, lost: str
) -> None:
    store = Mortal(tmp_path / "store")
    async with place_on(tmp_path, store) as place:
        row = await chunked(place)
        places = await place.db.places(row.id)
        store.steps_left = 12
        with pytest.raises(Breaks):
            await assembly(place).put_together(row, places, never)
        store.steps_left = 10_000
        row = await place.db.find_upload(row.id)
        assert await assembly(place).lost(row, places) is None
        if lost == "a part":
            await store.delete(places[0].key)
        elif lost == "the end of a part":
            await store.cut({places[2].key: 5})
        else:
            await store.cut({row.key: len(FILE) - 1})
        with pytest.raises(BlobNotFound):
            await assembly(place).put_together(row, places, never)
        assert await assembly(place).lost(row, places) is not None
    await store.close()
