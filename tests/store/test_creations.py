"""Uploads whose blobs cannot be created."""

import uuid
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow.errors import AsyncflowError, DiskFull, ServerBusy, StoreError
from asyncflow.store.memory import MemoryStore
from tests.store.engine_room import SAID, place_on


class Refusing(MemoryStore):
    """A store that begins nothing, at first."""

    def __init__(self, error: AsyncflowError) -> None:
        super().__init__()
        self.error: AsyncflowError | None = error

    async def create(self, key: str, *, length: int | None) -> None:
        if self.error is not None:
            raise self.error
        await super().create(key, length=length)


@pytest.mark.parametrize("error", [StoreError("EIO"), ServerBusy(), DiskFull()])
@pytest.mark.parametrize("is_part", [False, True])
async def test_what_the_store_cannot_begin_leaves_nothing_that_counts(
    tmp_path: Path, error: AsyncflowError, *, is_part: bool
) -> None:
    store = Refusing(error)
    async with place_on(tmp_path, store, quota_bytes=5) as place:
        said = replace(SAID, client="anna", is_part=is_part)
        for _ in range(3):
            with pytest.raises(type(error)):
                await place.chunks.create(said)
        assert await place.db.open_uploads() == 0
        store.error = None
        assert (await place.chunks.create(said)).length == 5


async def test_who_chose_the_id_of_what_could_not_be_begun_comes_back_to_it(
    tmp_path: Path,
) -> None:
    store = Refusing(DiskFull())
    async with place_on(tmp_path, store) as place:
        said = replace(SAID, id=str(uuid.uuid4()), length=None, parts=2)
        with pytest.raises(DiskFull):
            await place.chunks.create(said)
        store.error = None
        assert (await place.chunks.create(said)).id == said.id
