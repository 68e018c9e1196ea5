"""Given-up bytes that cannot be removed at first."""

import asyncio
from pathlib import Path

from asyncflow.db.records import Change
from asyncflow.errors import StoreError
from asyncflow.janitor import STUCK_AGAIN_MS, Janitor
from asyncflow.jobs import JobState
from asyncflow.recovery import Recovery
from asyncflow.store.memory import MemoryStore
from asyncflow.uploads import raw_key
from tests.store.engine_room import Place, place_on
from tests.web.wire import until

GIVEN_UP = Change(job_id="some", version=2, state=JobState.CANCELLED, trash=True)


class Sticky(MemoryStore):
    """A store that keeps what it was asked to delete, once."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps: set[str] = set()
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    async def delete(self, key: str) -> None:
        self.asked.put_nowait(key)
        if key in self.keeps:
            self.keeps.remove(key)
            raise StoreError("EIO")
        await super().delete(key)


def janitor_of(place: Place) -> Janitor:
    return Janitor(
        db=place.db,
        engine=place.engine,
        store=place.store,
        chunks=place.chunks,
        recovery=Recovery(db=place.db, chunks=place.chunks, joiner=place.joiner),
    )


async def test_bytes_that_were_stuck_go_after_a_minute_however_much_is_deleted(
    tmp_path: Path,
) -> None:
    store = Sticky()
    async with place_on(tmp_path, store) as place, asyncio.timeout(10):
        janitor = janitor_of(place)
        await janitor.start()
        stuck = await place.begin()
        store.keeps.add(raw_key(stuck))
        await place.chunks.terminate(stuck)
        janitor.changed(GIVEN_UP)
        assert await store.asked.get() == raw_key(stuck)
        for _ in range(3):
            await place.chunks.terminate(await place.begin())
            # never quiet for a minute
            place.ticks.now_s += STUCK_AGAIN_MS / 2000
            janitor.changed(GIVEN_UP)
        while await store.asked.get() != raw_key(stuck):
            pass
        await janitor.stop()


async def test_bytes_that_were_stuck_are_tried_again_though_nothing_is_deleted(
    tmp_path: Path,
) -> None:
    store = Sticky()
    async with place_on(tmp_path, store) as place, asyncio.timeout(10):
        janitor = janitor_of(place)
        stuck = await place.begin()
        store.keeps.add(raw_key(stuck))
        await place.chunks.terminate(stuck)
        assert await janitor.remove_trash() == 1
        assert await janitor.remove_trash() == 0
        assert janitor.stuck == 1
        place.ticks.now_s += STUCK_AGAIN_MS / 1000
        await janitor.start()
        for _ in range(2):
            assert await store.asked.get() == raw_key(stuck)
        await until(lambda: janitor.stuck == 0)
        await janitor.stop()
        assert store.keeps == set()


async def test_what_was_stuck_and_was_asked_for_by_nobody_since_is_not_waited_for(
    tmp_path: Path,
) -> None:
    store = Sticky()
    async with place_on(tmp_path, store) as place:
        janitor = janitor_of(place)
        stuck = await place.begin()
        store.keeps.add(raw_key(stuck))
        await place.chunks.terminate(stuck)
        await janitor.remove_trash()
        await place.db.drop_trash([raw_key(stuck)])
        place.ticks.now_s += STUCK_AGAIN_MS / 1000
        assert await janitor.remove_trash() == 0
        assert janitor.stuck == 0
