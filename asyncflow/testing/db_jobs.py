"""What every database must do with jobs: their end, files, retry, cancel, delete.

Part of `asyncflow.testing.db_suite.DbSuite`, which says how it is used.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asyncflow import uploads
from asyncflow.errors import (
    FileNotAvailable,
    JobNotFound,
    JobNotRetryable,
    OutputRefused,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import JobState, PlanEntry, StepState, Verdict
from asyncflow.testing.db_world import (
    GATE,
    HOUR_MS,
    IMAGE,
    INDEX,
    SCAN,
    SEARCH,
    TEXT,
    World,
)


class JobObligations:
    """The obligations that concern jobs and their files, one test each."""

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

    async def test_who_follows_an_optional_step_runs_though_that_is_dead(
        self, world: World
    ) -> None:
        job = await world.past_gate(TEXT, INDEX)
        await world.end(await world.take("text"), Verdict.BAD_FILE, "damaged")

        assert await world.state(job) is JobState.PROCESSING
        await world.done(await world.take("search"))
        assert await world.state(job) is JobState.COMPLETED

    async def test_who_follows_a_required_step_that_is_dead_never_runs(
        self, world: World
    ) -> None:
        job = await world.past_gate(replace(TEXT, required=True), INDEX)
        await world.end(await world.take("text"), Verdict.BAD_FILE, "damaged")

        assert await world.claim() == []
        assert await world.state(job) is JobState.FAILED

    async def test_who_followed_a_dead_step_has_one_step_after_its_retry(
        self, world: World
    ) -> None:
        """The retry may come within the same run, while something else works."""
        job = await world.past_gate(IMAGE, TEXT, INDEX)
        image, text = await world.claim("image", "text")
        await world.end(text, Verdict.BAD_FILE, "damaged")
        await world.done(await world.take("search"))

        await world.db.retry_step(text.step_id, world.now)
        await world.done(await world.take("text"))
        await world.done(await world.take("search"))
        await world.done(image)

        names = [one.name for one in (await world.db.job(job)).steps]
        assert sorted(names) == ["identify", "image", "search", "text"]
        assert world.terminals(job) == ["job.completed"]

    async def test_who_has_worked_without_a_step_does_not_again_when_it_fails_again(
        self, world: World
    ) -> None:
        job = await world.past_gate(TEXT, INDEX)
        text = await world.take("text")
        await world.end(text, Verdict.BAD_FILE, "damaged")
        await world.done(await world.take("search"))
        assert await world.state(job) is JobState.COMPLETED

        await world.db.retry_step(text.step_id, world.now)
        await world.end(await world.take("text"), Verdict.BAD_FILE, "damaged")

        assert not await world.claim("search")
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

        with pytest.raises(OutputRefused):
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
            await world.end_upload(await world.upload())
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
        await world.end_upload(unsent)
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

        await world.db.delete(job, world.now)

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

    # ----- what an operator looks at

    async def test_every_attempt_that_did_not_succeed_is_kept(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        await world.end(await world.take("image"), Verdict.ERROR, "broken")
        world.now += HOUR_MS
        await world.end(await world.take("image"), Verdict.BAD_FILE, "damaged")
        await world.db.retry(job, world.now)
        await world.done(await world.take("image"))

        found = await world.db.attempts(job)

        assert [(a.step, a.run, a.verdict, a.code) for a in found] == [
            ("image", 1, "error", "broken"),
            ("image", 1, "bad_file", "damaged"),
        ]
        assert found[0].detail == "because of broken"
        assert found[0].worker == "w1"
        assert (found[0].finished_at or "") < (found[1].finished_at or "")

    async def test_what_happened_to_a_job_is_told_in_its_order(
        self, world: World
    ) -> None:
        job = await world.failed()
        await world.db.retry(job, world.now)

        found = await world.db.events(job)

        assert [(one.type, one.run) for one in found] == [
            ("file.uploaded", 1),
            ("identify.completed", 1),
            ("file.accepted", 1),
            ("image.dead", 1),
            ("job.failed", 1),
            ("job.retried", 2),
        ]

    async def test_a_job_to_which_nothing_happened_has_no_history(
        self, world: World
    ) -> None:
        job = await world.upload()
        assert (await world.db.attempts(job), await world.db.events(job)) == ([], [])

        await world.db.delete(job, world.now)
        with pytest.raises(JobNotFound):
            await world.db.attempts(job)
        with pytest.raises(JobNotFound):
            await world.db.events(job)

    async def test_jobs_are_found_by_a_part_of_their_name_or_id(
        self, world: World
    ) -> None:
        names = ("Holiday 100%.jpg", "holiday.pdf", "other.jpg")
        first, second, third = [await world.upload(name=name) for name in names]

        async def found(search: str, **other: Any) -> list[str]:
            asked = {"state": None, "before": None, "limit": 10, **other}
            page = await world.db.jobs(search=search, **asked)
            return [one.job_id for one in page.jobs]

        assert await found("HOLI") == [second, first]
        assert await found("0%") == [first]
        assert await found("%") == [first]
        assert await found("_") == []
        assert await found(third[-6:].upper()) == [third]
        await world.end_upload(second)
        assert await found("holiday", state=JobState.CANCELLED) == [second]
        page = await world.db.jobs(state=None, before=None, limit=1, search="holiday")
        assert page.next is not None
        assert await found("holiday", before=page.next) == [first]

    async def test_the_oldest_waiting_step_of_each_consumer_is_known(
        self, world: World
    ) -> None:
        began = world.now
        await world.register(IMAGE, TEXT)
        await world.past_gate(IMAGE)
        world.now += HOUR_MS
        await world.past_gate(IMAGE, TEXT)

        assert await waiting_since(world) == {"image": began, "text": began + HOUR_MS}
        await world.claim("text")
        assert await waiting_since(world) == {"image": began}


async def waiting_since(world: World) -> dict[str, int]:
    """Return when the oldest ready step of each consumer could have started."""
    found = await world.db.log_offsets()
    return {name: one.since for name, one in found.items() if one.since is not None}
