"""An upload of unknown length on a disk that fills up meanwhile."""

from pathlib import Path

import pytest

from asyncflow.admission import Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chunks import ROOM_EVERY_BYTES, Chunks
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Clock, Engine
from asyncflow.errors import DiskFull
from asyncflow.jobs import Limits
from asyncflow.progress import Hub
from asyncflow.store.base import Space
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Announced, Ends

PIECE = bytes(1 << 20)


class Endless:
    """A body that never ends; it counts what was taken of it."""

    taken = 0

    async def read(self) -> bytes:
        self.taken += len(PIECE)
        return PIECE

    def stop(self, error: Exception) -> None:
        raise error


async def test_it_stops_at_the_fill_level_and_keeps_what_arrived(
    tmp_path: Path,
) -> None:
    body = Endless()

    async def space() -> Space:
        # the upload itself takes the last tenth that may be taken
        free = 50 * ROOM_EVERY_BYTES - body.taken
        return Space(total_bytes=100 * ROOM_EVERY_BYTES, free_bytes=free)

    engine = Engine(
        doorbell=LocalDoorbell(),
        clock=Clock(),
        limits=Limits(),
        worker="test",
        lease_s=30.0,
    )
    db = SqliteDatabase(tmp_path / "some.db", on_change=engine.changed)
    engine.attach(db, Hub(db.job))
    rules = Rules(
        max_bytes=100 * ROOM_EVERY_BYTES,
        allowed_types=(),
        backlog_limit=10,
        fill_level=50.5,
    )
    chunks = Chunks(
        db=db,
        engine=engine,
        store=MemoryStore(),
        admission=Admission(rules, space=space, backlog=lambda: 0),
        expiry_s=60.0,
    )
    await db.start()
    try:
        upload = await chunks.create(
            Announced(
                owner="local",
                tenant="local",
                file_name="a.bin",
                declared_type="application/octet-stream",
                length=None,
                dialect="tus",
            )
        )
        with pytest.raises(DiskFull, match=r"above 50\.5 % already"):
            await chunks.append(upload.id, 0, body, length=None, ends=Ends.LATER)
        assert (await chunks.find(upload.id)).offset == body.taken == ROOM_EVERY_BYTES
    finally:
        await engine.hub.close()
        await db.close()
