"""What the local store does beyond the contract: files, modes, links, full disks."""

import asyncio
import errno
import os
import resource
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asyncflow.errors import BlobNotFound, DiskFull, ServerBusy, StoreError
from asyncflow.store import kernel
from asyncflow.store.local import NICE, LocalStore
from asyncflow.testing.store_suite import RAW, SMALL, extend, fill, read_all

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="what only Linux does"
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    made = LocalStore(tmp_path / "store")
    yield made
    await made.close()


@pytest.fixture
def small_files() -> Iterator[int]:
    """Let this process write no file beyond 1 MiB, as a full disk would."""
    limit = 1 << 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refuse(*_args: object) -> int:
    """Answer as a file system does that shares nothing."""
    raise OSError(errno.EXDEV, "not across devices")


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_store_that_nobody_closes_keeps_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    store = LocalStore(tmp_path / "store")
    assert open_descriptors() == before + 1
    del store
    assert open_descriptors() == before


def test_files_lie_in_shards_by_the_end_of_their_id(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    root = (tmp_path / "store").resolve()
    assert store.path("raw/0189abcd") == root / "raw/cd/0189abcd"
    assert store.path("processed/0189abcd/7-1/a.jpg") == (
        root / "processed/cd/0189abcd/7-1/a.jpg"
    )
    assert store.path("raw/x..") == root / "raw/__/x..", "no shard leads upwards"


async def test_nobody_else_may_read_what_is_stored(
    store: LocalStore, tmp_path: Path
) -> None:
    umask = os.umask(0)
    try:
        await fill(store, SMALL, b"private")
    finally:
        os.umask(umask)
    for path in (tmp_path / "store").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_reserving_does_not_change_the_length(store: LocalStore) -> None:
    await store.create(RAW, length=3_000_000)
    found = store.path(RAW).stat()
    assert found.st_size == 0
    if found.st_blocks:  # a file system that cannot reserve has none
        assert found.st_blocks * 512 >= 3_000_000


async def test_cutting_keeps_what_was_reserved(store: LocalStore) -> None:
    await store.create(RAW, length=3_000_000)
    reserved = store.path(RAW).stat().st_blocks
    await extend(store, RAW, 0, b"x" * 100_000)
    await (await store.append(RAW, 5)).close()
    found = store.path(RAW).stat()
    assert found.st_size == 5
    assert found.st_blocks >= reserved


async def test_no_room_to_reserve_leaves_nothing_behind(store: LocalStore) -> None:
    space = await store.space()
    with pytest.raises(DiskFull):
        await store.create(RAW, length=space.total_bytes * 2)
    assert not store.path(RAW).exists()
    await store.create(RAW, length=1)


async def test_a_full_disk_keeps_the_part_that_was_written(
    store: LocalStore, small_files: int
) -> None:
    await store.create(RAW, length=None)
    writer = await store.append(RAW, 0)
    await writer.write(b"a" * (small_files - 10))
    with pytest.raises(DiskFull):
        await writer.write(b"b" * 100)
    assert writer.offset == small_files
    await writer.sync()
    await writer.close()
    assert await store.size(RAW) == small_files
    assert await read_all(store, RAW, small_files - 12) == b"aa" + b"b" * 10


async def test_a_store_that_may_open_nothing_is_busy(
    store: LocalStore, tmp_path: Path
) -> None:
    await store.create(RAW, length=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "made").open("w+b") as made:
        resource.setrlimit(resource.RLIMIT_NOFILE, (made.fileno(), before[1]))
        try:
            with pytest.raises(ServerBusy, match="open files"):
                await store.put("processed/a/b", made.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert await store.size(RAW) == 0


async def test_putting_onto_a_full_disk_leaves_nothing(
    store: LocalStore, small_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a shared block takes no room, so take the way of file systems without sharing
    monkeypatch.setattr("fcntl.ioctl", refuse)
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"x" * small_files)
    os.truncate(source, small_files)
    resource.setrlimit(
        resource.RLIMIT_FSIZE,
        (small_files // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]),
    )
    with source.open("rb") as file, pytest.raises(DiskFull):
        await store.put(SMALL, file.fileno())
    with pytest.raises(BlobNotFound):
        await store.size(SMALL)
    assert list(store.path(SMALL).parent.iterdir()) == []


@pytest.mark.parametrize("lost", ["clone", "clone and kernel copy"])
async def test_putting_works_without_what_a_file_system_lacks(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr("fcntl.ioctl", refuse)
    if "kernel copy" in lost:
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    source = tmp_path / "source"
    data = os.urandom((8 << 20) + 17)
    source.write_bytes(data)
    with source.open("rb") as file:
        assert await store.put(SMALL, file.fileno()) == len(data)
    assert store.path(SMALL).read_bytes() == data


async def test_only_a_file_can_be_put(store: LocalStore) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(StoreError, match="no file"):
            await store.put(SMALL, reading)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(BlobNotFound):
        await store.size(SMALL)


async def test_a_link_under_a_key_is_not_followed(
    store: LocalStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"do not touch")
    await fill(store, RAW, b"x")
    store.path(RAW).unlink()
    store.path(RAW).symlink_to(secret)
    with pytest.raises(StoreError):
        await read_all(store, RAW)
    with pytest.raises(StoreError):
        await store.append(RAW, 0)
    with pytest.raises(StoreError):
        await store.size(RAW)
    await store.delete(RAW)
    assert secret.read_bytes() == b"do not touch"


async def test_a_linked_folder_is_not_entered(
    store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0189c5f0a1b2").write_bytes(b"secret")
    shard = store.path(RAW).parent
    shard.parent.mkdir()
    shard.symlink_to(outside)
    with pytest.raises(StoreError):
        await read_all(store, RAW)
    with pytest.raises(StoreError):
        await store.create("raw/newb2", length=1)
    with pytest.raises(StoreError):
        await store.delete_prefix(RAW)
    assert sorted(p.name for p in outside.iterdir()) == ["0189c5f0a1b2"]


async def test_a_planted_link_is_removed_and_not_followed(
    store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"keep")
    await fill(store, SMALL, b"x")
    job = store.path(SMALL).parent.parent
    (job / "folder").symlink_to(outside)
    (job / "file").symlink_to(outside / "keep")
    (job / "deep" / "er").mkdir(parents=True)
    (job / "deep" / "er" / "link").symlink_to(outside)
    await store.delete_prefix("processed/0189c5f0a1b2")
    assert not job.exists()
    assert (outside / "keep").read_bytes() == b"keep"


async def test_a_prefix_that_is_a_link_is_removed_and_not_followed(
    store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"keep")
    job = store.path("processed/0189c5f0a1b2")
    job.parent.mkdir(parents=True)
    job.symlink_to(outside)
    await store.delete_prefix("processed/0189c5f0a1b2")
    assert not job.is_symlink()
    assert (outside / "keep").exists()


async def test_a_pipe_under_a_key_holds_nobody_up(store: LocalStore) -> None:
    store.path(RAW).parent.mkdir(parents=True)
    os.mkfifo(store.path(RAW))
    async with asyncio.timeout(5):
        with pytest.raises(StoreError):
            await read_all(store, RAW)
        with pytest.raises(StoreError):
            await store.append(RAW, 0)


async def test_a_folder_removed_with_its_job_can_come_back(store: LocalStore) -> None:
    for turn in (b"first", b"second"):
        await fill(store, SMALL, turn)
        assert await read_all(store, SMALL) == turn
        await store.delete_prefix("processed/0189c5f0a1b2")


async def test_many_may_create_in_the_same_folder_at_once(store: LocalStore) -> None:
    keys = [f"processed/0189c5f0a1b2/7-1/{n}" for n in range(60)]
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(fill(store, key, key.encode()))
    for key in keys:
        assert await read_all(store, key) == key.encode()


async def test_a_cancelled_write_has_ended_when_the_caller_knows(
    store: LocalStore,
) -> None:
    data = os.urandom(32 << 20)
    await store.create(RAW, length=len(data))
    writer = await store.append(RAW, 0)
    task = asyncio.create_task(writer.write(data))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    size = await store.size(RAW)
    assert size == writer.offset
    await writer.close()
    newcomer = await store.append(RAW, size)
    await newcomer.write(b"next")
    await newcomer.close()
    assert await read_all(store, RAW, size) == b"next"


async def test_a_small_append_is_one_turn_of_one_thread(store: LocalStore) -> None:
    await fill(store, RAW, b"begun and lost")
    before = open_descriptors()
    await store.append_whole(RAW, 5, b" and ended")
    assert await read_all(store, RAW) == b"begun and ended"
    with pytest.raises(ValueError, match="offset"):
        await store.append_whole(RAW, 99, b"beyond")
    with pytest.raises(BlobNotFound):
        await store.append_whole("raw/0189c5f0a1ff", 0, b"nowhere")
    assert open_descriptors() == before


async def test_a_small_append_without_room_keeps_what_got_in(
    store: LocalStore, small_files: int
) -> None:
    await fill(store, RAW, bytes(small_files - 6))
    with pytest.raises(DiskFull):
        await store.append_whole(RAW, small_files - 6, b"as much as fits")
    assert await read_all(store, RAW, small_files - 6) == b"as muc"


@linux
async def test_links_are_not_followed_where_folders_are_opened_one_by_one(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a kernel without openat2 does cannot be had otherwise
    monkeypatch.setattr(kernel, "open_below", lambda *_: None)
    await fill(store, RAW, b"bytes")
    assert await read_all(store, RAW) == b"bytes"
    folder = store.path(RAW).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        await read_all(store, RAW)
    with pytest.raises(StoreError):
        await store.append(RAW, 0)


async def test_a_cancelled_opening_leaves_no_descriptor(store: LocalStore) -> None:
    await fill(store, RAW, b"bytes")
    before = open_descriptors()
    for _ in range(20):
        task = asyncio.create_task(store.append(RAW, 0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert open_descriptors() == before


async def test_failures_leave_no_descriptor(store: LocalStore) -> None:
    await fill(store, RAW, b"bytes")
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(ValueError, match="offset"):
            await store.append(RAW, 99)
        with pytest.raises(StoreError):
            await store.create(RAW, length=1)
        with pytest.raises(BlobNotFound):
            await store.size("raw/0189c5f0a1ff")
        pieces = store.read(RAW)
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
    assert open_descriptors() == before


async def test_nothing_blocks_the_event_loop(store: LocalStore) -> None:
    """Watch the files this thread opens and writes: there must be none."""
    here = threading.get_ident()
    seen: list[str] = []
    watching = True

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and threading.get_ident() == here and event in blocking:
            seen.append(f"{event} {args}")

    blocking = {"open", "os.mkdir", "os.remove", "os.rmdir", "os.listdir"}
    sys.addaudithook(watch)
    await fill(store, SMALL, b"x" * 1000)
    await read_all(store, SMALL)
    await store.delete_prefix("processed/0189c5f0a1b2")
    watching = False
    assert seen == []


@linux
async def test_writing_is_less_urgent_than_the_event_loop(store: LocalStore) -> None:
    await fill(store, RAW, b"x")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    threads = [t for t in threading.enumerate() if t.name.startswith("store-write")]
    assert threads
    for thread in threads:
        assert thread.native_id is not None
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(NICE, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


async def test_a_writer_that_lost_bytes_takes_no_more(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(RAW, length=4)
    writer = await store.append(RAW, 0)
    await writer.write(b"lost")

    def lose(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        # a real disk does not fail on demand
        broken.setattr(os, "fdatasync" if hasattr(os, "fdatasync") else "fsync", lose)
        with pytest.raises(StoreError, match="Input/output error"):
            await writer.sync()
    with pytest.raises(StoreError, match="lost bytes"):
        await writer.sync()
    with pytest.raises(StoreError, match="lost bytes"):
        await writer.write(b"more")
    await writer.close()


async def test_space_is_that_of_the_disk(store: LocalStore, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    space = await store.space()
    assert space.total_bytes == found.f_blocks * found.f_frsize
    assert space.free_bytes > 0


async def test_errors_do_not_tell_where_the_store_is(
    store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(BlobNotFound) as caught:
        await store.size(RAW)
    assert str(tmp_path) not in caught.value.detail
