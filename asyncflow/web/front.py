"""What stands between a connection and its handler: it reads by the buffer.

An event loop reads whatever has come, a quarter of a megabyte at once. Where a request
may begin that is too much: behind its head comes the body, of which the handler wants
only as much in memory as it asks for. So where a head is expected little is read.
"""

import asyncio
from typing import Final

from asyncflow.web.limits import GuardedHandler

KIB: Final = 1024

#: a head is a few hundred bytes; of a body behind it this much is in memory unasked
HEAD_BYTES: Final = 4 * KIB
BODY_BYTES: Final = 256 * KIB


class Front(asyncio.BufferedProtocol):
    """The protocol of a connection; hands everything on to its *handler*.

    *buffer* may be shared by all connections of a loop: it is empty again before the
    next one reads.
    """

    __slots__ = ("_buffer", "_handler")

    def __init__(self, handler: GuardedHandler, buffer: memoryview) -> None:
        self._handler = handler
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- as asyncio's
        """Return the place for what comes next."""
        return self._buffer[:HEAD_BYTES] if self._handler.awaits_head else self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what has come."""
        self._handler.data_received(bytes(self._buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it on."""
        self._handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand it on."""
        self._handler.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Hand it on."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Hand it on."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._handler.resume_writing()
