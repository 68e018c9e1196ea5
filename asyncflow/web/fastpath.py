"""Large bodies from the socket into the file by the kernel, past Python's memory.

Rules
-----
- Only plain TCP, only a known length, only on Linux, and only once `rehearsal` has seen
  it work on this release of aiohttp and this event loop; everything else reads.
- What aiohttp has read already is written first, by the same burst.
- A pipe is used only when it is empty. After any error it is closed and replaced, so
  that bytes of one upload never reach the file of another.
- A burst moves at most `BURST_BYTES` and never waits for the network longer than
  `LINGER_MS`; a newcomer on the same upload waits for one burst at most.
- A connection is given back to aiohttp only after exactly its body has been taken;
  otherwise it must be closed.
- aiohttp's private names that this needs are in `missing`, and used nowhere else.

Theory of operation
-------------------
`take` empties aiohttp's buffer and pauses the transport: what comes next waits in the
kernel. The loop is told when `WAKE_BYTES` of it have arrived (SO_RCVLOWAT), or looks
after `LOOK_EVERY_S`, so that an idle upload costs neither a thread nor memory. A burst
then runs on one of the store's threads: splice moves pages from the socket into a pipe
and from there into the file. At the end `give_back` hands aiohttp a new parser, for
the old one still waits for the body, and lets the transport read on: what a client
sent behind the body was never touched.
"""

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from asyncflow.store.kernel import write_all
from asyncflow.web.limits import GuardedHandler

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: with less to come the ordinary path is as fast
LEAST_BYTES: Final = 256 * KIB
#: so long may somebody who stops this upload have to wait
BURST_BYTES: Final = 16 * MIB
#: the loop is woken for this much, not for every packet
WAKE_BYTES: Final = 256 * KIB
#: and looks at least so often: progress of a slow sender, and bytes kept of it
LOOK_EVERY_S: Final = 0.25
#: a fast sender's next bytes come sooner than a turn of the loop
LINGER_MS: Final = 3
LINGER_AFTER: Final = MIB
PIPE_BYTES: Final = MIB
#: what passes through memory: the first bytes, which are looked at
READ_BYTES: Final = 64 * KIB
#: as many as threads that run bursts; further ones are made and closed
PIPES: Final = 2

_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_LOW_WATER: Final = 1

_OF_HANDLER: Final = (
    "_max_msg_queue_size",
    "_parser",
    "_read_bufsize",
    "_reading_paused",
    "max_field_size",
    "max_headers",
    "max_line_size",
)
_OF_STREAM: Final = ("_buffer", "total_bytes", "feed_eof", "read_nowait")


def missing(handler: object, stream: object = StreamReader) -> list[str]:
    """Return the names that this module needs and aiohttp does not have."""
    lacks = [name for name in _OF_HANDLER if not hasattr(handler, name)]
    lacks += [name for name in _OF_STREAM if not hasattr(stream, name)]
    return lacks


class Pipes:
    """A few empty pipes, lent to one burst at a time; safe to use from threads."""

    def __init__(self, limit: int = PIPES) -> None:
        self._limit = limit
        self._idle: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[tuple[int, int]]:
        """Lend an empty pipe; after an error, or with bytes left in it, it is gone."""
        try:
            pipe = self._idle.pop()
        except IndexError:
            pipe = _new_pipe()
        try:
            yield pipe
        except BaseException:
            _close(pipe)
            raise
        if len(self._idle) < self._limit and _waiting(pipe[0]) == 0:
            self._idle.append(pipe)
        else:
            _close(pipe)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            _close(self._idle.pop())


def _new_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # more than this user may have: a small one
        fcntl.fcntl(pipe[1], _SET_PIPE_SIZE, PIPE_BYTES)
    return pipe


def _close(pipe: tuple[int, int]) -> None:
    for end in pipe:
        os.close(end)


