"""Bytes of a file to a socket: by the kernel on plain TCP, in small pieces on TLS.

Theory of operation
-------------------
uvloop has no `loop.sendfile`, and asyncio's blocks the loop while the disk is read. So
threads call `os.sendfile` on a duplicate of the connection's descriptor: it is
non-blocking towards the network (a full socket buffer returns at once, and the loop
waits until there is room) and may block on the disk, where only a thread waits.

Rules
-----
- The transport's own buffer is empty before the first `os.sendfile`, so that the head
  comes first; nothing else writes until the last byte is out.
- Descriptors outlive the threads that use them: a cancelled wait waits for its thread.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

import structlog
from aiohttp import web

from asyncflow.errors import StoreError

KIB: Final = 1024
#: one read below this and one write with the head: cheaper than the kernel's way
SMALL: Final = 64 * KIB
#: asked of the kernel at once; the socket's buffer bounds it further
BURST: Final = 4096 * KIB

T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)


class Sender:
    """Sends parts of files, on threads of *pool*."""

    def __init__(self, pool: Executor, *, write_timeout_s: float = 60.0) -> None:
        self._pool = pool
        self._write_timeout_s = write_timeout_s

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run *work* on a thread; return or raise only after it has ended."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                await _outlast(future)
            raise

    async def send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        fd: int,
        start: int,
        end: int,
    ) -> None:
        """Prepare *response* and send the bytes of *fd* from *start* up to *end*.

        Raise StoreError if the file is shorter, ConnectionError if the client has gone
        or does not read, OSError if the server may open nothing more.
        """
        if end - start <= SMALL or request.secure:
            await self._send_pieces(request, response, fd, start, end)
            return
        # before the head has left: where there is none for it, that can still be told
        sock = os.dup(_transport(request).get_extra_info("socket").fileno())
        try:
            await response.prepare(request)
            await self._send_large(request, sock, fd, start, end)
        finally:
            os.close(sock)

    async def _send_large(
        self, request: web.Request, sock: int, fd: int, start: int, end: int
    ) -> None:
        request.writer.send_headers()
        transport = _transport(request)
        transport.set_write_buffer_limits(high=0)
        try:
            async with asyncio.timeout(self._write_timeout_s):
                # uvloop writes at the end of a turn, and only then knows what is left
                await asyncio.sleep(0)
                await request.writer.drain()
            await self._send_by_kernel(request, sock, fd, start, end)
        except TimeoutError:
            raise _dropped(request) from None
        except ConnectionError:
            _transport(request).abort()
            raise
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits()

    async def write(
        self, request: web.Request, response: web.StreamResponse, piece: bytes
    ) -> None:
        """Write one piece; drop a client that does not read it in time."""
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await response.write(piece)
        except TimeoutError:
            raise _dropped(request) from None

    async def _send_pieces(
        self,
        request: web.Request,
        response: web.StreamResponse,
        fd: int,
        start: int,
        end: int,
    ) -> None:
        offset, prepared = start, False
        while offset < end or not prepared:
            wanted = min(SMALL, end - offset)
            piece = await self.in_thread(os.pread, fd, wanted, offset)
            if len(piece) < wanted:
                raise StoreError("a stored file is shorter than it was")
            if not prepared:
                await response.prepare(request)
                prepared = True
            if piece:
                await self.write(request, response, piece)
            offset += wanted

    async def _send_by_kernel(
        self,
        request: web.Request,
        sock: int,
        fd: int,
        start: int,
        end: int,
    ) -> None:
        offset = start
        while offset < end:
            _transport(request)
            count = min(BURST, end - offset)
            sent = await self.in_thread(_burst, sock, fd, offset, count)
            if sent is None:
                async with asyncio.timeout(self._write_timeout_s):
                    await _writable(sock)
            elif sent == 0:
                raise StoreError("a stored file is shorter than it was")
            else:
                offset += sent


def _burst(sock: int, fd: int, offset: int, count: int) -> int | None:
    """Hand bytes to the kernel; None: the socket has no room now."""
    try:
        return os.sendfile(sock, fd, offset, count)
    except BlockingIOError:
        return None


async def _writable(sock: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _outlast(future: asyncio.Future[T]) -> None:
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        # asked again to stop: the descriptors are in use, so we cannot
        return


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    return transport


def _dropped(request: web.Request) -> ConnectionResetError:
    log.info("download.not_read")
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError("the client does not read")
