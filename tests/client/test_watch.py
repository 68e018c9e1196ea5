import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from asyncflow.client import Client, Patience, ServerRefused, UnexpectedAnswer, Update
from asyncflow.client.session import Session
from asyncflow.client.watching import Watch
from tests.client.conftest import QUICK
from tests.client.small_server import SmallServer, job, problem, step, whole


def begun() -> dict[str, object]:
    steps = [step("identify", "running"), step("image", "waiting")]
    return job("j", "PROCESSING", steps=steps)


def ended() -> dict[str, object]:
    steps = [step("identify", "done"), step("image", "done")]
    return job("j", steps=steps, version=9, downloadUrls={"thumbnail": "/t"})


def moved(name: str, status: str, state: str = "PROCESSING") -> dict[str, object]:
    return {
        "type": "step",
        "jobId": "j",
        "seq": 2,
        "status": state,
        "step": step(name, status),
    }


async def test_a_watch_begins_with_a_snapshot_and_ends_with_the_end(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.scripts["j"] = [
        [
            whole("snapshot", begun()),
            moved("identify", "done"),
            {
                "type": "progress",
                "jobId": "j",
                "steps": {"image": 40.0},
                "estimatedTimeRemaining": 2.5,
            },
            {"type": "progress", "jobId": "j", "uploadedBytes": 7, "steps": {}},
            moved("image", "done", "COMPLETED"),
            whole("job.completed", ended()),
            moved("image", "running"),
        ]
    ]

    seen = [update async for update in client.watch("j")]

    assert [update.type for update in seen] == [
        "snapshot",
        "step",
        "progress",
        "progress",
        "step",
        "job.completed",
    ]
    assert seen[2].job.steps[1].progress == 40.0
    assert [one.job.estimated_time_remaining for one in seen[1:4]] == [None, 2.5, 2.5]
    assert not seen[4].job.is_final
    assert seen[-1].job.download_urls == {"thumbnail": "/t"}


async def test_a_step_nobody_announced_is_added(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.scripts["j"] = [
        [
            whole("snapshot", begun()),
            moved("extra", "running"),
            whole("job.completed", ended()),
        ]
    ]

    seen = [update async for update in client.watch("j")]

    assert [one.name for one in seen[1].job.steps] == ["identify", "image", "extra"]


async def test_a_broken_socket_is_opened_again(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    further = job("j", "PROCESSING", steps=[step("identify", "done")])
    server.scripts["j"] = [
        [whole("snapshot", begun())],
        [whole("snapshot", begun()), whole("snapshot", further)],
        [whole("snapshot", further), whole("job.completed", ended())],
    ]
    seen: list[Update] = []

    def go_on(update: Update) -> None:
        seen.append(update)
        server.jobs["j"] = begun() if len(seen) == 1 else further

    final = await client.wait("j", go_on)

    assert final.status == "COMPLETED"
    # each state once, however often it was told
    assert [update.job.version for update in seen] == [1, 1, 9]
    assert [len(update.job.steps) for update in seen] == [2, 1, 2]


async def test_a_job_that_is_over_needs_no_socket(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = ended()

    assert (await client.wait("j")).status == "COMPLETED"

    assert server.requests == [("GET", "/status/j")]


async def test_without_sockets_the_status_is_asked_for(
    server: SmallServer, client: Client
) -> None:
    server.sockets = False
    server.jobs["j"] = begun()

    def end_it(update: Update) -> None:
        seen.append(update.type)
        server.jobs["j"] = ended()

    seen: list[str] = []

    final = await client.wait("j", end_it)

    assert final.download_urls == {"thumbnail": "/t"}
    assert seen == ["snapshot", "job.completed"]


async def test_a_socket_that_falls_silent_is_left_although_it_answers_pings(
    server: SmallServer,
) -> None:
    server.jobs["j"] = begun()
    server.scripts["j"] = [
        [whole("snapshot", begun()), moved("identify", "done"), {"type": "alive"}]
    ]
    server.keep_sockets = True
    session = Session(server.url, None, QUICK)
    await session.open()
    seen: list[str] = []
    watch = Watch(session=session, job_id="j", silence_s=0.2)
    async for update in watch.updates():
        seen.append(update.type)
        # nobody tells it on the socket
        server.jobs["j"] = ended()
    await session.close()

    assert seen == ["snapshot", "step", "job.completed"]


async def test_sockets_that_always_break_are_given_up(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.scripts["j"] = []
    sockets: list[None] = []

    def end_it() -> None:
        sockets.append(None)
        if len(sockets) == 3:
            server.jobs["j"] = ended()

    server.on_socket = end_it

    assert (await client.wait("j")).status == "COMPLETED"
    assert len(sockets) == 3


async def test_a_job_that_is_deleted_meanwhile_is_said_to_be_absent(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.scripts["j"] = [
        [whole("snapshot", begun()), {"type": "job.deleted", "jobId": "j", "seq": 3}]
    ]

    def forget(_update: Update) -> None:
        del server.jobs["j"]

    with pytest.raises(ServerRefused) as caught:
        await client.wait("j", forget)

    assert caught.value.is_absence


async def test_a_job_that_is_deleted_before_the_socket_asks_for_it_is_said_to_be_absent(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.on_socket = server.jobs.clear

    async with asyncio.timeout(30):
        with pytest.raises(ServerRefused, match="job_not_found"):
            await client.wait("j")


async def test_there_is_no_watch_of_no_job(client: Client) -> None:
    with pytest.raises(ServerRefused, match="job_not_found"):
        await client.wait("nobody")


async def test_all_pages_of_jobs_are_fetched(
    server: SmallServer, client: Client
) -> None:
    server.jobs = {str(n): job(str(n)) for n in range(5)}

    found = [one.job_id async for one in client.jobs(page=2)]

    assert found == ["0", "1", "2", "3", "4"]


async def test_jobs_can_be_chosen_by_state(server: SmallServer, client: Client) -> None:
    server.jobs = {"a": job("a", "FAILED"), "b": job("b")}

    assert [one.job_id async for one in client.jobs(state="FAILED")] == ["a"]


async def test_a_retry_tells_the_job_as_it_is_now(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = job("j", "FAILED")

    assert (await client.retry("j")).status == "PROCESSING"
    assert server.retried == ["j"]


async def test_a_lost_answer_to_a_cancel_is_a_cancel(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.lose_answers = 1

    assert (await client.cancel("j")).status == "CANCELLED"


async def test_a_lost_answer_to_a_delete_is_a_delete(
    server: SmallServer, client: Client
) -> None:
    server.jobs["j"] = begun()
    server.lose_answers = 1

    await client.delete("j")

    assert server.jobs == {}
    with pytest.raises(ServerRefused, match="job_not_found"):
        await client.delete("j")


async def test_an_id_cannot_leave_its_place_in_the_address(
    server: SmallServer, client: Client
) -> None:
    with pytest.raises(ServerRefused):
        await client.status("../livez")

    assert server.requests[-1][1] == "/status/../livez"


async def test_something_else_that_answers_is_recognised(
    server: SmallServer, client: Client
) -> None:
    server.refusals = [web.HTTPOk(text="<html>hello", content_type="text/html")]

    with pytest.raises(UnexpectedAnswer):
        await client.status("j")


async def test_a_refusal_without_a_problem_document_has_a_code_too(
    server: SmallServer, client: Client
) -> None:
    server.refusals = [web.HTTPForbidden(text="<html>")]

    with pytest.raises(ServerRefused) as caught:
        await client.status("j")

    assert (caught.value.code, caught.value.detail) == ("http_403", "Forbidden")


async def test_patience_ends(server: SmallServer, tmp_path: Path) -> None:
    server.refusals = [
        problem(web.HTTPServiceUnavailable, "busy", "later") for _ in range(20)
    ]
    async with Client(server.url, patience=QUICK, state_dir=tmp_path) as client:
        with pytest.raises(ServerRefused, match="busy"):
            await client.status("j")

    assert len(server.requests) == QUICK.attempts


async def test_nobody_waits_longer_than_a_person_would(
    server: SmallServer, tmp_path: Path
) -> None:
    later = problem(
        web.HTTPServiceUnavailable, "disk_full", "later", **{"Retry-After": "3600"}
    )
    server.refusals = [later]
    patience = Patience(attempts=5)
    async with Client(server.url, patience=patience, state_dir=tmp_path) as client:
        with pytest.raises(ServerRefused, match="disk_full"):
            await client.status("j")
