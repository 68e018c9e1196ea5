"""The local store keeps the contract."""

from pathlib import Path

from asyncflow.store.local import LocalStore
from asyncflow.testing.store_suite import StoreSuite


class TestLocalStore(StoreSuite):
    async def make_store(self, folder: Path) -> LocalStore:
        return LocalStore(folder / "store")
