"""Everybody has their own jobs, and none of anybody else's."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

import asyncflow
from tests.embedding.asking import TUS, by_name, ended, put
from tests.embedding.conftest import Mount

ANNA = {"X-User": "anna"}
STRANGERS = [{"X-User": "bert"}, {"X-User": "anna", "X-Tenant": "elsewhere"}]
UNKNOWN = "01a20323-0000-7000-8000-000000000000"
ASKING = [
    ("GET", "status/{}"),
    ("GET", "jobs/{}"),
    ("GET", "jobs/{}/files/original"),
    ("GET", "jobs/{}/files.zip"),
    ("GET", "jobs/{}/events"),
    ("POST", "jobs/{}/retry"),
    ("POST", "jobs/{}/cancel"),
    ("DELETE", "jobs/{}"),
    ("HEAD", "files/{}"),
    ("PATCH", "files/{}"),
    ("DELETE", "files/{}"),
]


async def test_who_is_unknown_may_do_nothing(mount: Mount) -> None:
    host = await mount(authenticate=by_name)
    answer = await host.put("/uploads/upload/a.txt", data=b"text")
    assert answer.status == 401
    assert (await answer.json(content_type=None))["detail"] == "sign in first"
    assert (await host.get("/uploads/livez")).status == 200


async def test_the_address_without_its_slash_leads_everybody_to_the_page(
    mount: Mount,
) -> None:
    host = await mount(authenticate=by_name)
    answer = await host.get("/uploads", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (308, "/uploads/")


async def test_who_is_nobody_is_not_asked_for_a_token_that_does_not_exist(
    mount: Mount,
) -> None:
    host = await mount(authenticate=lambda _request: None)
    answer = await host.get("/uploads/capabilities")
    told = await answer.json(content_type=None)
    assert (answer.status, told["code"]) == (401, "unauthorized")
    assert "token" not in told["detail"]


async def test_a_plain_function_may_say_who_is_asking(mount: Mount) -> None:
    host = await mount(authenticate=lambda _request: asyncflow.Principal(owner="anna"))
    assert (await host.get("/uploads/capabilities")).status == 200


async def test_the_log_says_what_authenticate_should_have_returned(
    mount: Mount,
) -> None:
    host = await mount(authenticate=lambda _request: "anna")
    with capture_logs() as log:
        answer = await host.get("/uploads/capabilities")
    assert answer.status == 500
    (told,) = [line for line in log if line["event"] == "http.unexpected"]
    assert str(told["exc_info"]) == (
        "authenticate returned a str; accepted: a Principal"
    )


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_somebody_elses_job_looks_like_none(
    mount: Mount, stranger: dict[str, str]
) -> None:
    host = await mount(authenticate=by_name)
    job = (await put(host, "a.txt", b"text", **ANNA))["jobId"]
    await ended(host, job, **ANNA)
    for method, path in ASKING:
        for more in ({}, TUS):
            seen: list[Any] = []
            for one in (job, UNKNOWN, "no-id"):
                url = f"/uploads/{path.format(one)}"
                said = await host.request(method, url, headers={**stranger, **more})
                body = await said.text()
                seen.append((said.status, body.partition('"requestId"')[0]))
            assert seen[0] == seen[1] == seen[2], (method, path)
            assert seen[0][0] == 404
    own = await host.get(f"/uploads/status/{job}", headers=ANNA)
    assert (await own.json())["status"] == "COMPLETED"


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_an_idempotency_key_is_ones_own(
    mount: Mount, stranger: dict[str, str]
) -> None:
    host = await mount(authenticate=by_name)
    key = {"Idempotency-Key": "invoice-2026-11"}
    ids = []
    for who in (ANNA, stranger):
        bills = [await put(host, "bill.txt", b"bill", **who, **key) for _ in range(2)]
        assert bills[0]["jobId"] == bills[1]["jobId"]
        await ended(host, bills[0]["jobId"], **who)
        ids.append(bills[0]["jobId"])
        tus = {**TUS, "Upload-Length": "9", "Idempotency-Key": "tus", **who}
        async with host.post("/uploads/files/", headers=tus) as said:
            ids.append(said.headers["Asyncflow-Job-Id"])
        event = {"type": "bill.paid", "idempotencyKey": "event"}
        async with host.post("/uploads/events", json=event, headers=who) as said:
            ids.append((await said.json())["jobId"])
    assert len(set(ids)) == 6


async def test_nobody_ends_what_another_tenant_sends_under_the_same_key(
    mount: Mount,
) -> None:
    host = await mount(authenticate=by_name)
    key = {"Idempotency-Key": "raw"}
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"a" * 100_000
        begun.set()
        await go_on.wait()
        yield b"a"

    async def send() -> int:
        url = "/uploads/upload/a.txt"
        async with host.put(url, data=slowly(), headers={**ANNA, **key}) as said:
            return said.status

    sending = asyncio.create_task(send())
    await begun.wait()
    await put(host, "a.txt", b"text", **STRANGERS[1], **key)
    go_on.set()
    assert await sending == 202


class TestOpenUploads:
    """Everybody has so many."""

    @pytest.fixture
    def settings(self, settings: asyncflow.Settings) -> asyncflow.Settings:
        return dataclasses.replace(settings, open_uploads=2)

    @pytest.mark.parametrize("stranger", STRANGERS)
    async def test_people_are_counted_by_their_names(
        self, mount: Mount, stranger: dict[str, str]
    ) -> None:
        host = await mount(authenticate=by_name)

        async def begin(who: dict[str, str]) -> int:
            headers = {**TUS, **who, "Upload-Length": "9"}
            async with host.post("/uploads/files/", headers=headers) as said:
                return said.status

        assert [await begin(ANNA) for _ in range(3)] == [201, 201, 429]
        assert [await begin(stranger) for _ in range(3)] == [201, 201, 429]


async def test_a_socket_tells_nothing_of_somebody_elses_job(mount: Mount) -> None:
    host = await mount(authenticate=by_name)
    job = (await put(host, "a.txt", b"text", **ANNA))["jobId"]
    for one in (job, UNKNOWN):
        with pytest.raises(LookupError, match="job_not_found"):
            await ended(host, one, **STRANGERS[0])


async def test_any_host_name_is_right_for_who_must_prove_themselves(
    mount: Mount,
) -> None:
    host = await mount(authenticate=by_name)
    named = {**ANNA, "Host": "app.example.org"}
    assert (await host.get("/uploads/capabilities", headers=named)).status == 200
    crossed = {**named, "Origin": "https://evil.example"}
    posted = await host.post("/uploads/files/", headers={**crossed, **TUS})
    assert posted.status == 403


async def test_the_list_needs_the_scope(mount: Mount) -> None:
    host = await mount(authenticate=by_name)
    refused = await host.get("/uploads/jobs", headers=ANNA)
    assert refused.status == 403
    assert (await refused.json(content_type=None))["code"] == "forbidden"
    page = await host.get("/uploads/admin", headers={**ANNA, "Accept": "text/html"})
    assert page.status == 403
    told = await page.text()
    assert "<h1>You may not do this</h1>" in told
    # the server has no token here, and what it shows lies below the prefix
    assert "token" not in told
    assert 'href="/uploads/assets/page.css"' in told


async def test_the_numbers_of_all_users_need_the_scope(mount: Mount) -> None:
    async def know(request: web.Request) -> asyncflow.Principal:
        scopes = frozenset({request.headers["X-Scope"]})
        return asyncflow.Principal(owner="anna", tenant="", scopes=scopes)

    host = await mount(authenticate=know)
    for scope, status in (("read", 403), ("metrics", 200), ("admin", 200)):
        said = await host.get("/uploads/metrics", headers={"X-Scope": scope})
        assert said.status == status


def test_nobody_belongs_to_the_tenant_that_stands_for_none() -> None:
    with pytest.raises(ValueError, match="it stands for none"):
        asyncflow.Principal(owner="anna", tenant="-")
