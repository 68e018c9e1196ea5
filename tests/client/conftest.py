import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncflow.client import Client, Patience
from tests.client.small_server import SmallServer

QUICK = Patience(attempts=4, first_pause_s=0.001, longest_pause_s=0.01)


@pytest.fixture
async def server() -> AsyncIterator[SmallServer]:
    async with SmallServer() as running:
        yield running


@pytest.fixture
async def client(server: SmallServer, tmp_path: Path) -> AsyncIterator[Client]:
    async with Client(
        server.url, patience=QUICK, state_dir=tmp_path / "state", chunk_bytes=300_000
    ) as open_client:
        yield open_client


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(os.urandom(1_000_000))
    return path
