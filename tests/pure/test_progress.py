"""What watchers of a job hear, without a server: the hub and its shared snapshots."""

import asyncio
import json
from typing import Any

import pytest

from asyncflow.db.records import Change
from asyncflow.errors import DatabaseUnavailable, JobNotFound
from asyncflow.jobs import JobState, StepState
from asyncflow.progress import SNAPSHOTS_KEPT, Hub, Message, encode
from asyncflow.views import FileView, JobView, StepView

JOB = "job-1"


class Rows:
    """The rows that the hub reads: counted, and held back when a test says so."""

    def __init__(self) -> None:
        self.reads = 0
        self.views: dict[str, JobView] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def load(self, job: str) -> JobView:
        self.reads += 1
        if job not in self.views:
            raise JobNotFound
        found = self.views[job]
        await self.may_answer.wait()
        return found


class Ear:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.rang = asyncio.Event()

    def hear(self, message: Message) -> None:
        self.heard.append(message)
        self.rang.set()

    async def next(self) -> Any:
        async with asyncio.timeout(5):
            await self.rang.wait()
        self.rang.clear()
        return json.loads(self.heard[-1].text)


def view(version: int, state: JobState = JobState.PROCESSING, **more: Any) -> JobView:
    return JobView(
        job_id=more.pop("job_id", JOB),
        status=state,
        file_name="a.txt",
        file_size=more.pop("file_size", 1000),
        created_at="2026-01-01T00:00:00.000Z",
        version=version,
        **more,
    )


def step(state: StepState, progress: float = 0.0, name: str = "image") -> StepView:
    return StepView(name=name, status=state, progress=progress)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def hub(rows: Rows) -> Hub:
    return Hub(rows.load, url_prefix="/up")


async def test_callers_at_once_share_one_read(hub: Hub, rows: Rows) -> None:
    rows.views[JOB] = view(1)
    found = await asyncio.gather(*(hub.snapshot(JOB) for _ in range(50)))
    assert len(found) == 50
    await hub.snapshot(JOB)
    assert rows.reads == 1


async def test_a_change_makes_the_snapshot_old(hub: Hub, rows: Rows) -> None:
    rows.views[JOB] = view(1)
    assert (await hub.snapshot(JOB)).version == 1
    rows.views[JOB] = view(2)
    hub.changed(Change(job_id=JOB, version=2, state=JobState.PROCESSING))
    assert (await hub.snapshot(JOB)).version == 2


async def test_a_read_that_a_change_overtook_is_not_kept(hub: Hub, rows: Rows) -> None:
    rows.views[JOB] = view(1)
    rows.may_answer.clear()
    slow = asyncio.create_task(hub.snapshot(JOB))
    await asyncio.sleep(0)
    hub.changed(Change(job_id=JOB, version=2, state=JobState.PROCESSING))
    rows.may_answer.set()
    await slow
    rows.views[JOB] = view(2)
    assert (await hub.snapshot(JOB)).version == 2


