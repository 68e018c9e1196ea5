import asyncio
import socket
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession, web

from asyncflow.errors import BodyTooLarge, StartError
from asyncflow.web.bodies import BodyReader, continue_later
from asyncflow.web.errors import problems
from asyncflow.web.front import HEAD_BYTES
from asyncflow.web.limits import (
    DRAIN_BYTES,
    MAX_REFUSED,
    WAIT_BYTES,
    ConnectionLimits,
)
from asyncflow.web.site import check_aiohttp, start_site
from tests.web.wire import Dial, Serve

QUICK = ConnectionLimits(
    head_timeout_s=0.15, idle_timeout_s=0.3, linger_s=2.0, max_head_bytes=4096
)
MIB = 1024 * 1024


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def refuse(_: web.Request) -> web.Response:
    raise BodyTooLarge


async def swallow(request: web.Request) -> web.Response:
    reader = BodyReader(request)
    async for _ in reader:
        pass
    return web.Response(text=str(reader.received))


def small_app() -> web.Application:
    app = web.Application(middlewares=[problems()])
    app.router.add_get("/", hello)
    app.router.add_post("/refuse", refuse, expect_handler=continue_later)
    app.router.add_post("/swallow", swallow, expect_handler=continue_later)
    return app


# ----- heads


async def test_a_connection_that_says_nothing_is_closed(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    assert await wire.rest() == b""


@pytest.mark.parametrize(
    "part", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX"]
)
async def test_a_head_that_does_not_end_is_answered_408(
    serve: Serve, dial: Dial, part: bytes
) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    await wire.send(part)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (408, "slow_head")
    assert await wire.rest() == b""


async def test_a_byte_now_and_then_does_not_extend_the_time_for_a_head(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    answer = asyncio.ensure_future(wire.answer())
    began = time.monotonic()
    for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 100:
        await wire.send(bytes([byte]))
        done, _ = await asyncio.wait({answer}, timeout=0.02)
        if done:
            break
    assert (await answer).code == "slow_head"
    assert time.monotonic() - began < 1.0


async def test_a_slow_second_head_on_one_connection_is_answered_408(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    assert (await wire.ask("GET / HTTP/1.1")).status == 200
    await wire.send(b"GET / HTTP/1.1\r\nHo")
    assert (await wire.answer()).code == "slow_head"


async def test_an_idle_connection_is_closed(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    assert (await wire.ask("GET / HTTP/1.1")).status == 200
    assert await wire.rest() == b""


async def test_a_request_may_take_longer_than_its_head_might(
    serve: Serve, dial: Dial
) -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text="done")

    app = small_app()
    app.router.add_get("/slow", slow)
    wire = await dial(await serve(app, QUICK))
    loop = asyncio.get_running_loop()
    loop.call_later(3 * QUICK.head_timeout_s, released.set)
    assert (await wire.ask("GET /slow HTTP/1.1")).body == b"done"


async def test_a_slow_body_does_not_count_as_a_slow_head(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app(), QUICK))
    await wire.send(b"POST /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n")
    answer = asyncio.ensure_future(wire.answer())
    for _ in range(12):
        await wire.send(b"x")
        await asyncio.wait({answer}, timeout=QUICK.head_timeout_s / 6)
    assert (await answer).body == b"12"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Some: some value\r\n" * 240,
    ],
    ids=["line", "field", "unfinished"],
)
async def test_a_head_that_is_too_large_is_answered_431(
    serve: Serve, dial: Dial, head: bytes
) -> None:
    limits = ConnectionLimits(max_head_bytes=4096, max_fields=1000)
    wire = await dial(await serve(small_app(), limits))
    await wire.send(head)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (431, "head_too_large")
    assert await wire.rest() == b""


# ----- what the parser refuses

