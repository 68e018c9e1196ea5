"""The memory store keeps the contract."""

from pathlib import Path

from asyncflow.store.memory import MemoryStore
from asyncflow.testing.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    async def make_store(self, folder: Path) -> MemoryStore:
        return MemoryStore()
