import asyncio
import hashlib
import os
import time
from collections.abc import Callable

import pytest
from aiohttp import web

from asyncflow.errors import UploadPreempted
from asyncflow.web.bodies import BodyReader, continue_later
from asyncflow.web.errors import problems
from tests.web.wire import Dial, Serve, until

MIB = 1024 * 1024


class Taker:
    """A route that reads a body and remembers what it got and how that ended."""

    def __init__(self, make: Callable[[web.Request], BodyReader] = BodyReader) -> None:
        self._make = make
        self.kept = bytearray()
        self.sizes: list[int] = []
        self.ended: asyncio.Future[BaseException | None] = asyncio.Future()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.reader: BodyReader | None = None
        self.request: web.Request | None = None
        self.first = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.request = request
        await self.may_read.wait()
        reader = self.reader = self._make(request)
        try:
            async for piece in reader:
                self.kept += piece
                self.sizes.append(len(piece))
                self.first.set()
        except BaseException as error:
            self.ended.set_result(error)
            raise
        self.ended.set_result(None)
        return web.Response(text=hashlib.sha256(self.kept).hexdigest())

    def app(self) -> web.Application:
        app = web.Application(middlewares=[problems()])
        app.router.add_post("/", self.take, expect_handler=continue_later)
        return app


def post(*fields: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def test_a_body_arrives_whole_and_in_large_pieces(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    body = os.urandom(8 * MIB)
    taker.may_read.clear()
    await wire.send(post(f"Content-Length: {len(body)}"))
    sent = asyncio.ensure_future(wire.send(body))
    await asyncio.wait({sent}, timeout=0.1)
    taker.may_read.set()
    answer = await wire.answer()
    await sent
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()
    assert max(taker.sizes) >= 256 * 1024
    assert await taker.ended is None


async def test_a_chunked_body_arrives_whole(serve: Serve, dial: Dial) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    body = os.urandom(MIB)
    await wire.send(post("Transfer-Encoding: chunked"))
    for start in range(0, MIB, 10_000):
        await wire.send(chunked(body[start : start + 10_000]))
    await wire.send(b"0\r\n\r\n")
    assert (await wire.answer()).body.decode() == hashlib.sha256(body).hexdigest()


async def test_an_empty_body_ends_at_once(serve: Serve, dial: Dial) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    assert (await wire.ask("POST / HTTP/1.1\nContent-Length: 0")).status == 200
    assert taker.sizes == []


async def test_100_continue_comes_with_the_first_read(serve: Serve, dial: Dial) -> None:
    taker = Taker()
    taker.may_read.clear()
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 4", "Expect: 100-continue"))
    interim = asyncio.ensure_future(wire.answer())
    done, _ = await asyncio.wait({interim}, timeout=0.1)
    assert not done
    taker.may_read.set()
    assert (await interim).status == 100
    await wire.send(b"data")
    assert (await wire.answer()).status == 200
    assert bytes(taker.kept) == b"data"


@pytest.mark.parametrize(
    "coding", ["Content-Length: 100", "Transfer-Encoding: chunked"]
)
async def test_a_body_that_ends_too_early_is_kept_and_answered_400(
    serve: Serve, dial: Dial, coding: str
) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    data = chunked(b"half") if "chunked" in coding else b"half"
    await wire.send(post(coding) + data)
    wire.end_sending()
    answer = await wire.answer()
    assert (answer.status, answer.code) == (400, "truncated_body")
    assert bytes(taker.kept) == b"half"
    assert await wire.rest() == b""


async def test_what_came_before_a_disconnect_is_kept_though_nobody_had_read_it(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker()
    taker.may_read.clear()
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 1000") + b"x" * 700)
    await until(lambda: taker.request is not None)
    assert taker.request is not None
    content = taker.request.content
    await until(lambda: content.total_bytes == 700)
    wire.reset()
    await until(lambda: content.exception() is not None)
    taker.may_read.set()
    assert isinstance(await taker.ended, ConnectionError)
    assert bytes(taker.kept) == b"x" * 700


async def test_a_client_that_vanishes_while_we_wait_is_a_disconnect(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 1000") + b"x" * 10)
    await taker.first.wait()
    wire.reset()
    assert isinstance(await taker.ended, ConnectionError)
    assert bytes(taker.kept) == b"x" * 10


async def test_a_body_below_the_minimum_rate_is_kept_and_answered_408(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker(lambda r: BodyReader(r, min_rate=1000, window_s=0.3))
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 1000"))
    answer = asyncio.ensure_future(wire.answer())
    sent = 0
    while not answer.done():
        await wire.send(b"x")
        sent += 1
        await asyncio.wait({answer}, timeout=0.03)
    assert ((await answer).status, (await answer).code) == (408, "slow_body")
    assert 5 <= len(taker.kept) <= sent


async def test_a_body_above_the_minimum_rate_may_take_many_windows(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker(lambda r: BodyReader(r, min_rate=1000, window_s=0.2))
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 3000"))
    answer = asyncio.ensure_future(wire.answer())
    for _ in range(30):
        await wire.send(b"x" * 100)
        await asyncio.wait({answer}, timeout=0.02)
    assert (await answer).status == 200


async def test_time_in_which_nobody_reads_is_not_the_clients(
    serve: Serve, dial: Dial
) -> None:
    pause_s = 0.25

    async def slow_reader(request: web.Request) -> web.Response:
        reader = BodyReader(request, min_rate=1000, window_s=0.2)
        first = await reader.read()
        await asyncio.sleep(pause_s)
        return web.Response(body=first + await reader.read())

    app = web.Application(middlewares=[problems()])
    app.router.add_post("/", slow_reader)
    wire = await dial(await serve(app))
    await wire.send(post("Content-Length: 4") + b"ab")
    answer = asyncio.ensure_future(wire.answer())
    await asyncio.wait({answer}, timeout=pause_s + 0.05)
    await wire.send(b"cd")
    assert (await answer).body == b"abcd"


async def test_a_broken_chunk_is_answered_400_and_what_came_before_is_kept(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Transfer-Encoding: chunked") + chunked(b"good"))
    await taker.first.wait()
    await wire.send(b"zz\r\nnot a chunk\r\n")
    answer = await wire.answer()
    assert (answer.status, answer.code) == (400, "malformed_request")
    assert bytes(taker.kept) == b"good"
    assert await wire.rest() == b""


async def test_a_reader_that_is_stopped_raises_what_it_was_given(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker()
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 1000") + b"x" * 10)
    await taker.first.wait()
    assert taker.reader is not None
    taker.reader.stop(UploadPreempted())
    answer = await wire.answer()
    assert (answer.status, answer.code) == (400, "upload_preempted")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("coding", ["Content-Length: 0", "X-No-Body: at all"])
async def test_a_body_that_is_all_there_is_not_stopped(
    serve: Serve, dial: Dial, coding: str
) -> None:
    def stopped(request: web.Request) -> BodyReader:
        reader = BodyReader(request)
        reader.stop(UploadPreempted())
        return reader

    wire = await dial(await serve(Taker(stopped).app()))
    await wire.send(post(coding))
    assert (await wire.answer()).status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_who_is_gone_after_the_last_byte_has_sent_it_all(
    serve: Serve, dial: Dial, *, is_chunked: bool
) -> None:
    taker = Taker()
    taker.may_read.clear()
    wire = await dial(await serve(taker.app()))
    if is_chunked:
        await wire.send(post("Transfer-Encoding: chunked"))
        await wire.send(chunked(b"words") + b"0\r\n\r\n")
    else:
        await wire.send(post("Content-Length: 5") + b"words")
    await until(lambda: taker.request is not None)
    assert taker.request is not None
    protocol = taker.request.protocol
    wire.end_sending()
    await until(lambda: not protocol.connected)
    taker.may_read.set()
    assert await taker.ended is None
    assert bytes(taker.kept) == b"words"


def stand_still() -> None:
    """Do nothing, as a server does whose machine was suspended."""
    time.sleep(1.5)


async def test_a_body_is_not_slow_because_the_server_stood_still(
    serve: Serve, dial: Dial
) -> None:
    taker = Taker(lambda request: BodyReader(request, window_s=0.3))
    wire = await dial(await serve(taker.app()))
    await wire.send(post("Content-Length: 8") + b"half")
    await taker.first.wait()
    await asyncio.sleep(0)
    await wire.send(b"left")
    stand_still()
    answer = await wire.answer()
    assert (answer.status, bytes(taker.kept)) == (200, b"halfleft")
