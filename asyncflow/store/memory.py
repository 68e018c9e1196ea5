"""The memory store: blobs are byte arrays. For tests, and to read how a store works.

It has no path and no space: capabilities are left out, not refused.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from asyncflow.errors import BlobExists, BlobNotFound, StoreError
from asyncflow.store.base import Interrupted, Piece
from asyncflow.store.keys import is_under, segments

READ_BYTES = 256 << 10


class MemoryStore:
    """Keeps blobs as long as it lives itself."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytearray] = {}

    async def create(self, key: str, *, length: int | None) -> None:  # noqa: ARG002
        """Create an empty blob; there is nothing to reserve."""
        self._add(key, bytearray())

    async def reserve(self, key: str, length: int) -> None:  # noqa: ARG002
        """Reserve nothing, but say if there is no such blob."""
        self._find(key)

    async def append(self, key: str, offset: int) -> "MemoryWriter":
        """Return a writer at *offset*, cutting off anything behind it."""
        blob = self._find(key)
        if not 0 <= offset <= len(blob):
            raise ValueError(f"offset {offset} is not within {len(blob)} bytes")
        del blob[offset:]
        return MemoryWriter(blob)

    async def size(self, key: str) -> int:
        """Return the blob's length in bytes."""
        return len(self._find(key))

    async def sync(self, key: str) -> None:
        """Return at once: nothing in memory outlives it."""
        self._find(key)

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from *start* up to *end*."""
        blob = bytes(self._find(key)[start:end])
        for at in range(0, len(blob), READ_BYTES):
            yield blob[at : at + READ_BYTES]

    async def put(
        self, key: str, source_fd: int, *, is_over: Callable[[], bool] = lambda: False
    ) -> int:
        """Store the whole file behind *source_fd*; return its length in bytes."""
        data = bytearray()
        if is_over():
            raise Interrupted
        while piece := os.pread(source_fd, READ_BYTES, len(data)):
            data += piece
        self._add(key, data)
        return len(data)

    def shareable(self, sizes: Sequence[int]) -> int:  # noqa: ARG002
        """Return that none are shared."""
        return 0

    async def share(self, key: str, wholes: Sequence[Piece]) -> int:  # noqa: ARG002
        """Share nothing: bytes in memory are in one blob each."""
        self._find(key)
        return 0

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Put *pieces* into the blob from *at* on."""
        if is_over():
            raise Interrupted
        blob = self._find(key)
        data = b"".join(self._find(one.key)[one.start : one.end] for one in pieces)
        if len(data) < sum(one.size for one in pieces):
            raise BlobNotFound("a part ends before its piece does")
        blob += bytes(max(0, at - len(blob)))
        blob[at : at + len(data)] = data

    async def cut(self, lengths: Mapping[str, int]) -> None:
        """Take back all that these blobs have beyond their *lengths*."""
        for key, length in lengths.items():
            if key in self._blobs:
                del self._blobs[key][length:]

    async def delete(self, key: str) -> None:
        """Forget the blob."""
        segments(key)
        self._blobs.pop(key, None)

    async def delete_prefix(self, prefix: str) -> None:
        """Forget every blob whose key starts with the whole segments *prefix*."""
        segments(prefix)
        for key in [key for key in self._blobs if is_under(key, prefix)]:
            del self._blobs[key]

    async def close(self) -> None:
        """Let go of nothing: the memory goes with the store."""

    def _add(self, key: str, data: bytearray) -> None:
        segments(key)
        if key in self._blobs:
            raise BlobExists(f"{key} is in the store already")
        self._blobs[key] = data

    def _find(self, key: str) -> bytearray:
        segments(key)
        if key not in self._blobs:
            raise BlobNotFound(f"{key} is not in the store")
        return self._blobs[key]


class MemoryWriter:
    """A place at the end of a blob in memory."""

    def __init__(self, blob: bytearray) -> None:
        self._blob = blob
        self._closed = False

    @property
    def offset(self) -> int:
        """How many bytes the blob holds."""
        return len(self._blob)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of *data*."""
        self._check()
        self._blob += data

    async def sync(self) -> None:
        """Return at once: nothing in memory outlives it."""
        self._check()

    async def close(self) -> None:
        """Take no more bytes."""
        self._closed = True

    async def finish(self) -> None:
        """Sync, then close."""
        try:
            await self.sync()
        finally:
            await self.close()

    def _check(self) -> None:
        if self._closed:
            raise StoreError("the writer is closed")
