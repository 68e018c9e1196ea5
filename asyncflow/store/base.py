"""The store contract: where blobs live. Small, with optional capabilities.

Rules
-----
- Keys are made by asyncflow (`uploads.raw_key`, `uploads.derivative_key`): segments of
  `[A-Za-z0-9._-]` joined by `/`, never `.` or `..`. A store refuses any other.
- A blob grows in place under its final key; a row of the database makes it real.
- What a `sync` or `put` returned for survives a power cut.
- A failed write keeps what was written before it; `Writer.offset` tells how much.
- What the server itself lacks just now (threads, descriptors, memory) is ServerBusy.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


class Interrupted(Exception):
    """Whoever wanted it wants it no longer; what was done of it may be left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Bytes of the medium under a store."""

    total_bytes: int
    free_bytes: int


class Writer(Protocol):
    """One caller's place at the end of a blob."""

    @property
    def offset(self) -> int:
        """How many bytes the blob holds, a partly written buffer included."""
        ...

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of *data*. Raise DiskFull when the medium has no room."""
        ...

    async def sync(self) -> None:
        """Return once every byte up to `offset` is on stable storage.

        Raise StoreUnavailable if the medium lost any: then only what an earlier sync
        returned for is sure, whatever a later one says.
        """
        ...

    async def close(self) -> None:
        """Let go of the blob; closing twice is not an error."""
        ...

    async def finish(self) -> None:
        """Sync, then close, also after a sync that failed. Raise as `sync`."""
        ...


class Burst(Protocol):
    """Bytes that something moves into a file by itself, on a thread."""

    @property
    def moved(self) -> int:
        """How many bytes are in the file, also after an error."""
        ...

    def run(self, fd: int, offset: int) -> None:
        """Move bytes into *fd* at *offset*; raise only OSError of the file."""
        ...


@runtime_checkable
class TakesBursts(Protocol):
    """A writer to a file that the kernel can move bytes into."""

    async def take(self, burst: Burst) -> None:
        """Run *burst* at `offset`. Raise DiskFull when the medium has no room."""
        ...


class Store(Protocol):
    """Holds blobs by key."""

    async def create(self, key: str, *, length: int | None) -> None:
        """Create an empty blob and reserve *length* bytes (None: unknown).

        The blob's existence is durable on return.
        Raise BlobExists if the key is taken, DiskFull if there is no room.
        """
        ...

    async def reserve(self, key: str, length: int) -> None:
        """Keep room for a blob of *length* bytes whose length was unknown so far.

        Raise BlobNotFound if absent, DiskFull if there is no room.
        """
        ...

    async def append(self, key: str, offset: int) -> Writer:
        """Return a writer at *offset*, cutting off anything behind it.

        Raise BlobNotFound if absent, ValueError if *offset* is past the end.
        """
        ...

    async def size(self, key: str) -> int:
        """Return the blob's length in bytes. Raise BlobNotFound if absent."""
        ...

    async def sync(self, key: str) -> None:
        """Return once the blob, whoever wrote it, is on stable storage.

        Raise BlobNotFound if absent, StoreUnavailable as a writer's `sync` does.
        """
        ...

    def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from *start* up to *end* (exclusive; None: the end).

        Raise BlobNotFound if absent, at the latest when iteration begins.
        """
        ...

    async def put(
        self, key: str, source_fd: int, *, is_over: Callable[[], bool] = lambda: False
    ) -> int:
        """Store the whole file behind *source_fd*; return its length in bytes.

        Durable on return. Raise BlobExists if the key is taken, DiskFull if there is
        no room, Interrupted if *is_over* was true before the end (it is asked from a
        thread, and often); then nothing is left under the key. The descriptor stays the
        caller's.
        """
        ...

    async def delete(self, key: str) -> None:
        """Forget the blob; deleting twice is not an error."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Forget every blob whose key starts with the whole segments *prefix*."""
        ...

    async def close(self) -> None:
        """Let go of threads and descriptors."""
        ...


@runtime_checkable
class CanAppendWhole(Protocol):
    """A store for which a small append is one thing instead of three."""

    async def append_whole(self, key: str, offset: int, data: bytes) -> None:
        """Append all of *data* at *offset*, cutting off anything behind it.

        Durable on return. Raises as `append`, `Writer.write` and `Writer.sync` do; when
        there was no room, what got in is durable.
        """
        ...


@runtime_checkable
class HasLocalPath(Protocol):
    """A store whose blobs are ordinary local files."""

    def path(self, key: str) -> Path:
        """Return where the blob lies (whether or not it exists)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The bytes of the blob *key* from *start* up to *end*."""

    key: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.end - self.start


@runtime_checkable
class CanJoin(Protocol):
    """A store that can join blobs without passing their bytes through the program.

    And that can take back the end of a blob, with the room that it had.
    """

    def shareable(self, sizes: Sequence[int]) -> int:
        """Return how many bytes `share` shares of whole blobs of these *sizes*."""
        ...

    async def share(self, key: str, wholes: Sequence[Piece]) -> int:
        """Let the blob *key* begin with the first of *wholes*, as far as it can.

        That is, as far as bytes can be in two blobs and take room once; return how many
        bytes that are, all of some of *wholes*. What lies behind them stays.
        Durable on return. Raise BlobNotFound if *key* is absent, DiskFull.
        """
        ...

    async def copy(
        self,
        key: str,
        at: int,
        pieces: Sequence[Piece],
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Put *pieces* into the blob *key* from *at* on, whatever was there.

        What lies before and behind them stays, and *at* may lie behind the end.
        Durable on return.
        Raise BlobNotFound if a blob is absent or lacks bytes, DiskFull if there is no
        room, Interrupted if *is_over* was true before the end; it is asked from a
        thread, and often.
        """
        ...

    async def cut(self, lengths: Mapping[str, int]) -> None:
        """Take back all that these blobs have beyond their *lengths*, and its room.

        Those that are absent or no longer are left alone. It may be lost with a power
        cut.
        """
        ...


@runtime_checkable
class CanList(Protocol):
    """A store that can say which blobs it holds."""

    def keys(self, *, older_than_s: float) -> AsyncIterator[str]:
        """Yield the key of each blob that was last changed so long ago, or longer.

        What comes or goes meanwhile may be missed, or yielded all the same.
        """
        ...


@runtime_checkable
class HasSpace(Protocol):
    """A store on a medium that can fill up."""

    async def space(self) -> Space:
        """Return the medium's size and what is free for us."""
        ...
