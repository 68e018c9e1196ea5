"""Runs `asyncflow serve` and kills it, with SIGKILL, at a named point.

`python at_point.py POINT NTH PYTHON -m asyncflow serve …`: the server runs in this
process, and the NTH time that it comes to POINT it is gone, as by a crash.
"""

import asyncio
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from asyncflow import crew, parcels
from asyncflow.creation import Creation
from asyncflow.db import control, flow, intake, sqlite, work, writer
from asyncflow.db.oversight import Note
from asyncflow.engine import Engine
from asyncflow.runtime import Runtime
from asyncflow.store import kernel, local

Place = Callable[[], None]


class Bomb:
    """Goes off the *nth* time it is touched."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def touch(self) -> None:
        """Count; at the last count this process is gone."""
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before(holder: Any, name: str) -> Callable[[Bomb], None]:
    """Return how to lay a bomb before each call of a function."""

    def lay(bomb: Bomb) -> None:
        real = getattr(holder, name)

        def instead(*args: Any, **named: Any) -> Any:
            bomb.touch()
            return real(*args, **named)

        setattr(holder, name, instead)

    return lay


def after(holder: Any, name: str) -> Callable[[Bomb], None]:
    """Return how to lay a bomb after each call of a function, async or not."""

    def lay(bomb: Bomb) -> None:
        real = getattr(holder, name)

        async def wait(result: Any) -> Any:
            value = await result
            bomb.touch()
            return value

        def instead(*args: Any, **named: Any) -> Any:
            result = real(*args, **named)
            if asyncio.iscoroutine(result):
                return wait(result)
            bomb.touch()
            return result

        setattr(holder, name, instead)

    return lay


def after_commit_of(holder: Any, name: str) -> Callable[[Bomb], None]:
    """Return how to lay a bomb after the commit that a function's work is part of."""

    def lay(bomb: Bomb) -> None:
        real = getattr(holder, name)
        commit = writer.GroupWriter._commit  # noqa: SLF001 -- its transaction ends there
        done: list[bool] = []

        def instead(*args: Any, **named: Any) -> Any:
            done.append(True)
            return real(*args, **named)

        def committing(self: Any, operations: Any) -> Any:
            result = commit(self, operations)
            if done:
                done.clear()
                bomb.touch()
            return result

        setattr(holder, name, instead)
        writer.GroupWriter._commit = committing  # type: ignore[method-assign]  # noqa: SLF001 -- same

    return lay


def joined_upload_created(bomb: Bomb) -> None:
    """Go off between the row of an upload that is joined from parts and its blob."""
    real = Creation._create_blob  # noqa: SLF001 -- only there the two are apart

    async def instead(self: Any, new: Any) -> Any:
        if new.parts is not None:
            bomb.touch()
        return await real(self, new)

    Creation._create_blob = instead  # type: ignore[method-assign]  # noqa: SLF001 -- same


def cancel_during_settle(bomb: Bomb) -> None:
    """Cancel the job while its step is settled, then go off."""
    real = Engine.settle

    async def instead(
        self: Any, claimed: Any, ended: Any, seconds: float, *, patient: bool = False
    ) -> Any:
        if claimed.gate:
            return await real(self, claimed, ended, seconds, patient=patient)
        both = await asyncio.gather(
            self.cancel(claimed.job_id), real(self, claimed, ended, seconds)
        )
        bomb.touch()
        return both[1]

    Engine.settle = instead  # type: ignore[method-assign]


def retry_during_replay(bomb: Bomb) -> None:
    """Retry the dead letters of `refuse` while a replay writes, then go off."""
    real = sqlite.SqliteDatabase.replay
    engines: list[Engine] = []
    start = Engine.start

    async def starting(self: Any, consumers: Any) -> int:
        engines.append(self)
        return await start(self, consumers)

    async def instead(self: Any, causes: Any, entry: Any, now: int) -> int:
        note = Note(actor="ann", action="retry-all", target="refuse", at=now)
        made, _ = await asyncio.gather(
            real(self, causes, entry, now), engines[0].retry_dead("refuse", note)
        )
        bomb.touch()
        return made

    Engine.start = starting  # type: ignore[method-assign]
    sqlite.SqliteDatabase.replay = instead  # type: ignore[method-assign]


POINTS: Final[dict[str, Callable[[Bomb], None]]] = {
    "after create": after_commit_of(intake, "create"),
    "mid-body": after(kernel, "write_all"),
    "before fdatasync": before(kernel, "sync_data"),
    "after fdatasync": after(kernel, "sync_data"),
    "joined upload created": joined_upload_created,
    "chunk stored": before(intake, "take_place"),
    "chunk placed": after_commit_of(intake, "take_place"),
    "joining": after(local.LocalStore, "_copy_one"),
    "joined": after_commit_of(intake, "release_parts"),
    "before the commit": after(intake, "accept"),
    "after the commit": after_commit_of(intake, "accept"),
    "task submitted": after_commit_of(control, "submit"),
    "step claimed": after_commit_of(work, "claim"),
    "worker running": after(crew.Hand, "begin"),
    "result written": before(parcels, "read_report"),
    "file stored": after(local.LocalStore, "put"),
    "mid-settle": before(work, "_after_step"),
    "step settled": after_commit_of(work, "settle"),
    "chained step created": after(flow, "insert_step"),
    "cancel during settle": cancel_during_settle,
    "retry during replay": retry_during_replay,
    "shutdown": after(Runtime, "drain"),
}


def main() -> None:
    """Lay the bomb and serve."""
    point, nth, _python, _m, module, *words = sys.argv[1:]
    POINTS[point](Bomb(int(nth)))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
