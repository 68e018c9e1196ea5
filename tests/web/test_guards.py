import pytest
from aiohttp import web

from asyncflow.web.errors import problems
from asyncflow.web.guards import Guards, guard, install_headers
from asyncflow.web.requestids import named
from tests.web.wire import Answer, Dial, Serve

LOCAL = Guards(loopback_only=True)
PUBLIC = Guards(
    loopback_only=False,
    public_url="https://files.example.org/up",
    allowed_hosts=("asyncflow", "*.lan"),
    allowed_origins=frozenset({"https://app.example.org", "http://localhost:3000"}),
)


def guarded(guards: Guards) -> web.Application:
    async def route(_: web.Request) -> web.Response:
        return web.Response(text="done")

    async def page(_: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "default-src 'self'", "Vary": "Accept"}
        return web.Response(headers=policy)

    app = web.Application(middlewares=[named(), problems(), guard(guards)])
    app.router.add_route("*", "/", route)
    app.router.add_get("/page", page)
    install_headers(app, guards)
    return app


async def ask(
    serve: Serve, dial: Dial, guards: Guards, head: str, host: str = "localhost:8080"
) -> Answer:
    wire = await dial(await serve(guarded(guards)))
    return await wire.ask(head, host=host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "my.localhost:1",
        "127.0.0.1",
        "127.8.9.1:80",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_a_loopback_server_answers_to_loopback_names(
    serve: Serve, dial: Dial, host: str
) -> None:
    assert (await ask(serve, dial, LOCAL, "GET / HTTP/1.1", host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "192.168.1.5",
        "0.0.0.0",  # noqa: S104 -- a name in a header
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "127.0.0.1.evil.example",
        "localhost:80:80",
        "localhost@evil.example",
        "evil.example/localhost",
        "2130706433",
        "",
    ],
)
async def test_a_loopback_server_answers_to_no_other_name(
    serve: Serve, dial: Dial, host: str
) -> None:
    answer = await ask(serve, dial, LOCAL, "GET / HTTP/1.1", host)
    assert (answer.status, answer.code) == (421, "misdirected_host")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("files.example.org", 200),
        ("files.example.org:8443", 200),
        ("asyncflow:8080", 200),
        ("nas.lan", 200),
        ("10.1.2.3:8080", 200),
        ("localhost", 200),
        ("evil.example", 421),
        ("example.org", 421),
        ("lan", 421),
    ],
)
async def test_a_public_server_answers_to_its_names_and_to_addresses(
    serve: Serve, dial: Dial, host: str, status: int
) -> None:
    assert (await ask(serve, dial, PUBLIC, "GET / HTTP/1.1", host)).status == status


async def test_a_target_in_absolute_form_is_a_host_too(
    serve: Serve, dial: Dial
) -> None:
    head = "GET http://evil.example/ HTTP/1.1"
    assert (await ask(serve, dial, LOCAL, head)).code == "misdirected_host"
    head = "GET http://localhost/ HTTP/1.1"
    assert (await ask(serve, dial, LOCAL, head)).status == 200


async def test_http_1_0_without_a_host_is_answered(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(guarded(LOCAL)))
    await wire.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await wire.answer()).status == 200


FOREIGN = [
    "Origin: https://evil.example",
    "Origin: null",
    "Origin: http://localhost:8081",
    "Origin: http://localhost",
    "Origin: nonsense",
    "Origin: ",
    "Origin: file://",
    "Origin: http://localhost:99999999",
    "Origin: http://localhost:8080\nOrigin: https://evil.example",
    "Origin: http://localhost:8080\nSec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
]


@pytest.mark.parametrize("fields", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
async def test_a_foreign_page_may_change_nothing(
    serve: Serve, dial: Dial, method: str, fields: str
) -> None:
    answer = await ask(serve, dial, LOCAL, f"{method} / HTTP/1.1\n{fields}")
    assert (answer.status, answer.code) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "fields",
    [
        "X: no browser",
        "Origin: http://localhost:8080",
        "Origin: http://LOCALHOST:8080\nSec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: none",
    ],
)
async def test_our_own_page_and_a_program_may_post(
    serve: Serve, dial: Dial, fields: str
) -> None:
    assert (await ask(serve, dial, LOCAL, f"POST / HTTP/1.1\n{fields}")).status == 200


