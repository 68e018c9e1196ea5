"""Limits on connections: what aiohttp leaves open for ever, closed in time.

Rules
-----
- A request's head is complete `head_timeout_s` after its first byte (a new connection:
  after it was accepted), and holds at most `max_head_bytes`.
- An idle connection is closed after `idle_timeout_s`.
- Request bodies are handed on as they came: nothing is inflated.
- Of a large body nothing is read before somebody asks for it, but what came in one go
  with its head.
- Over `max_connections` a client is told 503 and let go.
- An answer reaches the client even while it is still sending: see `_linger`.
- aiohttp's private names are used in this module and in `bodies`, nowhere else;
  `site.check_aiohttp` refuses to start when a release no longer has them.

Theory of operation
-------------------
`GuardedHandler` is aiohttp's protocol with five additions: a timer for the head, a seat
in the `Seats` of the server, problem documents for what the parser refuses, trailers,
and a closing sequence. To know trailers it hands what it receives to the parser in
slices: a head up to its empty line, a body up to its end. So it sees each request as it
begins, whatever else came with it. The closing sequence matters
because a TCP stack that closes a socket with unread bytes sends a reset, and a reset
may overtake the answer: so the answer goes out, the sending side is shut down, and what
still arrives is thrown away until the client has read the answer and closes, or
`linger_s` is over.
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_response import StreamResponse
from multidict import CIMultiDict

from asyncflow.errors import (
    AsyncflowError,
    HeadTooLarge,
    MalformedRequest,
    SlowHead,
    TooManyConnections,
    TruncatedBody,
    UnsupportedHttpVersion,
)
from asyncflow.web.errors import PROBLEM, SERVER, document, headers_of, status_of
from asyncflow.web.expecting import waits
from asyncflow.web.trailers import ChunkedBody

KIB: Final = 1024

#: an unread body that ends within this much costs no connection: it is read and
#: forgotten, and the connection stays
DRAIN_BYTES: Final = 256 * KIB
DRAIN_S: Final = 1.0

#: a body of more than this is read only when somebody asks for it
WAIT_BYTES: Final = 256 * KIB

#: refused connections that may wait for their client to read the refusal, but never
#: more than there are seats
MAX_REFUSED: Final = 64
REFUSED_S: Final = 2.0

#: of HTTP, that are spoken here: an answer is in the version of its request
_VERSIONS: Final = (HttpVersion10, HttpVersion11)
_END_OF_HEAD: Final = b"\r\n\r\n"

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How long and how many connections may be open, and how large a head may be."""

    head_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    #: how long an answer waits for a client that is still sending
    linger_s: float = 5.0
    max_connections: int = 10_000
    max_line_bytes: int = 8 * KIB
    #: large enough for Upload-Metadata and for Upload-Concat with some hundred parts
    max_field_bytes: int = 32 * KIB
    max_fields: int = 100
    max_head_bytes: int = 64 * KIB


class Seats:
    """Counts the open connections of one server."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.refused = 0

    def take(self) -> bool:
        """Take a seat; tell whether one was free."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def pass_on(self) -> None:
        """Keep the seat of a connection for who takes it over."""
        self.taken += 1

    def leave(self) -> None:
        """Give a seat back."""
        self.taken -= 1


