"""Bodies from the socket into the file by the kernel, past Python's memory.

Rules
-----
- A pipe is used only when it is empty. After any error it is closed and replaced, so
  that bytes of one upload never reach the file of another.
- A burst moves at most `BURST_BYTES` and never waits for the network longer than
  `LINGER_MS`; a newcomer on the same upload waits for one burst at most.

Theory of operation
-------------------
The transport is paused: what comes next waits in the kernel. The loop is told when
`WAKE_BYTES` of it have arrived (SO_RCVLOWAT), or looks after `LOOK_EVERY_S`, so that an
idle upload costs neither a thread nor memory. A burst then runs on one of the store's
threads: splice moves pages from the socket into a pipe and from there into the file.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from asyncflow.web.taken import (
    KIB,
    LOOK_EVERY_S,
    WAKE_BYTES,
    LowWater,
    Portion,
    Taken,
    waiting,
)

MIB: Final = 1024 * KIB

#: so long may somebody who stops this upload have to wait
BURST_BYTES: Final = 16 * MIB
#: a fast sender's next bytes come sooner than a turn of the loop
LINGER_MS: Final = 3
LINGER_AFTER: Final = MIB
PIPE_BYTES: Final = MIB
#: what passes through memory: the first bytes, which are looked at
READ_BYTES: Final = 64 * KIB
#: as many as threads that run bursts; further ones are made and closed
PIPES: Final = 2

_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)


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
        if len(self._idle) < self._limit and waiting(pipe[0]) == 0:
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


class SpliceBurst(Portion):
    """What one turn on a thread moves: first *first*, then *most* from the socket."""

    def __init__(self, sock: int, most: int, first: bytes, pipes: Pipes) -> None:
        super().__init__(first)
        self._sock = sock
        self._most = most
        self._pipes = pipes

    def run(self, fd: int, offset: int) -> None:
        """Move bytes into the file *fd* at *offset*. Raise OSError of the file."""
        super().run(fd, offset)
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


def second(transport: asyncio.Transport) -> socket.socket | None:
    """Return a descriptor of its own for a connection; None: there is none left."""
    found = transport.get_extra_info("socket")
    try:
        return socket.fromfd(found.fileno(), found.family, found.type)
    except OSError:
        return None


class Spliced(Taken):
    """A body that the kernel moves."""

    def __init__(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        first: bytes,
        sock: socket.socket,
        pipes: Pipes,
    ) -> None:
        """Take a body from *sock*, a `second` of the connection, which is ours now."""
        super().__init__(request, transport, first)
        self._pipes = pipes
        self._sock = sock
        self._low_water = LowWater(sock)
        self._is_readable = False
        transport.pause_reading()

    @property
    def has_bytes(self) -> bool:
        """Whether a burst would move something."""
        return bool(self._first) or waiting(self._sock.fileno()) > 0

    async def _arrived(self) -> bool:
        self._low_water.set(min(WAKE_BYTES, self.left))
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock.fileno(), self._readable)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
        finally:
            loop.remove_reader(self._sock.fileno())
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
        burst = SpliceBurst(self._sock.fileno(), most, first, self._pipes)
        self._portion = burst
        self.left += len(first)
        return burst

    def _read(self) -> bytes:
        portion = self._portion = Portion()
        data = b""
        try:
            data = os.read(self._sock.fileno(), min(READ_BYTES, self.left))
            portion.ended = not data
        except BlockingIOError:
            pass
        except OSError as error:
            portion.lost = error
        portion.moved = len(data)
        return data

    def _let_go(self) -> None:
        if self._sock.fileno() >= 0:
            self._low_water.set(1)
            self._sock.close()