async def test_a_page_behind_a_proxy_that_ends_tls_is_our_own(
    serve: Serve, dial: Dial
) -> None:
    for host, origin in [
        ("nas.lan", "https://nas.lan"),
        ("10.0.0.1:8080", "https://files.example.org"),
        ("files.example.org", "https://files.example.org:443"),
    ]:
        head = f"POST / HTTP/1.1\nOrigin: {origin}"
        assert (await ask(serve, dial, PUBLIC, head, host)).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_may_open_no_websocket(
    serve: Serve, dial: Dial, origin: str
) -> None:
    head = (
        f"GET / HTTP/1.1\nOrigin: {origin}\nConnection: Upgrade\nUpgrade: websocket\n"
        "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
    assert (await ask(serve, dial, LOCAL, head)).code == "foreign_origin"


async def test_a_foreign_page_may_follow_a_link(serve: Serve, dial: Dial) -> None:
    head = "GET / HTTP/1.1\nSec-Fetch-Site: cross-site"
    assert (await ask(serve, dial, LOCAL, head)).status == 200


# ----- CORS

PREFLIGHT = "OPTIONS / HTTP/1.1\nAccess-Control-Request-Method: PATCH\nOrigin: "


async def test_a_listed_page_gets_its_preflight(serve: Serve, dial: Dial) -> None:
    answer = await ask(serve, dial, PUBLIC, PREFLIGHT + "https://app.example.org")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    methods = answer.headers["access-control-allow-methods"].split(", ")
    assert {"PATCH", "POST", "DELETE", "HEAD"} <= set(methods)
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"tus-resumable", "upload-offset", "authorization"} <= set(allowed)
    assert "*" not in "".join(answer.headers.values())
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://app.example.org",
        "https://app.example.org:444",
        "https://app.example.org.evil.example",
        "https://files.example.org",
    ],
)
async def test_an_unlisted_page_gets_none(
    serve: Serve, dial: Dial, origin: str
) -> None:
    answer = await ask(serve, dial, PUBLIC, PREFLIGHT + origin)
    assert (answer.status, answer.code) == (403, "foreign_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["vary"] == "Origin"


async def test_a_listed_page_may_post_and_read_what_uploads_need(
    serve: Serve, dial: Dial
) -> None:
    head = "POST / HTTP/1.1\nOrigin: http://localhost:3000\nSec-Fetch-Site: cross-site"
    answer = await ask(serve, dial, PUBLIC, head)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {
        "Location",
        "Upload-Offset",
        "Upload-Length",
        "Upload-Expires",
        "Tus-Resumable",
        "Asyncflow-Job-Id",
    } <= exposed
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_listed_page_may_read_why_it_was_refused(
    serve: Serve, dial: Dial
) -> None:
    head = "GET /nowhere HTTP/1.1\nOrigin: https://app.example.org"
    answer = await ask(serve, dial, PUBLIC, head)
    assert answer.status == 404
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"


async def test_a_plain_options_reaches_its_route(serve: Serve, dial: Dial) -> None:
    answer = await ask(serve, dial, LOCAL, "OPTIONS / HTTP/1.1")
    assert (answer.status, answer.body) == (200, b"done")


async def test_an_answer_to_an_unlisted_page_varies_by_origin_all_the_same(
    serve: Serve, dial: Dial
) -> None:
    answer = await ask(serve, dial, PUBLIC, "GET /page HTTP/1.1")
    assert answer.headers["vary"] == "Accept, Origin"
    assert "access-control-allow-origin" not in answer.headers


# ----- headers


@pytest.mark.parametrize("path", ["/", "/nowhere"])
async def test_every_answer_has_the_security_headers(
    serve: Serve, dial: Dial, path: str
) -> None:
    answer = await ask(serve, dial, LOCAL, f"GET {path} HTTP/1.1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["server"] == "asyncflow"
    assert len(answer.headers["x-request-id"]) == 16
    assert "vary" not in answer.headers


async def test_a_page_keeps_its_own_policy(serve: Serve, dial: Dial) -> None:
    answer = await ask(serve, dial, LOCAL, "GET /page HTTP/1.1")
    policy = answer.headers["content-security-policy"]
    assert policy == "default-src 'self'; frame-ancestors 'none'"
