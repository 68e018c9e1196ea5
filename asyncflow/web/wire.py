"""An open WebSocket: a connection taken over from aiohttp, and one pulse for all.

Theory of operation
-------------------
aiohttp keeps a request, its parser, a task with every middleware's frame and two timers
for as long as a socket is open. So once the answer 101 is sent, `take_over` makes a
`Wire` the protocol of the connection and tells aiohttp that it has lost it; only public
names are used. What the frames mean (RFC 6455) is known to the library `websockets`,
which does no input or output here.

A wire has no task while nothing happens. Only a wish to subscribe, which waits for the
database, runs as one; meanwhile nothing is read, nor from a client that itself reads
nothing: what it sends waits in the kernel, so that neither wishes nor pongs pile up.

A message goes straight to the transport, as a frame that is built once for all who get
it. While more than `MAX_BUFFERED` bytes wait there, messages wait in the session, and a
client that takes none of it for `SEND_S` is cut off.

The `Pulse` goes round all wires, a few at a time, and says `alive` to each: a browser
shows its page no pings, and one that hears nothing any more shall know it. It pings who
has been silent for a beat or two, and cuts off who stays silent for one more.
"""

import asyncio
import logging
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
import structlog
from aiohttp import web
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, SERVER, Protocol

from asyncflow.progress import AT_ONCE, Message
from asyncflow.runtime import Socket
from asyncflow.web.limits import GuardedHandler, Seats
from asyncflow.web.sessions import MAX_JOBS, Session

MAX_MESSAGE: Final = 64 * 1024
#: bytes that may wait in a transport before messages wait in the session instead
MAX_BUFFERED: Final = 64 * 1024
#: a client that takes nothing for so long is cut off
SEND_S: Final = 10.0
#: and one that does not answer a goodbye
CLOSE_S: Final = 5.0
#: nobody waits longer for a word of ours
BEAT_S: Final = 15.0
PING_AFTER_BEATS: Final = 2
_NEXT_FEW_S: Final = 0.01
#: of a frame's first bytes: the last of a text, and a length in two or eight more bytes
_WHOLE_TEXT: Final = 0x81
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127

