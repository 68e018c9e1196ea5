"""The loop that works on steps, on a real database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from asyncflow.broker.memory import LocalDoorbell
from asyncflow.db.base import Claimed, Ended
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.dispatch import Begun, Dispatcher
from asyncflow.engine import Clock, Engine
from asyncflow.jobs import SUBMITTED, Limits, PlanEntry, Subscription, Verdict
from asyncflow.pace import Restraint
from asyncflow.progress import Hub

REPORT = Subscription(entry=PlanEntry(consumer="report", on=SUBMITTED))


class Place:
    """An engine and one dispatcher, whose only step takes as long as it is told."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(
            doorbell=LocalDoorbell(),
            clock=Clock(),
            limits=Limits(),
            worker="test",
            lease_s=30.0,
        )
        self.db = SqliteDatabase(folder / "some.db", on_change=self.engine.changed)
        self.engine.attach(self.db, Hub(self.db.job))
        self.engine.on_attempt = self.hear
        self.room = 4
        self.dispatcher = Dispatcher(
            engine=self.engine,
            name="test",
            consumers={"report": Restraint()},
            room=lambda: self.room,
            work=self.work,
        )
        self.free, self.begun, self.go_on, self.over = (
            asyncio.Event() for _ in range(4)
        )
        self.free.set()
        self.ended: list[Verdict] = []
        self.seconds = 0.0

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
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    await place.db.start()
    await place.engine.start([REPORT])
    await place.dispatcher.start()
    yield place
    await place.dispatcher.stop(0.0)
    await place.engine.hub.close()
    await place.db.close()


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
