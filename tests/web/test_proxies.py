from collections.abc import Iterator

import pytest
from aiohttp import web

from asyncflow.web.proxies import (
    address_of,
    behind_proxies,
    hosts_of,
    is_secure,
    networks,
)
from tests.server_process import ServerProcess
from tests.web.live import TUS, Line, healthy_server, rows
from tests.web.wire import Dial, Serve


async def show(request: web.Request) -> web.Response:
    facts = [address_of(request), is_secure(request), *hosts_of(request)]
    return web.Response(text=" ".join(map(str, facts)))


async def seen(
    serve: Serve, dial: Dial, *headers: str, trusted: tuple[str, ...] = ("127.0.0.1",)
) -> str:
    app = web.Application(middlewares=[behind_proxies(networks(trusted))])
    app.router.add_get("/", show)
    wire = await dial(await serve(app))
    return (await wire.ask("\n".join(["GET / HTTP/1.1", *headers]))).body.decode()


async def test_a_trusted_proxy_tells_who_the_client_is(
    serve: Serve, dial: Dial
) -> None:
    found = await seen(
        serve,
        dial,
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: files.example.org",
    )
    assert found == "203.0.113.9 True files.example.org localhost"


async def test_nobody_else_is_believed(serve: Serve, dial: Dial) -> None:
    lies = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    found = await seen(serve, dial, *lies, trusted=("10.0.0.0/8",))
    assert found == "127.0.0.1 False localhost"


async def test_forwarded_of_rfc_7239_is_understood(serve: Serve, dial: Dial) -> None:
    said = 'Forwarded: for="[2001:db8::7]:4711";proto=https;host=files.example.org'
    found = await seen(serve, dial, said)
    assert found == "2001:db8::7 True files.example.org localhost"


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.9, 127.0.0.1", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "127.0.0.1"),
        ("unknown", "unknown"),
        ("", "unknown"),
        ("<script>", "unknown"),
        ("<script>, 127.0.0.1", "unknown"),
        ("203.0.113.9, unix:", "unknown"),
        (", ".join(["127.0.0.1"] * 21), "unknown"),
    ],
)
async def test_the_client_is_the_rightmost_address_that_is_no_proxy(
    serve: Serve, dial: Dial, said: str, client: str
) -> None:
    found = await seen(serve, dial, f"X-Forwarded-For: {said}")
    assert found.split()[0] == client


@pytest.mark.parametrize(
    ("custom", "rfc"),
    [
        ("203.0.113.9", "for=198.51.100.1"),
        ("203.0.113.9", "for=127.0.0.1"),
        ("203.0.113.9", "for=_hidden"),
        ("unix:", "for=127.0.0.1"),
    ],
)
async def test_headers_that_contradict_each_other_are_not_believed(
    serve: Serve, dial: Dial, custom: str, rfc: str
) -> None:
    said = f"X-Forwarded-For: {custom}", f"Forwarded: {rfc};proto=https"
    assert await seen(serve, dial, *said) == "unknown False localhost"


async def test_headers_that_agree_are_believed(serve: Serve, dial: Dial) -> None:
    said = "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9;proto=https"
    assert await seen(serve, dial, *said) == "203.0.113.9 True localhost"
    # this one says only how, not who
    said = "X-Forwarded-For: 203.0.113.9", "Forwarded: proto=https"
    assert await seen(serve, dial, *said) == "203.0.113.9 True localhost"


async def test_a_scheme_or_host_that_cannot_be_one_is_not_believed(
    serve: Serve, dial: Dial
) -> None:
    found = await seen(
        serve, dial, "X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b/c"
    )
    assert found == "unknown False localhost"


# ----- a whole server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("proxies")
    with healthy_server(folder, trusted_proxies="127.0.0.1", open_uploads="1") as found:
        yield found


def create_as(server: ServerProcess, client: str) -> int:
    said = ("X-Forwarded-For", client)
    with Line(server) as line:
        return line.ask("POST", "/files", TUS, ("Upload-Length", "9"), said).status


def test_limits_count_clients_and_not_the_proxy(server: ServerProcess) -> None:
    assert create_as(server, "203.0.113.1") == 201
    assert create_as(server, "203.0.113.1") == 429
    assert create_as(server, "203.0.113.2") == 201
    clients = {row[0] for row in rows(server, "SELECT client FROM upload")}
    assert {"peer 203.0.113.1", "peer 203.0.113.2"} <= clients


def test_a_client_that_nobody_knows_is_not_taken_for_the_proxy(
    server: ServerProcess,
) -> None:
    length, lie = ("Upload-Length", "9"), ("Forwarded", "for=198.51.100.1")
    with Line(server) as line:
        said = ("X-Forwarded-For", "203.0.113.77")
        assert line.ask("POST", "/files", TUS, length, said, lie).status == 201
        # all of them count as one, whatever each of them says
        assert line.ask("POST", "/files", TUS, length).status == 429
    clients = {row[0] for row in rows(server, "SELECT client FROM upload")}
    assert "peer unknown" in clients
    assert "peer 127.0.0.1" not in clients
    logged = {one["client"] for one in server.log_events() if "client" in one}
    assert "unknown" in logged
    assert "127.0.0.1" not in logged


def test_a_cookie_is_secure_when_the_proxy_speaks_https(server: ServerProcess) -> None:
    target = f"/?token={server.token}"
    with Line(server) as line:
        plain = line.ask("GET", target)
        answer = line.ask("GET", target, ("X-Forwarded-Proto", "https"))
    assert "secure" not in plain.headers["set-cookie"].lower()
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        ("localhost", "evil.example"),
        ("evil.example", "localhost"),
        ("evil.example", "evil.example"),
    ],
)
def test_the_host_and_the_one_before_the_proxy_must_both_be_ours(
    server: ServerProcess, host: str, forwarded: str
) -> None:
    with Line(server) as line:
        for name in ("X-Forwarded-Host", "Forwarded"):
            said = f"host={forwarded}" if name == "Forwarded" else forwarded
            assert line.ask("GET", "/livez", (name, said), host=host).status == 421
        ours = ("X-Forwarded-Host", "localhost")
        assert line.ask("GET", "/livez", ours, host="localhost").status == 200


def test_addresses_of_one_host_are_one_client(server: ServerProcess) -> None:
    for first, second, other in (
        ("198.51.100.7", "::ffff:198.51.100.7", "198.51.100.8"),
        ("2001:db8:0:1::7", "2001:db8:0:1:8888:9:0:1", "2001:db8:0:2::7"),
    ):
        assert create_as(server, first) == 201
        assert create_as(server, second) == 429
        assert create_as(server, other) == 201
