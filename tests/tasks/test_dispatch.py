"""The loop that works on steps, on a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chance import Clock
from asyncflow.db.oversight import Note
from asyncflow.db.records import Claimed, Ended
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.dispatch import Begun, Dispatcher
from asyncflow.engine import Engine
from asyncflow.jobs import SUBMITTED, Limits, PlanEntry, Subscription, Verdict
from asyncflow.pace import Restraint
from asyncflow.progress import Hub

NAMES = ("report", "film")
NOTE = Note(actor="ann", action="pause", target="report", at=0)


class Place:
    """An engine and one dispatcher, whose steps take as long as they are told."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(
            doorbell=LocalDoorbell(),
            clock=Clock(),
            limits=Limits(),
            worker="test",
            node="test",
            lease_s=30.0,
        )
        self.db = SqliteDatabase(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        self.engine.on_attempt = self.hear
        self.room = 4
        self.dispatcher = self.new_dispatcher(self.work)
        self.free, self.begun, self.go_on, self.over = (
            asyncio.Event() for _ in range(4)
        )
        self.free.set()
        self.ended: list[Verdict] = []
        self.seconds = 0.0

        self.places = asyncio.Semaphore(self.room)
        self.most_waiting = 0

    def new_dispatcher(
        self, work: Callable[[Claimed, Begun], Awaitable[Ended]], *names: str
    ) -> Dispatcher:
        return Dispatcher(
            engine=self.engine,
            name="test",
            consumers=dict.fromkeys(names or NAMES, Restraint()),
            room=lambda: self.room,
            work=work,
        )

    async def work_in_places(self, claimed: Claimed, begun: Begun) -> Ended:
        """Do what is at once over, unless it is a film or its payload says `long`."""
        self.most_waiting = max(self.most_waiting, len(self.dispatcher.waiting))
        async with self.places:
            begun()
            if claimed.consumer == "film" or claimed.payload == '"long"':
                self.begun.set()
                await self.go_on.wait()
        return Ended(verdict=Verdict.DONE)

    async def many(self, count: int, name: str, payload: str = "null") -> None:
        """Submit so many tasks."""
        for _ in range(count):
            await self.engine.submit_task(name, payload)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, bounded, until something *holds*."""
        async with asyncio.timeout(20):
            while not holds():
                await self.engine.refresh()

    async def work(self, _claimed: Claimed, begun: Begun) -> Ended:
        self.begun.set()
        await self.free.wait()
        begun()
        await self.go_on.wait()
        return Ended(verdict=Verdict.DONE)

    def hear(self, _claimed: Claimed, ended: Ended, seconds: float) -> None:
        self.ended.append(ended.verdict)
        self.seconds = seconds
        self.over.set()


@pytest.fixture
async def resting(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    await place.db.start()
    await place.engine.start(
        [Subscription(entry=PlanEntry(consumer=name, on=SUBMITTED)) for name in NAMES]
    )
    yield place
    await place.dispatcher.stop(0.0)
    await place.engine.hub.close()
    await place.db.close()


@pytest.fixture
async def place(resting: Place) -> Place:
    await resting.dispatcher.start()
    return resting


async def test_time_that_is_waited_for_a_place_is_not_time_of_the_step(
    place: Place,
) -> None:
    place.free.clear()
    place.go_on.set()
    await place.engine.submit_task("report", "null")
    await place.begun.wait()
    assert place.dispatcher.waiting == place.dispatcher.held
    began = place.engine.clock.mono_s()
    while place.engine.clock.mono_s() < began + 0.2:
        await place.engine.refresh()
    place.free.set()

    async with asyncio.timeout(10):
        await place.over.wait()
    assert place.seconds < 0.2
    assert place.dispatcher.waiting == ()


async def test_what_would_wait_for_a_long_step_is_not_claimed_before_its_time(
    place: Place,
) -> None:
    place.room = 1
    for _ in range(2):
        await place.engine.submit_task("report", "null")
    await place.begun.wait()
    for _ in range(3):
        await place.engine.refresh()
    assert place.dispatcher.running == 1
    place.go_on.set()

    async with asyncio.timeout(10):
        while len(place.ended) < 2:
            await place.over.wait()
            place.over.clear()


@pytest.fixture
async def busy(resting: Place) -> Place:
    """Return a place that has many short steps to do."""
    resting.dispatcher = resting.new_dispatcher(resting.work_in_places)
    await resting.many(300, "report")
    return resting


async def test_long_steps_behind_short_ones_are_claimed_when_there_is_a_place(
    busy: Place,
) -> None:
    await busy.many(20, "film")
    await busy.dispatcher.start()
    await busy.until(lambda: len(busy.ended) == 300)
    await busy.until(lambda: busy.dispatcher.running == busy.room)
    for _ in range(3):
        await busy.engine.refresh()
    assert busy.dispatcher.running == busy.room
    busy.go_on.set()
    await busy.until(lambda: len(busy.ended) == 320)


async def test_nothing_is_claimed_ahead_while_a_long_step_is_in_work(
    busy: Place,
) -> None:
    await busy.dispatcher.start()
    await busy.until(lambda: len(busy.ended) == 300)
    await busy.many(1, "film")
    await busy.begun.wait()
    await busy.engine.pause_consumer("report", NOTE, on=True)
    await busy.many(300, "report")
    busy.most_waiting = 0
    await busy.engine.pause_consumer("report", NOTE, on=False)
    await busy.until(lambda: len(busy.ended) == 600)
    assert busy.most_waiting < busy.room
    busy.go_on.set()
    await busy.until(lambda: len(busy.ended) == 601)


async def test_steps_that_wait_behind_one_that_is_long_after_all_are_given_back(
    busy: Place,
) -> None:
    await busy.many(60, "report", '"long"')
    await busy.dispatcher.start()
    await busy.begun.wait()
    await busy.until(
        lambda: busy.dispatcher.running == busy.room and not busy.dispatcher.waiting
    )
    busy.go_on.set()
    await busy.until(lambda: busy.ended.count(Verdict.DONE) == 360)


async def test_what_waits_for_a_place_is_given_back_when_it_is_paused(
    busy: Place,
) -> None:
    await busy.dispatcher.start()
    await busy.until(lambda: len(busy.ended) == 300)
    for _ in range(busy.room):
        await busy.places.acquire()
    await busy.many(20, "report")
    await busy.until(lambda: len(busy.dispatcher.waiting) > 0)
    await busy.engine.pause_consumer("report", NOTE, on=True)
    await busy.until(lambda: busy.dispatcher.running == 0)
    for _ in range(busy.room):
        busy.places.release()
    await busy.engine.pause_consumer("report", NOTE, on=False)
    await busy.until(lambda: busy.ended.count(Verdict.DONE) == 320)


async def test_a_stop_gives_back_what_has_not_even_started(busy: Place) -> None:
    await busy.dispatcher.start()
    await busy.until(lambda: busy.dispatcher.running > 0)
    await busy.dispatcher.stop(0.0)
    await busy.engine.refresh()
    assert not busy.engine.tallies.get(("report", "running"))


async def test_a_step_that_ends_while_its_lease_is_renewed_is_not_taken_for_lost(
    place: Place,
) -> None:
    await place.engine.submit_task("report", "null")
    await place.begun.wait()
    # keeps the database busy, so that the end and the beat go into one transaction
    other = asyncio.create_task(
        place.engine.submit_task("report", "null", run_at=2**42)
    )
    await asyncio.sleep(0)
    held = place.dispatcher.held
    place.go_on.set()
    for _ in range(3):
        await asyncio.sleep(0)

    with structlog.testing.capture_logs() as said:
        lost = await place.engine.beat(held)
        assert lost == list(held)
        place.dispatcher.lose(lost)
    assert "step.lost" not in [line["event"] for line in said]

    async with asyncio.timeout(10):
        await place.over.wait()
    assert place.ended == [Verdict.DONE]
    await other


async def test_what_a_limit_held_back_begins_when_the_other_dispatcher_is_done(
    resting: Place,
) -> None:
    """A tenant that may have one step has it wherever its consumers work."""
    resting.engine.tenant_limit = 1
    resting.dispatcher = resting.new_dispatcher(resting.work, "report")
    films = resting.new_dispatcher(resting.work, "film")
    await resting.dispatcher.start()
    await resting.engine.submit_task("report", "null")
    await resting.begun.wait()
    await films.start()
    await resting.engine.submit_task("film", "null")
    # when those are stored it has looked in vain: only a ring makes it look again
    for _ in range(5):
        await resting.engine.submit_task("report", "null", run_at=2**42)
    resting.go_on.set()

    try:
        async with asyncio.timeout(10):
            while len(resting.ended) < 2:
                await resting.over.wait()
                resting.over.clear()
    finally:
        await films.stop(0.0)
