"""Bodies that must pass through memory, as those of https, copied as little as can be.

Rules
-----
- A connection reads only while somebody waits for its bytes, and no further than to the
  end of its body: what comes behind stays where it is.
- A connection from which nothing comes has no buffer. There are `BUFFERS` large ones;
  who finds none left gets along with a small one.
- What arrived before the connection was lost is handed out first. So the transport
  keeps hardly anything that is not deciphered: with the connection it would be gone.
- The loop is woken for `WAKE_BYTES`, as long as surely so many are to come; but nobody
  waits in vain for what lies in the socket.

Theory of operation
-------------------
A `Sink` is the protocol of the connection while it has its body: the transport, which
deciphers, puts bytes straight into the buffer that one of the store's threads writes
to the file. On the usual way they would be copied and allocated anew three times
more: for the parser, for the stream, for the reader. What else a protocol hears goes on
to aiohttp's, which gets the connection back.

A packet of a slow network holds a thousand bytes or two. To wake the loop, ask the
kernel and begin to decipher costs far more than to decipher them, so they gather in
the kernel (SO_RCVLOWAT). When a wait ends for another reason, `hurry` gets them.
"""

import asyncio
import contextlib
from typing import Final, Protocol, cast, runtime_checkable

from aiohttp import web

from asyncflow.web.taken import (
    KIB,
    LOOK_EVERY_S,
    WAKE_BYTES,
    LowWater,
    Portion,
    Taken,
)

BUFFER_BYTES: Final = 1024 * KIB
SMALL_BYTES: Final = 32 * KIB
#: lent at the same time
BUFFERS: Final = 8
#: kept while nobody uses them
KEPT: Final = 2
#: more than a transport ever has taken from the socket and not handed out
AHEAD_BYTES: Final = 512 * KIB


class Buffers:
    """Lends memory: fresh memory would have to be touched page by page."""

    def __init__(self, limit: int = BUFFERS) -> None:
        self._limit = limit
        self._lent = 0
        self._idle: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer, a large one if there is one left."""
        if self._lent >= self._limit:
            return bytearray(SMALL_BYTES)
        self._lent += 1
        return self._idle.pop() if self._idle else bytearray(BUFFER_BYTES)

    def give_back(self, buffer: bytearray) -> None:
        """Take back what was lent."""
        if len(buffer) == SMALL_BYTES:
            return
        self._lent -= 1
        if len(self._idle) < KEPT:
            self._idle.append(buffer)


@runtime_checkable
class Ciphered(Protocol):
    """What the transports of https have beside those of plain TCP, on both loops."""

    def set_read_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Read no further while more than *high* bytes wait to be deciphered."""
        ...


