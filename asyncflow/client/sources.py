"""What can be uploaded: a file, bytes, or a stream that is first kept in a file."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
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

    def __init__(self, handle: BufferedReader | BufferedRandom, name: str) -> None:
        self._handle = handle
        self._name = name
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
    """Open the file at *path*. Raise OSError if that is impossible."""
    handle = await asyncio.to_thread(path.open, "rb")
    return OpenFile(handle, str(path))


def is_file(source: Any) -> TypeGuard[BinaryFile]:
    """Tell whether *source* is read like a file, and not awaited."""
    return callable(getattr(source, "read", None)) and not hasattr(source, "__aiter__")


async def pieces_of(file: BinaryFile) -> AsyncGenerator[bytes, None]:
    """Yield what is left in *file*, read in a thread. Raise TypeError for text."""
    while data := await asyncio.to_thread(file.read, PIECE_BYTES):
        # a file opened without "b" gives text, whose bytes nobody can know
        if not isinstance(data, bytes):
            raise TypeError("the file gives text: open it in binary mode, 'rb'")
        yield data


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
    return OpenFile(kept, "the stream")  # type: ignore[arg-type]  # a BufferedRandom
