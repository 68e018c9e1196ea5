"""Brings a step's input to where a function can read it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiofiles

from asyncflow.store.base import HasLocalPath, Store


@asynccontextmanager
async def local_input(
    store: Store, key: str | None, scratch: Path
) -> AsyncIterator[Path | None]:
    """Yield the blob under *key* as a local file, fetched if the store is elsewhere.

    None for None: a job without a file has nothing to fetch.
    """
    if key is None:
        yield None
    elif isinstance(store, HasLocalPath):
        yield store.path(key)
    else:
        with TemporaryDirectory(dir=scratch) as folder:
            path = Path(folder) / "input"
            await _fetch(store, key, path)
            yield path


async def _fetch(store: Store, key: str, path: Path) -> None:
    async with aiofiles.open(path, "wb") as file:
        async for part in store.read(key):
            await file.write(part)
