"""Checksums of what a store holds, computed off the event loop."""

import asyncio
from collections.abc import Callable

from asyncflow import uploads
from asyncflow.store.base import Interrupted, Store


def never() -> bool:
    """Return that somebody waits for it to the end."""
    return False


async def digest_of(
    store: Store,
    key: str,
    algorithm: str,
    start: int = 0,
    end: int | None = None,
    *,
    is_over: Callable[[], bool] = never,
) -> uploads.Checksum:
    """Return the checksum of a blob's bytes from *start* up to *end*.

    Raises:
        Interrupted: *is_over* was true before the end.
    """
    hasher = uploads.CHECKSUMS[algorithm]()
    async for data in store.read(key, start, end):
        if is_over():
            raise Interrupted
        await asyncio.to_thread(hasher.update, data)
    return uploads.Checksum(algorithm=algorithm, value=hasher.digest())
