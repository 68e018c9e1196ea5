"""How far blobs are durable, beside a disk that loses bytes."""

import asyncio

import pytest

from asyncflow.errors import BlobNotFound, StoreError, StoreUnavailable
from asyncflow.offsets import Offsets
from asyncflow.store.base import Writer
from asyncflow.store.memory import MemoryStore, MemoryWriter

KEY = "raw/0189c5f0a1b2"


class Losing(MemoryStore):
    """A store whose disk loses what is synced, and cuts nothing, while it is told so.

    As kernels do, it complains once about the same bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses = 0
        self.cuts_nothing = False
        self.syncs = 0

    def synced(self) -> None:
        self.syncs += 1
        if self.losses:
            self.losses -= 1
            raise StoreUnavailable

    async def sync(self, key: str) -> None:
        await super().sync(key)
        self.synced()

    async def append(self, key: str, offset: int) -> MemoryWriter:
        if self.cuts_nothing and offset < await self.size(key):
            raise StoreError("the disk is read-only")
        return LosingWriter(self, self._find(key), offset)


class LosingWriter(MemoryWriter):
    def __init__(self, store: Losing, blob: bytearray, offset: int) -> None:
        del blob[offset:]
        super().__init__(blob)
        self._store = store

    async def sync(self) -> None:
        self._store.synced()


@pytest.fixture
async def store() -> Losing:
    made = Losing()
    await made.create(KEY, length=None)
    return made


async def write(store: Losing, data: bytes) -> Writer:
    """Append *data* without making it durable."""
    writer = await store.append(KEY, await store.size(KEY))
    await writer.write(data)
    return writer


async def add(store: Losing, offsets: Offsets, data: bytes) -> int:
    """Append *data* and make it durable."""
    start = await store.size(KEY)
    return await offsets.make_durable(KEY, await write(store, data), start)


async def test_what_another_process_wrote_is_synced_once(store: Losing) -> None:
    await write(store, b"hello")
    offsets = Offsets(store)
    assert [await offsets.of(KEY), await offsets.of(KEY)] == [5, 5]
    assert store.syncs == 1


async def test_what_was_synced_while_writing_costs_no_more(store: Losing) -> None:
    offsets = Offsets(store)
    offsets.note(KEY, 0)
    assert await offsets.of(KEY) == 0
    assert await add(store, offsets, b"hello") == 5
    assert await offsets.of(KEY) == 5
    assert store.syncs == 1


async def test_a_forgotten_blob_is_synced_again(store: Losing) -> None:
    offsets = Offsets(store, remembered=1)
    await add(store, offsets, b"hello")
    offsets.note("raw/other", 3)
    assert await offsets.of(KEY) == 5
    assert store.syncs == 2


async def test_lost_bytes_are_cut_off_and_sent_again(store: Losing) -> None:
    offsets = Offsets(store)
    await add(store, offsets, b"kept")
    store.losses = 1
    with pytest.raises(StoreUnavailable):
        await add(store, offsets, b" and lost")
    assert await store.size(KEY) == 4
    assert await offsets.of(KEY) == 4
    assert await add(store, offsets, b" and sent again") == 19


async def test_lost_bytes_of_a_dead_process_leave_what_is_known(store: Losing) -> None:
    await write(store, b"hello")
    offsets = Offsets(store)
    store.losses = 1
    with pytest.raises(StoreUnavailable):
        await offsets.of(KEY)
    assert await offsets.of(KEY) == 0
    assert await store.size(KEY) == 0


async def test_no_offset_is_told_before_lost_bytes_are_cut_off(store: Losing) -> None:
    offsets = Offsets(store)
    await add(store, offsets, b"kept")
    store.losses, store.cuts_nothing = 1, True
    with pytest.raises(StoreUnavailable):
        await add(store, offsets, b" and lost")
    with pytest.raises(StoreError, match="read-only"):
        await offsets.of(KEY)
    store.cuts_nothing = False
    assert await offsets.of(KEY) == 4


async def test_a_loss_that_others_met_spoils_what_is_being_written(
    store: Losing,
) -> None:
    offsets = Offsets(store)
    await add(store, offsets, b"kept")
    writer = await write(store, b" and lost")
    # nobody knows any more what of it is durable
    offsets.forget(KEY)
    store.losses = 1
    with pytest.raises(StoreUnavailable):
        await offsets.of(KEY)
    with pytest.raises(StoreUnavailable):
        await offsets.make_durable(KEY, writer, 4)
    assert await offsets.of(KEY) == 0


async def test_a_look_meanwhile_tells_what_is_durable(store: Losing) -> None:
    offsets = Offsets(store)
    await add(store, offsets, b"kept")
    writer = await write(store, b" and more")
    assert await offsets.of(KEY) == 4
    assert await offsets.make_durable(KEY, writer, 4) == 13
    assert await offsets.of(KEY) == 13


async def test_a_missing_blob_has_no_offset() -> None:
    with pytest.raises(BlobNotFound):
        await Offsets(MemoryStore()).of(KEY)


class Slow(Losing):
    """A store whose next sync takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()

    async def sync(self, key: str) -> None:
        self.begun.set()
        await self.let_go.wait()
        await super().sync(key)


@pytest.fixture
async def slow() -> Slow:
    made = Slow()
    await made.create(KEY, length=None)
    return made


async def test_a_slow_look_forgets_nothing_that_became_durable_meanwhile(
    slow: Slow,
) -> None:
    offsets = Offsets(slow)
    await write(slow, b"before")
    looking = asyncio.create_task(offsets.of(KEY))
    await slow.begun.wait()
    assert await add(slow, offsets, b" and after") == 16
    slow.let_go.set()
    assert await looking == 16
    assert await offsets.of(KEY) == 16


async def test_a_slow_look_counts_nothing_that_was_lost_meanwhile(slow: Slow) -> None:
    offsets = Offsets(slow)
    await write(slow, b"lost")
    looking = asyncio.create_task(offsets.of(KEY))
    await slow.begun.wait()
    slow.losses, slow.cuts_nothing = 1, True
    # the kernel tells of lost bytes once, and it was somebody else who heard of it
    writer = await write(slow, b"")
    with pytest.raises(StoreUnavailable):
        await offsets.make_durable(KEY, writer, 0)
    slow.cuts_nothing = False
    slow.let_go.set()
    assert await looking == 0
