"""What every database must do, as tests to subclass.

A database of your own is right when this passes:

    from asyncflow.testing.db_suite import DbSuite

    class TestMyDatabase(DbSuite):
        async def make_database(self, folder, on_change):
            return MyDatabase("name-for-tests", on_change=on_change)

`folder` is a temporary folder; a second call with the same one opens the same data.
Needs pytest and pytest-asyncio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from asyncflow import uploads
from asyncflow.db.base import Database
from asyncflow.db.oversight import Note
from asyncflow.db.records import Change
from asyncflow.errors import (
    JobNotFound,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import JobState, StepState, Subscription, Verdict
from asyncflow.testing.db_control import ControlObligations
from asyncflow.testing.db_history import HistoryObligations
from asyncflow.testing.db_jobs import JobObligations
from asyncflow.testing.db_steps import StepObligations
from asyncflow.testing.db_turns import TurnObligations
from asyncflow.testing.db_uploads import UploadObligations
from asyncflow.testing.db_world import (
    EVERYBODY,
    GATE,
    HOUR_MS,
    IMAGE,
    SEARCH,
    TEXT,
    World,
)

NOBODY = "018bcfe5-6800-7000-8000-00000000ffff"


class DbSuite(
    StepObligations,
    JobObligations,
    UploadObligations,
    ControlObligations,
    HistoryObligations,
    TurnObligations,
):
    """The obligations of `asyncflow.db.base.Database`, one test each."""

    pytestmark = pytest.mark.asyncio

    async def make_database(
        self, folder: Path, on_change: Callable[[Change], None]
    ) -> Database:
        """Return the database under test, not yet started."""
        raise TypeError(f"{type(self).__name__} must say which database it tests")

    @pytest_asyncio.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        """Give a started database and a clock."""
        world = World(make=lambda told: self.make_database(tmp_path, told))
        await world.start()
        yield world
        await world.db.close()

    # ----- uploads

    async def test_a_new_upload_is_found_as_it_was_announced(
        self, world: World
    ) -> None:
        upload_id = await world.upload(length=None, name="été.jpg")

        row = await world.db.find_upload(upload_id)
        assert (row.id, row.key) == (upload_id, uploads.raw_key(upload_id))
        assert (row.file_name, row.length, row.state) == ("été.jpg", None, "receiving")
        assert row.raw_metadata == "album w6l0w6k="
        job = await world.db.job(upload_id)
        assert (job.status, job.metadata) == (JobState.UPLOADING, {"album": "été"})

    async def test_what_nobody_created_is_not_found(self, world: World) -> None:
        with pytest.raises(UploadNotFound):
            await world.db.find_upload(NOBODY)
        with pytest.raises(UploadNotFound):
            await world.accept(NOBODY, GATE)
        with pytest.raises(JobNotFound):
            await world.db.job(NOBODY)
        for act in (world.db.cancel, world.db.delete):
            with pytest.raises(JobNotFound):
                await act(NOBODY, world.now)
        with pytest.raises(JobNotFound):
            await world.db.retry(NOBODY, world.now)
        with pytest.raises(JobNotFound):
            await world.db.file(NOBODY, "original")

    async def test_accepting_twice_changes_nothing(self, world: World) -> None:
        job = await world.accepted()
        told = len(world.changes)

        await world.accept(job, GATE)

        assert len(world.changes) == told
        assert len(await world.claim()) == 1

    async def test_accepting_at_once_from_many_sides_makes_one_job(
        self, world: World
    ) -> None:
        job = await world.upload()

        await asyncio.gather(*(world.accept(job, GATE) for _ in range(10)))

        assert len(await world.claim()) == 1

    async def test_an_ended_upload_cannot_be_accepted(self, world: World) -> None:
        job = await world.upload()
        await world.end_upload(job)

        with pytest.raises(UploadGone):
            await world.accept(job, GATE)

    async def test_ending_an_upload_closes_its_job_and_gives_up_its_bytes(
        self, world: World
    ) -> None:
        job = await world.upload()

        assert await world.end_upload(job)

        assert not await world.end_upload(job)
        assert world.terminals(job) == ["job.cancelled"]
        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.code) == (JobState.CANCELLED, "expired")
        assert await world.trash() == {uploads.raw_key(job): False}
        assert world.last(job).trash

    async def test_a_complete_upload_cannot_be_ended(self, world: World) -> None:
        job = await world.accepted()

        assert not await world.end_upload(job)

        assert await world.state(job) is JobState.PENDING
        assert not await world.trash()

    async def test_uploads_expire_unless_they_are_extended_or_complete(
        self, world: World
    ) -> None:
        late, extended, complete = [await world.upload() for _ in range(3)]
        await world.accept(complete, GATE)
        await world.db.extend_upload(extended, world.now + HOUR_MS)

        assert await world.db.expired_uploads(world.now + 59_999, 10) == []
        assert await world.db.expired_uploads(world.now + 60_000, 10) == [late]

    async def test_unfinished_uploads_come_in_pages(self, world: World) -> None:
        ids = [await world.upload() for _ in range(5)]
        await world.accept(ids[1], GATE)

        found, after = [], 0
        while page := await world.db.unfinished_uploads(after, 2):
            found += [row.id for row in page]
            after = page[-1].seq

        assert found == [ids[0], *ids[2:]]

    # ----- restart, counters, pages, order

    async def test_a_restart_frees_every_lease_and_charges_an_interruption(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)
        await world.db.close()
        await world.start()

        assert await world.db.recover(limits=world.limits, now=world.now) == 1

        assert await world.db.recover(limits=world.limits, now=world.now) == 0
        assert await world.done(image) is None
        assert not (await world.db.job(job)).files
        assert (await world.take("image")).token == image.token + 1

    async def test_registered_consumers_are_remembered(self, world: World) -> None:
        one = Subscription(entry=IMAGE, accepts=("image/*",))
        await world.db.register([one], node="here", now=world.now)
        await world.db.close()
        await world.start()
        other = Subscription(entry=IMAGE, accepts=("image/png",))
        await world.db.register([other], node="here", now=world.now)

        (found,) = await world.db.registry("here")
        assert (found.subscription, found.nodes) == (other, ("here",))
        assert (found.seen, found.is_here) == (world.now, True)

    async def test_what_another_node_has_registered_stays(self, world: World) -> None:
        await world.register(IMAGE, TEXT, node="there")
        await world.register(IMAGE)

        image, text = await world.db.registry("here")
        assert (image.nodes, image.is_here) == (("here", "there"), True)
        assert (text.nodes, text.is_here) == (("there",), False)

    async def test_what_an_operator_forgets_nobody_waits_for(
        self, world: World
    ) -> None:
        await world.register(GATE, IMAGE)
        await world.register(IMAGE, TEXT, node="there")
        job = await world.past_gate(IMAGE, TEXT)
        note = Note(actor="local", action="forget", target="text", at=world.now)

        for consumer in ("image", "text"):
            await world.db.forget(consumer, node="here", note=note)

        found = {one.subscription.entry.consumer for one in await world.db.registry("")}
        assert found == {"identify", "image"}
        assert await world.steps(job) == {
            "identify": StepState.DONE,
            "image": StepState.READY,
            "text": StepState.SKIPPED,
        }
        noted = await world.db.audits(before=None, limit=10)
        assert [one.action for one in noted] == ["forget", "forget"]

    async def test_the_counters_are_what_counting_gives(self, world: World) -> None:
        plan = (IMAGE, TEXT, SEARCH)
        jobs = [await world.past_gate(*plan) for _ in range(8)]
        claimed = await world.claim("image", "text", limit=12)
        verdicts = list(Verdict)
        for number, one in enumerate(claimed[:-2]):
            await world.end(one, verdicts[number % len(verdicts)])
        await world.db.cancel(jobs[6], world.now)
        await world.db.delete(jobs[7], world.now)
        await world.db.delete(jobs[0], world.now)
        await world.accepted()

        found = await world.tallies()

        assert found == await world.counted()
        assert {"running", "dead", "cancelled", "ready"} <= {s for _, s in found}

    async def test_jobs_come_in_pages_newest_first(self, world: World) -> None:
        ids = [await world.upload() for _ in range(5)]
        await world.accept(ids[2], GATE)

        found: list[str] = []
        before: int | None = None
        while True:
            page = await world.db.jobs(state=None, before=before, limit=2)
            found += [one.job_id for one in page.jobs]
            before = page.next
            if before is None:
                break

        assert found == ids[::-1]
        pending = await world.db.jobs(state=JobState.PENDING, before=None, limit=2)
        assert [one.job_id for one in pending.jobs] == [ids[2]]
        assert pending.next is None

    async def test_changes_are_told_in_order_with_growing_versions(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await asyncio.gather(world.publish(image), world.done(text))
        await world.done(image)

        told = [one for one in world.changes if one.job_id == job]

        versions = [one.version for one in told]
        assert versions == sorted(set(versions))
        assert versions[-1] == (await world.db.job(job)).version
        assert [one.terminal for one in told if one.terminal] == ["job.completed"]
        assert told[-1].terminal == "job.completed"

    async def test_who_is_answered_has_been_told_before(self, world: World) -> None:
        seen: list[str | None] = []
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.done(image)
        seen.append(world.last(job).terminal)

        assert seen == ["job.completed"]

    async def test_a_probe_writes_and_there_is_no_trouble(self, world: World) -> None:
        await world.db.probe(world.now)

        assert world.db.trouble is None
        assert await world.claim(*EVERYBODY) == []
