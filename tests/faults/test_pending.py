"""Whole uploads that the database could not take: they become jobs when it can."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncflow.admission import Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chance import Clock
from asyncflow.chunks import Chunks
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Engine
from asyncflow.errors import (
    DatabaseUnavailable,
    JobNotFound,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import JobState, Limits
from asyncflow.joining import Joiner
from asyncflow.progress import Hub
from asyncflow.store.local import LocalStore
from asyncflow.turns import Announced, Claims
from asyncflow.uploads import Checksum, raw_key
from tests.store.engine_room import Body, Time


class Faltering(Engine):
    """An engine whose database takes no job while it is down."""

    down = False

    async def accept(self, upload_id: str, size: int) -> None:
        if self.down:
            raise DatabaseUnavailable("the disk is full")
        await super().accept(upload_id, size)


SAID = Announced(
    owner="local",
    tenant="local",
    file_name="a.txt",
    declared_type="text/plain",
    length=5,
)


class Place:
    """An engine room without a pool."""

    def __init__(self, folder: Path) -> None:
        self.time = Time()
        self.store = store = LocalStore(folder / "store")
        self.engine = Faltering(
            doorbell=LocalDoorbell(),
            clock=Clock(wall_s=self.time),
            limits=Limits(),
            worker="test",
            node="test",
            lease_s=30.0,
        )
        self.db = SqliteDatabase(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        rules = Rules(max_bytes=1000, allowed_types=(), fill_level=100)
        admission = Admission(rules, space=None)
        self.chunks = Chunks(
            db=self.db,
            engine=self.engine,
            store=store,
            admission=admission,
            expiry_s=60.0,
        )
        self.joiner = Joiner(
            db=self.db,
            engine=self.engine,
            store=store,
            admission=admission,
            chunks=self.chunks,
        )
        self.chunks.endings.on_part = self.joiner.part_done

    async def whole(self, said: Announced = SAID) -> str:
        """Return an upload that is whole and that the database did not take."""
        upload = await self.chunks.create(said)
        with pytest.raises(DatabaseUnavailable):
            await self.chunks.append(upload.id, 0, Body(b"hello"), length=5)
        return upload.id


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.db.start()
    await made.engine.start([])
    made.engine.down = True
    yield made
    await made.joiner.stop()
    await made.engine.hub.close()
    await made.db.close()


async def test_what_could_not_be_accepted_is_accepted_later(place: Place) -> None:
    upload = await place.whole()
    before = (await place.db.job(upload)).status
    with pytest.raises(DatabaseUnavailable):
        await place.chunks.endings.finish_pending()
    place.engine.down = False

    await place.chunks.endings.finish_pending()

    assert before is JobState.UPLOADING
    assert (await place.db.job(upload)).uploaded_bytes == 5


async def test_one_that_was_deleted_meanwhile_holds_up_nobody(place: Place) -> None:
    deleted, kept = await place.whole(), await place.whole()
    place.engine.down = False
    await place.db.delete(deleted, place.engine.clock.now())

    await place.chunks.endings.finish_pending()

    with pytest.raises(JobNotFound):
        await place.db.job(deleted)
    assert (await place.db.job(kept)).uploaded_bytes == 5


async def test_a_part_that_is_accepted_later_is_joined_then(place: Place) -> None:
    said = replace(SAID, dialect="tus", concat="partial", is_part=True, length=None)
    part = await place.chunks.create(said)
    whole = await place.joiner.create(replace(said, is_part=False), [part.id])
    with pytest.raises(DatabaseUnavailable):
        await place.chunks.append(part.id, 0, Body(b"hello"), length=5, total=5)
    place.engine.down = False

    await place.chunks.endings.finish_pending()
    async with asyncio.timeout(20):
        while not (await place.chunks.find(whole.id)).is_complete:
            pass

    assert (await place.db.job(whole.id)).uploaded_bytes == 5


async def test_whole_uploads_do_not_expire_and_hold_up_no_others(place: Place) -> None:
    whole = await place.whole()
    idle = (await place.chunks.create(SAID)).id
    place.time.now_s += 100
    assert await place.chunks.lookup.expire(limit=1) == 1
    assert (await place.db.job(idle)).status is JobState.CANCELLED
    assert (await place.db.job(whole)).status is JobState.UPLOADING


@pytest.mark.parametrize("is_certain", [True, False])
async def test_who_fills_an_upload_that_is_ended_meanwhile_hears_so(
    place: Place, *, is_certain: bool
) -> None:
    place.engine.down = False
    upload = (await place.chunks.create(SAID)).id

    class Interrupted(Body):
        async def read(self) -> bytes:
            await place.chunks.endings.give_up(upload, "terminated", "by somebody")
            await place.store.delete(raw_key(upload))
            return await super().read()

    right = Checksum(algorithm="sha256", value=hashlib.sha256(b"hello").digest())
    claims = Claims(part=lambda: (right,), is_certain=is_certain)
    with pytest.raises(UploadGone):
        await place.chunks.append(
            upload, 0, Interrupted(b"hello"), length=5, claims=claims
        )


async def test_a_chunk_that_could_not_be_accepted_goes_with_its_request(
    place: Place,
) -> None:
    part = await place.whole(replace(SAID, is_part=True))
    await place.chunks.endings.abandon(part, DatabaseUnavailable())
    place.engine.down = False
    await place.chunks.endings.finish_pending()
    with pytest.raises(UploadNotFound):
        await place.db.find_upload(part)
