"""Rooms for tests of joining."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.engine_room import Gated, Place, Plain, place_on


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_on(tmp_path, Plain()) as made:
        yield made


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[tuple[Place, Gated]]:
    store = Gated()
    async with place_on(tmp_path, store) as made:
        yield made, store
        store.may_join.set()
