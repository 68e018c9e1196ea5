"""The local store: blobs are files below one folder.

Rules
-----
- `raw/<id>` lies at `raw/<last two of id>/<id>`, and likewise for longer keys, so that
  no folder grows without bound.
- Folders are 0700, files 0600; no symbolic link below the root is ever followed.
- Everything that blocks runs on the store's own threads, never on the event loop. A
  cancelled caller waits until its thread is done: no byte is written late.
- A failed `sync` breaks its writer: the kernel reports lost pages only once, so a
  second try would lie.

Theory of operation
-------------------
A file's length is the upload's offset, so space is reserved without changing the
length, and bytes grow in place. Writing asks for writeback every few megabytes, which
leaves little for the `fdatasync` before an offset is told. A new name is durable once
its folder was synced, and a new folder once its parent was; the folders known to be
durable are remembered, since two requests may create the same one at once.
"""

import asyncio
import contextlib
import os
import stat
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import aiofiles

from asyncflow.errors import (
    BlobNotFound,
    DiskFull,
    StoreError,
    StoreUnavailable,
)
from asyncflow.store import kernel
from asyncflow.store.base import Burst, Interrupted, Piece, Space
from asyncflow.store.faults import explained, lossless
from asyncflow.store.keys import segments
from asyncflow.threads import Threads, begun

WRITEBACK_BYTES = 1 << 20
READ_BYTES = 256 << 10
#: so many large uploads move at one moment; the others wait for their turn
BURST_THREADS = 2
#: how much less urgent than the event loop the threads are
NICE = 5
#: durable folders remembered; beyond that they are synced once more
REMEMBERED = 10_000

_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = _SAFE | os.O_DIRECTORY | os.O_RDONLY