async def test_a_caller_that_gives_up_does_not_take_the_read_from_others(
    hub: Hub, rows: Rows
) -> None:
    rows.views[JOB] = view(1)
    rows.may_answer.clear()
    gone, stays = (asyncio.create_task(hub.snapshot(JOB)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    rows.may_answer.set()
    assert (await stays).version == 1


async def test_an_unknown_job_is_said_to_each_caller_and_not_remembered(
    hub: Hub, rows: Rows
) -> None:
    for _ in range(2):
        with pytest.raises(JobNotFound):
            await hub.snapshot(JOB)
    rows.views[JOB] = view(1)
    assert (await hub.snapshot(JOB)).version == 1


async def test_only_so_many_snapshots_are_kept(hub: Hub, rows: Rows) -> None:
    for number in range(SNAPSHOTS_KEPT + 10):
        rows.views[str(number)] = view(1, job_id=str(number))
        await hub.snapshot(str(number))
    before = rows.reads
    await hub.snapshot(str(SNAPSHOTS_KEPT + 9))
    assert rows.reads == before
    await hub.snapshot("0")
    assert rows.reads == before + 1


async def test_after_a_doubt_everything_is_read_again(hub: Hub, rows: Rows) -> None:
    rows.views[JOB] = view(2)
    await hub.snapshot(JOB)
    rows.views[JOB] = view(1)
    hub.doubt()
    assert (await hub.snapshot(JOB)).version == 1


async def test_each_moved_step_is_told_with_the_jobs_version(hub: Hub) -> None:
    ear, other = Ear(), Ear()
    hub.join(JOB, ear)
    hub.join("another", other)
    steps = (step(StepState.DONE), step(StepState.READY, name="text"))
    hub.changed(Change(job_id=JOB, version=7, state=JobState.PROCESSING, steps=steps))
    assert [message.seq for message in ear.heard] == [7, 7]
    told = [json.loads(message.text) for message in ear.heard]
    assert [one["step"]["name"] for one in told] == ["image", "text"]
    assert {one["type"] for one in told} == {"step"}
    assert {one["status"] for one in told} == {"PROCESSING"}
    assert other.heard == []


async def test_who_left_hears_nothing_more(hub: Hub) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    hub.leave(JOB, ear)
    hub.leave(JOB, ear)
    hub.changed(
        Change(
            job_id=JOB,
            version=2,
            state=JobState.PROCESSING,
            steps=(step(StepState.DONE),),
        )
    )
    assert ear.heard == []


async def test_the_end_comes_last_and_whole(hub: Hub, rows: Rows) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    made = FileView(
        name="small", step="image", key="k/small", media_type="image/png", size=1
    )
    rows.views[JOB] = view(9, JobState.COMPLETED, accepted=True, files=(made,))
    hub.changed(
        Change(
            job_id=JOB,
            version=9,
            state=JobState.COMPLETED,
            terminal="job.completed",
            steps=(step(StepState.DONE),),
        )
    )
    await ear.next()
    told = await ear.next()
    assert [message.type for message in ear.heard] == ["step", "job.completed"]
    assert ear.heard[-1].is_last
    assert told["job"]["downloadUrls"] == {
        "original": "/up/jobs/job-1/files/original",
        "small": "/up/jobs/job-1/files/small",
    }
    assert told["job"]["processedFiles"] == {"image": {"small": "k/small"}}


async def test_an_end_that_a_retry_has_overtaken_is_not_told(
    hub: Hub, rows: Rows
) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    rows.views[JOB] = view(10, JobState.PROCESSING, run=2)
    hub.changed(
        Change(job_id=JOB, version=9, state=JobState.FAILED, terminal="job.failed")
    )
    rows.views[JOB] = view(11, JobState.COMPLETED, run=2)
    hub.changed(
        Change(
            job_id=JOB, version=11, state=JobState.COMPLETED, terminal="job.completed"
        )
    )
    told = await ear.next()
    await hub.close()
    assert [message.type for message in ear.heard] == ["job.completed"]
    assert told["job"]["run"] == 2


async def test_a_deletion_is_told_without_a_job(hub: Hub) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    hub.changed(
        Change(job_id=JOB, version=3, state=JobState.CANCELLED, trash=True, gone=True)
    )
    told = await ear.next()
    assert (told["type"], "job" in told, ear.heard[-1].is_last) == (
        "job.deleted",
        False,
        True,
    )


async def test_a_job_without_listeners_tells_nobody_and_costs_no_read(
    hub: Hub, rows: Rows
) -> None:
    hub.changed(
        Change(
            job_id=JOB, version=2, state=JobState.COMPLETED, terminal="job.completed"
        )
    )
    hub.uploading(JOB, 5)
    hub.running(JOB, "image", 5)
    await asyncio.sleep(0)
    assert rows.reads == 0


async def test_of_many_percentages_the_newest_is_told_and_none_goes_back(
    hub: Hub,
) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    for percent in (1.0, 50.04, 20.0, 300.0, -5.0):
        hub.running(JOB, "image", percent)
    hub.running(JOB, "text", 12.34)
    told = await ear.next()
    assert len(ear.heard) == 1
    assert "seq" not in told
    assert told["steps"] == {"image": 100.0, "text": 12.3}
    assert ear.heard[0].seq is None
    await hub.close()


async def test_with_the_percent_it_is_told_how_long_the_rest_takes(rows: Rows) -> None:
    async def left_s(job: str) -> float | None:
        assert job == JOB
        return 12.3

    hub, ear = Hub(rows.load, left_s), Ear()
    hub.join(JOB, ear)
    hub.running(JOB, "image", 40)
    assert (await ear.next())["estimatedTimeRemaining"] == 12.3
    hub.over(JOB, "image")

    hub.uploading(JOB, 250)
    assert "estimatedTimeRemaining" not in await ear.next()


async def test_progress_is_told_although_nobody_can_say_how_long_it_takes(
    rows: Rows,
) -> None:
    async def left_s(_job: str) -> float | None:
        raise DatabaseUnavailable

    hub, ear = Hub(rows.load, left_s), Ear()
    hub.join(JOB, ear)
    hub.running(JOB, "image", 40)
    told = await ear.next()
    assert (told["steps"], told["estimatedTimeRemaining"]) == ({"image": 40.0}, None)


async def test_progress_of_a_job_that_ends_while_it_is_asked_for_is_not_told(
    rows: Rows,
) -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def left_s(_job: str) -> float | None:
        is_asked.set()
        await may_answer.wait()
        return 1.0

    hub, ear = Hub(rows.load, left_s), Ear()
    hub.join(JOB, ear)
    hub.running(JOB, "image", 40)
    await is_asked.wait()
    rows.views[JOB] = view(2, JobState.COMPLETED)
    hub.changed(
        Change(
            job_id=JOB, version=2, state=JobState.COMPLETED, terminal="job.completed"
        )
    )
    may_answer.set()
    await ear.next()
    await hub.close()
    assert [message.type for message in ear.heard] == ["job.completed"]


async def test_a_status_shows_how_far_a_running_step_is(hub: Hub, rows: Rows) -> None:
    steps = (step(StepState.DONE, 100.0, "identify"), step(StepState.RUNNING))
    rows.views[JOB] = view(2, steps=steps)
    hub.running(JOB, "image", 40)
    found = await hub.snapshot(JOB)
    assert [one.progress for one in found.steps] == [100.0, 40.0]
    assert found.progress == 70.0
    hub.changed(
        Change(
            job_id=JOB,
            version=3,
            state=JobState.PROCESSING,
            steps=(step(StepState.RETRYING),),
        )
    )
    rows.views[JOB] = view(3, steps=(steps[0], step(StepState.RUNNING)))
    assert (await hub.snapshot(JOB)).steps[1].progress == 0.0


async def test_a_status_shows_how_much_of_an_upload_is_there(
    hub: Hub, rows: Rows
) -> None:
    rows.views[JOB] = view(1, JobState.UPLOADING)
    hub.uploading(JOB, 250)
    found = await hub.snapshot(JOB)
    assert (found.uploaded_bytes, found.progress) == (250, 25.0)
    hub.upload_idle(JOB)
    assert (await hub.snapshot(JOB)).uploaded_bytes is None


def test_a_share_of_nothing_is_zero() -> None:
    for size in (0, None):
        found = Hub.with_uploaded(view(1, JobState.UPLOADING, file_size=size), 0)
        assert found.progress == 0.0


async def test_a_hub_that_closes_tells_what_is_still_to_be_told(
    hub: Hub, rows: Rows
) -> None:
    ear = Ear()
    hub.join(JOB, ear)
    rows.views[JOB] = view(2, JobState.FAILED)
    hub.running(JOB, "image", 5)
    hub.changed(
        Change(job_id=JOB, version=2, state=JobState.FAILED, terminal="job.failed")
    )
    await hub.close()
    assert [message.type for message in ear.heard] == ["job.failed"]


def test_a_message_has_its_type_its_job_and_perhaps_its_number() -> None:
    assert json.loads(encode("step", JOB, 3, more="x")) == {
        "type": "step",
        "jobId": JOB,
        "seq": 3,
        "more": "x",
    }
    assert "seq" not in json.loads(encode("progress", JOB, None))
