"""Uploads of unknown length: the disk fills up meanwhile, or their time runs out."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from asyncflow.admission import ROOM_EVERY_BYTES, Admission, Rules
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chance import Clock
from asyncflow.chunks import Chunks
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.engine import Engine
from asyncflow.errors import DiskFull, TooManyUploads, TruncatedBody, UploadGone
from asyncflow.jobs import Limits
from asyncflow.progress import Hub
from asyncflow.reservations import Reservation
from asyncflow.store.base import Space
from asyncflow.store.memory import MemoryStore
from asyncflow.turns import Announced, Ends
from tests.crash.evidence import Evidence
from tests.faults import watch
from tests.faults.conftest import ROOM, Make
from tests.server_process import Answer, ServerProcess

PIECE = bytes(1 << 20)
MIB = 1 << 20
TUS: Mapping[str, Any] = {"Tus_Resumable": "1.0.0"}
EXPIRY_S = 60.0


class Endless:
    """A body that never ends; it counts what was taken of it."""

    taken = 0

    async def read(self) -> bytes:
        self.taken += len(PIECE)
        return PIECE

    def stop(self, error: Exception) -> None:
        raise error


class Time:
    """Time that passes when it is told to."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Slow:
    """A body that takes a day for each of its pieces, and is cut off after two."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._left = [b"first", b"second"]

    async def read(self) -> bytes:
        self._time.now_s += 24 * 3600
        if not self._left:
            raise TruncatedBody
        return self._left.pop(0)

    def stop(self, error: Exception) -> None:
        raise error


@contextlib.asynccontextmanager
async def chunks_on(
    folder: Path,
    *,
    space: Callable[[], Awaitable[Space]] | None = None,
    time: Time | None = None,
    store: MemoryStore | None = None,
) -> AsyncIterator[Chunks]:
    engine = Engine(
        doorbell=LocalDoorbell(),
        clock=Clock(wall_s=time) if time else Clock(),
        limits=Limits(),
        worker="test",
        node="test",
        lease_s=30.0,
    )
    db = SqliteDatabase(folder / "some.db", on_change=engine.changed)
    engine.attach(db, Hub(db.job))
    rules = Rules(
        max_bytes=100 * ROOM_EVERY_BYTES,
        allowed_types=(),
        fill_level=51.5,
        quota_bytes=100 * ROOM_EVERY_BYTES,
    )
    chunks = Chunks(
        db=db,
        engine=engine,
        store=store or MemoryStore(),
        admission=Admission(rules, space=space),
        expiry_s=EXPIRY_S,
    )
    await db.start()
    try:
        yield chunks
    finally:
        await engine.hub.close()
        await db.close()


def some_file(length: int | None = None) -> Announced:
    return Announced(
        owner="local",
        tenant="local",
        file_name="a.bin",
        declared_type="application/octet-stream",
        length=length,
        dialect="tus",
    )


async def test_it_stops_at_the_fill_level_and_keeps_what_arrived(
    tmp_path: Path,
) -> None:
    body = Endless()

    async def space() -> Space:
        free = 50 * ROOM_EVERY_BYTES - body.taken
        return Space(total_bytes=100 * ROOM_EVERY_BYTES, free_bytes=free)

    async with chunks_on(tmp_path, space=space) as chunks:
        upload = await chunks.create(some_file())
        with pytest.raises(DiskFull, match=r"above 51\.5 % already"):
            await chunks.append(upload.id, 0, body, length=None, ends=Ends.LATER)
        assert (await chunks.find(upload.id)).offset == body.taken == ROOM_EVERY_BYTES


async def test_who_is_cut_off_after_the_expiry_has_time_to_come_back(
    tmp_path: Path,
) -> None:
    time = Time()
    async with chunks_on(tmp_path, time=time) as chunks:
        upload = await chunks.create(some_file())
        with pytest.raises(TruncatedBody):
            await chunks.append(upload.id, 0, Slow(time), length=None)

        assert await chunks.lookup.expire() == 0
        assert (await chunks.find(upload.id)).offset == len(b"firstsecond")
        time.now_s += EXPIRY_S
        assert await chunks.lookup.expire() == 1


class Slack(MemoryStore):
    """A store that takes its time to tell a size: something else is done meanwhile."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def size(self, key: str) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await super().size(key)


class Few:
    """A body of some bytes."""

    def __init__(self) -> None:
        self._left = [PIECE]

    async def read(self) -> bytes:
        return self._left.pop() if self._left else b""

    def stop(self, error: Exception) -> None:
        raise error


