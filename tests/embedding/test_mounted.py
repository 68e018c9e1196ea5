"""A server below a prefix of somebody else's application."""

import asyncio
import dataclasses
import gzip
import os
import re
from multiprocessing import resource_tracker
from pathlib import Path
from urllib.parse import urljoin

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

import asyncflow
from asyncflow.errors import DataDirInUse, StartError
from asyncflow.kinds import Secret
from asyncflow.processes import children
from asyncflow.web.auth import TokenAuth
from tests.embedding.asking import TUS, ended, put
from tests.embedding.conftest import Mount, hello


async def test_the_hosts_own_routes_are_as_they_were(mount: Mount) -> None:
    host = await mount()
    answer = await host.get("/hello", headers={"Host": "anything.example"})
    assert await answer.text() == "hello from the host"
    assert answer.headers["X-Host"] == "marked"
    assert "Content-Security-Policy" not in answer.headers
    assert answer.headers["Server"] != "asyncflow"
    missing = await host.get("/nowhere")
    assert missing.status == 404
    assert missing.content_type == "text/plain"


async def test_every_address_that_is_told_has_the_prefix(mount: Mount) -> None:
    host = await mount()
    told = await put(host, "notes.txt", b"some notes")
    assert told["statusUrl"] == f"/uploads/status/{told['jobId']}"
    job = await ended(host, told["jobId"])
    assert job["status"] == "COMPLETED"
    url = job["downloadUrls"]["original"]
    assert url == f"/uploads/jobs/{told['jobId']}/files/original"
    assert await (await host.get(url)).read() == b"some notes"
    retried = await host.post(f"/uploads/jobs/{told['jobId']}/retry")
    assert retried.status == 409


@pytest.mark.parametrize("is_set_up", [True, False])
async def test_inside_an_application_that_is_mounted_itself_it_refuses_to_start(
    settings: asyncflow.Settings, *, is_set_up: bool
) -> None:
    root, inner = web.Application(), web.Application()
    if is_set_up:
        asyncflow.setup(inner, settings=settings)
    else:
        inner.add_subapp("/uploads", asyncflow.create_app(settings))
    root.add_subapp("/v1", inner)

    with pytest.raises(StartError, match=r"outermost.*prefix='/v1/uploads'"):
        await TestServer(root).start_server()


async def test_it_may_lie_below_a_part_of_the_host(
    settings: asyncflow.Settings,
) -> None:
    root, inner = web.Application(), web.Application()
    inner.router.add_get("/hello", hello)
    root.add_subapp("/v1", inner)
    asyncflow.setup(root, prefix="/v1/uploads", settings=settings)

    async with TestClient(TestServer(root)) as host:
        sent = await host.put("/v1/uploads/upload/notes.txt", data=b"some notes")
        told = (await sent.json())["statusUrl"]
        assert told.startswith("/v1/uploads/")
        assert (await host.get(told)).status == 200
        assert (await host.get("/v1/hello")).status == 200


async def test_a_tus_upload_follows_its_location(mount: Mount) -> None:
    host = await mount()
    at = "/uploads/files/"
    created = await host.post(at, headers={**TUS, "Upload-Length": "5"})
    assert created.status == 201
    assert created.headers["Tus-Resumable"] == "1.0.0"
    where = urljoin(at, created.headers["Location"])
    assert where.startswith("/uploads/files/")
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    sent = await host.patch(where, headers={**TUS, **kind}, data=b"hello")
    assert sent.status == 204
    job = await ended(host, created.headers["Asyncflow-Job-Id"])
    assert job["fileSize"] == 5


async def test_the_page_and_all_it_loads_are_below_the_prefix(mount: Mount) -> None:
    host = await mount()
    bare = await host.get("/uploads", allow_redirects=False)
    assert bare.status == 308
    assert bare.headers["Location"] == "/uploads/"
    page = await host.get("/uploads/")
    links = re.findall(r'(?:href|src)="([^"#]+)"', await page.text())
    ours = [link for link in links if "://" not in link]
    assert len(ours) >= 3
    for link in ours:
        found = await host.get(urljoin("/uploads/", link))
        assert found.status in {200, 401}, link


async def test_refusals_below_the_prefix_are_problem_documents(mount: Mount) -> None:
    host = await mount()
    missing = await host.get("/uploads/nowhere")
    assert missing.status == 404
    assert (await missing.json(content_type=None))["code"] == "not_found"
    assert missing.headers["X-Host"] == "marked"
    # the host's runner has unpacked it already: what was sent is not what arrives
    packed = await host.put(
        "/uploads/upload/a.txt",
        data=gzip.compress(b"text"),
        headers={"Content-Encoding": "gzip"},
    )
    assert packed.status == 415
    foreign = await host.get("/uploads/", headers={"Host": "evil.example"})
    assert foreign.status == 421


async def test_supervisors_ask_without_a_token_below_the_prefix(
    settings: asyncflow.Settings,
) -> None:
    strict = dataclasses.replace(settings, token=Secret("a-secret-of-the-test"))
    app = web.Application()
    asyncflow.setup(app, prefix="/deep/down", settings=strict)
    async with TestClient(TestServer(app)) as host:
        assert (await host.get("/deep/down/livez")).status == 200
        assert (await host.get("/deep/down/capabilities")).status == 401
        visit = await host.get(
            "/deep/down/?token=a-secret-of-the-test", allow_redirects=False
        )
        assert visit.headers["Location"] == "/deep/down/"
        assert "Path=/deep/down" in visit.headers["Set-Cookie"]
        socket = "/deep/down/ws?token=a-secret-of-the-test"
        async with host.ws_connect(socket) as open_socket:
            assert not open_socket.closed