log = structlog.get_logger(__name__)
#: the library says of every connection that it was closed: nobody asked
_protocol_log = logging.getLogger("asyncflow.web.wire.protocol")
_protocol_log.setLevel(logging.ERROR)


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send."""

    subscribe: list[str] = []
    unsubscribe: list[str] = []


_wish = msgspec.json.Decoder(Wish)
_BAD_WISH: Final = 'send {"subscribe": ["ID"]} or {"unsubscribe": ["ID"]}'


ALIVE: Final = '{"type":"alive"}'


@lru_cache(maxsize=64)
def frame(text: str) -> bytes:
    """Return *text* as one unmasked frame (RFC 6455, 5.2), the same for all."""
    data = text.encode()
    size = len(data)
    if size < _TWO_BYTES:
        return b"%c%c%b" % (_WHOLE_TEXT, size, data)
    if size < 1 << 16:
        return b"%c%c%b%b" % (_WHOLE_TEXT, _TWO_BYTES, size.to_bytes(2), data)
    return b"%c%c%b%b" % (_WHOLE_TEXT, _EIGHT_BYTES, size.to_bytes(8), data)


class Pulse:
    """Says to all wires that we are alive; one timer for all of them."""

    def __init__(self) -> None:
        self._wires: set[Wire] = set()
        self._due: list[Wire] = []
        self._timer: asyncio.TimerHandle | None = None

    def join(self, wire: "Wire") -> None:
        """Watch over *wire* from now on."""
        self._wires.add(wire)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(BEAT_S, self.beat)

    def leave(self, wire: "Wire") -> None:
        """Forget *wire*."""
        self._wires.discard(wire)
        if not self._wires and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def beat(self) -> None:
        """Go round all wires, in turns with everything else that is to be done."""
        if not self._due:
            self._due = list(self._wires)
        few, self._due = self._due[:AT_ONCE], self._due[AT_ONCE:]
        for wire in few:
            if wire in self._wires:
                wire.beat()
        loop = asyncio.get_running_loop()
        pause_s = _NEXT_FEW_S if self._due else BEAT_S
        self._timer = loop.call_later(pause_s, self.beat) if self._wires else None


class Wire(asyncio.Protocol):
    """One open WebSocket: sends its session's messages and hears its client's wishes.

    *sockets* and *pulse* know it while it is open; *seats*, if any, gets a seat back.
    """

    __slots__ = (
        "_deadline",
        "_fragments",
        "_gone",
        "_is_full",
        "_protocol",
        "_pulse",
        "_seats",
        "_session",
        "_silent_beats",
        "_sockets",
        "_stall",
        "_task",
        "_transport",
        "_wishes",
    )

    def __init__(self, session: Session, sockets: set[Socket], pulse: Pulse) -> None:
        self._session = session
        self._sockets = sockets
        self._pulse = pulse
        self._seats: Seats | None = None
        self._transport: asyncio.Transport
        self._protocol = Protocol(SERVER, max_size=MAX_MESSAGE, logger=_protocol_log)
        #: of a message that has not come whole
        self._fragments = b""
        #: jobs that are still to be subscribed to
        self._wishes: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._is_full = False
        self._silent_beats = 0
        self._stall: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event | None = None
        session.outlet = self

    # ----- the life of the connection

    def begin(self, transport: asyncio.Transport, seats: Seats | None) -> None:
        """Be the protocol of *transport*; keep the seat that its connection has."""
        self._transport, self._seats = transport, seats
        transport.set_write_buffer_limits(high=MAX_BUFFERED)
        self._sockets.add(self)
        self._pulse.join(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- as asyncio's
        """Let go of everything."""
        self._protocol.receive_eof()
        self._session.leave()
        self._sockets.discard(self)
        self._pulse.leave(self)
        if self._seats is not None:
            self._seats.leave()
        if self._task is not None:
            self._task.cancel()
        for timer in (self._stall, self._deadline):
            if timer is not None:
                timer.cancel()
        if self._gone is not None:
            self._gone.set()

    def beat(self) -> None:
        """Say that we are alive, and ask a silent client whether it is.

        It is cut off if it did not answer when it was asked before.
        """
        if not self._is_full and self._protocol.state is OPEN:
            self._transport.write(frame(ALIVE))
        self._silent_beats += 1
        if self._silent_beats > PING_AFTER_BEATS:
            self._transport.abort()
        elif self._silent_beats == PING_AFTER_BEATS and self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()

    # ----- what the client sends

    def data_received(self, data: bytes) -> None:
        """Handle what came."""
        self._silent_beats = 0
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._hear(event)
        self._flush()

    def _hear(self, part: Frame) -> None:
        if self._protocol.state is not OPEN:
            return
        if part.opcode is BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "send JSON text")
        if part.opcode not in (TEXT, CONT):
            return
        self._fragments += part.data
        if part.fin:
            text, self._fragments = self._fragments, b""
            try:
                self._grant(_wish.decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._fail(CloseCode.INVALID_DATA, _BAD_WISH)

    def _grant(self, wish: Wish) -> None:
        for job in wish.unsubscribe[:MAX_JOBS]:
            self._session.unsubscribe(job)
        self._wishes = [job for job in self._wishes if job not in wish.unsubscribe]
        self.follow(wish.subscribe[: MAX_JOBS + 1])

    def follow(self, jobs: list[str]) -> None:
        """Subscribe to *jobs*, one after the other."""
        self._wishes += jobs
        if self._wishes and self._task is None:
            self._task = asyncio.create_task(self._follow(), name="ws-subscribe")
            self._read_or_not()

    async def _follow(self) -> None:
        try:
            while self._wishes and self._protocol.state is OPEN:
                await self._session.subscribe(self._wishes.pop(0))
        except Exception:  # a supervisor: nobody else would ever hear of it
            log.exception("ws.failed")
            self._fail(CloseCode.INTERNAL_ERROR, "something went wrong here")
        self._task = None
        self._read_or_not()

    def _read_or_not(self) -> None:
        may_read = self._task is None and not self._is_full
        if self._transport.is_closing() or self._transport.is_reading() == may_read:
            return
        if may_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # ----- what the client is sent

    def offer(self, message: Message) -> bool:
        """Send *message* now if the client keeps up."""
        if self._is_full:
            return False
        if self._protocol.state is OPEN:
            self._transport.write(frame(message.text))
        return True

    def over(self) -> None:
        """Close: the session's next snapshot must tell what could not be sent."""
        self._say_goodbye(CloseCode.TRY_AGAIN_LATER, "reading too slowly")

    def pause_writing(self) -> None:
        """Let messages wait, but not for ever."""
        self._is_full = True
        loop = asyncio.get_running_loop()
        self._stall = loop.call_later(SEND_S, self._transport.abort)
        self._read_or_not()

    def resume_writing(self) -> None:
        """Send what waits, as long as the client takes it."""
        self._is_full = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._read_or_not()
        while not self._is_full and self._protocol.state is OPEN:
            message = self._session.next()
            if message is None:
                return
            self._transport.write(frame(message.text))

    def _flush(self) -> None:
        """Send what the protocol has to say, which is never a message."""
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        if self._protocol.close_expected() and self._deadline is None:
            self._session.leave()
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(CLOSE_S, self._transport.abort)

    # ----- goodbye

    async def close(self, *, code: int, message: bytes) -> None:
        """Say goodbye and wait until the client has gone; then, or cancelled, cut."""
        self._say_goodbye(code, message.decode())
        if self._gone is None:
            self._gone = asyncio.Event()
        try:
            if self in self._sockets:
                await self._gone.wait()
        finally:
            self._transport.abort()

    def _say_goodbye(self, code: int, reason: str) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._flush()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Say what is wrong; what comes after it is thrown away."""
        self._protocol.fail(code, reason)
        self._flush()


class _Late:
    """Takes what came right behind the request, as aiohttp hands it to a parser."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Take note of nothing: the wire hears of the end itself."""


def take_over(request: web.BaseRequest, wire: Wire, jobs: list[str]) -> None:
    """Make *wire* the protocol of the connection, if it is still there.

    It follows *jobs* before it hears what the client has sent behind its request.
    """
    handler, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        return
    late = _Late()
    handler.set_parser(cast("Any", late))
    seats = handler.pass_on() if isinstance(handler, GuardedHandler) else None
    # aiohttp closes what it still holds when it is told that the connection is lost
    handler.transport = None
    transport.set_protocol(wire)
    handler.connection_lost(None)
    wire.begin(transport, seats)
    if not transport.is_reading():
        transport.resume_reading()
    if jobs:
        wire.follow(jobs)
    wire.data_received(late.data)
