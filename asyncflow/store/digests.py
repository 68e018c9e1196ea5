"""Checksums of what a store holds, computed off the event loop."""

import asyncio

from asyncflow import uploads
from asyncflow.store.base import Store


async def digest_of(
    store: Store, key: str, algorithm: str, start: int = 0, end: int | None = None
) -> uploads.Checksum:
    """Return the checksum of a blob's bytes from *start* up to *end*."""
    hasher = uploads.CHECKSUMS[algorithm]()
    async for data in store.read(key, start, end):
        await asyncio.to_thread(hasher.update, data)
    return uploads.Checksum(algorithm=algorithm, value=hasher.digest())
