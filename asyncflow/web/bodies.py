"""Request bodies, read so that nobody waits for ever and nothing received is lost.

Rules
-----
- `100 Continue` goes out with the first read: a route that refuses before it reads
  answers instead of the body, not after it. Routes that take bodies are added with
  `expect_handler=continue_later`.
- A body brings `min_rate` bytes a second over `window_s` seconds of our waiting for it,
  or ends as SlowBody; time in which nobody reads does not count.
- Time in which the server itself stood still counts against nobody.
- What arrived before a body broke off is handed out first, then the reason is raised.
- A body that is all there has ended well, whatever comes behind it: a client that has
  gone, or somebody who says stop.
- A large body may be taken from aiohttp: then `burst` tells how to move it. The one who
  made the reader closes it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EmptyStreamReader
from aiohttp.web_protocol import RequestPayloadError

from asyncflow.admission import FORM_BYTES
from asyncflow.errors import MalformedRequest, SlowBody, TruncatedBody, UploadTooLarge
from asyncflow.web.expecting import waits
from asyncflow.web.fastpath import FastPath
from asyncflow.web.limits import GuardedHandler
from asyncflow.web.taken import Portion, Taken

KIB: Final = 1024
#: a timer that is later than this tells of a server that stood still
STOOD_STILL_S: Final = 1.0


async def continue_later(request: web.Request) -> None:
    """Send nothing yet: `BodyReader` says `100 Continue` when somebody reads."""


async def send_interim(
    request: web.BaseRequest, status: int, phrase: str, headers: Mapping[str, str]
) -> None:
    """Send an answer of the 1xx kind; the real one can still be chosen."""
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await request.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    request.writer.output_size = 0


class BodyReader:
    """One request's body, in large pieces.

    `read` raises TruncatedBody if the client ended the body too early (it can still be
    answered), ConnectionResetError if the client has gone, SlowBody if it is too slow,
    MalformedRequest if the chunked coding is broken, UploadTooLarge if it is a form and
    larger than *max_form_bytes* and what stands around files.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        piece_bytes: int = 256 * KIB,
        min_rate: int = KIB,
        window_s: float = 30.0,
        fast: FastPath | None = None,
        max_form_bytes: int | None = None,
    ) -> None:
        self._request = request
        # at once: while somebody looks things up, aiohttp would read half a megabyte
        self._taken = None if fast is None else fast.take(request)
        if self._taken is None and isinstance(request.protocol, GuardedHandler):
            request.protocol.ask_for_body()
        self._content = request.content
        self._piece_bytes = piece_bytes
        self._window_bytes = max(1, round(min_rate * window_s))
        self._window_s = window_s
        self._waited_s = 0.0
        self._in_window = 0
        self._started = False
        self._broken: Exception | None = None
        self._stopped: Exception | None = None
        self._max_form_bytes = max_form_bytes
        #: bytes handed out so far
        self.received = 0

    def stop(self, error: Exception) -> None:
        """Hand out what has arrived, then raise *error*, unless that was all."""
        self._stopped = error
        self._content.set_exception(error)
        if self._taken is not None:
            self._taken.wake()

    async def burst(self, room: int) -> Portion | None:
        """Return what moves the next bytes into a file; None: `read` has them.

        A body of more than *room* bytes is never moved.
        """
        taken = self._taken
        if taken is None or taken.to_come > room:
            return None
        return taken.burst() if await self._goes_on(taken) else None

    def close(self) -> None:
        """Let go of the connection's descriptor; closing twice is not an error."""
        if self._taken is not None:
            self._settle(self._taken)
            self._taken.close()

    async def read(self) -> bytes:
        """Return the next piece, as soon as there is one; b"" at the body's end.

        A piece holds what has arrived: several buffers of the socket, but it is never
        waited for more.
        """
        if self._broken is not None:
            raise self._broken
        if self._taken is not None:
            if piece := await self._read_taken(self._taken):
                return piece
            if self._broken is not None:
                raise self._broken
        return self._count(await self._read_parsed())

    async def _read_parsed(self) -> bytes:
        """Return the next piece that aiohttp has parsed."""
        if self._stopped is not None:
            return self._salvage(self._stopped)
        if not self._started:
            await self._start()
        try:
            piece = await self._gather()
        except (TruncatedBody, MalformedRequest, ConnectionError) as error:
            piece = self._salvage(error)
        except (RequestPayloadError, BadHttpMessage, RuntimeError) as error:
            # the parsers, in C and in Python, name a broken coding differently; a read
            # on a connection that is closed is a RuntimeError
            gone = not self._request.protocol.connected
            reason = ConnectionResetError("the client has gone")
            piece = self._salvage(reason if gone else MalformedRequest(), error)
        except Exception as error:
            if error is not self._stopped:
                raise
            piece = self._salvage(error)
        if not piece:
            self._check_length()
        return piece

    def _count(self, piece: bytes) -> bytes:
        self._add(len(piece))
        most = self._max_form_bytes
        if most is not None and self.received > most + FORM_BYTES:
            self._broken = UploadTooLarge(length=None, max_bytes=most, what="form")
            raise self._broken
        return piece

    def _add(self, count: int) -> None:
        self.received += count
        self._in_window += count
        if self._in_window >= self._window_bytes:
            self._waited_s, self._in_window = 0.0, 0

    # ----- a body that was taken

    def _settle(self, taken: Taken) -> None:
        """Count what the last burst moved; note how the connection ended, if it did."""
        burst = taken.settle()
        if burst is None:
            return
        self._add(burst.moved)
        if burst.lost is not None:
            self._broken = ConnectionResetError("the client has gone")
        elif burst.ended:
            self._broken = TruncatedBody()

    def _give_back(self, taken: Taken) -> None:
        self._taken = None
        taken.give_back()

    async def _goes_on(self, taken: Taken) -> bool:
        """Tell whether the body has more; it is given back at its end."""
        self._settle(taken)
        if taken.is_done:
            self._give_back(taken)
            return False
        return self._broken is None and await self._arrived(taken)

    async def _read_taken(self, taken: Taken) -> bytes:
        """Return the next bytes of a body that was taken; b"": ask aiohttp."""
        if not self._started:
            await self._start()
        if not await self._goes_on(taken):
            return b""
        piece = taken.read()
        self._settle(taken)
        return piece or await self._read_taken(taken)

    async def _arrived(self, taken: Taken) -> bool:
        """Wait for bytes, or for the end of them; False: the reason is to be raised."""
        loop = asyncio.get_running_loop()
        while self._stopped is None:
            if self._waited_s >= self._window_s:
                self._broken = SlowBody()
                return False
            began = loop.time()
            arrived = await taken.wait()
            took = loop.time() - began
            # it is we who did not look: the window begins anew
            self._waited_s = 0.0 if took > STOOD_STILL_S else self._waited_s + took
            if arrived:
                return True
            if taken.is_closing:
                self._broken = ConnectionResetError("the connection was closed")
                return False
        # what has come before somebody said stop is kept
        self._broken = self._stopped
        return taken.has_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces up to the body's end."""
        while piece := await self.read():
            yield piece

    async def _start(self) -> None:
        self._started = True
        if waits(self._request) and not self._content.at_eof():
            await send_interim(self._request, 100, "Continue", {})

    async def _gather(self) -> bytes:
        if self._content.at_eof():
            return b""
        first = self._content.read_nowait() or await self._wait()
        if len(first) >= self._piece_bytes or self._content.is_eof():
            return first
        pieces, size = [first], len(first)
        while size < self._piece_bytes:
            # one turn of the loop lets the socket hand over what it already has
            await asyncio.sleep(0)
            if self._content.exception() is not None:
                break  # the next read tells; these bytes come first
            if not (more := self._content.read_nowait()):
                break
            pieces.append(more)
            size += len(more)
        return b"".join(pieces)

    async def _wait(self) -> bytes:
        loop = asyncio.get_running_loop()
        began, left = loop.time(), self._window_s - self._waited_s
        try:
            async with asyncio.timeout(left):
                data = await self._content.readany()
        except TimeoutError:
            data = self._content.read_nowait()
            if loop.time() - began > left + STOOD_STILL_S:
                # it is we who did not look: the window begins anew
                self._waited_s = 0.0
                return data or await self._wait()
            self._broken = SlowBody()
            if data:
                return data
            raise self._broken from None
        self._waited_s += loop.time() - began
        return data

    def _salvage(self, error: Exception, cause: Exception | None = None) -> bytes:
        """Return what still lies in aiohttp's buffer.

        *error* is for the next read, unless these bytes are the body's last.
        """
        content, data = self._content, b""
        # `read_nowait` would raise instead: the bytes are there, but out of reach; and
        # a request without a body has no buffer at all
        if not isinstance(content, EmptyStreamReader):
            data = content._read_nowait(-1)  # noqa: SLF001 -- see `site.check_aiohttp`
        if not content.at_eof():
            self._broken = error
            if not data:
                raise error from cause
        return data

    def _check_length(self) -> None:
        length = self._request.content_length
        if length is not None and self.received < length:
            self._broken = TruncatedBody()
            raise self._broken


class BytesBody:
    """A body that is in memory already."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self._stopped: Exception | None = None

    def stop(self, error: Exception) -> None:
        """Make the next read raise *error*, unless all has been read."""
        self._stopped = error

    async def read(self) -> bytes:
        """Return all bytes, then b""."""
        if self._stopped is not None and self._data:
            raise self._stopped
        data, self._data = self._data, b""
        return data
