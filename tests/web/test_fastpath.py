import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trustme
from aiohttp import web

from asyncflow.errors import SlowBody, TruncatedBody, UploadPreempted
from asyncflow.store.local import LocalStore
from asyncflow.web.fastpath import FastPath
from asyncflow.web.limits import GuardedHandler
from asyncflow.web.rehearsal import rehearse
from asyncflow.web.sink import BUFFER_BYTES, BUFFERS, SMALL_BYTES, Buffers, Sink
from asyncflow.web.splice import Pipes, SpliceBurst
from asyncflow.web.taken import Taken, missing, waiting
from tests.web.keeper import GET, KIB, MIB, Keeper, no_descriptor, put, some_bytes
from tests.web.wire import Dial, Serve, until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(serve: Serve, scheme: str, authority: trustme.CA) -> Serve:
    if scheme == "http":
        return serve
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return partial(serve, ssl_context=context)


@pytest.fixture
def dial(dial: Dial, scheme: str, authority: trustme.CA) -> Dial:
    if scheme == "http":
        return dial
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return partial(dial, ssl=context, server_hostname="localhost")


@pytest.fixture
async def fast() -> AsyncIterator[FastPath]:
    found = FastPath()
    found.is_on = True
    yield found
    found.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    found = LocalStore(tmp_path / "store", fsync=False)
    yield found
    await found.close()


@pytest.fixture
def keeper(fast: FastPath, store: LocalStore) -> Keeper:
    return Keeper(fast, store)


async def test_the_rehearsal_finds_that_it_works_here() -> None:
    fast = FastPath()
    await rehearse(fast)
    assert fast.is_on
    assert fast.taken == 1
    fast.close()


