"""Regular chores: bytes nobody wants, uploads nobody finishes, numbers for operators.

Each chore is idempotent and works in small portions; a failed one is tried again at
the next round.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from asyncflow.chunks import Chunks
from asyncflow.db.base import Database
from asyncflow.db.records import Change, Trash
from asyncflow.engine import Engine
from asyncflow.errors import AsyncflowError
from asyncflow.recovery import Recovery
from asyncflow.store.base import Store

log = structlog.get_logger(__name__)

TRASH_PORTION = 100
#: parts that one transaction forgets
PARTS_PORTION = 200
#: how long bytes that could not be removed are left alone
STUCK_AGAIN_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """Something to do every *every_s* seconds."""

    name: str
    every_s: float
    do: Callable[[], Awaitable[object]]


class Janitor:
    """Owns one task per chore."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        chunks: Chunks,
        recovery: Recovery,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._chunks = chunks
        self._recovery = recovery
        self._tasks: list[asyncio.Task[None]] = []
        self._bin = asyncio.Event()
        self._bin.set()
        #: keys that could not be removed: when each is tried again
        self._stuck: dict[str, int] = {}

    @property
    def stuck(self) -> int:
        """How many keys were given up and could not be removed."""
        return len(self._stuck)

    def changed(self, change: Change) -> None:
        """Hear of bytes that were given up."""
        if change.trash:
            self._bin.set()

    async def start(self, *more: Chore) -> None:
        """Begin every chore, and *more*."""
        chores: Sequence[Chore] = (
            Chore(name="tallies", every_s=1.0, do=self._engine.refresh),
            Chore(name="pending", every_s=1.0, do=self._chunks.endings.finish_pending),
            Chore(name="recovery", every_s=5.0, do=self._recovery.again),
            Chore(name="expiry", every_s=10.0, do=self._chunks.lookup.expire),
            Chore(name="database", every_s=1.0, do=self._probe),
            *more,
        )
        self._tasks = [
            asyncio.create_task(self._repeat(chore), name=f"chore-{chore.name}")
            for chore in chores
        ]
        self._tasks.append(asyncio.create_task(self._empty_bin(), name="chore-trash"))

    async def stop(self) -> None:
        """End every chore."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _repeat(self, chore: Chore) -> None:
        while True:
            try:
                await chore.do()
            except AsyncflowError as error:
                log.warning("chore.failed", chore=chore.name, error=error.detail)
            except Exception:  # a chore's bug must not end the others' rounds
                log.exception("chore.failed", chore=chore.name)
            await asyncio.sleep(chore.every_s)

    async def _probe(self) -> None:
        """While writing fails, try it: the first success says that it works again."""
        if self._db.trouble is not None:
            await self._db.probe(self._engine.clock.now())

    async def _empty_bin(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._until_due_s()):
                    await self._bin.wait()
            self._bin.clear()
            try:
                while await self._db.drop_parts(PARTS_PORTION):
                    pass
                while await self.remove_trash():
                    pass
            except (AsyncflowError, OSError) as error:
                log.warning("chore.failed", chore="trash", error=str(error))
                await asyncio.sleep(5.0)
                self._bin.set()

    def _until_due_s(self) -> float | None:
        """Return when the first stuck key is tried again; None: there is none."""
        if not self._stuck:
            return None
        return max(0, min(self._stuck.values()) - self._engine.clock.mono()) / 1000

    async def remove_trash(self) -> int:
        """Remove one portion of given-up bytes; return how many keys were tried."""
        now = self._engine.clock.mono()
        waits = {key: due for key, due in self._stuck.items() if due > now}
        # what cannot be removed comes first each time: look behind it
        found = await self._db.trash(TRASH_PORTION + len(waits))
        portion = [one for one in found if one.key not in waits]
        if not portion:
            # what was due and is not there is nobody's any more
            self._stuck = waits
        gone = [one.key for one in portion if await self._remove(one)]
        if gone:
            await self._db.drop_trash(gone)
        return len(portion)

    async def _remove(self, one: Trash) -> bool:
        remove = self._store.delete_prefix if one.is_prefix else self._store.delete
        try:
            await remove(one.key)
        except (AsyncflowError, OSError) as error:
            log.warning("trash.stuck", key=one.key, error=str(error))
            self._stuck[one.key] = self._engine.clock.mono() + STUCK_AGAIN_MS
            return False
        self._stuck.pop(one.key, None)
        return True