@pytest.mark.parametrize(
    ("trusted", "headers", "status"),
    [
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.5"}, 401),
        (
            "127.0.0.1",
            {"X-Forwarded-For": "203.0.113.5", "Forwarded": "for=127.0.0.1"},
            401,
        ),
        (
            "127.0.0.1",
            {"X-Forwarded-For": "203.0.113.5", "Forwarded": "for=198.51.100.1"},
            401,
        ),
        ("127.0.0.1", {"X-Forwarded-For": "unix:"}, 401),
        ("127.0.0.1", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 202),
        ("10.0.0.0/8", {"X-Forwarded-For": "203.0.113.5"}, 401),
        ("10.0.0.0/8", {"Forwarded": "for=127.0.0.1"}, 401),
        ("10.0.0.0/8", {}, 202),
    ],
)
async def test_who_comes_by_a_proxy_is_not_this_machine_unless_that_is_certain(
    settings: asyncflow.Settings, trusted: str, headers: dict[str, str], status: int
) -> None:
    app = web.Application()
    proxied = dataclasses.replace(settings, trusted_proxies=(trusted,))
    asyncflow.setup(app, settings=proxied)
    async with TestClient(TestServer(app)) as host:
        sent = await host.put("/uploads/upload/a.txt", data=b"hi", headers=headers)
        assert sent.status == status


async def test_without_a_token_only_this_machine_may_upload() -> None:
    auth = TokenAuth("a-secret-of-the-test", open_locally=True, near_only=True)
    request = make_mocked_request("GET", "/capabilities")
    assert (await auth(request.clone(remote="127.0.0.1"))).owner == "local"
    assert (await auth(request.clone(remote="::1"))).owner == "local"
    with pytest.raises(asyncflow.Unauthorized):
        await auth(request.clone(remote="192.0.2.7"))
    known = {"Authorization": "Bearer a-secret-of-the-test"}
    request = make_mocked_request("GET", "/capabilities", headers=known)
    assert "admin" in (await auth(request.clone(remote="192.0.2.7"))).scopes


async def test_the_client_works_with_a_prefix(mount: Mount) -> None:
    host = await mount()
    async with asyncflow.Client(str(host.make_url("/uploads"))) as client:
        job = await client.wait(await client.upload(b"text", name="a.txt"))
    assert job.status == "COMPLETED"


async def test_two_servers_on_one_folder_are_refused(
    mount: Mount, settings: asyncflow.Settings
) -> None:
    host = await mount()
    second = TestServer(asyncflow.create_app(settings))
    with pytest.raises(DataDirInUse):
        await second.start_server()
    assert (await host.get("/uploads/readyz")).status == 200


async def test_nothing_is_left_when_the_host_stops(
    settings: asyncflow.Settings,
) -> None:
    resource_tracker.ensure_running()  # Python's own, for as long as the host runs
    before, born = asyncio.all_tasks(), set(children(os.getpid()))
    app = web.Application()
    asyncflow.setup(app, settings=settings)
    async with TestClient(TestServer(app)) as host:
        told = await put(host, "a.txt", b"text")
        await ended(host, told["jobId"])
        socket = await host.ws_connect(f"/uploads/ws?job={told['jobId']}")
        await socket.receive_json()
        async with asyncio.timeout(settings.grace + 5):
            await host.server.close()
    assert asyncio.all_tasks() == before
    assert set(children(os.getpid())) <= born


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "/", "uploads", "/uploads/", "/a/b/", "//", "/a//b"),
        *("/a b", "/ü", "/{x}", "/x?y", "/x#y", "/a%2fb", "/a\nb", "/a\n"),
        *("/a/../b", "/.", "/..", "/a\\x", '/<b>"'),
    ],
)
def test_a_prefix_is_a_path(settings: asyncflow.Settings, prefix: str) -> None:
    with pytest.raises(ValueError, match="slash before it and none after it"):
        asyncflow.setup(web.Application(), prefix=prefix, settings=settings)


@pytest.mark.parametrize("prefix", ["/a-b", "/v1.0/up_loads", "/~me", "/...", "/A"])
async def test_a_path_of_plain_characters_is_a_prefix(
    settings: asyncflow.Settings, prefix: str
) -> None:
    app = web.Application()
    asyncflow.setup(app, prefix=prefix, settings=settings)
    async with TestClient(TestServer(app)) as host:
        put_at = await host.put(f"{prefix}/upload/a.txt", data=b"text")
        told = await put_at.json()
        assert told["statusUrl"].startswith(f"{prefix}/status/")
        assert (await host.get(told["statusUrl"])).status == 200


def test_a_prefix_is_taken_once(settings: asyncflow.Settings, tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/a", hello)
    asyncflow.setup(app, prefix="/a", settings=settings)
    other = dataclasses.replace(settings, data_dir=tmp_path / "other")
    with pytest.raises(ValueError, match="has already"):
        asyncflow.setup(app, prefix="/a", settings=other)
    assert not (tmp_path / "other").exists()
    asyncflow.setup(app, prefix="/ab", settings=other)
