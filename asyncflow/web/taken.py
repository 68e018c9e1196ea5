"""A body that was taken from aiohttp, and the connection given back behind it.

Rules
-----
- What aiohttp has read already is written first, by the first burst.
- A connection is given back to aiohttp only after exactly its body has been taken;
  otherwise it must be closed.
- aiohttp's private names that this needs are in `missing`, and used in this module and
  in `fastpath`, nowhere else.

Theory of operation
-------------------
Whoever takes a body has emptied aiohttp's buffer and keeps the transport from reading
on by itself. At the end `give_back` hands aiohttp a new parser, for the old one still
waits for the body, and lets the transport read on: what a client sent behind the body
was never touched. How bytes get from the connection into a file is the business of
those who inherit: `asyncflow.web.splice`, `asyncflow.web.sink`.
"""

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import termios
from abc import ABC, abstractmethod
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from asyncflow.store.kernel import write_all

KIB: Final = 1024

#: progress of a slow sender is looked at so often, and its bytes are kept
LOOK_EVERY_S: Final = 0.25
#: the loop is woken for this much, not for every packet
WAKE_BYTES: Final = 256 * KIB

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
    """Return the names that this needs and aiohttp does not have."""
    lacks = [name for name in _OF_HANDLER if not hasattr(handler, name)]
    lacks += [name for name in _OF_STREAM if not hasattr(stream, name)]
    return lacks


class Watched(Protocol):
    """What sockets have, and what transports show instead of them."""

    def fileno(self) -> int:
        """Return the descriptor; -1: it is closed."""
        ...

    def setsockopt(self, level: int, name: int, value: int, /) -> None:
        """Set an option."""
        ...


#: what the loops' sockets raise once they are closed: the descriptor is -1 then
_GONE: Final = (OSError, ValueError)


class LowWater:
    """For how many bytes in the socket the loop is woken; at first for each one.

    Where the connection is gone it changes nothing, and finds nothing.
    """

    def __init__(self, sock: Watched) -> None:
        self._sock = sock
        self.mark = 1

    def set(self, mark: int) -> None:
        """Wake for *mark* bytes, at once if they are there."""
        if mark != self.mark:
            with contextlib.suppress(*_GONE):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
                self.mark = mark

    @property
    def waiting(self) -> int:
        """How many bytes lie in the socket now."""
        with contextlib.suppress(*_GONE):
            return waiting(self._sock.fileno())
        return 0


def waiting(fd: int) -> int:
    """Return how many bytes can be read from *fd* now."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class Portion:
    """What one turn on a thread moves into the file: bytes that are in memory."""

    def __init__(self, data: bytes | memoryview = b"") -> None:
        self._data = data
        #: bytes that are in the file, also after an error
        self.moved = 0
        #: the client has sent its last byte
        self.ended = False
        #: why the connection gives nothing any more
        self.lost: Exception | None = None

    def run(self, fd: int, offset: int) -> None:
        """Move bytes into the file *fd* at *offset*. Raise OSError of the file."""
        if not self._data:
            return
        try:
            write_all(fd, self._data, offset)
        finally:
            # a partly written buffer counts up to where the file ends now
            self.moved = min(len(self._data), os.fstat(fd).st_size - offset)


class Taken(ABC):
    """A connection whose body passes aiohttp by; made by `FastPath.take`."""

    def __init__(
        self, request: web.BaseRequest, transport: asyncio.Transport, first: bytes
    ) -> None:
        self._request = request
        self._transport = transport
        self._first = first
        #: what nobody has moved yet, less what aiohttp had read
        self.left = (request.content_length or 0) - request.content.total_bytes
        self._wake = asyncio.Event()
        self._portion: Portion | None = None

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
        portion = self._portion
        return self.left + len(self._first) - (0 if portion is None else portion.moved)

    @property
    def is_closing(self) -> bool:
        """Whether our side has given the connection up."""
        return self._transport.is_closing()

    @property
    @abstractmethod
    def has_bytes(self) -> bool:
        """Whether a burst would move something."""

    async def wait(self) -> bool:
        """Tell, after a while at most, whether a burst would find bytes or the end."""
        return bool(self._first) or await self._arrived()

    @abstractmethod
    async def _arrived(self) -> bool:
        """Wait for what comes from the connection."""

    @abstractmethod
    def burst(self) -> Portion:
        """Return the next burst; `settle` it before the one after."""

    def read(self) -> bytes:
        """Return the next bytes as they are, as much as fits into a small buffer.

        b"" when none had come after all, or none will; then `settle` tells which.
        """
        if not self._first:
            return self._read()
        first, self._first = self._first, b""
        self._portion = Portion()
        self._portion.moved = len(first)
        self.left += len(first)
        return first

    @abstractmethod
    def _read(self) -> bytes:
        """Return bytes of the connection; note in a portion how it is."""

    def settle(self) -> Portion | None:
        """Count what the last burst has moved and return it; None: there is none."""
        portion, self._portion = self._portion, None
        if portion is not None:
            self.left -= portion.moved
        return portion

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

    @abstractmethod
    def _let_go(self) -> None:
        """Have no more to do with the connection; twice is not an error."""


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
