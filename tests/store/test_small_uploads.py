"""Small uploads: the blob is made when its bytes are there."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow import uploads
from asyncflow.admission import Admission, Rules
from asyncflow.errors import (
    AsyncflowError,
    ChecksumMismatch,
    DiskFull,
    ServerBusy,
    StoreUnavailable,
    TruncatedBody,
)
from asyncflow.store.base import WHOLE_BYTES, Space
from asyncflow.store.local import LocalStore
from asyncflow.turns import Claims
from asyncflow.uploads import Checksum
from tests.store.engine_room import SAID, Body, Place, place_on


class Failing(LocalStore):
    """A local store that fails at its next small blob, before it or after it."""

    error: AsyncflowError | None = None
    is_made = False

    async def create_whole(self, key: str, data: bytes) -> None:
        error, self.error = self.error, None
        if error is None or self.is_made:
            await super().create_whole(key, data)
        if error is not None:
            raise error


class Broken(Body):
    """A body whose sender goes away."""

    async def read(self) -> bytes:
        if data := await super().read():
            return data
        raise TruncatedBody


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Failing]:
    made = Failing(tmp_path / "store")
    yield made
    await made.close()


@pytest.fixture
async def place(tmp_path: Path, store: Failing) -> AsyncIterator[Place]:
    async with place_on(tmp_path, store) as made:
        yield made


def path(store: LocalStore, upload: str) -> Path:
    return store.path(uploads.raw_key(upload))


async def begin(place: Place) -> str:
    return (await place.chunks.create(SAID)).id


async def send(place: Place, upload: str, at: int, data: bytes) -> bool:
    """Append *data*; tell whether the upload is complete."""
    sent = await place.chunks.append(upload, at, Body(data), length=len(data))
    return sent.is_complete


async def test_the_blob_of_a_small_upload_comes_with_its_bytes(
    place: Place, store: Failing
) -> None:
    upload = await begin(place)
    assert (await place.chunks.find(upload)).offset == 0
    assert not path(store, upload).exists()

    assert await send(place, upload, 0, b"hello")
    assert path(store, upload).read_bytes() == b"hello"
    assert not place.admission.expects(upload)


async def test_a_small_upload_may_come_in_pieces(place: Place, store: Failing) -> None:
    upload = await begin(place)
    assert not await send(place, upload, 0, b"he")
    assert (await place.chunks.find(upload)).offset == 2
    assert await send(place, upload, 2, b"llo")
    assert path(store, upload).read_bytes() == b"hello"


async def test_what_came_of_a_small_body_that_broke_off_is_kept(place: Place) -> None:
    upload = await begin(place)
    with pytest.raises(TruncatedBody):
        await place.chunks.append(upload, 0, Broken(b"he"), length=5)
    assert (await place.chunks.find(upload)).offset == 2
    assert await send(place, upload, 2, b"llo")


async def test_a_small_upload_of_which_nothing_came_goes_on(place: Place) -> None:
    upload = await begin(place)
    with pytest.raises(TruncatedBody):
        await place.chunks.append(upload, 0, Broken(b""), length=5)
    assert await send(place, upload, 0, b"hello")


async def test_a_small_body_counts_once_its_checksum_is_right(place: Place) -> None:
    upload = await begin(place)
    digest = hashlib.sha256(b"hello").digest()
    said = (Checksum(algorithm="sha256", value=digest),)
    claims = Claims(part=lambda: said, is_certain=True)
    with pytest.raises(ChecksumMismatch):
        await place.chunks.append(upload, 0, Body(b"hullo"), length=5, claims=claims)
    assert (await place.chunks.find(upload)).offset == 0
    done = await place.chunks.append(upload, 0, Body(b"hello"), length=5, claims=claims)
    assert done.is_complete


@pytest.mark.parametrize("error", [DiskFull(), ServerBusy(), StoreUnavailable()])
@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
async def test_a_small_blob_that_failed_may_come_again(
    place: Place, store: Failing, error: AsyncflowError, *, is_made: bool
) -> None:
    upload = await begin(place)
    store.error, store.is_made = error, is_made
    with pytest.raises(type(error)):
        await send(place, upload, 0, b"hello")
    found = await place.chunks.find(upload)
    # bytes that a sync has lost are none, the others are there
    is_there = is_made and not isinstance(error, StoreUnavailable)
    assert (found.offset, found.is_complete) == ((5, True) if is_there else (0, False))
    if not is_there:
        assert await send(place, upload, 0, b"hello")
    assert path(store, upload).read_bytes() == b"hello"


async def test_a_restart_finds_a_small_upload_that_has_no_blob_yet(
    tmp_path: Path, store: Failing
) -> None:
    async with place_on(tmp_path, store) as place:
        upload = await begin(place)
    async with place_on(tmp_path, store) as later:
        assert (await later.chunks.find(upload)).offset == 0
        assert path(store, upload).stat().st_size == 0, "its room is set aside"
        assert await send(later, upload, 0, b"hello")


async def test_an_upload_of_which_others_may_bring_bytes_has_its_blob_at_once(
    place: Place, store: Failing
) -> None:
    part = await place.begin()
    assert path(store, part).exists()


async def test_a_large_upload_has_its_blob_at_once(
    tmp_path: Path, store: Failing
) -> None:
    async with place_on(tmp_path, store, quota_bytes=1 << 20) as place:
        rules = Rules(max_bytes=1 << 20, allowed_types=(), fill_level=100)
        place.admission.rules = rules
        large = await place.chunks.create(replace(SAID, length=WHOLE_BYTES + 1))
        assert path(store, large.id).exists()


async def test_the_room_of_a_blob_that_is_to_come_is_nobody_elses() -> None:
    async def space() -> Space:
        return Space(total_bytes=100, free_bytes=100)

    rules = Rules(max_bytes=1000, allowed_types=(), fill_level=100)
    admission = Admission(rules, space=space)
    admission.expect("small", 60)
    with pytest.raises(DiskFull):
        async with admission.joined("", more=0, room=50):
            pass
    admission.forget("small")
    async with admission.joined("", more=0, room=50):
        pass


async def test_an_upload_that_ends_before_its_bytes_come_gives_its_room_back(
    place: Place,
) -> None:
    upload = await begin(place)
    assert place.admission.expects(upload)
    await place.chunks.terminate(upload)
    assert not place.admission.expects(upload)
