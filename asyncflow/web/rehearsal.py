"""A rehearsal of the fast path at the start, on this loop and this release of aiohttp.

A body larger than anything aiohttp buffers goes over loopback into a file, with a
second request sent right behind it on the same connection. Only when the file holds
exactly the body, and both requests were answered, is the fast path used.
"""

import asyncio
import hashlib
import os
import tempfile
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from asyncflow.web.bodies import BodyReader
from asyncflow.web.fastpath import FastPath
from asyncflow.web.limits import ConnectionLimits, GuardedHandler
from asyncflow.web.site import Site, start_site
from asyncflow.web.taken import missing

SIZE: Final = 2 << 20
PATIENCE_S: Final = 5.0

log = structlog.get_logger(__name__)


class _Stage:
    """The route of the rehearsal: writes a body to *fd*, by bursts if it can."""

    def __init__(self, fast: FastPath, fd: int) -> None:
        self._fast = fast
        self._fd = fd
        self.lacks: list[str] = []

    async def take(self, request: web.Request) -> web.Response:
        self.lacks = missing(request.protocol)
        reader = BodyReader(request, fast=None if self.lacks else self._fast)
        at = 0
        try:
            while data := await reader.read():
                at += os.pwrite(self._fd, data, at)
                while burst := await reader.burst(SIZE):
                    await asyncio.to_thread(burst.run, self._fd, at)
                    at += burst.moved
        finally:
            reader.close()
        return web.Response(text=str(at))

    async def answer(self, _request: web.Request) -> web.Response:
        return web.Response(text="behind")


async def rehearse(
    fast: FastPath, *, handler: type[GuardedHandler] = GuardedHandler
) -> None:
    """Turn *fast* on if it works here; otherwise say why not."""
    reason = None if fast.is_possible else "this system has no splice"
    fast.is_on = reason is None
    if reason is None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                reason = await _play(fast, handler)
        except Exception as error:  # noqa: BLE001 -- whatever it is, we read instead
            reason = f"{type(error).__name__}: {error}"
    fast.is_on = reason is None
    if reason is not None:
        log.warning("fastpath.off", reason=reason)


async def _play(fast: FastPath, handler: type[GuardedHandler]) -> str | None:
    """Return what went wrong; None: nothing."""
    body = hashlib.shake_128(b"rehearsal").digest(SIZE)
    with tempfile.TemporaryFile() as file:
        stage = _Stage(fast, file.fileno())
        app = web.Application()
        app.router.add_put("/", stage.take)
        app.router.add_get("/", stage.answer)
        site = await start_site(
            app,
            host="127.0.0.1",
            port=0,
            grace_s=0.0,
            limits=ConnectionLimits(max_connections=4),
            handler=handler,
        )
        before = fast.taken
        try:
            said = await _talk(site, body)
        finally:
            await site.close()
        if stage.lacks:
            return f"aiohttp has no {', '.join(stage.lacks)}"
        if fast.taken == before:
            return "the body was not taken"
        if os.pread(file.fileno(), SIZE + 1, 0) != body:
            return "other bytes arrived than were sent"
    if not said.endswith(b"behind"):
        return "the request behind the body was not answered"
    return None


async def _talk(site: Site, body: bytes) -> bytes:
    """Send both requests at once; return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        head = f"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + body)
        behind = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(behind.encode())
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
