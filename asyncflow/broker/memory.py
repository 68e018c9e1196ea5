"""The doorbell of one process."""

import asyncio
from collections.abc import Iterable


class LocalDoorbell:
    """Rings are remembered until somebody waits for them; repeats merge."""

    def __init__(self) -> None:
        self._rung: set[str] = set()
        self._event = asyncio.Event()

    def ring(self, consumers: Iterable[str]) -> None:
        """Remember the rings and wake the waiters."""
        self._rung.update(consumers)
        if self._rung:
            self._event.set()

    async def wait(self, consumers: frozenset[str]) -> None:
        """Return once one of *consumers* was rung since the last return."""
        while not (self._rung & consumers):
            self._event.clear()
            await self._event.wait()
        self._rung -= consumers
