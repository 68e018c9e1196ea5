"""How far each unfinished blob is on stable storage, as this process knows.

Rules
-----
- Bytes that this process has not synced itself are synced before they count: those that
  a dead one wrote may still lie in memory alone.
- After a failed sync nothing behind the last durable offset counts. The kernel reports
  lost bytes once and calls them clean from then on, so they are cut off, and until that
  has worked every look at the blob tries it again.
- Nobody but this process writes, so what it made durable is not measured again.
- What is remembered is bounded: a forgotten blob costs one more sync.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final

from asyncflow.errors import StoreError, StoreUnavailable
from asyncflow.store.base import CanAppendWhole, Store, Writer

#: blobs whose durable length is remembered
REMEMBERED: Final = 10_000


class Offsets:
    """Tells and makes durable lengths of the blobs of *store*."""

    def __init__(self, store: Store, *, remembered: int = REMEMBERED) -> None:
        self._store = store
        self._remembered = remembered
        self._durable: dict[str, int] = {}
        #: blobs that a sync failed for -> how much of them is sure
        self._doubtful: dict[str, int] = {}
        self._mending = asyncio.Lock()

    def note(self, key: str, offset: int) -> None:
        """Remember that the blob is durable up to *offset*, by name as well."""
        self._durable.pop(key, None)
        self._durable[key] = offset
        if len(self._durable) > self._remembered:
            del self._durable[next(iter(self._durable))]

    def forget(self, key: str) -> None:
        """Remember nothing of a blob that grows no more."""
        self._durable.pop(key, None)
        self._doubtful.pop(key, None)

    async def of(self, key: str) -> int:
        """Return the blob's length; every byte of it is durable.

        Raises:
            BlobNotFound: there is none.
            StoreUnavailable: bytes were lost; the next call tells what is left.
        """
        if key in self._doubtful:
            await self._cut_back(key)
        known = self._durable.get(key)
        if known is not None:
            return known
        size = await self._store.size(key)
        try:
            await self._store.sync(key)
        except StoreUnavailable:
            # cut off later: another request may have begun to write
            self._doubtful[key] = 0
            raise
        if key in self._doubtful:
            # another request's sync has lost bytes meanwhile: this one may say nothing
            return await self.of(key)
        known = self._durable.get(key)
        if known is None:
            self.note(key, known := size)
        # else a request was faster, and has made more of it durable
        return known

    async def make_durable(self, key: str, writer: Writer, start: int) -> int:
        """Sync what *writer* wrote from *start* on and close it; return its offset.

        Raises:
            StoreUnavailable: bytes were lost; the blob ends at *start* again.
        """
        await self._surely(writer.finish(), key, start)
        self.note(key, writer.offset)
        return writer.offset

    async def append(
        self, store: CanAppendWhole, key: str, start: int, data: bytes
    ) -> int:
        """Append *data* durably at *start*; return the offset behind it.

        Raises:
            StoreUnavailable: bytes were lost; the blob ends at *start* again.
            DiskFull: `of` tells how many got in.
        """
        # how far it comes is only known if all of it gets in
        self._durable.pop(key, None)
        await self._surely(store.append_whole(key, start, data), key, start)
        self.note(key, start + len(data))
        return start + len(data)

    async def _surely(
        self, syncing: Coroutine[None, None, None], key: str, start: int
    ) -> None:
        """Let a blob end at *start* again if *syncing* it loses bytes."""
        try:
            await syncing
            if key in self._doubtful:
                raise StoreUnavailable
        except StoreError:
            self._doubtful[key] = min(start, self._doubtful.get(key, start))
            with suppress(StoreError):  # the next look at the blob tries it again
                await self._cut_back(key)
            raise

    async def _cut_back(self, key: str) -> None:
        # one at a time: a late cut would take bytes that came after it was asked for
        async with self._mending:
            if key not in self._doubtful:
                return
            sure = min(self._doubtful[key], await self._store.size(key))
            writer = await self._store.append(key, sure)
            with suppress(StoreError):  # a lost cut is no lost byte
                await writer.finish()
            self.note(key, sure)
            del self._doubtful[key]
