"""What a WebSocket does beside its messages (RFC 6455): pings, pieces, goodbyes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from asyncflow.config import Settings
from asyncflow.progress import Message
from asyncflow.runtime import Runtime
from asyncflow.web.sessions import Session
from asyncflow.web.wire import Pulse, Wire, frame
from tests.server_process import ServerProcess
from tests.web.frames import (
    ALIVE,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frames,
    answer_of,
    handshake,
)
from tests.web.live import Line, create, healthy_server, metric, until

CONTINUED = 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("wire")) as found:
        yield found


def test_a_ping_is_answered_with_its_own_bytes(server: ServerProcess) -> None:
    with Frames.open(server) as client:
        client.frame(PING, b"are you there?")
        assert client.next_frame() == (PONG, b"are you there?")


def test_a_wish_in_pieces_is_one_wish(server: ServerProcess) -> None:
    job = create(server, 5)
    with Frames.open(server) as client:
        client.frame(TEXT, b'{"subscribe": ["', is_last=False)
        client.frame(PING, b"between")
        client.frame(CONTINUED, job[:7].encode(), is_last=False)
        client.frame(CONTINUED, job[7:].encode() + b'"]}')
        assert client.next_frame() == (PONG, b"between")
        assert client.hear()["jobId"] == job


def test_wishes_that_come_right_behind_the_handshake_are_heard(
    server: ServerProcess,
) -> None:
    first, second = create(server, 5), create(server, 5)
    with Line(server) as line:
        wish = b'{"subscribe": ["%s"]}' % second.encode()
        line.head("GET", f"/ws?job={first}", *handshake())
        line.send(bytes((0x81, 0x80 | len(wish), 0, 0, 0, 0)) + wish)
        assert answer_of(line).status == 101
        client = Frames(line)
        assert [client.hear()["jobId"] for _ in range(2)] == [first, second]


def test_pieces_are_counted_together(server: ServerProcess) -> None:
    with Frames.open(server) as client:
        client.frame(TEXT, b" " * 40_000, is_last=False)
        client.frame(CONTINUED, b" " * 40_000)
        assert client.close_code() == 1009


@pytest.mark.parametrize(
    "wrong",
    [
        bytes((0x81, 2)) + b"{}",
        bytes((0xC1, 0x82)) + bytes(4) + b"{}",
        bytes((0x83, 0x80)) + bytes(4),
        bytes((0x80, 0x80)) + bytes(4),
        bytes((0x09, 0x80)) + bytes(4),
        bytes((0x88, 0x81)) + bytes(5),
    ],
    ids=["unmasked", "reserved", "unknown", "continued", "torn ping", "half a code"],
)
def test_frames_that_make_no_sense_close_the_socket_with_1002(
    server: ServerProcess, wrong: bytes
) -> None:
    with Frames.open(server) as client:
        client.line.send(wrong)
        assert client.close_code() == 1002
        assert client.line.is_closed()


def test_a_goodbye_is_returned_and_then_nothing_comes(server: ServerProcess) -> None:
    job = create(server, 5)
    before = metric(server, "asyncflow_websockets")
    with Frames.open(server, f"/ws?job={job}") as client:
        assert client.hear()["type"] == "snapshot"
        client.frame(CLOSE, struct.pack("!H", 1000) + b"seen enough")
        assert client.next_frame() == (CLOSE, struct.pack("!H", 1000) + b"seen enough")
        assert client.line.is_closed()
        until(lambda: metric(server, "asyncflow_websockets") <= before)


@asynccontextmanager
async def wired(folder: Path) -> AsyncIterator[tuple[Pulse, socket.socket, Runtime]]:
    """Yield a pulse, what its one wire is connected to, and the server behind it."""
    runtime = Runtime(Settings(data_dir=folder))
    pulse = Pulse()
    wire = Wire(Session(runtime), runtime.sockets, pulse)
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: wire, sock=ours)
    wire.begin(transport, None)
    async with asyncio.timeout(5):
        yield pulse, theirs, runtime
    transport.abort()
    theirs.close()


SAYS_ALIVE = bytes((0x80 | TEXT, len(ALIVE))) + ALIVE


async def test_a_socket_on_which_nothing_happens_says_at_each_beat_that_it_lives(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()
    async with wired(tmp_path) as (pulse, client, _runtime):
        pulse.beat()
        assert await loop.sock_recv(client, 100) == SAYS_ALIVE


async def test_a_client_that_reads_nothing_is_told_of_no_more_beats(
    tmp_path: Path,
) -> None:
    async with wired(tmp_path) as (pulse, client, runtime):
        (wire,) = runtime.sockets
        assert isinstance(wire, Wire)
        full = Message(type="progress", job_id="", seq=None, text="x" * 1_000_000)
        assert wire.offer(full)
        pulse.beat()
        loop = asyncio.get_running_loop()
        heard = b""
        while len(heard) < len(frame(full.text)):
            heard += await loop.sock_recv(client, 1 << 20)
        assert heard == frame(full.text)


async def test_who_is_silent_is_asked_once_and_then_cut_off(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    ping = SAYS_ALIVE + bytes((0x80 | PING, 0))
    async with wired(tmp_path) as (pulse, client, runtime):
        pulse.beat()
        pulse.beat()
        assert await loop.sock_recv(client, 100) == SAYS_ALIVE + ping
        # whatever it says, it is there
        await loop.sock_sendall(client, bytes((0x80 | PING, 0x80, 0, 0, 0, 0)))
        assert await loop.sock_recv(client, 100) == bytes((0x80 | PONG, 0))
        pulse.beat()
        pulse.beat()
        assert await loop.sock_recv(client, 100) == SAYS_ALIVE + ping
        pulse.beat()
        assert await loop.sock_recv(client, 100) == SAYS_ALIVE
        assert await loop.sock_recv(client, 100) == b""
        assert not runtime.sockets


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_message_of_any_length_is_one_frame(size: int) -> None:
    text = "ä" * (size // 2) + "x" * (size % 2)
    assert frame(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