class Sink(asyncio.BufferedProtocol):
    """Takes at most *coming* bytes of a connection, a buffer at a time."""

    def __init__(
        self,
        transport: asyncio.Transport,
        coming: int,
        buffers: Buffers,
        wake: asyncio.Event,
    ) -> None:
        self._transport = transport
        self._before = cast("asyncio.Protocol", transport.get_protocol())
        self._coming = coming
        self._buffers = buffers
        self._wake = wake
        self._buffer: bytearray | None = None
        self._low_water = LowWater(transport.get_extra_info("socket"))
        self._hurries = False
        #: bytes that lie in the buffer
        self.have = 0
        #: why nothing more comes
        self.lost: Exception | None = None
        transport.pause_reading()
        self._secret.set_read_buffer_limits(1, 0)
        transport.set_protocol(self)

    @property
    def _secret(self) -> Ciphered:
        return cast("Ciphered", self._transport)

    def go_on(self) -> None:
        """Let bytes come, if there is a place for them."""
        self._hurries = False
        if self._may_read:
            if self._will_bring_enough:
                self._low_water.set(WAKE_BYTES)
            self._transport.resume_reading()

    def hurry(self) -> bool:
        """Let come what is too little to wake for; tell whether there is any."""
        low = self._low_water
        self._hurries = self._may_read and low.mark > 1 and low.waiting > 0
        if self._hurries:
            low.set(1)
        return self._hurries

    @property
    def _may_read(self) -> bool:
        is_full = self._buffer is not None and self.have == len(self._buffer)
        return self._coming > 0 and not is_full and not self._transport.is_closing()

    @property
    def _will_bring_enough(self) -> bool:
        # a part of what is to come may be on its way through the transport
        return self._coming > WAKE_BYTES + AHEAD_BYTES

    def _rest(self) -> None:
        # a transport that is closed may have nothing left to be told
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def view(self) -> memoryview:
        """Return the bytes that have come; `clear` before more may."""
        self._rest()
        return memoryview(self._buffer or b"")[: self.have]

    def clear(self) -> None:
        """Forget the bytes that have come, and the buffer."""
        if self._buffer is not None:
            self._buffers.give_back(self._buffer)
            self._buffer = None
        self.have = 0

    def leave(self) -> None:
        """Let the connection be its handler's again, which reads when it wants to."""
        self._coming = 0
        self._low_water.set(1)
        self._rest()
        if not self._transport.is_closing():
            self._secret.set_read_buffer_limits()
            self._transport.set_protocol(self._before)
        self.clear()

    # ----- what the transport says

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- as asyncio's
        """Return the place for the next bytes, up to the end of the body."""
        if not self._coming:
            # a transport that closes reads what is left, for nobody
            return memoryview(bytearray(SMALL_BYTES))
        if self._buffer is None:
            self._buffer = self._buffers.take()
        return memoryview(self._buffer)[self.have : self.have + self._coming]

    def buffer_updated(self, nbytes: int) -> None:
        """Count what has come."""
        if not self._coming:
            return
        self.have += nbytes
        self._coming -= nbytes
        if not self._will_bring_enough:
            self._low_water.set(1)
        if self._coming == 0 or self.have == len(self._buffer or b""):
            self._rest()
            self._wake.set()
        elif self._hurries:
            self._wake.set()

    def eof_received(self) -> bool | None:
        """Close: where this is used there is no way back that could stay open."""
        return self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep what has come."""
        self.lost = exc or ConnectionResetError("the connection was closed")
        self._wake.set()
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._before.resume_writing()


class Sunk(Taken):
    """A body that fills one buffer after the other."""

    def __init__(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        first: bytes,
        buffers: Buffers,
    ) -> None:
        super().__init__(request, transport, first)
        self._sink: Sink | None = Sink(transport, self.left, buffers, self._wake)

    @property
    def _open(self) -> Sink:
        if self._sink is None:
            raise RuntimeError("the connection was given back")
        return self._sink

    @property
    def has_bytes(self) -> bool:
        """Whether a burst would move something."""
        return bool(self._first) or self._open.have > 0

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._open.lost is not None or super().is_closing

    async def _arrived(self) -> bool:
        sink = self._open
        sink.go_on()
        if not sink.lost:
            await self._woken()
            if sink.hurry():
                await self._woken()
        return sink.have > 0 or sink.lost is not None

    async def _woken(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._wake.wait()
        self._wake.clear()

    def burst(self) -> Portion:
        """Return the next burst; `settle` it before the one after."""
        if self._first:
            first, self._first = self._first, b""
            self.left += len(first)
            self._portion = Portion(first)
        else:
            self._portion = Portion(self._open.view())
            self._note_loss(self._portion)
        return self._portion

    def _read(self) -> bytes:
        data = bytes(self._open.view())
        self._portion = Portion()
        self._portion.moved = len(data)
        self._note_loss(self._portion)
        return data

    def _note_loss(self, portion: Portion) -> None:
        if self._open.have == 0:
            portion.lost = self._open.lost

    def settle(self) -> Portion | None:
        """Count what the last burst has moved and return it; None: there is none."""
        portion = super().settle()
        if portion is not None and portion.moved:
            self._open.clear()
        return portion

    def _let_go(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.leave()