SMUGGLED = {
    "length and chunked": ["Content-Length: 4", "Transfer-Encoding: chunked"],
    "two lengths": ["Content-Length: 4", "Content-Length: 5"],
    "two equal lengths": ["Content-Length: 4", "Content-Length: 4"],
    "a list of lengths": ["Content-Length: 4, 4"],
    "a space before the colon": ["Transfer-Encoding : chunked"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "unknown coding": ["Transfer-Encoding: cow"],
    "negative length": ["Content-Length: -1"],
    "signed length": ["Content-Length: +4"],
    "two hosts": ["Host: evil.example"],
    "a folded line": ["X: a", " b"],
    "a NUL": ["X: a\0b"],
}


@pytest.mark.parametrize("fields", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_an_ambiguous_request_is_refused_and_the_connection_closed(
    serve: Serve, dial: Dial, fields: list[str]
) -> None:
    wire = await dial(await serve(small_app()))
    lines = ["POST /swallow HTTP/1.1", "Host: localhost", *fields, "", ""]
    smuggled = b"0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await wire.send("\r\n".join(lines).encode("latin-1") + smuggled)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (400, "malformed_request")
    assert answer.headers["connection"] == "close"
    assert await wire.rest() == b""


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"])
async def test_another_version_of_http_is_refused(
    serve: Serve, dial: Dial, version: str
) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(f"POST /swallow {version}\r\nHost: localhost\r\nX: ".encode())
    await wire.send(b"y\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000)
    answer = await wire.answer()
    assert answer.status in {400, 505}
    if answer.status == 505:
        assert answer.code == "unsupported_http_version"
    assert await wire.rest() == b""


async def test_the_refusal_of_a_malformed_head_arrives_though_a_body_follows(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    head = f"POST /swallow HTTP/1.2\r\nHost: localhost\r\nContent-Length: {MIB}\r\n\r\n"
    sending = asyncio.create_task(wire.send(head.encode() + bytes(MIB)))
    assert (await wire.answer()).status in {400, 505}
    assert await wire.rest() == b""
    await sending


async def test_a_request_without_a_version_is_refused(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(b"GET /\r\n\r\n")
    assert (await wire.answer()).status in {400, 505}


@pytest.mark.parametrize("count", [101, 200, 5000])
async def test_too_many_fields_are_answered_431_after_the_requests_before(
    serve: Serve, dial: Dial, count: int
) -> None:
    wire = await dial(await serve(small_app()))
    fields = b"".join(b"X%d: 1\r\n" % n for n in range(count))
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    await wire.send(ask + b"\r\n" + ask + fields + b"\r\n")
    assert (await wire.answer()).status == 200
    answer = await wire.answer()
    assert (answer.status, answer.code) == (431, "head_too_large")


async def test_as_many_fields_as_are_allowed_are_taken(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    fields = b"".join(b"X%d: 1\r\n" % n for n in range(99))
    for _ in range(3):
        await wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("count", [101, 5000])
async def test_too_many_trailers_are_answered_431(
    serve: Serve, dial: Dial, count: int
) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(b"POST /swallow HTTP/1.1\r\nHost: localhost\r\n")
    await wire.send(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
    await wire.send(b"".join(b"X%d: 1\r\n" % n for n in range(count)) + b"\r\n")
    answer = await wire.answer()
    assert (answer.status, answer.code) == (431, "head_too_large")
    assert await wire.rest() == b""


async def test_what_follows_a_declined_upgrade_is_read_as_requests(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    body = b"\n" * 1000
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    await wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
    await wire.send(b"POST /swallow HTTP/1.1\r\nHost: localhost\r\n")
    await wire.send(b"Content-Length: 1000\r\n\r\n" + body[:500])
    assert (await wire.answer()).status == 200
    await wire.send(body[500:])
    assert (await wire.answer()).body == b"1000"
    await wire.send(b"POST /swallow HTTP/1.1\r\nHost: localhost\r\n")
    await wire.send(b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n")
    assert (await wire.answer()).body == b"1"


async def test_a_request_without_host_is_refused(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(b"GET / HTTP/1.1\r\n\r\n")
    assert (await wire.answer()).code == "malformed_request"


async def test_the_text_of_a_refusal_does_not_quote_the_request(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(b"GET /?token=s3cr3t HTTP/9.9.9\r\n\r\n")
    assert b"s3cr3t" not in (await wire.answer()).body


# ----- how many


async def test_one_connection_too_many_is_answered_503(
    serve: Serve, dial: Dial
) -> None:
    site = await serve(small_app(), ConnectionLimits(max_connections=2))
    first, second = await dial(site), await dial(site)
    assert (await first.ask("GET / HTTP/1.1")).status == 200
    assert (await second.ask("GET / HTTP/1.1")).status == 200
    third = await dial(site)
    answer = await third.ask("GET / HTTP/1.1")
    assert (answer.status, answer.code) == (503, "too_many_connections")
    assert int(answer.headers["retry-after"]) > 0
    assert await third.rest() == b""


async def test_a_seat_that_is_given_back_can_be_taken(serve: Serve, dial: Dial) -> None:
    site = await serve(small_app(), ConnectionLimits(max_connections=1))
    for _ in range(5):
        wire = await dial(site)
        answer = await wire.ask("GET / HTTP/1.1\nConnection: close")
        assert answer.status == 200
        assert await wire.rest() == b""


@pytest.mark.parametrize("seats", [2, MAX_REFUSED + 2])
async def test_refused_connections_do_not_pile_up(
    serve: Serve, dial: Dial, seats: int
) -> None:
    site = await serve(small_app(), ConnectionLimits(max_connections=seats))
    seated, *_others = [await dial(site) for _ in range(seats)]
    assert (await seated.ask("GET / HTTP/1.1")).status == 200
    turned_away = [await dial(site) for _ in range(MAX_REFUSED + 8)]
    told = 0
    for wire in turned_away:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            told += (await wire.answer()).status == 503
    assert told == min(seats, MAX_REFUSED)
    assert site.open_connections == seats
    assert (await seated.ask("GET / HTTP/1.1")).status == 200


# ----- answers to those who are still sending


@pytest.mark.parametrize("coding", ["Content-Length: 52428800", "chunked"])
async def test_an_early_refusal_reaches_a_client_that_sends_on(
    serve: Serve, dial: Dial, coding: str
) -> None:
    wire = await dial(await serve(small_app()))
    field = "Transfer-Encoding: chunked" if coding == "chunked" else coding
    await wire.send(f"POST /refuse HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode())
    piece = bytes(MIB)
    if coding == "chunked":
        piece = b"100000\r\n" + piece + b"\r\n"
    for _ in range(50):  # a reset would raise here
        await wire.send(piece)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert await wire.rest() == b""


async def test_an_early_refusal_comes_instead_of_100_continue(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    answer = await wire.ask(
        "POST /refuse HTTP/1.1\nContent-Length: 52428800\nExpect: 100-continue"
    )
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert await wire.rest() == b""


async def test_a_client_that_expected_100_and_sends_all_the_same_gets_the_refusal(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    await wire.send(
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 52428800\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    for _ in range(50):
        await wire.send(bytes(MIB))
    assert (await wire.answer()).status == 413
    assert await wire.rest() == b""


async def test_a_small_unread_body_does_not_cost_the_connection(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    size = DRAIN_BYTES - 1
    await wire.send(
        f"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    )
    assert (await wire.answer()).status == 413
    await wire.send(bytes(size))
    assert (await wire.ask("GET / HTTP/1.1")).body == b"hello"


async def test_a_client_that_never_stops_sending_is_dropped_after_the_linger_time(
    serve: Serve, dial: Dial
) -> None:
    site = await serve(small_app(), ConnectionLimits(linger_s=0.2))
    wire = await dial(site)
    await wire.send(
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert (await wire.answer()).status == 413

    async def send_on() -> None:
        while True:
            await wire.send(b"10000\r\n" + bytes(65536) + b"\r\n")
            await asyncio.sleep(0)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_on(), 10)
    assert site.open_connections == 0


# ----- aiohttp itself


# ----- bodies that nobody has asked for


@pytest.mark.parametrize("asks", [True, False])
async def test_of_a_large_body_little_is_in_memory_before_somebody_asks_for_it(
    serve: Serve, dial: Dial, *, asks: bool
) -> None:
    arrived = asyncio.Queue[web.Request]()
    may_go_on = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        arrived.put_nowait(request)
        await may_go_on.wait()
        return await (swallow(request) if asks else refuse(request))

    app = web.Application(middlewares=[problems()])
    app.router.add_post("/", wait, expect_handler=continue_later)
    app.router.add_get("/", hello)
    wire = await dial(await serve(app))
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {4 * MIB}\r\n\r\n"
    sending = asyncio.create_task(wire.send(head.encode() + bytes(4 * MIB)))
    async with asyncio.timeout(20):
        request = await arrived.get()
    # whatever the loop still has to read, it would have read by then
    for _ in range(20):
        await asyncio.sleep(0)
    assert request.content.total_bytes <= HEAD_BYTES
    may_go_on.set()
    answer = await wire.answer()
    if asks:
        assert answer.body == str(4 * MIB).encode()
        assert (await wire.ask("GET / HTTP/1.1")).body == b"hello"
    else:
        assert answer.code == BodyTooLarge.code
    with suppress(ConnectionError):
        await sending


async def test_a_body_that_waits_is_drained_where_little_of_it_is_left(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    size = WAIT_BYTES + 1000
    head = f"POST /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    await wire.send(head.encode() + bytes(size))
    assert (await wire.answer()).status == 413
    assert (await wire.ask("GET / HTTP/1.1")).body == b"hello"


def test_an_aiohttp_without_the_names_we_need_is_refused_by_name() -> None:
    with pytest.raises(StartError, match=r"_waiter.*_read_nowait"):
        check_aiohttp(SimpleNamespace(), SimpleNamespace())


async def test_a_compressed_body_is_handed_on_as_it_came(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(small_app()))
    answer = await wire.ask(
        "POST /swallow HTTP/1.1\nContent-Length: 4\nContent-Encoding: gzip",
        b"\x1f\x8b..",
    )
    assert answer.body == b"4"


# ----- what lasts longer, and the end


async def test_a_websocket_outlives_the_time_for_a_head(
    serve: Serve, dial: Dial
) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    app = small_app()
    app.router.add_get("/ws", echo)
    site = await serve(app, QUICK)
    async with (
        ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{site.port}/ws") as ws,
    ):
        released = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * QUICK.idle_timeout_s, released.set)
        await released.wait()
        await ws.send_str("still here")
        assert await ws.receive_str(timeout=5) == "still here"


async def test_closing_lets_a_running_request_end(serve: Serve, dial: Dial) -> None:
    began, released = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        began.set()
        await released.wait()
        return web.Response(text="done")

    app = small_app()
    app.router.add_get("/slow", slow)
    site = await serve(app)
    wire, idle = await dial(site), await dial(site)
    assert (await idle.ask("GET / HTTP/1.1")).status == 200
    answer = asyncio.ensure_future(wire.ask("GET /slow HTTP/1.1"))
    await began.wait()
    closing = asyncio.ensure_future(site.close())
    assert await idle.rest() == b""
    assert not closing.done()
    released.set()
    assert (await answer).body == b"done"
    await closing
    with pytest.raises(ConnectionError):
        await dial(site)


async def test_closing_does_not_wait_for_a_client_that_sends_on(
    serve: Serve, dial: Dial
) -> None:
    site = await serve(small_app(), ConnectionLimits(linger_s=30.0))
    wire = await dial(site)
    await wire.send(
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert (await wire.answer()).status == 413
    began = time.monotonic()
    await site.close()
    assert time.monotonic() - began < 5


async def test_an_address_that_is_taken_is_told(serve: Serve) -> None:
    site = await serve(small_app())
    with pytest.raises(OSError, match="address already in use"):
        await start_site(small_app(), host="127.0.0.1", port=site.port)


async def test_a_bound_socket_can_be_handed_over(dial: Dial) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    site = await start_site(small_app(), sock=sock)
    assert site.addresses == (("127.0.0.1", site.port),)
    assert (await (await dial(site)).ask("GET / HTTP/1.1")).body == b"hello"
    await site.close()