def _waiting(fd: int) -> int:
    """Return how many bytes can be read from *fd* now."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class SpliceBurst:
    """What one turn on a thread moves: first *first*, then *most* from the socket."""

    def __init__(self, sock: int, most: int, first: bytes, pipes: Pipes) -> None:
        self._sock = sock
        self._most = most
        self._first = first
        self._pipes = pipes
        #: bytes that are in the file, also after an error
        self.moved = 0
        #: the client has sent its last byte
        self.ended = False
        #: why the connection gives nothing any more
        self.lost: OSError | None = None

    def run(self, fd: int, offset: int) -> None:
        """Move bytes into the file *fd* at *offset*. Raise OSError of the file."""
        if self._first:
            try:
                write_all(fd, self._first, offset)
            finally:
                # a partly written buffer counts up to where the file ends now
                self.moved = min(len(self._first), os.fstat(fd).st_size - offset)
        with self._pipes.one() as (out, into):
            while self.moved < self._most:
                count = self._receive(into)
                if count == 0:
                    return
                self._empty(out, fd, offset, count)

    def _receive(self, into: int) -> int:
        """Take bytes into the pipe; 0: there are none now, or none any more."""
        wanted = min(self._most - self.moved, PIPE_BYTES)
        while True:
            try:
                count = os.splice(self._sock, into, wanted, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                if not self._lingers():
                    return 0
                continue
            except OSError as error:
                self.lost = error
                return 0
            self.ended = count == 0
            return count

    def _lingers(self) -> bool:
        if self.moved < LINGER_AFTER:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))

    def _empty(self, out: int, fd: int, offset: int, count: int) -> None:
        while count:
            done = os.splice(out, fd, count, offset_dst=offset + self.moved)
            if done == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            count -= done
            self.moved += done


class Taken:
    """A connection whose body the kernel moves; made by `FastPath.take`."""

    def __init__(self, request: web.BaseRequest, first: bytes, pipes: Pipes) -> None:
        transport = request.transport
        assert transport is not None  # noqa: S101 -- `FastPath.take` has looked
        self._request = request
        self._transport = transport
        self._first = first
        self._pipes = pipes
        #: what is still to come from the socket
        self.left = (request.content_length or 0) - request.content.total_bytes
        self._sock = os.dup(transport.get_extra_info("socket").fileno())
        self._lowat = _LOW_WATER
        self._wake = asyncio.Event()
        self._is_readable = False
        self._burst: SpliceBurst | None = None
        transport.pause_reading()

    def wake(self) -> None:
        """Let the wait end now."""
        self._wake.set()

    @property
    def is_done(self) -> bool:
        """Whether all of the body has been moved."""
        return self.left == 0 and not self._first

    @property
    def to_come(self) -> int:
        """How many bytes of the body nobody has got yet."""
        burst = self._burst
        return self.left + len(self._first) - (0 if burst is None else burst.moved)

    @property
    def has_bytes(self) -> bool:
        """Whether a burst would move something."""
        return bool(self._first) or _waiting(self._sock) > 0

    @property
    def is_closing(self) -> bool:
        """Whether our side has given the connection up."""
        return self._transport.is_closing()

    async def wait(self) -> bool:
        """Tell, after a while at most, whether a burst would find bytes or the end."""
        if self._first:
            return True
        self._set_lowat(min(WAKE_BYTES, self.left))
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._readable)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
        finally:
            loop.remove_reader(self._sock)
            self._wake.clear()
        readable, self._is_readable = self._is_readable, False
        return readable or self.has_bytes

    def _readable(self) -> None:
        self._is_readable = True
        self._wake.set()

    def burst(self) -> SpliceBurst:
        """Return the next burst; `settle` it before the one after."""
        first, self._first = self._first, b""
        most = min(len(first) + self.left, BURST_BYTES)
        self._burst = SpliceBurst(self._sock, most, first, self._pipes)
        self.left += len(first)
        return self._burst

    def read(self) -> bytes:
        """Return the next bytes as they are, as much as fits into a small buffer.

        b"" when none had come after all, or none will; then `settle` tells which.
        """
        if self._first:
            first, self._first = self._first, b""
            self._burst = SpliceBurst(self._sock, 0, b"", self._pipes)
            self._burst.moved = len(first)
            self.left += len(first)
            return first
        burst = self._burst = SpliceBurst(self._sock, 0, b"", self._pipes)
        data = b""
        try:
            data = os.read(self._sock, min(READ_BYTES, self.left))
            burst.ended = not data
        except BlockingIOError:
            pass
        except OSError as error:
            burst.lost = error
        burst.moved = len(data)
        return data

    def settle(self) -> SpliceBurst | None:
        """Count what the last burst has moved and return it; None: there is none."""
        burst, self._burst = self._burst, None
        if burst is not None:
            self.left -= burst.moved
        return burst

    def give_back(self) -> None:
        """Let aiohttp go on behind the body."""
        handler: Any = self._request.protocol
        content = self._request.content
        self._let_go()
        # else aiohttp had read all of it, and perhaps the next request, before we came
        if not content.is_eof():
            handler._parser = _parser_for(handler)  # noqa: SLF001 -- see `missing`
            content.feed_eof()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Let go, whatever is still to come; closing twice is not an error.

        Where the body was not given back, only closing the connection is left.
        """
        self._let_go()
        content = self._request.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(ConnectionResetError("the body was left alone"))

    def _let_go(self) -> None:
        if self._sock >= 0:
            with contextlib.suppress(OSError):  # the connection may be gone
                self._set_lowat(_LOW_WATER)
            os.close(self._sock)
            self._sock = -1

    def _set_lowat(self, count: int) -> None:
        if count == self._lowat:
            return
        self._lowat = count
        with socket.socket(fileno=os.dup(self._sock)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def _parser_for(handler: Any) -> HttpRequestParser:
    return HttpRequestParser(
        handler,
        asyncio.get_running_loop(),
        handler._read_bufsize,  # noqa: SLF001 -- see `missing`
        max_line_size=handler.max_line_size,
        max_field_size=handler.max_field_size,
        max_headers=handler.max_headers,
        payload_exception=RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=handler._max_msg_queue_size,  # noqa: SLF001 -- see `missing`
    )


class FastPath:
    """Takes bodies from aiohttp, once it has been seen that this works here."""

    def __init__(self) -> None:
        self.is_on = False
        self._pipes = Pipes()
        #: bodies taken so far
        self.taken = 0

    @property
    def is_possible(self) -> bool:
        """Whether this system and this Python have what it takes."""
        return sys.platform == "linux" and hasattr(os, "splice")

    def take(self, request: web.BaseRequest) -> Taken | None:
        """Take what is left of the body of *request* if that is worth it.

        None: read it.
        """
        if not self.is_on or not _suits(request):
            return None
        content, first = request.content, bytearray()
        # no turn of the loop in between: nothing comes from the socket meanwhile
        while content._buffer:  # noqa: SLF001 -- see `missing`
            first += content.read_nowait()
        self.taken += 1
        return Taken(request, bytes(first), self._pipes)

    def close(self) -> None:
        """Let go of the pipes."""
        self._pipes.close()


def _suits(request: web.BaseRequest) -> bool:
    content, transport = request.content, request.transport
    if request.content_length is None or transport is None or transport.is_closing():
        return False
    left = request.content_length - content.total_bytes
    if left <= LEAST_BYTES or content.exception() is not None:
        return False
    handler = request.protocol
    if not isinstance(handler, GuardedHandler):
        return False
    return (
        transport.get_extra_info("socket") is not None
        and transport.get_extra_info("sslcontext") is None
    )