class GuardedHandler(RequestHandler):
    """aiohttp's connection, with limits."""

    __slots__ = (
        "_body",
        "_chunked",
        "_discarding",
        "_gone",
        "_half_closed",
        "_head_bytes",
        "_head_end",
        "_head_lines",
        "_head_timer",
        "_held",
        "_is_waiting",
        "_length",
        "_limits",
        "_newest",
        "_refused",
        "_seated",
        "_seats",
        "_trailers",
    )

    def __init__(
        self, server: web.Server, *, limits: ConnectionLimits, seats: Seats, **kw: Any
    ) -> None:
        super().__init__(server, **kw)
        self._limits = limits
        self._seats = seats
        self._seated = False
        self._refused = False
        self._discarding = False
        self._half_closed = False
        #: of the newest request, until it is answered
        self._body: StreamReader | None = None
        #: of the newest request, whatever became of it, and its announced length
        self._newest: StreamReader = EMPTY_PAYLOAD
        self._length = 0
        #: the chunked body that is arriving
        self._chunked: ChunkedBody | None = None
        #: of requests that are not answered yet
        self._trailers: list[tuple[StreamReader, ChunkedBody]] = []
        #: what came behind more requests than wait in a row
        self._held = b""
        #: a large body waits in the kernel until somebody asks for it
        self._is_waiting = False
        self._head_bytes = 0
        self._head_lines = 0
        #: the last bytes of a head that goes on: its end may be cut
        self._head_end = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event | None = None

    # ----- the life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a seat and start the clock, or refuse."""
        self._seated = self._seats.take()
        if self._seated:
            super().connection_made(transport)
            self._arm()
        else:
            self._turn_away(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the seat back."""
        self._disarm()
        if self._gone is not None:
            self._gone.set()
        if self._seated:
            self._seats.leave()
            super().connection_lost(exc)
        elif self._refused:
            self._seats.refused -= 1
            self._refused = False

    def pass_on(self) -> Seats:
        """Return who gets the seat back, now that the connection will be another's."""
        self._seats.pass_on()
        return self._seats

    def data_received(self, data: bytes) -> None:
        """Hand what came to the parser, request by request."""
        data, self._held = self._held + data, b""
        at = 0
        if not data and not self._discarding:
            # aiohttp goes on with what its parser has kept
            self._receive(b"", is_head=False)
        while at < len(data) and not self._discarding:
            if self._upgraded or self._payload_parser is not None:
                super().data_received(data[at:])
                return
            if len(self._messages) >= self._max_msg_queue_size:
                self._held = data[at:]
                return
            if self._chunked is not None:
                at = self._receive_chunks(self._chunked, data, at)
            else:
                end, is_head = self._slice(data, at)
                self._receive(data[at:end], is_head=is_head)
                at = end

    def _receive_chunks(self, body: ChunkedBody, data: bytes, at: int) -> int:
        """Parse a chunked body from *at* on; return the position behind what it took.

        The parser never sees trailers: it would take the last one of them for a field
        of the next request.
        """
        end, piece = body.feed(data, at)
        if body.wrong is not None:
            self._newest.set_exception(body.wrong)
            self._discarding = True
            return end
        if body.is_over:
            self._chunked = None
        if piece:
            self._receive(piece, is_head=False)
        return end

    def _slice(self, data: bytes, at: int) -> tuple[int, bool]:
        """Return where the part of a request ends that begins at *at*.

        Tell, too, whether a head ends there.
        """
        if not self._newest.is_eof():
            left = self._length - self._newest.total_bytes
            if left > 0:
                return min(len(data), at + left), False
            self._catch_up()
        if not self._newest.is_eof():
            # nobody knows where it ends but the parser
            return len(data), False
        return self._end_of_head(data, at)

    def _catch_up(self) -> None:
        """Have the parser take what it kept while nobody read the last body."""
        before = -1
        while not self._newest.is_eof() and self._newest.total_bytes != before:
            before = self._newest.total_bytes
            super().data_received(b"")

    def _end_of_head(self, data: bytes, at: int) -> tuple[int, bool]:
        cut = (self._head_end + data[at : at + 3]).find(_END_OF_HEAD)
        if cut >= 0:
            end = at + cut + len(_END_OF_HEAD) - len(self._head_end)
        else:
            cut = data.find(_END_OF_HEAD, at)
            end = len(data) if cut < 0 else cut + len(_END_OF_HEAD)
        self._head_lines += data.count(b"\n", at, end)
        self._head_end = (self._head_end + data[max(at, end - 3) : end])[-3:]
        return end, cut >= 0

    def _receive(self, data: bytes, *, is_head: bool) -> None:
        """Parse a slice; watch the head that it may belong to."""
        # the request line is one, and the empty line another that may have come
        if self._head_lines > self._limits.max_fields + 2:
            self._refuse(HeadTooLarge())
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._disarm()
            self._begin_request(is_head=is_head)
        elif data and self._is_between_requests:
            self._head_bytes += len(data)
            self._arm()
            if self._head_bytes > self._limits.max_head_bytes:
                self._refuse_head(HeadTooLarge())

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio's
        """Keep the way back open when a body ends too early, to say so."""
        if self._half_closed:
            # a transport that was told to read on tells its end once more
            return True
        body = self._body
        if body is None or body.is_eof() or body.exception() is not None:
            return None
        if self._discarding or self.ssl_context is not None:
            return None
        self._half_closed = True
        body.set_exception(TruncatedBody())
        return True

    # ----- the head of a request

    @property
    def awaits_head(self) -> bool:
        """Tell whether what comes next is the head of a request, or begins with it."""
        return self._newest.is_eof() and not self._upgraded

    @property
    def _is_between_requests(self) -> bool:
        # `_waiter` is what the connection's task waits on for its next request; before
        # its first step there is no waiter, and no request either
        waiting = self._waiter is not None and not self._waiter.done()
        return waiting or self._request_count == 0

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(
                self._limits.head_timeout_s, self._head_is_late
            )

    def _disarm(self) -> None:
        self._head_bytes = self._head_lines = 0
        self._head_end = b""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse_head(SlowHead())
        else:
            # browsers open connections on suspicion: to say 408 there would show up as
            # the answer to a request that the browser sends just then
            self.force_close()

    def _refuse_head(self, error: AsyncflowError) -> None:
        transport = self.transport
        self._disarm()
        if transport is not None:
            self._discarding = True
            transport.write(_raw_answer(error))
            _shut_down_writing(transport)
            self._loop.call_later(DRAIN_S, transport.close)

    # ----- what the parser refuses

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 -- may quote the client's bytes
    ) -> StreamResponse:
        """Answer what reached no middleware: a bad head, or a fault of ours."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("nobody can be answered any more") from exc
        if status >= 500:  # noqa: PLR2004 -- the class of statuses that are our fault
            log.error("http.unhandled", exc_info=exc)
            error: AsyncflowError = AsyncflowError("Something went wrong here.")
        elif isinstance(exc, AsyncflowError):
            error = exc
        else:
            # the text of the exception quotes the request, perhaps a token in it
            log.debug("http.malformed", kind=type(exc).__name__)
            too_long = isinstance(exc, LineTooLong)
            error = HeadTooLarge() if too_long else MalformedRequest()
        answer = web.Response(
            status=status_of(type(error)),
            content_type=PROBLEM,
            body=_problem(error),
            headers={**_BARE_HEADERS, "Connection": "close"},
        )
        answer.force_close()
        return answer

    def _begin_request(self, *, is_head: bool) -> None:
        """Note the newest request; *is_head*: its body is what comes next."""
        message, content = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._body = self._newest = content
            self._length = int(message.headers.get(hdrs.CONTENT_LENGTH, "0"))
            if message.chunked and is_head:
                self._chunked = ChunkedBody(self._limits.max_fields)
                self._trailers.append((content, self._chunked))
            if self._length > WAIT_BYTES and self.transport is not None:
                self._is_waiting = True
                self.transport.pause_reading()
            if message.version not in _VERSIONS:
                self._messages.pop()
                self._refuse(UnsupportedHttpVersion())
        elif (body := self._body) and not (body.is_eof() or body.exception()):
            # The parser reports a malformed chunk as one more request and forgets the
            # body, whose reader would wait until it counts as slow.
            body.set_exception(MalformedRequest())
        else:
            # nothing is read behind what the parser refuses, but until it is answered
            self._discarding = True

    def ask_for_body(self) -> None:
        """Let a body come that waits to be asked for."""
        waits, self._is_waiting = self._is_waiting, False
        # what is in memory already may be more than there should be
        if waits and self.transport is not None and not self._reading_paused:
            _keep_reading(self.transport)

    def pass_body_on(self) -> None:
        """Take note that somebody else reads the body that waits."""
        self._is_waiting = False

    def _refuse(self, error: AsyncflowError) -> None:
        """Answer *error* when the requests before are answered, then close."""
        self._disarm()
        self._discarding = True
        self._messages.append((_ErrInfo(400, error, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def trailers_of(self, content: StreamReader) -> CIMultiDict[str] | None:
        """Return the trailer fields of a body that has ended; None: it has none."""
        bodies = (body for one, body in self._trailers if one is content)
        body = next(bodies, None)
        return body.fields if body is not None and body.is_over else None

    # ----- the end of a request

    async def finish_response(
        self, request: web.BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        """Send the answer; see to it that it arrives though the body is unread."""
        unread = not request.content.is_eof()
        keeps = unread and self._may_drain(request)
        if self._half_closed or (unread and not keeps):
            resp.force_close()
        if unread:
            self.ask_for_body()
        if self._body is request.content:
            self._body = None
        self._trailers = [
            one for one in self._trailers if one[0] is not request.content
        ]
        before = self._request_count
        answer, reset = await super().finish_response(request, resp, start_time)
        if self._request_count != before:
            # what had been held back behind an upgrade that was declined
            self._begin_request(is_head=False)
        if not reset:
            is_sending = unread and not (keeps and await _drained(request))
            if is_sending or (self._discarding and not self._messages):
                await self._linger()
        return answer, reset

    def _may_drain(self, request: web.BaseRequest) -> bool:
        length = request.content_length
        if length is None or waits(request):
            return False
        if request.content.exception() is not None:
            return False
        return length - request.content.total_bytes <= DRAIN_BYTES

    async def _linger(self) -> None:
        """Close so that the answer is not overtaken by a reset."""
        self._discarding = True
        transport = self.transport
        if transport is None or self._half_closed:
            return
        self._gone = asyncio.Event()
        _shut_down_writing(transport)
        _keep_reading(transport)
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await self._gone.wait()
        except TimeoutError:
            self.force_close()

    def _turn_away(self, transport: asyncio.Transport) -> None:
        self._discarding = True
        if self._seats.refused >= min(MAX_REFUSED, self._seats.limit):
            transport.abort()
            return
        self._refused = True
        self._seats.refused += 1
        transport.write(_raw_answer(TooManyConnections()))
        _shut_down_writing(transport)
        self._loop.call_later(REFUSED_S, transport.close)


async def _drained(request: web.BaseRequest) -> bool:
    """Read the rest of a small body; tell whether it ended in time."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while await request.content.readany():
                pass
    except (TimeoutError, ConnectionError, AsyncflowError):
        return False
    return request.content.is_eof()


def _shut_down_writing(transport: asyncio.Transport) -> None:
    if transport.can_write_eof() and not transport.is_closing():
        transport.write_eof()


def _keep_reading(transport: asyncio.Transport) -> None:
    if not transport.is_closing() and not transport.is_reading():
        transport.resume_reading()


#: for answers that no application has touched
_BARE_HEADERS: Final = {
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _problem(error: AsyncflowError) -> bytes:
    return document(
        status=status_of(type(error)),
        code=error.code,
        detail=error.detail,
        request_id=None,
        extra=error.extra(),
    )


def _raw_answer(error: AsyncflowError) -> bytes:
    """Return a whole answer, for where no request is there to be answered."""
    body = _problem(error)
    status = status_of(type(error))
    headers = {
        **headers_of(error),
        **_BARE_HEADERS,
        "Content-Type": PROBLEM,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
