"""Large bodies on a shorter way than through aiohttp.

Rules
-----
- Only a known length, only on Linux, and only once `rehearsal` has seen it work on this
  release of aiohttp and this event loop; everything else is read.
- Plain TCP is spliced by the kernel; https passes through one buffer.
- What it needs it has before it takes anything.
"""

import asyncio
import os
import sys
from typing import Final, cast

from aiohttp import web

from asyncflow.web.limits import WAIT_BYTES, GuardedHandler
from asyncflow.web.sink import Buffers, Ciphered, Sunk
from asyncflow.web.splice import Pipes, Spliced, second
from asyncflow.web.taken import Taken

#: with less to come the ordinary path is as fast
LEAST_BYTES: Final = WAIT_BYTES


class FastPath:
    """Takes bodies from aiohttp, once it has been seen that this works here."""

    def __init__(self) -> None:
        self.is_on = False
        self._pipes = Pipes()
        self._buffers = Buffers()
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
        transport = request.transport
        if not self.is_on or transport is None or not _suits(request, transport):
            return None
        is_secret = transport.get_extra_info("sslcontext") is not None
        # before anything is taken: without it the body is read
        sock = None if is_secret else second(transport)
        if sock is None and not is_secret:
            return None
        content, first = request.content, bytearray()
        # no turn of the loop in between: nothing comes from the socket meanwhile
        while content._buffer:  # noqa: SLF001 -- see `taken.missing`
            first += content.read_nowait()
        self.taken += 1
        cast("GuardedHandler", request.protocol).pass_body_on()
        if sock is None:
            return Sunk(request, transport, bytes(first), self._buffers)
        return Spliced(request, transport, bytes(first), sock, self._pipes)

    def close(self) -> None:
        """Let go of the pipes."""
        self._pipes.close()


def _suits(request: web.BaseRequest, transport: asyncio.Transport) -> bool:
    content = request.content
    if request.content_length is None or transport.is_closing():
        return False
    left = request.content_length - content.total_bytes
    if left <= LEAST_BYTES or content.exception() is not None:
        return False
    handler = request.protocol
    if not isinstance(handler, GuardedHandler):
        return False
    is_secret = transport.get_extra_info("sslcontext") is not None
    if is_secret and not isinstance(transport, Ciphered):
        return False
    return transport.get_extra_info("socket") is not None