class Forgetful(GuardedHandler):
    """A handler that loses what comes behind a body."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self.force_close()
        else:
            super().data_received(data)


async def test_where_the_rehearsal_fails_bodies_are_read_instead(
    serve: Serve, dial: Dial, store: LocalStore
) -> None:
    fast = FastPath()
    await rehearse(fast, handler=Forgetful)
    assert not fast.is_on
    keeper = Keeper(fast, store)
    wire = await dial(await serve(keeper.app))
    data = some_bytes(2 * MIB)
    await wire.send(put(len(data)) + data)
    assert (await wire.answer()).status == 200
    assert keeper.kept() == data


def test_a_release_of_aiohttp_without_our_names_is_noticed() -> None:
    assert "_parser" in missing(object(), object())
    assert "feed_eof" in missing(object(), object())


@pytest.mark.parametrize("size", [256 * KIB + 1, MIB, 5 * MIB + 7, 40 * MIB])
async def test_a_large_body_arrives_whole(
    serve: Serve, dial: Dial, keeper: Keeper, fast: FastPath, size: int
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(size)
    await wire.send(put(size))
    await wire.send(data)
    assert (await wire.answer()).body == str(size).encode()
    assert keeper.kept() == data
    assert keeper.reader is not None
    assert keeper.reader.received == size
    # what fits into aiohttp's buffer is not worth it
    assert fast.taken == 1 or size <= MIB


async def test_the_connection_goes_on_and_pipelined_requests_are_answered(
    serve: Serve, dial: Dial, keeper: Keeper, fast: FastPath
) -> None:
    wire = await dial(await serve(keeper.app))
    for number in range(1, 4):
        data = some_bytes(3 * MIB + number, seed=str(number))
        await wire.send(put(len(data)) + data + GET + GET)
        assert (await wire.answer()).body == str(len(data)).encode()
        assert (await wire.answer()).body == b"hello"
        assert (await wire.answer()).body == b"hello"
        assert keeper.kept(number) == data
    assert fast.taken == 3


async def test_two_large_bodies_in_one_go_are_two_files(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    one, two = some_bytes(2 * MIB, "1"), some_bytes(3 * MIB, "2")
    sending = asyncio.create_task(wire.send(put(len(one)) + one + put(len(two)) + two))
    assert (await wire.answer()).body == str(len(one)).encode()
    assert (await wire.answer()).body == str(len(two)).encode()
    await sending
    assert (keeper.kept(1), keeper.kept(2)) == (one, two)


async def test_every_byte_before_a_disconnect_is_kept(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(4_500_001)
    await wire.send(put(10 * MIB) + data)
    wire.writer.close()
    assert isinstance(await keeper.how(), (TruncatedBody, ConnectionError))
    assert keeper.kept() == data


@pytest.mark.parametrize("scheme", ["http"], indirect=True)  # TLS has no half-close
async def test_a_body_that_ends_early_is_answered(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    await wire.send(put(10 * MIB) + data)
    wire.writer.write_eof()
    answer = await wire.answer()
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert keeper.kept() == data


async def test_a_body_that_stops_coming_is_too_slow(
    serve: Serve, dial: Dial, fast: FastPath, store: LocalStore
) -> None:
    keeper = Keeper(fast, store, window_s=0.6)
    wire = await dial(await serve(keeper.app))
    data = some_bytes(2 * MIB)
    await wire.send(put(10 * MIB) + data)
    assert (await wire.answer()).code == SlowBody.code
    assert keeper.kept() == data


async def test_a_trickle_is_too_slow_as_well(
    serve: Serve, dial: Dial, fast: FastPath, store: LocalStore
) -> None:
    keeper = Keeper(fast, store, window_s=0.9)
    wire = await dial(await serve(keeper.app))
    await wire.send(put(10 * MIB) + some_bytes(2 * MIB))

    async def trickle() -> None:
        while True:
            await wire.send(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(trickle())
    try:
        assert (await wire.answer()).code == SlowBody.code
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_a_body_is_not_slow_because_the_server_stood_still(
    serve: Serve, dial: Dial, fast: FastPath, store: LocalStore
) -> None:
    keeper = Keeper(fast, store, window_s=0.9)
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    await wire.send(put(len(data)) + data[: 2 * MIB])
    await until(lambda: keeper.offset == 2 * MIB)
    few = 2 * MIB + 100
    await wire.send(data[2 * MIB : few])
    time.sleep(1.5)  # noqa: ASYNC251 -- as a server does whose machine was suspended
    await until(lambda: keeper.offset == few)
    await wire.send(data[few:])
    assert (await wire.answer()).status == 200
    assert keeper.kept() == data


class Crowded(FastPath):
    """A fast path that finds no descriptor left when a body comes."""

    def take(self, request: web.BaseRequest) -> Taken | None:
        with no_descriptor():
            return super().take(request)


async def test_a_body_for_which_no_descriptor_is_left_is_read(
    serve: Serve, dial: Dial, store: LocalStore, scheme: str
) -> None:
    fast = Crowded()
    fast.is_on = True
    keeper = Keeper(fast, store)
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    await wire.send(put(len(data)) + data + GET)
    assert (await wire.answer()).body == str(len(data)).encode()
    assert (await wire.answer()).body == b"hello"
    assert keeper.kept() == data
    # through a buffer none is needed
    assert fast.taken == (scheme == "https")
    fast.close()


async def test_a_body_goes_on_while_no_descriptor_is_left(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    await wire.send(put(len(data)) + data[: 2 * MIB])
    await until(lambda: keeper.offset == 2 * MIB)
    with no_descriptor():
        few = len(data) - 100
        await wire.send(data[2 * MIB : few])
        await until(lambda: keeper.offset == few)
        await wire.send(data[few:])
        assert (await wire.answer()).status == 200
    assert keeper.kept() == data


async def test_few_bytes_are_seen_although_more_are_to_come(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    await wire.send(put(10 * MIB) + some_bytes(2 * MIB))
    await until(lambda: keeper.offset == 2 * MIB)
    await wire.send(b"abc")
    await until(lambda: keeper.offset == 2 * MIB + 3)


async def test_who_stops_a_body_gets_what_had_arrived(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    await wire.send(put(10 * MIB) + data)
    await until(lambda: keeper.offset == len(data))
    await wire.send(b"late")
    assert keeper.reader is not None
    keeper.reader.stop(UploadPreempted())
    assert isinstance(await keeper.how(), UploadPreempted)
    answer = await wire.answer()
    assert answer.code == UploadPreempted.code
    assert keeper.kept() in {data, data + b"late"}


async def test_small_and_chunked_bodies_are_read(
    serve: Serve, dial: Dial, keeper: Keeper, fast: FastPath
) -> None:
    wire = await dial(await serve(keeper.app))
    await wire.send(put(256 * KIB) + bytes(256 * KIB))
    assert (await wire.answer()).status == 200
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = f"{MIB:x}\r\n".encode() + bytes(MIB) + b"\r\n0\r\n\r\n"
    await wire.send(head + body)
    assert (await wire.answer()).body == str(MIB).encode()
    assert fast.taken == 0


async def test_a_body_that_does_not_fit_passes_through_memory(
    serve: Serve, dial: Dial, keeper: Keeper
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(3 * MIB)
    keeper.room = 0
    await wire.send(put(len(data)) + data + GET)
    assert (await wire.answer()).status == 200
    assert (await wire.answer()).body == b"hello"
    assert keeper.kept() == data
    assert keeper.bursts == 0


async def test_a_waiting_client_is_told_to_continue(
    serve: Serve, dial: Dial, keeper: Keeper, fast: FastPath
) -> None:
    wire = await dial(await serve(keeper.app))
    data = some_bytes(2 * MIB)
    await wire.send(put(len(data), "Expect: 100-continue"))
    assert (await wire.answer()).status == 100
    await wire.send(data)
    assert (await wire.answer()).status == 200
    assert keeper.kept() == data
    assert fast.taken == 1


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_many_bodies_at_once_get_along_with_few_buffers(
    serve: Serve, dial: Dial, keeper: Keeper, fast: FastPath
) -> None:
    site = await serve(keeper.app)
    data = some_bytes(2 * MIB)
    wires = [await dial(site) for _ in range(3 * BUFFERS)]
    for wire in wires:
        await wire.send(put(len(data)) + data[: 600 * KIB])
    await until(lambda: keeper.count == len(wires))
    for wire in wires:
        await wire.send(data[600 * KIB :])
    for wire in wires:
        assert (await wire.answer()).status == 200
    assert fast.taken == len(wires)
    assert {keeper.kept(n) for n in range(1, len(wires) + 1)} == {data}


class Counting(Sink):
    """A sink that counts how often it hears of bytes."""

    heard = 0

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += 1
        super().buffer_updated(nbytes)


async def test_small_pieces_gather_in_the_kernel_until_somebody_hurries(
    authority: trustme.CA,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    met: asyncio.Future[asyncio.Transport] = asyncio.Future()

    class Meeting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            met.set_result(cast("asyncio.Transport", transport))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Meeting, "127.0.0.1", ssl=context)
    port = server.sockets[0].getsockname()[1]
    _reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
    )
    transport = await met
    sink = Counting(transport, 10 * MIB, Buffers(), asyncio.Event())
    sink.go_on()
    sent = b""
    for number in range(100):
        sent += (piece := some_bytes(2 * KIB, str(number)))
        writer.write(piece)
        await writer.drain()
    fd = transport.get_extra_info("socket").fileno()
    await until(lambda: waiting(fd) >= len(sent))
    assert sink.heard == 0

    assert sink.hurry()
    await until(lambda: sink.have == len(sent))
    assert bytes(sink.view()) == sent
    assert not sink.hurry()
    for one in (transport, writer.transport):
        one.abort()
    server.close()
    await server.wait_closed()


def test_buffers_are_few_and_used_again() -> None:
    buffers = Buffers(limit=2)
    lent = [buffers.take() for _ in range(3)]
    assert [len(one) for one in lent] == [BUFFER_BYTES, BUFFER_BYTES, SMALL_BYTES]
    for one in lent:
        buffers.give_back(one)
    assert buffers.take() is lent[1]
    assert buffers.take() is lent[0]
    assert len(buffers.take()) == SMALL_BYTES


# ----- pipes


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    found = Pipes()
    yield found
    found.close()


def _sender(data: bytes) -> tuple[int, int]:
    out, into = os.pipe()
    os.write(into, data)
    os.set_blocking(out, False)
    return out, into


def test_bytes_of_a_failed_write_never_reach_the_next_file(
    pipes: Pipes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    read_only = os.open(path, os.O_RDONLY)
    target = os.open(path, os.O_WRONLY)
    one = _sender(b"the secret of somebody else")
    two = _sender(b"my own words")
    try:
        burst = SpliceBurst(one[0], 27, b"", pipes)
        with pytest.raises(OSError, match="Bad file descriptor"):
            burst.run(read_only, 0)
        assert burst.moved == 0
        burst = SpliceBurst(two[0], 12, b"", pipes)
        burst.run(target, 0)
        assert burst.moved == 12
        assert path.read_bytes() == b"my own words"
    finally:
        for fd in (read_only, target, *one, *two):
            os.close(fd)


def test_a_pipe_with_bytes_left_in_it_is_not_lent_again(pipes: Pipes) -> None:
    with pipes.one() as first:
        os.write(first[1], b"left behind")
    with pipes.one() as (out, _into):
        os.set_blocking(out, False)
        with pytest.raises(BlockingIOError):
            os.read(out, 1)


def test_an_empty_pipe_is_lent_again_and_no_more_are_kept_than_asked(
    pipes: Pipes,
) -> None:
    with pipes.one() as first, pipes.one() as second, pipes.one() as third:
        pass
    with pipes.one() as again, pipes.one() as once_more:
        assert {again, once_more} < {first, second, third}


def test_a_failed_write_of_the_first_bytes_counts_what_got_in(
    pipes: Pipes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    read_only = os.open(path, os.O_RDONLY)
    try:
        burst = SpliceBurst(-1, 10, b"0123456789", pipes)
        with pytest.raises(OSError, match="Bad file descriptor"):
            burst.run(read_only, 0)
        assert burst.moved == 0
    finally:
        os.close(read_only)


def test_a_full_disk_keeps_what_got_in(
    pipes: Pipes,
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    one = _sender(b"does not fit")
    try:
        burst = SpliceBurst(one[0], 12, b"", pipes)
        with pytest.raises(OSError):  # noqa: PT011 -- which one is up to the kernel
            burst.run(full, 0)
        assert burst.moved == 0
    finally:
        for fd in (full, *one):
            os.close(fd)
