"""What a host is told, and that nothing it does with that harms the engine."""

import asyncio
import contextlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from asyncflow.db.records import Change
from asyncflow.errors import DatabaseUnavailable, JobNotFound
from asyncflow.hooks import Hooks, OwnedJob
from asyncflow.jobs import JobState
from tests.embedding.asking import put
from tests.embedding.conftest import Mount


def change(job: str, state: JobState = JobState.COMPLETED) -> Change:
    terminal = f"job.{state.lower()}" if state is not JobState.PENDING else None
    return Change(job_id=job, version=1, state=state, terminal=terminal)


async def look(job: str) -> OwnedJob:
    return OwnedJob(
        job_id=job,
        status=JobState.COMPLETED,
        file_name="a.txt",
        file_size=1,
        created_at="2026-01-01T00:00:00.000Z",
        version=1,
        owner="anna",
        tenant="",
    )


async def test_a_host_hears_of_a_job_and_of_its_end(mount: Mount) -> None:
    changes: list[Change] = []
    done: asyncio.Queue[OwnedJob] = asyncio.Queue()

    async def on_event(one: Change) -> None:
        changes.append(one)

    host = await mount(on_completed=done.put, on_event=on_event)
    told = await put(host, "a.txt", b"text")
    job = await done.get()
    assert job.job_id == told["jobId"]
    assert job.status is JobState.COMPLETED
    assert (job.owner, job.tenant) == ("local", "")
    assert job.download_urls["original"].startswith("/uploads/jobs/")
    assert changes[-1].terminal == "job.completed"
    versions = [one.version for one in changes]
    assert versions == sorted(versions)


async def test_a_hook_that_fails_harms_nobody(mount: Mount) -> None:
    done: asyncio.Queue[str] = asyncio.Queue()

    async def on_event(_: Change) -> None:
        raise ZeroDivisionError

    async def on_completed(job: OwnedJob) -> None:
        done.put_nowait(job.job_id)
        raise ZeroDivisionError

    host = await mount(on_completed=on_completed, on_event=on_event)
    for name in ("a.txt", "b.txt"):
        told = await put(host, name, b"text")
        assert await done.get() == told["jobId"]
    assert (await host.get("/uploads/readyz")).status == 200


async def test_a_plain_function_is_told_too(mount: Mount) -> None:
    done: asyncio.Queue[str] = asyncio.Queue()
    changes: list[Change] = []

    host = await mount(
        on_completed=lambda job: done.put_nowait(job.job_id), on_event=changes.append
    )
    told = await put(host, "a.txt", b"text")

    assert await done.get() == told["jobId"]
    assert changes[-1].terminal == "job.completed"


@pytest.mark.parametrize("name", ["on_completed", "on_event", "authenticate"])
async def test_what_is_no_function_is_refused_at_once(mount: Mount, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is a str; accepted: a function"):
        await mount(**{name: "tell_me"})


async def test_only_success_is_completion() -> None:
    heard: list[str] = []

    async def on_completed(job: OwnedJob) -> None:
        heard.append(job.job_id)

    hooks = Hooks(look=look, on_completed=on_completed)
    hooks.start()
    for state in (JobState.PENDING, JobState.FAILED, JobState.COMPLETED):
        hooks.changed(change(state.lower(), state))
    await hooks.stop(5.0)
    assert heard == ["completed"]


async def test_a_hook_that_hangs_is_given_up_and_the_next_is_called() -> None:
    heard: list[str] = []

    async def on_event(one: Change) -> None:
        heard.append(one.job_id)
        if one.job_id == "first":
            await asyncio.Event().wait()

    hooks = Hooks(look=look, on_event=on_event, timeout_s=0.01)
    hooks.start()
    with capture_logs() as logged:
        hooks.changed(change("first"))
        hooks.changed(change("second"))
        await hooks.stop(5.0)
    assert heard == ["first", "second"]
    assert [one["event"] for one in logged] == ["hooks.failed"]


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr
)
async def test_whatever_a_hook_raises_the_next_is_called(error: BaseException) -> None:
    heard: list[str] = []

    async def on_event(one: Change) -> None:
        heard.append(one.job_id)
        raise error

    hooks = Hooks(look=look, on_event=on_event)
    hooks.start()
    with capture_logs() as logged:
        hooks.changed(change("first"))
        hooks.changed(change("second"))
        await hooks.stop(5.0)
    assert heard == ["first", "second"]
    assert [one["event"] for one in logged] == ["hooks.failed"] * 2


async def test_a_hook_that_does_not_stop_holds_up_nobody() -> None:
    may_end, begun = asyncio.Event(), asyncio.Event()

    async def on_event(_one: Change) -> None:
        while not may_end.is_set():
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    hooks = Hooks(look=look, on_event=on_event)
    hooks.start()
    with capture_logs() as logged:
        hooks.changed(change("first"))
        await begun.wait()
        await hooks.stop(0.0)
        may_end.set()
    assert [one["event"] for one in logged] == ["hooks.go_on"]


async def test_a_job_that_cannot_be_looked_at_is_passed_over() -> None:
    heard: list[str] = []

    async def look_sometimes(job: str) -> OwnedJob:
        if job == "first":
            raise DatabaseUnavailable
        return await look(job)

    hooks = Hooks(
        look=look_sometimes, on_completed=lambda job: heard.append(job.job_id)
    )
    hooks.start()
    with capture_logs():
        hooks.changed(change("first"))
        hooks.changed(change("second"))
        await hooks.stop(5.0)
    assert heard == ["second"]


async def test_what_waits_for_hooks_is_bounded() -> None:
    heard: list[str] = []

    async def on_event(one: Change) -> None:
        heard.append(one.job_id)

    hooks = Hooks(look=look, on_event=on_event, max_waiting=2)
    with capture_logs() as logged:
        for job in ("a", "b", "c"):
            hooks.changed(change(job))
    hooks.start()
    await hooks.stop(5.0)
    assert heard == ["a", "b"]
    assert [one["event"] for one in logged] == ["hooks.dropped"]


async def test_a_stop_waits_no_longer_than_its_grace() -> None:
    async def on_event(_: Change) -> None:
        await asyncio.Event().wait()

    hooks = Hooks(look=look, on_event=on_event)
    hooks.changed(change("a"))
    hooks.changed(change("b"))
    hooks.start()
    with capture_logs() as logged:
        await hooks.stop(0.05)
    assert ("hooks.not_told", 1) in [(o["event"], o.get("changes")) for o in logged]


async def test_a_job_deleted_meanwhile_is_not_told() -> None:
    heard: list[Any] = []

    async def gone(_job: str) -> OwnedJob:
        raise JobNotFound

    async def on_completed(job: OwnedJob) -> None:
        heard.append(job)

    hooks = Hooks(look=gone, on_completed=on_completed)
    hooks.start()
    with capture_logs() as logged:
        hooks.changed(change("a"))
        await hooks.stop(5.0)
    assert (heard, logged) == ([], [])


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stop_may_come_before_a_start_and_twice(times: int) -> None:
    hooks = Hooks(look=look)
    for _ in range(times):
        await hooks.stop(0.0)
    hooks.changed(change("a"))