async def test_what_ends_while_its_next_bytes_begin_is_counted_no_more(
    tmp_path: Path,
) -> None:
    store = Slack()
    async with chunks_on(tmp_path, store=store) as earlier:
        upload = await earlier.create(some_file())
    async with chunks_on(tmp_path, store=store) as chunks:

        async def end() -> None:
            await chunks.endings.give_up(upload.id, "terminated", "by somebody else")

        store.meanwhile = end
        with pytest.raises(UploadGone):
            await chunks.append(upload.id, 0, Few(), length=None, ends=Ends.LATER)
        # the whole quota is free
        await chunks.create(some_file(100 * ROOM_EVERY_BYTES))


async def test_of_many_at_once_only_so_many_are_let_in_as_there_is_room_for() -> None:
    looks = 0

    async def space() -> Space:
        nonlocal looks
        looks += 1
        for _ in range(5):
            await asyncio.sleep(0)
        return Space(total_bytes=400, free_bytes=400)

    rules = Rules(max_bytes=100, allowed_types=(), fill_level=50)
    admission = Admission(rules, space=space)
    all_know = asyncio.Barrier(12)

    async def one() -> bool:
        try:
            async with admission.admitted(length=30, declared_type="text/plain"):
                await all_know.wait()
        except DiskFull:
            await all_know.wait()
            return False
        return True

    let_in = await asyncio.gather(*(one() for _ in range(12)))

    assert sum(let_in) == 200 // 30
    # and nothing of it is left
    async with admission.admitted(length=100, declared_type="text/plain"):
        pass
    assert looks <= 4


async def test_who_has_too_many_uploads_open_holds_nothing_of_the_quota() -> None:
    rules = Rules(
        max_bytes=100,
        allowed_types=(),
        fill_level=100,
        quota_bytes=100,
        open_uploads=1,
    )
    asked = []

    async def open_uploads(client: str) -> int:
        asked.append(client)
        async with all_of_it("other"):
            return 1

    admission = Admission(rules, space=None, open_uploads=open_uploads)

    def all_of_it(client: str) -> AbstractAsyncContextManager[Reservation]:
        return admission.admitted(length=100, declared_type="text/plain", client=client)

    with pytest.raises(TooManyUploads):
        async with all_of_it("crowded"):
            raise TooManyUploads(1)
    for _ in range(3):
        with pytest.raises(TooManyUploads):
            async with all_of_it("crowded"):
                pass
    assert asked == ["crowded"] * 3


def begin(server: ServerProcess) -> str:
    """Create an upload of unknown length; return its path."""
    answer = server.request("POST", "/files/", b"", **TUS, Upload_Defer_Length="1")
    assert answer.status == 201, answer.body
    return "/files/" + answer.headers["location"].rpartition("/")[2]


def send(server: ServerProcess, path: str, data: bytes, **headers: Any) -> Answer:
    """Send *data* to an upload that has none."""
    octets = "application/offset+octet-stream"
    return server.request(
        "PATCH", path, data, **TUS, Upload_Offset="0", Content_Type=octets, **headers
    )


def used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_all_at_once_they_stop_at_the_fill_level_and_can_be_given_up(
    make: Make, evidence: Evidence, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="60")
    known = server.request("POST", "/files/", b"", **TUS, Upload_Length=str(4 * MIB))
    assert known.status == 201
    paths = [begin(server) for _ in range(8)]
    data = bytes(10 * MIB)

    with ThreadPoolExecutor(len(paths)) as threads:
        answers = list(threads.map(lambda path: send(server, path, data), paths))

    assert {answer.status for answer in answers} == {204, 507}
    # what the database wrote meanwhile is not theirs
    assert used(small_disk) < ROOM * 0.6 + 2 * MIB
    reserved = "/files/" + known.headers["location"].rpartition("/")[2]
    assert send(server, reserved, bytes(4 * MIB)).status == 204
    for path in paths:
        assert server.request("DELETE", path, **TUS).status == 204
    server.finished(reserved.rpartition("/")[2])
    watch.until(lambda: not evidence.ask("SELECT key FROM trash"))
    assert server.stop() == 0
    evidence.check()


def test_many_announced_at_once_stop_at_the_fill_level(
    make: Make, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="60")

    def announce(_n: int) -> int:
        size = str(4 * MIB)
        return server.request("POST", "/files/", b"", **TUS, Upload_Length=size).status

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(announce, range(24)))

    assert set(statuses) == {201, 507}
    # what the database wrote meanwhile is not theirs
    assert used(small_disk) < ROOM * 0.6 + 2 * MIB


def test_a_length_that_is_said_late_must_fit_as_one_said_at_once(
    make: Make, small_disk: Path
) -> None:
    server = make(data_dir=small_disk, fill_level="60")
    path = begin(server)

    refused = send(server, path, b"x", Upload_Length=str(40 * MIB))
    assert (refused.status, refused.json["code"]) == (507, "disk_full")
    assert send(server, path, b"x", Upload_Length=str(20 * MIB)).status == 204
    # it has its room from now on
    assert used(small_disk) > 20 * MIB
