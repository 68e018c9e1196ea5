"""What can be uploaded: a file, bytes, or a stream that is first kept in a file."""

import asyncio
import errno
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader, FileIO
from pathlib import Path
from typing import IO, Any, Protocol, TypeGuard

from asyncflow.client.failures import SourceChanged

# 1 MiB: few enough thread hops to keep a fast link busy, small enough for smooth bars
PIECE_BYTES = 1 << 20


class BinaryFile(Protocol):
    """What can be read as bytes, such as an open file or a `BytesIO`."""

    def read(self, count: int, /) -> bytes:
        """Return up to *count* bytes; none at the end."""
        ...


class Source(Protocol):
    """Bytes of known length that can be read from any place, as often as needed."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    async def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*. Raise SourceChanged if they are gone."""
        ...

    async def check(self) -> None:
        """Raise SourceChanged if these are no longer the bytes we began with."""
        ...

    def close(self) -> None:
        """Let go of descriptors."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    async def read(self, offset: int, count: int) -> bytes:
        """Return a slice."""
        return self.data[offset : offset + count]

    async def check(self) -> None:
        """Bytes do not change."""

    def close(self) -> None:
        """Nothing is open."""


class OpenFile:
    """A file; noticed if somebody changes it while it is read."""

    def __init__(
        self,
        handle: BufferedReader | BufferedRandom,
        name: str,
        *,
        is_temporary: bool = False,
    ) -> None:
        self._handle = handle
        self._name = name
        #: whether nobody can open it again
        self.is_temporary = is_temporary
        found = os.fstat(handle.fileno())
        self.size, self.mtime_ns = found.st_size, found.st_mtime_ns

    async def read(self, offset: int, count: int) -> bytes:
        """Return exactly *count* bytes from *offset* on."""
        data = await asyncio.to_thread(os.pread, self._handle.fileno(), count, offset)
        if len(data) != count:
            raise SourceChanged(self._name)
        return data

    async def check(self) -> None:
        """Compare size and time of change with those at the beginning."""
        now = await asyncio.to_thread(os.fstat, self._handle.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise SourceChanged(self._name)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


async def open_path(path: Path) -> OpenFile:
    """Open the regular file at *path*. Raise OSError if that is impossible.

    One that has bytes and says that it has none is kept as a stream.
    """
    handle = await asyncio.to_thread(_opened, path)
    opened = OpenFile(handle, str(path))
    if opened.size:
        return opened
    try:
        if not await asyncio.to_thread(handle.peek, 1):
            return opened
        kept = await keep_stream(pieces_of(handle))
    except BaseException:
        handle.close()
        raise
    handle.close()
    return kept


def _opened(path: Path) -> BufferedReader:
    # a pipe that nobody writes to would hold up even a caller that has given up
    place = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    error = _unfit(os.fstat(place).st_mode, path)
    if error is not None:
        os.close(place)
        raise error
    return BufferedReader(FileIO(place))


def _unfit(mode: int, path: Path) -> OSError | None:
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    why = "no regular file: open it and upload what you have opened"
    return OSError(errno.EINVAL, why, str(path))


def is_file(source: Any) -> TypeGuard[BinaryFile]:
    """Tell whether *source* is read like a file, and not awaited."""
    return callable(getattr(source, "read", None)) and not hasattr(source, "__aiter__")


async def pieces_of(file: BinaryFile) -> AsyncGenerator[bytes, None]:
    """Yield what is left in *file*, read in a thread.

    Raise TypeError for what is no bytes, BlockingIOError if there is nothing yet.
    """
    while True:
        data = await _read(file)
        if data is None:
            # to go on would be to call a part the whole
            why = "the file does not block and has nothing yet: let it block"
            raise BlockingIOError(errno.EAGAIN, why)
        # a file opened without "b" gives text, whose bytes nobody can know
        if isinstance(data, str):
            raise TypeError("the file gives text: open it in binary mode, 'rb'")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"the file gives {type(data).__name__}, no bytes")
        if not data:
            return
        yield bytes(data)


async def _read(file: BinaryFile) -> object:
    """Read some of *file*; who is cancelled leaves no read behind that waits for more.

    A thread that waits in a read cannot be called off: nobody would get rid of it, nor
    of the lock on the file, before there is something. So for what may be a pipe or a
    terminal the loop waits. What is buffered already waits with it, which does no harm:
    all of it is wanted, and it ends with what is waited for.
    """
    raw = file.raw if isinstance(file, BufferedReader) else file
    if not isinstance(raw, FileIO) or not os.get_blocking(raw.fileno()):
        return await asyncio.to_thread(file.read, PIECE_BYTES)
    await _something_in(raw.fileno())
    # not `read`, which would wait for as many bytes as were asked for
    once = file.read1 if isinstance(file, BufferedReader) else file.read
    return await asyncio.to_thread(once, PIECE_BYTES)


async def _something_in(place: int) -> None:
    """Return when a read of the descriptor *place* has an answer."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # one of our own: somebody may watch that one already
    watched = os.dup(place)
    try:
        loop.add_reader(watched, ready.set)
    except OSError:
        # a file on a disk: its reads wait for nobody
        os.close(watched)
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def keep_stream(stream: AsyncIterable[bytes]) -> OpenFile:
    """Write *stream* into an unnamed temporary file and return that.

    The protocol wants the length before the first byte, and a broken connection wants
    bytes again that a stream has already given away: both need the whole of it.
    """
    kept: IO[bytes] = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        async for data in stream:
            await asyncio.to_thread(kept.write, data)
        await asyncio.to_thread(kept.flush)
    except BaseException:
        kept.close()
        raise
    return OpenFile(kept, "the stream", is_temporary=True)  # type: ignore[arg-type]  # a BufferedRandom
