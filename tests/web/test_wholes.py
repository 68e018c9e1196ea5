"""Bodies that are read whole: how large one may be, and all together."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from asyncflow.errors import ServerBusy
from asyncflow.web.bodies import continue_later
from asyncflow.web.errors import problems
from asyncflow.web.wholes import LEAST, Wholes, read_whole, taken
from tests.server_process import ServerProcess
from tests.web.live import (
    Header,
    Line,
    code_of,
    healthy_server,
    needs_root,
    rss_bytes,
    until,
)
from tests.web.wire import Dial, Serve, until as until_true

KIB = 1024
MIB = 1024 * KIB
MOST = 200 * KIB
LIMIT = taken(MOST)


def post(*fields: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def app_of(wholes: Wholes, *, max_bytes: int = MOST) -> web.Application:
    async def take(request: web.Request) -> web.Response:
        body = await read_whole(request, wholes, max_bytes=max_bytes)
        return web.Response(text=str(len(body)))

    app = web.Application(middlewares=[problems()])
    app.router.add_post("/", take, expect_handler=continue_later)
    return app


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_small_body_is_read_whole(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(app_of(Wholes(LIMIT))))
    answer = await wire.ask("POST / HTTP/1.1\nContent-Length: 100", b"x" * 100)
    assert answer.body == b"100"


@pytest.mark.parametrize(
    "coding", ["Content-Length: 101", "Transfer-Encoding: chunked"]
)
async def test_a_body_above_the_limit_of_its_resource_is_answered_413(
    serve: Serve, dial: Dial, coding: str
) -> None:
    wholes = Wholes(LIMIT)
    wire = await dial(await serve(app_of(wholes, max_bytes=100)))
    data = b"x" * 101
    if "chunked" in coding:
        data = b"65\r\n" + data + b"\r\n"
    await wire.send(post(coding) + data)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert wholes.held == 0


async def test_a_body_that_stands_still_makes_room_for_one_that_comes(
    serve: Serve, dial: Dial
) -> None:
    refused: list[str] = []
    clock = Clock()
    wholes = Wholes(LIMIT, on_refusal=refused.append, clock=clock)
    site = await serve(app_of(wholes))
    still, moving = await dial(site), await dial(site)
    await still.send(post(f"Content-Length: {150 * KIB}") + b"x" * 140 * KIB)
    await until_true(lambda: wholes.held == taken(140 * KIB))
    clock.now += 60
    await moving.send(post(f"Content-Length: {100 * KIB}") + b"x" * 100 * KIB)
    assert (await moving.answer()).body == b"102400"
    answer = await still.answer()
    assert (answer.status, answer.code) == (503, "busy")
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["connection"] == "close"
    assert (wholes.held, refused) == (0, [ServerBusy.code])


async def test_a_body_that_moves_comes_to_its_end_and_the_newest_is_not_asked_for(
    serve: Serve, dial: Dial
) -> None:
    wholes = Wholes(LIMIT, clock=Clock())
    site = await serve(app_of(wholes))
    moving, newest = await dial(site), await dial(site)
    await moving.send(post(f"Content-Length: {200 * KIB}") + b"x" * 190 * KIB)
    await until_true(lambda: wholes.held == taken(190 * KIB))
    await newest.send(post("Content-Length: 100", "Expect: 100-continue"))
    answer = await newest.answer()
    assert (answer.status, answer.code) == (503, "busy")
    await moving.send(b"x" * 10 * KIB)
    assert (await moving.answer()).body == b"204800"
    assert wholes.held == 0


async def test_no_more_are_refused_than_must_make_room(
    serve: Serve, dial: Dial
) -> None:
    clock = Clock()
    wholes = Wholes(LIMIT, clock=clock)
    site = await serve(app_of(wholes))
    wires = [await dial(site) for _ in range(3)]
    for n, wire in enumerate(wires, 1):
        # each one later than the one before
        await wire.send(post(f"Content-Length: {70 * KIB}") + b"x" * 60 * KIB)
        await until_true(lambda n=n: wholes.held == n * taken(60 * KIB))  # type: ignore[misc]
        clock.now += 2
    late = await dial(site)
    await late.send(post(f"Content-Length: {50 * KIB}") + b"x" * 50 * KIB)
    assert (await late.answer()).status == 200
    assert (await wires[0].answer()).status == 503
    for wire in wires[1:]:
        await wire.send(b"x" * 10 * KIB)
        assert (await wire.answer()).body == b"71680"


async def test_what_was_announced_and_does_not_come_takes_hardly_anything(
    serve: Serve, dial: Dial
) -> None:
    wholes = Wholes(LIMIT, clock=Clock())
    site = await serve(app_of(wholes))
    for _ in range(8):
        await (await dial(site)).send(post(f"Content-Length: {MOST}"))
    await until_true(lambda: wholes.held == 8 * LEAST)
    wire = await dial(site)
    await wire.send(post(f"Content-Length: {70 * KIB}") + b"x" * 70 * KIB)
    assert (await wire.answer()).body == b"71680"
    assert wholes.held == 8 * LEAST


async def test_a_body_that_has_come_counts_until_its_reader_has_done_with_it(
    serve: Serve, dial: Dial
) -> None:
    wholes = Wholes(LIMIT, clock=Clock())
    done = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        async with wholes.read(request, max_bytes=MOST) as whole:
            await done.wait()
            return web.Response(text=str(len(whole.data)))

    app = web.Application(middlewares=[problems()])
    app.router.add_post("/", take, expect_handler=continue_later)
    site = await serve(app)
    first, second = await dial(site), await dial(site)
    await first.send(post(f"Content-Length: {MOST}") + b"x" * MOST)
    await until_true(lambda: wholes.held == LIMIT)
    await second.send(post(f"Content-Length: {MOST}") + b"x" * MOST)
    # it alone is coming: nobody else can make room
    assert (await second.answer()).status == 503
    done.set()
    assert (await first.answer()).status == 200
    assert wholes.held == 0


# ----- chunks in JSON, at a whole server

JSON: Header = ("Content-Type", "application/json")
BEGUN = b'{"chunkIndex": 0, "totalChunks": 2, "chunk": "' + b"A" * (14 * MIB)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("wholes")) as found:
        yield found


def begin(server: ServerProcess, body: bytes) -> Line:
    """Announce a chunk of 15 MiB, and send what there is of it."""
    line = Line(server)
    line.head("POST", "/upload/chunked", JSON, length=15 * MIB)
    line.send(body)
    return line


def test_chunks_that_break_off_leave_nothing_in_memory(server: ServerProcess) -> None:
    before = rss_bytes(server.pid)
    for _ in range(40):
        with begin(server, BEGUN):
            pass
    assert server.request("GET", "/livez").status == 200
    until(lambda: rss_bytes(server.pid) - before < 100 * MIB)


def test_forms_that_break_off_leave_nothing_in_memory(server: ServerProcess) -> None:
    kind = ("Content-Type", "multipart/form-data; boundary=x")
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    before = rss_bytes(server.pid)
    for _ in range(300):
        with Line(server) as line:
            line.head("POST", "/upload", kind, length=3 * MIB)
            line.send(part + b"A" * MIB)
    assert server.request("GET", "/livez").status == 200
    until(lambda: rss_bytes(server.pid) - before < 60 * MIB)


def test_chunks_that_are_held_open_take_no_more_memory_than_they_may(
    server: ServerProcess,
) -> None:
    before = rss_bytes(server.pid)
    with ExitStack() as stack:
        held = []
        for _ in range(20):
            try:
                held.append(stack.enter_context(begin(server, BEGUN)))
            except (BrokenPipeError, ConnectionResetError):
                # refused while it was sent
                continue
        answered = [line for line in held if has_answer(line)]
        for line in answered:
            answer = line.answer()
            assert (answer.status, code_of(answer)) == (503, "busy")
            assert int(answer.headers["retry-after"]) > 0
        assert len(held) - len(answered) <= 10
        assert rss_bytes(server.pid) - before < 250 * MIB
    body = b'{"chunkIndex": 0, "totalChunks": 1, "chunk": "aGVsbG8="}'
    answer = server.request("POST", "/upload/chunked", body, Content_Type=JSON[1])
    assert answer.status == 202


@pytest.mark.parametrize(
    "filling",
    [
        b'"x": [' + b"[]," * 5_000_000 + b"[]]",
        b'"fileName": [' + b'{"a":1},' * 1_800_000 + b"{}]",
        b'"x": {' + b",".join(b'"%07d":{}' % n for n in range(1_200_000)) + b"}",
        b'"' + b"k" * (15 * MIB) + b'": 1',
        b'"jobId": "' + b"\\u00e9" * 2_500_000 + b'"',
    ],
    ids=["lists", "objects", "members", "name", "string"],
)
@needs_root
def test_what_a_chunk_in_json_may_not_say_takes_no_memory_beside_it(
    server: ServerProcess, filling: bytes
) -> None:
    body = b'{"chunkIndex": 0, "totalChunks": 2, "chunk": "QQ==", ' + filling + b"}"
    assert len(body) < 16 * MIB
    # what it takes at most is counted from here
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    before = rss_bytes(server.pid)
    with Line(server) as line:
        answer = line.ask("POST", "/upload/chunked", JSON, body=body)
    assert (answer.status, code_of(answer)) == (413, "body_too_large")
    assert rss_bytes(server.pid, "VmHWM") - before < 60 * MIB


def has_answer(line: Line) -> bool:
    """Tell whether the server has said something; it has time to."""
    line.sock.settimeout(0.3)
    try:
        return bool(line.sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    except ConnectionResetError:
        return False
    finally:
        line.sock.settimeout(20)