class LocalStore:
    """Keeps blobs as files below *root*, on *threads* threads of its own.

    `fsync=False` gives up durability, for measurements and tests of other things.
    """

    def __init__(self, root: Path, *, threads: int = 16, fsync: bool = True) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root.resolve()
        self._root_fd = os.open(self._root, _FOLDER)
        # also where nobody closes the store
        self._let_go = weakref.finalize(self, os.close, self._root_fd)
        self._fsync = fsync
        self._shares = kernel.shares_blocks(self._root_fd)
        self._writers = Threads(threads, "store-write", _be_nice)
        self._readers = Threads(threads, "store-look")
        self._bursts = Threads(BURST_THREADS, "store-burst", _be_nice)
        self._files = begun(threads, "store-read")
        self._durable: set[tuple[str, ...]] = set()
        self._durable_lock = threading.Lock()

    def path(self, key: str) -> Path:
        """Return where the blob lies (whether or not it exists)."""
        return self._root.joinpath(*_places(key))

    async def space(self) -> Space:
        """Return the medium's size and what is free for us."""
        return await self._readers.do(self._space)

    async def create(self, key: str, *, length: int | None) -> None:
        """Create an empty file and reserve *length* bytes (None: unknown)."""
        await self._writers.do(self._create, key, length)

    async def reserve(self, key: str, length: int) -> None:
        """Reserve what a file of *length* bytes needs beyond those it has."""
        await self._writers.do(self._reserve, key, length)

    async def append(self, key: str, offset: int) -> "LocalWriter":
        """Return a writer at *offset*, cutting off anything behind it."""
        fd = await self._writers.do(self._open_at, key, offset, undo=os.close)
        return LocalWriter(
            fd, offset, self._writers, bursts=self._bursts, fsync=self._fsync
        )

    async def append_whole(self, key: str, offset: int, data: bytes) -> None:
        """Append *data* at *offset* and sync it, on one turn of a thread."""
        await self._writers.do(self._append_whole, key, offset, data)

    async def size(self, key: str) -> int:
        """Return the file's length in bytes."""
        return await self._readers.do(self._size, key)

    async def sync(self, key: str) -> None:
        """Return once the file's bytes and its name are on stable storage."""
        await self._writers.do(self._sync, key)

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from *start* up to *end*."""
        fd = await self._readers.do(self._open_to_read, key, undo=os.close)
        async with aiofiles.open(fd, "rb", buffering=0, executor=self._files) as file:
            await file.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                want = READ_BYTES if left is None else min(READ_BYTES, left)
                with explained(key):
                    data = await file.read(want)
                if not data:
                    return
                if left is not None:
                    left -= len(data)
                yield data

    async def put(
        self, key: str, source_fd: int, *, is_over: Callable[[], bool] = lambda: False
    ) -> int:
        """Store the whole file behind *source_fd*; return its length in bytes."""
        return await self._writers.do(self._put, key, source_fd, is_over)

    def shareable(self, sizes: Sequence[int]) -> int:
        """Return how many bytes `share` shares of whole blobs of these *sizes*."""
        return kernel.shareable(sizes) if self._shares else 0

    async def share(self, key: str, wholes: Sequence[Piece]) -> int:
        """Let the blob begin with *wholes* as far as blocks can be shared."""
        return await self._writers.do(self._share, key, tuple(wholes))

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Put *pieces* into the blob from *at* on."""
        await self._writers.do(self._copy, key, at, tuple(pieces), is_over)

    async def cut(self, lengths: Mapping[str, int]) -> None:
        """Take back all that these blobs have beyond their *lengths*."""
        await self._writers.do(self._cut_all, dict(lengths))

    async def delete(self, key: str) -> None:
        """Forget the blob."""
        await self._writers.do(self._delete, key)

    async def delete_prefix(self, prefix: str) -> None:
        """Forget every blob whose key starts with the whole segments *prefix*."""
        await self._writers.do(self._delete_prefix, prefix)

    async def keys(self, *, older_than_s: float) -> AsyncIterator[str]:
        """Yield the key of each blob that was last changed so long ago, or longer."""
        before = time.time() - older_than_s
        for folder in await self._readers.do(self._shards):
            for key in await self._readers.do(self._keys_in, folder, before):
                yield key

    async def close(self) -> None:
        """Let go of the threads, after what they still do."""
        for threads in (self._writers, self._readers, self._bursts):
            await asyncio.to_thread(threads.close)
        await asyncio.to_thread(self._files.shutdown)
        self._root_fd = -1
        self._let_go()

    # ----- what runs on the threads

    def _space(self) -> Space:
        with explained("the store"):
            found = os.statvfs(self._root)
        return Space(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
        )

    def _shards(self) -> list[Path]:
        """Return the folders between the first segment of a key and the second."""
        tops = [one for one in self._root.iterdir() if one.is_dir()]
        return [one for top in tops for one in top.iterdir() if one.is_dir()]

    def _keys_in(self, shard: Path, before: float) -> list[str]:
        found = []
        for folder, _folders, names in os.walk(shard):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if path.lstat().st_mtime <= before:
                        rest = path.relative_to(shard).parts
                        found.append("/".join((shard.parent.name, *rest)))
        return found

    def _create(self, key: str, length: int | None) -> None:
        with self._new_file(key) as fd:
            _set_aside(fd, 0, length or 0)

    def _reserve(self, key: str, length: int) -> None:
        with self._opened(key) as fd, explained(key):
            _set_aside(fd, os.fstat(fd).st_size, length)

    def _put(self, key: str, source_fd: int, is_over: Callable[[], bool]) -> int:
        with self._new_file(key) as fd:
            if not stat.S_ISREG(os.fstat(source_fd).st_mode):
                raise StoreError(f"what is to be stored as {key} is no file")
            count = kernel.copy_whole(source_fd, fd, is_over)
            if is_over():
                raise Interrupted
            if self._fsync:
                kernel.sync_data(fd)
        return count

    def _share(self, key: str, wholes: tuple[Piece, ...]) -> int:
        done = 0
        with self._opened(key) as target, explained(key):
            for piece in wholes:
                if piece.size and not self._share_one(piece, target, done):
                    break
                done += piece.size
            if done and self._fsync:
                kernel.sync_data(target)
        return done

    def _share_one(self, piece: Piece, target: int, at: int) -> bool:
        source = self._open_to_read(piece.key)
        try:
            is_whole = os.fstat(source).st_size == piece.end
            return is_whole and kernel.share_whole(source, target, at)
        finally:
            os.close(source)

    def _copy(
        self, key: str, at: int, pieces: tuple[Piece, ...], is_over: Callable[[], bool]
    ) -> None:
        with self._opened(key) as target:
            for piece in pieces:
                self._copy_one(piece, target, at, is_over)
                at += piece.size
            if self._fsync:
                with lossless(key):
                    kernel.sync_data(target)

    def _copy_one(
        self, piece: Piece, target: int, at: int, is_over: Callable[[], bool]
    ) -> None:
        start, end = piece.start, piece.end
        source = self._open_to_read(piece.key)
        try:
            with explained(piece.key):
                done = kernel.copy(source, target, start, end, at, is_over)
        finally:
            os.close(source)
        if is_over():
            raise Interrupted
        if done < piece.size:
            raise BlobNotFound(f"{piece.key} ends before byte {end}")

    def _cut_all(self, lengths: Mapping[str, int]) -> None:
        for key, length in lengths.items():
            gone = contextlib.suppress(BlobNotFound)
            with gone, self._opened(key) as fd, explained(key):
                if os.fstat(fd).st_size > length:
                    os.ftruncate(fd, length)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """Give the file of a blob, to write into it."""
        with explained(key):
            fd = self._open(key, os.O_WRONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _new_file(self, key: str) -> Iterator[int]:
        """Give a new file, durable by name at the end; after an error, none."""
        with explained(key), self._folder(key, make=True) as (folder, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
            fd = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                yield fd
                self._sync_folder(folder)
            except BaseException:
                os.unlink(name, dir_fd=folder)
                raise
            finally:
                os.close(fd)

    def _open(self, key: str, access: int) -> int:
        # a pipe planted under the name must not hold the thread
        flags = access | os.O_NONBLOCK | _SAFE
        fd = kernel.open_below(self._root_fd, "/".join(_places(key)), flags)
        if fd is None:
            with self._folder(key) as (folder, name):
                fd = os.open(name, flags, dir_fd=folder)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise BlobNotFound(f"{key} is no file")

    def _open_to_read(self, key: str) -> int:
        with explained(key):
            return self._open(key, os.O_RDONLY)

    def _open_at(self, key: str, offset: int) -> int:
        with explained(key):
            fd = self._open(key, os.O_WRONLY)
            try:
                _cut(fd, offset)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def _append_whole(self, key: str, offset: int, data: bytes) -> None:
        fd = self._open_at(key, offset)
        try:
            with explained(key):
                kernel.write_all(fd, data, offset)
        finally:
            _sync_and_close(fd, fsync=self._fsync)

    def _size(self, key: str) -> int:
        with explained(key), self._folder(key) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise BlobNotFound(f"{key} is no file")
        return found.st_size

    def _sync(self, key: str) -> None:
        fd = self._open_to_read(key)
        try:
            if self._fsync:
                with lossless(key):
                    kernel.sync_data(fd)
        finally:
            os.close(fd)
        with explained(key), self._folder(key) as (folder, _name), lossless(key):
            self._sync_folder(folder)

    def _delete(self, key: str) -> None:
        gone = contextlib.suppress(BlobNotFound)
        with gone, explained(key), self._folder(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def _delete_prefix(self, prefix: str) -> None:
        gone = contextlib.suppress(BlobNotFound)
        with gone, explained(prefix), self._folder(prefix) as (folder, name):
            _remove(folder, name)
        with self._durable_lock:
            self._durable.clear()

    @contextlib.contextmanager
    def _folder(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of *key* step by step; give it and the name in it."""
        *folders, name = _places(key)
        fd = None
        if folders and (not make or self._is_durable(tuple(folders))):
            fd = kernel.open_below(self._root_fd, "/".join(folders), _FOLDER)
        if fd is None:
            fd = self._walk(folders, make=make)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _walk(self, folders: Sequence[str], *, make: bool) -> int:
        """Open a folder, from the root on one after the other."""
        fd = os.open(self._root, _FOLDER)
        try:
            for depth, step in enumerate(folders, 1):
                if make:
                    self._make(fd, step, tuple(folders[:depth]))
                inner = os.open(step, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _is_durable(self, place: tuple[str, ...]) -> bool:
        with self._durable_lock:
            return place in self._durable

    def _make(self, parent: int, name: str, place: tuple[str, ...]) -> None:
        if self._is_durable(place):
            return
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        self._sync_folder(parent)
        with self._durable_lock:
            if len(self._durable) >= REMEMBERED:
                self._durable.clear()
            self._durable.add(place)

    def _sync_folder(self, fd: int) -> None:
        if self._fsync:
            os.fsync(fd)


class LocalWriter:
    """A place at the end of a local file."""

    def __init__(
        self,
        fd: int,
        offset: int,
        threads: Threads,
        *,
        bursts: Threads,
        fsync: bool,
    ) -> None:
        self._fd: int | None = fd
        self._offset = offset
        self._asked = offset
        self._threads = threads
        self._bursts = bursts
        self._fsync = fsync
        self._broken = False

    @property
    def offset(self) -> int:
        """How many bytes the file holds, a partly written buffer included."""
        return self._offset

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of *data*."""
        await self._threads.do(self._write, self._usable(), memoryview(data))

    async def take(self, burst: Burst) -> None:
        """Let *burst* move its bytes into the file."""
        await self._bursts.do(self._take, self._usable(), burst)

    async def sync(self) -> None:
        """Return once every byte up to `offset` is on stable storage."""
        fd = self._usable()
        if self._fsync:
            await self._threads.do(self._sync, fd)

    async def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            await self._threads.do(os.close, fd)

    async def finish(self) -> None:
        """Sync and close on one turn of a thread."""
        try:
            fd = self._usable()
        except StoreError:
            await self.close()
            raise
        self._fd = None
        await self._threads.do(self._finish, fd)

    def _usable(self) -> int:
        if self._fd is None:
            raise StoreError("the writer is closed")
        if self._broken:
            raise StoreError("the disk lost bytes of this blob; open it again")
        return self._fd

    def _write(self, fd: int, data: memoryview) -> None:
        left = data.cast("B") if data.nbytes else data
        with explained("the blob"):
            while left.nbytes:
                count = os.pwrite(fd, left[: kernel.WRITE_BYTES], self._offset)
                self._offset += count
                left = left[count:]
        self._ask_for_writeback(fd)

    def _take(self, fd: int, burst: Burst) -> None:
        with explained("the blob"):
            try:
                burst.run(fd, self._offset)
            finally:
                self._offset += burst.moved
        self._ask_for_writeback(fd)

    def _ask_for_writeback(self, fd: int) -> None:
        if self._offset - self._asked >= WRITEBACK_BYTES:
            kernel.start_writeback(fd, self._asked, self._offset - self._asked)
            self._asked = self._offset

    def _finish(self, fd: int) -> None:
        try:
            _sync_and_close(fd, fsync=self._fsync)
        except StoreUnavailable:
            self._broken = True
            raise

    def _sync(self, fd: int) -> None:
        with lossless("the blob"):
            try:
                kernel.sync_data(fd)
            except OSError:
                self._broken = True
                raise


def _sync_and_close(fd: int, *, fsync: bool) -> None:
    try:
        if fsync:
            with lossless("the blob"):
                kernel.sync_data(fd)
    finally:
        os.close(fd)


def _places(key: str) -> tuple[str, ...]:
    first, *rest = segments(key)
    if not rest:
        return (first,)
    # the last two characters of an id vary most; ".." must not become a folder
    return (first, rest[0][-2:].replace(".", "_"), *rest)


#: where so little is set aside the file system itself says soon enough that it is full
_LITTLE_BYTES = 1 << 20


def _set_aside(fd: int, start: int, end: int) -> None:
    if end - start <= _LITTLE_BYTES and kernel.reserve(fd, start, end):
        return
    room = os.fstatvfs(fd)
    # not every file system can reserve, but each says what it has
    if end - start > room.f_bavail * room.f_frsize:
        raise DiskFull
    kernel.reserve(fd, start, end)


def _cut(fd: int, offset: int) -> None:
    found = os.fstat(fd)
    if not 0 <= offset <= found.st_size:
        raise ValueError(f"offset {offset} is not within {found.st_size} bytes")
    if offset < found.st_size:
        reserved = found.st_blocks * 512
        os.ftruncate(fd, offset)
        # cutting a file gives back the blocks that were set aside behind its end
        if reserved > found.st_size:
            kernel.reserve(fd, offset, reserved)


def _remove(folder: int, name: str) -> None:
    """Remove a file, a link as such, or a folder with all that is in it."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        # macOS says "not permitted" of a folder
        fd = os.open(name, _FOLDER, dir_fd=folder)
        try:
            for entry in os.listdir(fd):  # noqa: PTH208 -- a descriptor is no path
                _remove(fd, entry)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=folder)


def _be_nice() -> None:
    # only Linux gives each thread a niceness of its own
    if sys.platform.startswith("linux"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
