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
from asyncflow.db.base import Change, Database, Ended
from asyncflow.errors import (
    FileNotAvailable,
    JobNotFound,
    JobNotRetryable,
    NameTaken,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import (
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
)
from asyncflow.testing.db_world import (
    EVERYBODY,
    GATE,
    IMAGE,
    LEASE_MS,
    SCAN,
    SEARCH,
    TEXT,
    World,
)

NOBODY = "018bcfe5-6800-7000-8000-00000000ffff"
HOUR_MS = 3_600_000


class DbSuite:
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
        for ask in (world.db.job, world.db.delete):
            with pytest.raises(JobNotFound):
                await ask(NOBODY)
        with pytest.raises(JobNotFound):
            await world.db.cancel(NOBODY, world.now)
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
        await self._end_upload(world, job)

        with pytest.raises(UploadGone):
            await world.accept(job, GATE)

    @staticmethod
    async def _end_upload(world: World, job: str) -> bool:
        return await world.db.end_upload(
            job,
            state=JobState.CANCELLED,
            code="expired",
            detail="too late",
            now=world.now,
        )

    async def test_ending_an_upload_closes_its_job_and_gives_up_its_bytes(
        self, world: World
    ) -> None:
        job = await world.upload()

        assert await self._end_upload(world, job)

        assert not await self._end_upload(world, job)
        assert world.terminals(job) == ["job.cancelled"]
        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.code) == (JobState.CANCELLED, "expired")
        assert await world.trash() == {uploads.raw_key(job): False}
        assert world.last(job).trash

    async def test_a_complete_upload_cannot_be_ended(self, world: World) -> None:
        job = await world.accepted()

        assert not await self._end_upload(world, job)

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

    # ----- claims, tokens, leases

    async def test_the_most_urgent_step_is_claimed_first(self, world: World) -> None:
        first = await world.past_gate(IMAGE)
        urgent = await world.accepted()

        claimed = await world.claim(limit=2)

        assert [one.job_id for one in claimed] == [urgent, first]
        assert [one.consumer for one in claimed] == ["identify", "image"]

    async def test_equally_urgent_steps_are_claimed_in_their_order(
        self, world: World
    ) -> None:
        ids = [await world.accepted() for _ in range(6)]

        claimed = [*await world.claim(limit=4), *await world.claim(limit=4)]

        assert [one.job_id for one in claimed] == ids

    async def test_a_claim_takes_only_what_was_asked_for(self, world: World) -> None:
        await world.past_gate(IMAGE, TEXT)

        assert [one.consumer for one in await world.claim("text")] == ["text"]
        assert await world.claim("text", "scan") == []

    async def test_a_claim_brings_all_that_running_needs(self, world: World) -> None:
        job = await world.accepted()
        gate = await world.take("identify")
        options = {"sizes": [1, 2]}
        image = PlanEntry(consumer="image", on=IMAGE.on, options=options)
        ended = Ended(
            verdict=Verdict.DONE,
            facts={"width": 4000},
            media_type="image/png",
            plan=(GATE, image),
        )
        await world.settle(gate, ended)

        one = await world.take("image")

        assert (one.job_id, one.key, one.size) == (job, uploads.raw_key(job), 10)
        assert (one.declared_type, one.media_type) == ("image/jpeg", "image/png")
        assert (one.options, one.metadata) == (options, {"album": "été"})
        assert one.facts == {"identify": {"width": 4000}}
        assert (gate.gate, one.gate, gate.media_type) == (True, False, None)

    async def test_claims_at_once_never_share_a_step(self, world: World) -> None:
        for _ in range(20):
            await world.accepted()

        rounds = await asyncio.gather(*(world.claim(limit=3) for _ in range(10)))

        steps = [one.step_id for claimed in rounds for one in claimed]
        assert len(steps) == len(set(steps)) == 20

    async def test_a_job_is_processing_from_its_first_claim(self, world: World) -> None:
        job = await world.accepted()
        before = await world.state(job)
        await world.take("identify")

        assert (before, await world.state(job)) == ("PENDING", "PROCESSING")
        assert world.last(job).steps[0].status is StepState.RUNNING

    async def test_a_late_owner_changes_nothing(self, world: World) -> None:
        await world.past_gate(IMAGE)
        late = await world.take("image")
        world.mono += LEASE_MS + 1
        await world.beat()
        world.now += HOUR_MS
        owner = await world.take("image")
        told = len(world.changes)

        assert owner.token > late.token
        assert not await world.publish(late)
        assert await world.done(late) is None
        assert await world.beat(late) == [(late.step_id, late.token)]
        assert len(world.changes) == told
        assert await world.done(owner) is StepState.DONE

    async def test_an_attempt_settles_once(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")

        states = await asyncio.gather(*(world.done(image) for _ in range(5)))

        assert sorted(states, key=str) == [None, None, None, None, StepState.DONE]
        assert world.terminals(job) == ["job.completed"]

    async def test_a_renewed_lease_does_not_run_out(self, world: World) -> None:
        await world.past_gate(IMAGE)
        image = await world.take("image")
        for _ in range(4):
            world.mono += LEASE_MS - 1
            assert await world.beat(image) == []

        assert await world.done(image) is StepState.DONE

    async def test_a_beat_renews_before_it_frees(self, world: World) -> None:
        """An owner that was frozen past its lease, and nobody noticed, goes on."""
        await world.past_gate(IMAGE)
        image = await world.take("image")
        world.mono += 10 * LEASE_MS

        assert await world.beat(image) == []
        assert await world.done(image) is StepState.DONE

    async def test_a_lease_that_ran_out_is_a_loss_not_an_attempt(
        self, world: World
    ) -> None:
        world.limits = Limits(attempts=3, lost=2)
        job = await world.past_gate(IMAGE)
        for _ in range(2):
            await world.take("image")
            world.mono += LEASE_MS + 1
            await world.beat()
            world.now += HOUR_MS

        view = await world.db.job(job)
        assert view.status is JobState.FAILED
        assert view.error is not None
        assert (view.error.code, view.error.step) == ("crashed", "image")

    # ----- failures

    async def test_failures_of_different_kinds_are_counted_apart(
        self, world: World
    ) -> None:
        world.limits = Limits(attempts=3, lost=2, interrupted=2)
        await world.past_gate(IMAGE)
        kinds = (Verdict.ERROR, Verdict.LOST, Verdict.INTERRUPTED, Verdict.ERROR)
        for verdict in (*kinds, Verdict.RELEASED, Verdict.TRY_LATER):
            state = await world.end(await world.take("image"), verdict)
            assert state is not StepState.DEAD
            world.now += HOUR_MS

        state = await world.end(await world.take("image"), Verdict.ERROR)
        assert state is StepState.DEAD

    async def test_interruptions_have_their_own_limit(self, world: World) -> None:
        world.limits = Limits(interrupted=2)
        await world.past_gate(IMAGE)

        first = await world.end(await world.take("image"), Verdict.INTERRUPTED)
        second = await world.end(await world.take("image"), Verdict.INTERRUPTED)

        assert (first, second) == (StepState.READY, StepState.DEAD)

    async def test_a_failed_step_waits_for_its_back_off(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        failed = Ended(verdict=Verdict.ERROR, code="error", spread=0.5)

        assert await world.settle(image, failed) is StepState.RETRYING

        assert world.last(job).due_s == (1.0,)
        world.now += 999
        assert await world.claim("image") == []
        world.now += 1
        assert (await world.take("image")).token == image.token + 1

    async def test_try_later_waits_as_long_as_it_says(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        later = Ended(verdict=Verdict.TRY_LATER, code="try_later", after_s=7.0)
        await world.settle(await world.take("image"), later)

        assert world.last(job).due_s == (7.0,)
        world.now += 6_999
        assert await world.claim("image") == []
        world.now += 1
        assert len(await world.claim("image")) == 1

    async def test_a_bad_file_is_never_tried_again(self, world: World) -> None:
        job = await world.failed()

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.code) == (JobState.FAILED, "damaged")
        assert world.terminals(job) == ["job.failed"]
        world.now += HOUR_MS
        assert await world.claim() == []

    async def test_a_released_step_is_ready_at_once_and_charged_nothing(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)

        state = await world.end(await world.take("image"), Verdict.RELEASED, "")

        assert state is StepState.READY
        assert world.last(job).ring == {"image"}
        assert (await world.db.job(job)).steps[1].attempts == 0

    # ----- gates

    async def test_no_step_starts_before_every_gate_said_yes(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        await world.done(await world.take("identify"), plan=(GATE, SCAN, IMAGE))
        between = await world.db.job(job)
        await world.done(await world.take("scan"))

        assert not between.accepted
        assert await world.steps(job) == {
            "identify": StepState.DONE,
            "scan": StepState.DONE,
            "image": StepState.READY,
        }
        assert (await world.db.job(job)).accepted
        assert world.last(job).ring == {"image"}

    async def test_steps_to_come_are_shown_as_waiting(self, world: World) -> None:
        job = await world.accepted(GATE, SCAN)
        await world.done(await world.take("identify"), plan=(GATE, SCAN, IMAGE))

        assert (await world.steps(job))["image"] is StepState.WAITING

    async def test_a_gate_that_says_no_rejects_the_job_and_stops_the_others(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        identify, scan = await world.claim()
        await world.end(scan, Verdict.BAD_FILE, "encrypted")

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.accepted) == (JobState.REJECTED, False)
        assert (view.error.code, view.error.step) == ("encrypted", "scan")
        assert (await world.steps(job))["identify"] is StepState.CANCELLED
        assert (identify.step_id, identify.token) in world.last(job).stop
        assert await world.done(identify) is None
        assert world.terminals(job) == ["job.rejected"]

    async def test_a_gate_that_keeps_crashing_fails_the_job(self, world: World) -> None:
        world.limits = Limits(lost=1)
        job = await world.accepted(GATE, SCAN)
        identify, _scan = await world.claim()

        await world.end(identify, Verdict.LOST, "crashed")

        assert await world.state(job) is JobState.FAILED
        assert world.terminals(job) == ["job.failed"]

    async def test_a_job_without_gates_is_accepted_at_once(self, world: World) -> None:
        job = await world.upload()
        await world.accept(job, IMAGE)

        assert (await world.db.job(job)).accepted
        await world.done(await world.take("image"))
        assert world.terminals(job) == ["job.completed"]

    async def test_a_job_with_nothing_to_do_is_complete_at_once(
        self, world: World
    ) -> None:
        job = await world.upload()
        await world.db.accept(job, size=10, gates=(), now=world.now)

        assert await world.state(job) is JobState.COMPLETED
        assert world.terminals(job) == ["job.completed"]

    # ----- the end of a run

    async def test_a_run_ends_with_its_last_step(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await world.done(image)
        between = await world.state(job)
        await world.done(text)

        assert between is JobState.PROCESSING
        assert await world.state(job) is JobState.COMPLETED
        assert world.terminals(job) == ["job.completed"]

    async def test_steps_that_end_at_the_same_time_end_the_run_once(
        self, world: World
    ) -> None:
        wide = [PlanEntry(consumer=f"part{n}", on=IMAGE.on) for n in range(12)]
        job = await world.past_gate(*wide)
        claimed = await world.claim(*(one.consumer for one in wide))

        await asyncio.gather(*(world.done(one) for one in claimed))

        assert world.terminals(job) == ["job.completed"]
        assert len((await world.db.job(job)).facts) == 13

    async def test_an_optional_step_may_die(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await world.end(text, Verdict.BAD_FILE, "damaged")
        await world.done(image)

        assert await world.state(job) is JobState.COMPLETED
        assert (await world.steps(job))["text"] is StepState.DEAD

    async def test_a_dead_required_step_fails_the_job_when_all_are_over(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await world.end(image, Verdict.BAD_FILE, "damaged")
        between = await world.state(job)
        await world.done(text)

        assert (between, await world.state(job)) == ("PROCESSING", "FAILED")

    async def test_a_step_starts_the_steps_that_follow_it(self, world: World) -> None:
        job = await world.past_gate(TEXT, SEARCH)
        before = await world.steps(job)
        await world.done(await world.take("text"))

        assert before["search"] is StepState.WAITING
        await world.done(await world.take("search"))
        assert world.terminals(job) == ["job.completed"]

    async def test_who_follows_a_skipped_step_runs_all_the_same(
        self, world: World
    ) -> None:
        job = await world.past_gate(TEXT, SEARCH)
        text = await world.take("text")

        assert await world.end(text, Verdict.SKIPPED, "missing_tool") == "skipped"

        await world.done(await world.take("search"))
        assert await world.state(job) is JobState.COMPLETED

    async def test_who_follows_a_dead_step_never_runs(self, world: World) -> None:
        job = await world.past_gate(TEXT, SEARCH)
        await world.end(await world.take("text"), Verdict.BAD_FILE, "damaged")

        assert await world.claim() == []
        assert await world.state(job) is JobState.COMPLETED

    # ----- derivatives

    async def test_a_derivative_can_be_had_as_soon_as_it_is_published(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")

        assert await world.publish(image)

        file = await world.db.file(job, "thumbnail")
        assert (file.size, file.accepted, file.is_original) == (3, True, False)
        assert file.key.startswith(
            uploads.attempt_prefix(job, image.step_id, image.token)
        )

    async def test_publishing_again_changes_nothing_that_can_be_seen(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)

        assert await world.publish(image)

        assert len((await world.db.job(job)).files) == 1
        assert not await world.trash()

    async def test_two_steps_cannot_make_a_file_of_the_same_name(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await world.publish(image)

        with pytest.raises(NameTaken):
            await world.publish(text)
        assert [one.step for one in (await world.db.job(job)).files] == ["image"]

    async def test_what_a_failed_attempt_made_goes_to_the_trash(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)

        await world.end(image, Verdict.ERROR)

        with pytest.raises(FileNotAvailable):
            await world.db.file(job, "thumbnail")
        prefix = uploads.attempt_prefix(job, image.step_id, image.token)
        assert await world.trash() == {prefix: True}
        assert world.last(job).trash

    async def test_trash_is_forgotten_once_it_is_removed(self, world: World) -> None:
        for _ in range(3):
            await self._end_upload(world, await world.upload())
        keys = list(await world.trash())

        assert len(await world.db.trash(2)) == 2
        await world.db.drop_trash(keys[:2])

        assert list(await world.trash()) == keys[2:]

    async def test_the_original_can_be_had_once_it_is_whole(self, world: World) -> None:
        job = await world.upload()
        with pytest.raises(FileNotAvailable):
            await world.db.file(job, "original")
        await world.accept(job, GATE)

        file = await world.db.file(job, "original")

        assert (file.size, file.is_original, file.accepted) == (10, True, False)
        with pytest.raises(FileNotAvailable):
            await world.db.file(job, "thumbnail")

    # ----- retry, cancel, delete

    async def test_a_retry_runs_what_did_not_succeed_in_a_new_run(
        self, world: World
    ) -> None:
        job = await world.failed()

        assert await world.db.retry(job, world.now) == 2

        assert world.last(job).ring == {"image"}
        assert await world.state(job) is JobState.PROCESSING
        await world.done(await world.take("image"))
        view = await world.db.job(job)
        assert (view.status, view.run, view.error) == (JobState.COMPLETED, 2, None)
        assert world.terminals(job) == ["job.failed", "job.completed"]

    async def test_a_retried_step_has_all_its_attempts_again(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        for _ in range(3):
            await world.end(await world.take("image"), Verdict.ERROR)
            world.now += HOUR_MS
        await world.db.retry(job, world.now)

        state = await world.end(await world.take("image"), Verdict.ERROR)

        assert state is StepState.RETRYING

    async def test_a_rejected_job_meets_its_gates_again(self, world: World) -> None:
        job = await world.accepted(GATE, SCAN)
        identify, scan = await world.claim()
        await world.end(scan, Verdict.BAD_FILE, "encrypted")
        await world.db.retry(job, world.now)

        again = await world.claim()

        assert {one.consumer for one in again} == {"identify", "scan"}
        assert all(one.token > max(identify.token, scan.token) for one in again)
        for one in again:
            await world.done(one, plan=(GATE, SCAN, IMAGE))
        await world.done(await world.take("image"))
        assert world.terminals(job) == ["job.rejected", "job.completed"]

    async def test_who_followed_a_skipped_step_runs_once_more_after_its_retry(
        self, world: World
    ) -> None:
        job = await world.past_gate(TEXT, SEARCH)
        await world.end(await world.take("text"), Verdict.SKIPPED, "missing_tool")
        search = await world.take("search")
        await world.publish(search, "index")
        await world.done(search)

        await world.db.retry(job, world.now)
        await world.done(await world.take("text"))
        again = await world.take("search")
        assert await world.publish(again, "index")
        await world.done(again)

        assert world.terminals(job) == ["job.completed", "job.completed"]
        view = await world.db.job(job)
        assert [one.name for one in view.steps] == ["identify", "text", "search"]
        assert [one.name for one in view.files] == ["index"]
        first = uploads.attempt_prefix(job, search.step_id, search.token)
        assert first in await world.trash()

    async def test_what_cannot_be_retried_stays_as_it_is(self, world: World) -> None:
        running = await world.past_gate(IMAGE)
        unsent = await world.upload()
        await self._end_upload(world, unsent)
        whole = await world.upload()
        await world.db.accept(whole, size=10, gates=(), now=world.now)
        told = len(world.changes)

        for job in (running, unsent, whole):
            with pytest.raises(JobNotRetryable):
                await world.db.retry(job, world.now)

        assert len(world.changes) == told
        assert (await world.db.job(whole)).run == 1

    async def test_a_cancelled_job_stops_its_steps(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image = await world.take("image")
        await world.publish(image)

        assert await world.db.cancel(job, world.now)

        assert not await world.db.cancel(job, world.now)
        assert (image.step_id, image.token) in world.last(job).stop
        assert await world.done(image) is None
        assert not await world.publish(image)
        assert await world.claim() == []
        assert not (await world.db.job(job)).files
        prefix = uploads.attempt_prefix(job, image.step_id, image.token)
        assert (await world.trash())[prefix]
        assert world.terminals(job) == ["job.cancelled"]

    async def test_a_cancelled_job_keeps_what_succeeded(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image = await world.take("image")
        await world.publish(image)
        await world.done(image)

        await world.db.cancel(job, world.now)

        assert (await world.db.file(job, "thumbnail")).job_state == "CANCELLED"
        await world.db.retry(job, world.now)
        assert [one.consumer for one in await world.claim()] == ["text"]

    async def test_cancelling_an_upload_gives_up_its_bytes(self, world: World) -> None:
        job = await world.upload()

        assert await world.db.cancel(job, world.now)

        assert await world.trash() == {uploads.raw_key(job): False}
        with pytest.raises(UploadGone):
            await world.accept(job, GATE)

    async def test_a_deleted_job_is_gone_with_all_its_bytes(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image = await world.take("image")
        await world.publish(image)

        await world.db.delete(job)

        with pytest.raises(JobNotFound):
            await world.db.job(job)
        with pytest.raises(UploadNotFound):
            await world.db.find_upload(job)
        told = world.last(job)
        assert (told.gone, told.trash) == (True, True)
        assert told.stop == ((image.step_id, image.token),)
        assert await world.done(image) is None
        assert await world.claim() == []
        assert await world.trash() == {
            uploads.raw_key(job): False,
            uploads.derivative_prefix(job): True,
        }

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
        await world.db.register([one], world.now)
        await world.db.close()
        await world.start()
        other = Subscription(entry=IMAGE, accepts=("image/png",))
        await world.db.register([other], world.now)

        assert await world.db.consumers() == [other]

    async def test_the_counters_are_what_counting_gives(self, world: World) -> None:
        plan = (IMAGE, TEXT, SEARCH)
        jobs = [await world.past_gate(*plan) for _ in range(8)]
        claimed = await world.claim("image", "text", limit=12)
        verdicts = list(Verdict)
        for number, one in enumerate(claimed[:-2]):
            await world.end(one, verdicts[number % len(verdicts)])
        await world.db.cancel(jobs[6], world.now)
        await world.db.delete(jobs[7])
        await world.db.delete(jobs[0])
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
