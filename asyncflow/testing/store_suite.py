"""What every store must do, as tests to subclass.

A store of your own is right when this passes:

    from asyncflow.testing.store_suite import StoreSuite

    class TestMyStore(StoreSuite):
        async def make_store(self, folder):
            return MyStore("bucket-for-tests")

`folder` is an empty temporary folder. Needs pytest and pytest-asyncio.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from asyncflow.errors import BlobExists, BlobNotFound, StoreError
from asyncflow.store.base import (
    CanJoin,
    CanList,
    HasLocalPath,
    HasSpace,
    Interrupted,
    Piece,
    Store,
)

RAW = "raw/0189c5f0a1b2"
SMALL = "processed/0189c5f0a1b2/7-1/thumbnail.jpg"
BAD_KEYS = (
    "",
    "/raw/a",
    "raw//a",
    "raw/a/",
    "raw/../etc",
    "raw/./a",
    "..",
    "raw/a b",
    "raw/a\0",
    "raw/ä",
    "raw/a\n",
    "raw\\a",
)


async def read_all(
    store: Store, key: str, start: int = 0, end: int | None = None
) -> bytes:
    """Return what the store yields, in one piece."""
    return b"".join([piece async for piece in store.read(key, start, end)])


async def fill(store: Store, key: str, data: bytes) -> None:
    """Create a blob that holds *data*."""
    await store.create(key, length=len(data))
    await extend(store, key, 0, data)


async def extend(store: Store, key: str, offset: int, data: bytes) -> None:
    """Write *data* at *offset* and make it durable."""
    writer = await store.append(key, offset)
    await writer.write(data)
    await writer.sync()
    await writer.close()


class StoreSuite:
    """The obligations of `asyncflow.store.base.Store`, one test each."""

    pytestmark = pytest.mark.asyncio

    async def make_store(self, folder: Path) -> Store:
        """Return the store under test, empty."""
        raise TypeError(f"{type(self).__name__} must say which store it tests")

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """Give a fresh store to each test and close it."""
        made = await self.make_store(tmp_path)
        yield made
        await made.close()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Give a file larger than a read, to be put."""
        path = tmp_path / "source"
        path.write_bytes(os.urandom(3_000_001))
        return path

    async def test_a_store_that_can_list_names_its_old_blobs(
        self, store: Store
    ) -> None:
        if not isinstance(store, CanList):
            return
        made = f"processed/{RAW.partition('/')[2]}/1-2/thumbnail.webp"
        await fill(store, RAW, b"one")
        await fill(store, made, b"two")

        assert {key async for key in store.keys(older_than_s=-60)} == {RAW, made}
        assert [key async for key in store.keys(older_than_s=60)] == []
        await store.delete(RAW)
        assert [key async for key in store.keys(older_than_s=-60)] == [made]

    async def test_a_created_blob_is_empty(self, store: Store) -> None:
        await store.create(RAW, length=1_000_000)
        assert await store.size(RAW) == 0
        assert await read_all(store, RAW) == b""

    async def test_a_blob_of_unknown_length_can_be_created(self, store: Store) -> None:
        await store.create(RAW, length=None)
        assert await store.size(RAW) == 0

    async def test_a_key_is_taken_once(self, store: Store) -> None:
        await fill(store, RAW, b"first")
        with pytest.raises(BlobExists):
            await store.create(RAW, length=1)
        assert await read_all(store, RAW) == b"first"

    async def test_bytes_come_back_in_the_order_written(self, store: Store) -> None:
        await store.create(RAW, length=None)
        writer = await store.append(RAW, 0)
        for piece in (b"one", bytearray(b" two"), memoryview(b" three")):
            await writer.write(piece)
        assert writer.offset == 13
        await writer.sync()
        await writer.close()
        assert await read_all(store, RAW) == b"one two three"

    async def test_writing_nothing_changes_nothing(self, store: Store) -> None:
        await store.create(RAW, length=0)
        await extend(store, RAW, 0, b"")
        assert await store.size(RAW) == 0

    async def test_what_is_made_durable_afterwards_stays_as_it_is(
        self, store: Store
    ) -> None:
        await store.create(RAW, length=20)
        writer = await store.append(RAW, 0)
        await writer.write(b"never synced")
        await writer.close()
        await store.sync(RAW)
        await store.sync(RAW)
        assert await read_all(store, RAW) == b"never synced"

    async def test_what_is_not_there_cannot_be_made_durable(self, store: Store) -> None:
        with pytest.raises(BlobNotFound):
            await store.sync(RAW)

    async def test_a_large_blob_keeps_every_byte(self, store: Store) -> None:
        data = os.urandom(20_000_003)
        await store.create(RAW, length=len(data))
        for at in range(0, len(data), 7_000_000):
            await extend(store, RAW, at, data[at : at + 7_000_000])
        got = await read_all(store, RAW)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

    async def test_appending_goes_on_where_it_was_left(self, store: Store) -> None:
        await fill(store, RAW, b"begun ")
        await extend(store, RAW, 6, b"and ended")
        assert await read_all(store, RAW) == b"begun and ended"

    async def test_appending_cuts_off_what_lies_behind(self, store: Store) -> None:
        await fill(store, RAW, b"kept and lost")
        writer = await store.append(RAW, 4)
        assert writer.offset == 4
        await writer.close()
        assert await read_all(store, RAW) == b"kept"

    @pytest.mark.parametrize("offset", [-1, 6])
    async def test_appending_outside_the_blob_is_refused(
        self, store: Store, offset: int
    ) -> None:
        await fill(store, RAW, b"bytes")
        with pytest.raises(ValueError, match="offset"):
            await store.append(RAW, offset)
        assert await store.size(RAW) == 5

    async def test_a_closed_writer_takes_no_bytes(self, store: Store) -> None:
        await store.create(RAW, length=1)
        writer = await store.append(RAW, 0)
        await writer.close()
        await writer.close()
        with pytest.raises(StoreError):
            await writer.write(b"x")

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (0, 1, b"0"),
            (9, 10, b"9"),
            (4, 4, b""),
            (2, 99, b"23456789"),
            (10, None, b""),
            (99, None, b""),
        ],
    )
    async def test_a_part_can_be_read(
        self, store: Store, start: int, end: int | None, expected: bytes
    ) -> None:
        await fill(store, RAW, b"0123456789")
        assert await read_all(store, RAW, start, end) == expected

    async def test_reading_may_stop_early(self, store: Store, source: Path) -> None:
        with source.open("rb") as file:
            await store.put(SMALL, file.fileno())
        pieces = store.read(SMALL)
        assert await anext(pieces)
        closing = getattr(pieces, "aclose", None)
        if closing is not None:
            await closing()
        assert await store.size(SMALL) == 3_000_001

    async def test_a_file_can_be_put_whole(self, store: Store, source: Path) -> None:
        with source.open("rb") as file:
            file.seek(100)
            assert await store.put(SMALL, file.fileno()) == 3_000_001
            assert file.tell() == 100, "the descriptor stays the caller's"
        assert await read_all(store, SMALL) == source.read_bytes()

    async def test_who_gives_up_puts_nothing(self, store: Store, source: Path) -> None:
        with source.open("rb") as file:
            with pytest.raises(Interrupted):
                await store.put(SMALL, file.fileno(), is_over=lambda: True)
            assert await store.put(SMALL, file.fileno()) == 3_000_001
        assert await read_all(store, SMALL) == source.read_bytes()

    async def test_an_empty_file_can_be_put(self, store: Store, source: Path) -> None:
        source.write_bytes(b"")
        with source.open("rb") as file:
            assert await store.put(SMALL, file.fileno()) == 0
        assert await store.size(SMALL) == 0

    async def test_putting_does_not_replace(self, store: Store, source: Path) -> None:
        await fill(store, SMALL, b"first")
        with source.open("rb") as file, pytest.raises(BlobExists):
            await store.put(SMALL, file.fileno())
        assert await read_all(store, SMALL) == b"first"

    async def test_room_can_be_reserved_later(self, store: Store) -> None:
        await store.create(RAW, length=None)
        await extend(store, RAW, 0, b"begun")

        await store.reserve(RAW, 1_000_000)

        assert await store.size(RAW) == 5
        await extend(store, RAW, 5, b" and gone on with")
        assert await read_all(store, RAW) == b"begun and gone on with"

    async def test_what_is_absent_is_not_found(self, store: Store) -> None:
        with pytest.raises(BlobNotFound):
            await store.size(RAW)
        with pytest.raises(BlobNotFound):
            await store.append(RAW, 0)
        with pytest.raises(BlobNotFound):
            await read_all(store, RAW)

    async def test_a_deleted_blob_is_not_found(self, store: Store) -> None:
        await fill(store, RAW, b"bytes")
        await store.delete(RAW)
        with pytest.raises(BlobNotFound):
            await store.size(RAW)

    async def test_deleting_twice_is_not_an_error(self, store: Store) -> None:
        await fill(store, RAW, b"bytes")
        await store.delete(RAW)
        await store.delete(RAW)
        await store.delete("raw/never")

    async def test_a_deleted_key_can_be_taken_again(self, store: Store) -> None:
        await fill(store, RAW, b"first")
        await store.delete(RAW)
        await fill(store, RAW, b"second")
        assert await read_all(store, RAW) == b"second"

    async def test_a_prefix_is_deleted_with_all_below(self, store: Store) -> None:
        for key in (SMALL, "processed/0189c5f0a1b2/9-2/text.txt", RAW):
            await fill(store, key, b"x")
        await store.delete_prefix("processed/0189c5f0a1b2")
        with pytest.raises(BlobNotFound):
            await store.size(SMALL)
        with pytest.raises(BlobNotFound):
            await store.size("processed/0189c5f0a1b2/9-2/text.txt")
        assert await store.size(RAW) == 1

    async def test_a_prefix_is_whole_segments(self, store: Store) -> None:
        await fill(store, "processed/ab12/1-1/a", b"x")
        await fill(store, "processed/ab1/1-1/a", b"y")
        await store.delete_prefix("processed/ab1")
        assert await read_all(store, "processed/ab12/1-1/a") == b"x"
        with pytest.raises(BlobNotFound):
            await store.size("processed/ab1/1-1/a")

    async def test_a_prefix_may_be_a_blob_or_nothing(self, store: Store) -> None:
        await fill(store, RAW, b"x")
        await store.delete_prefix(RAW)
        await store.delete_prefix(RAW)
        await store.delete_prefix("processed/never")
        with pytest.raises(BlobNotFound):
            await store.size(RAW)

    async def test_a_folder_of_keys_is_no_blob(self, store: Store) -> None:
        await fill(store, SMALL, b"x")
        with pytest.raises(BlobNotFound):
            await store.size("processed/0189c5f0a1b2")
        with pytest.raises(BlobNotFound):
            await read_all(store, "processed/0189c5f0a1b2")
        await store.delete("processed/0189c5f0a1b2")
        assert await store.size(SMALL) == 1

    @pytest.mark.parametrize("key", ["raw/..x", "raw/x..", "raw/a.", "raw/-", "raw/_"])
    async def test_dots_inside_a_segment_are_ordinary(
        self, store: Store, key: str
    ) -> None:
        await fill(store, key, key.encode())
        assert await read_all(store, key) == key.encode()

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_a_key_that_is_none_is_refused(
        self, store: Store, source: Path, key: str
    ) -> None:
        with pytest.raises(ValueError, match="is no key"):
            await store.create(key, length=1)
        with source.open("rb") as file, pytest.raises(ValueError, match="is no key"):
            await store.put(key, file.fileno())
        with pytest.raises(ValueError, match="is no key"):
            await store.append(key, 0)
        with pytest.raises(ValueError, match="is no key"):
            await store.size(key)
        with pytest.raises(ValueError, match="is no key"):
            await read_all(store, key)
        with pytest.raises(ValueError, match="is no key"):
            await store.delete(key)
        with pytest.raises(ValueError, match="is no key"):
            await store.delete_prefix(key)

    async def test_a_local_path_leads_to_the_bytes(self, store: Store) -> None:
        if not isinstance(store, HasLocalPath):
            assert not hasattr(store, "path"), "half a capability"
            return
        await fill(store, RAW, b"bytes")
        with store.path(RAW).open("rb") as file:
            assert file.read() == b"bytes"

    async def test_space_is_told_in_bytes(self, store: Store) -> None:
        if not isinstance(store, HasSpace):
            assert not hasattr(store, "space"), "half a capability"
            return
        space = await store.space()
        assert 0 <= space.free_bytes <= space.total_bytes

    async def test_parts_are_joined_in_their_order(self, store: Store) -> None:
        if not isinstance(store, CanJoin):
            half = [hasattr(store, "share"), hasattr(store, "shareable")]
            assert not any(half), "half a capability"
            return
        # sizes on and off the borders of blocks, none and repeated ones
        sizes = (65_536, 131_072, 1, 0, 70_000, 65_536)
        pieces = [os.urandom(size) for size in sizes]
        for n, piece in enumerate(pieces):
            await fill(store, f"parts/{n}", piece)
        wholes = [whole(f"parts/{n}", sizes[n]) for n in (0, 1, 2, 3, 4, 5, 0)]
        await store.create(RAW, length=None)

        at = await store.share(RAW, wholes)

        # all of the first ones
        assert at in {sum(one.size for one in wholes[:n]) for n in range(8)}
        assert at == store.shareable([one.size for one in wholes])
        await store.copy(RAW, 65_536, wholes[1:])
        await store.copy(RAW, 0, wholes[:1])
        assert await read_all(store, RAW) == b"".join([*pieces, pieces[0]])
        for n, piece in enumerate(pieces):
            assert await read_all(store, f"parts/{n}") == piece

    async def test_what_is_copied_stands_where_it_should_and_nothing_else_changes(
        self, store: Store
    ) -> None:
        if isinstance(store, CanJoin):
            await fill(store, "parts/a", b"abcdef")
            await fill(store, RAW, b"0123456789")
            some = [Piece(key="parts/a", start=2, end=4)]
            await store.copy(RAW, 5, [*some, *some, Piece(key=RAW, start=0, end=0)])
            assert await read_all(store, RAW) == b"01234cdcd9"
            await store.copy(RAW, 12, some)
            assert await read_all(store, RAW) == b"01234cdcd9\0\0cd"

    async def test_a_copy_that_is_over_is_made_another_time(self, store: Store) -> None:
        if isinstance(store, CanJoin):
            await fill(store, "parts/a", b"a" * 100_000)
            await store.create(RAW, length=None)
            parts = [whole("parts/a", 100_000)]
            with pytest.raises(Interrupted):
                await store.copy(RAW, 0, parts, is_over=lambda: True)
            await store.copy(RAW, 0, parts)
            assert await read_all(store, RAW) == b"a" * 100_000

    async def test_what_is_absent_cannot_be_joined(self, store: Store) -> None:
        if isinstance(store, CanJoin):
            await fill(store, "parts/a", b"a")
            parts = [whole("parts/a", 1)]
            for join in (store.share(RAW, parts), store.copy(RAW, 0, parts)):
                with pytest.raises(BlobNotFound):
                    await join
            await store.create(RAW, length=None)
            with pytest.raises(BlobNotFound):
                await store.copy(RAW, 0, [*parts, whole("parts/b", 1)])
            # nor what has fewer bytes than it should
            with pytest.raises(BlobNotFound):
                await store.copy(RAW, 0, [whole("parts/a", 2)])
            assert await store.share(RAW, [whole("parts/a", 2)]) == 0

    async def test_what_becomes_of_a_part_does_not_change_the_joined(
        self, store: Store
    ) -> None:
        if isinstance(store, CanJoin):
            await fill(store, "parts/a", b"a" * 65_536)
            await store.create(RAW, length=None)
            parts = [whole("parts/a", 65_536)]
            if not await store.share(RAW, parts):
                await store.copy(RAW, 0, parts)
            await extend(store, "parts/a", 0, b"b" * 70_000)
            await store.cut({"parts/a": 5})
            assert await read_all(store, RAW) == b"a" * 65_536

    async def test_blobs_are_cut_to_a_length_if_they_are_longer(
        self, store: Store
    ) -> None:
        if isinstance(store, CanJoin):
            await fill(store, "parts/a", b"abcdef")
            await fill(store, "parts/b", b"ab")
            await store.cut({"parts/a": 4, "parts/b": 4, "parts/c": 4})
            assert await read_all(store, "parts/a") == b"abcd"
            assert await read_all(store, "parts/b") == b"ab"
            with pytest.raises(BlobNotFound):
                await store.size("parts/c")


def whole(key: str, size: int) -> Piece:
    """Return all of a blob."""
    return Piece(key=key, start=0, end=size)
