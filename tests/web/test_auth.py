import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncflow.errors import StartError
from asyncflow.web.auth import (
    ADMIN,
    READ,
    UPLOAD,
    TokenAuth,
    authentication,
    ensure_token,
    require,
)
from asyncflow.web.errors import problems
from tests.web.wire import Answer, Dial, Serve, Wire

TOKEN = "a-token-of-the-tests"


def app_of(*, open_locally: bool, secure_cookie: bool = False) -> web.Application:
    def needs(scope: str) -> Handler:
        async def route(request: web.Request) -> web.Response:
            return web.Response(text=require(request, scope).owner)

        return route

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="alive")

    auth = TokenAuth(TOKEN, open_locally=open_locally)
    guard = authentication(auth, secure_cookie=secure_cookie)
    app = web.Application(middlewares=[problems(), guard])
    app.router.add_post("/upload", needs(UPLOAD))
    app.router.add_get("/read", needs(READ))
    app.router.add_get("/admin", needs(ADMIN))
    app.router.add_get("/ws", needs(READ))
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", live)
    return app


@pytest.fixture
async def open_wire(serve: Serve, dial: Dial) -> Wire:
    return await dial(await serve(app_of(open_locally=True)))


@pytest.fixture
async def closed_wire(serve: Serve, dial: Dial) -> Wire:
    return await dial(await serve(app_of(open_locally=False)))


def assert_refused(answer: Answer) -> None:
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN.encode() not in answer.body


async def test_without_a_token_anyone_on_this_machine_uploads_and_reads(
    open_wire: Wire,
) -> None:
    assert (await open_wire.ask("POST /upload HTTP/1.1")).body == b"local"
    assert (await open_wire.ask("GET /read HTTP/1.1")).body == b"local"
    assert_refused(await open_wire.ask("GET /admin HTTP/1.1"))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_adds_what_is_for_the_operator(
    open_wire: Wire, scheme: str
) -> None:
    answer = await open_wire.ask(
        f"GET /admin HTTP/1.1\nAuthorization: {scheme} {TOKEN}"
    )
    assert answer.status == 200


@pytest.mark.parametrize(
    "path", ["GET /read", "POST /upload", "GET /admin", "GET /ws", "GET /nowhere"]
)
async def test_a_closed_server_needs_the_token_for_everything(
    closed_wire: Wire, path: str
) -> None:
    assert_refused(await closed_wire.ask(f"{path} HTTP/1.1"))


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_closed_server_tells_supervisors_how_it_is(
    closed_wire: Wire, path: str
) -> None:
    assert (await closed_wire.ask(f"GET {path} HTTP/1.1")).body == b"alive"


WRONG = [
    "Bearer wrong",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    "Bearer",
    "Bearer ",
    f"Basic {TOKEN}",
    f"Token {TOKEN}",
    TOKEN,
    "Bearer t\xf6ken",
    "Bearer " + "x" * 8000,
]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("open_locally", [True, False])
async def test_a_wrong_token_is_refused_even_where_none_is_needed(
    serve: Serve, dial: Dial, *, open_locally: bool, value: str
) -> None:
    wire = await dial(await serve(app_of(open_locally=open_locally)))
    assert_refused(await wire.ask(f"GET /read HTTP/1.1\nAuthorization: {value}"))


async def test_a_websocket_may_bring_its_token_in_the_address(
    closed_wire: Wire,
) -> None:
    assert (await closed_wire.ask(f"GET /ws?token={TOKEN} HTTP/1.1")).status == 200
    assert_refused(await closed_wire.ask("GET /ws?token=wrong HTTP/1.1"))


async def test_a_visit_with_the_token_sets_a_cookie_and_leaves_the_address_bare(
    closed_wire: Wire,
) -> None:
    answer = await closed_wire.ask(f"GET /read?a=1&token={TOKEN}&b=2 HTTP/1.1")
    assert (answer.status, answer.headers["location"]) == (303, "/read?a=1&b=2")
    assert answer.headers["cache-control"] == "no-store"
    cookie, *traits = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(traits)
    assert TOKEN not in answer.headers["set-cookie"]
    seen = await closed_wire.ask(f"GET /admin HTTP/1.1\nCookie: {cookie}")
    assert seen.status == 200


async def test_the_cookie_is_secure_where_browsers_come_by_https(
    serve: Serve, dial: Dial
) -> None:
    app = app_of(open_locally=False, secure_cookie=True)
    wire = await dial(await serve(app))
    answer = await wire.ask(f"GET /read?token={TOKEN} HTTP/1.1")
    assert "Secure" in answer.headers["set-cookie"].split("; ")


async def test_a_visit_with_a_wrong_token_sets_nothing(closed_wire: Wire) -> None:
    answer = await closed_wire.ask("GET /read?token=wrong HTTP/1.1")
    assert_refused(answer)
    assert "set-cookie" not in answer.headers


async def test_the_redirect_stays_on_this_server(closed_wire: Wire) -> None:
    answer = await closed_wire.ask(f"GET //evil.example/?token={TOKEN} HTTP/1.1")
    assert answer.headers["location"].startswith("/evil.example/")


@pytest.mark.parametrize("value", ["stale", "", TOKEN])
async def test_a_stale_cookie_says_nothing(
    serve: Serve, dial: Dial, value: str
) -> None:
    name = TokenAuth(TOKEN, open_locally=True).cookie_name
    wire = await dial(await serve(app_of(open_locally=True)))
    fields = f"Cookie: {name}={value}"
    assert (await wire.ask(f"GET /read HTTP/1.1\n{fields}")).status == 200
    assert_refused(await wire.ask(f"GET /admin HTTP/1.1\n{fields}"))


def test_two_servers_on_one_machine_use_cookies_of_different_names() -> None:
    one = TokenAuth("one-token-here", open_locally=True)
    other = TokenAuth("other-token-here", open_locally=True)
    assert one.cookie_name != other.cookie_name


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="8 characters"):
        TokenAuth("short", open_locally=False)


# ----- the file


def test_a_first_start_writes_a_token_for_the_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    token = ensure_token(folder)
    assert len(token) >= 43
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["token"]


def test_a_later_start_finds_the_same_token(tmp_path: Path) -> None:
    assert ensure_token(tmp_path) == ensure_token(tmp_path)


def test_starts_at_the_same_time_agree_on_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(ensure_token, [tmp_path / "data"] * 32))
    assert len(tokens) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["token"]


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = ensure_token(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(StartError, match="chmod 600") as caught:
        ensure_token(tmp_path)
    assert token not in str(caught.value)


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o600)
    with pytest.raises(StartError, match="holds no token"):
        ensure_token(tmp_path)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_an_ordinary_file_holds_a_token(tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x" * 43, encoding="ascii")
    path = tmp_path / "token"
    match kind:
        case "link":
            path.symlink_to(elsewhere)
        case "fifo":
            os.mkfifo(path, 0o600)
        case _:
            path.mkdir(mode=0o700)
    with pytest.raises(StartError):
        ensure_token(tmp_path)
