"""What the tests of the HTTP edge share: real servers on loopback, and raw sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import uvloop
from aiohttp import web

from asyncflow.web.limits import ConnectionLimits
from asyncflow.web.site import Site, start_site
from tests.web.wire import Dial, Serve, Wire

#: modules whose subject depends on the event loop: they run on both that we support
ON_BOTH_LOOPS = {"test_limits", "test_bodies", "test_downloads", "test_fastpath"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem not in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start sites on loopback that the test's end stops."""
    async with AsyncExitStack() as stack:

        async def start(
            app: web.Application, limits: ConnectionLimits | None = None, **kw: Any
        ) -> Site:
            limits = limits or ConnectionLimits(linger_s=2.0)
            site = await start_site(
                app, host="127.0.0.1", port=0, limits=limits, grace_s=1.0, **kw
            )
            stack.push_async_callback(site.close)
            return site

        yield start


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Open raw connections that the test's end closes."""
    async with AsyncExitStack() as stack:

        async def connect(site: Site, **kw: Any) -> Wire:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port, **kw)
            stack.push_async_callback(_let_go, writer)
            return Wire(reader, writer)

        yield connect


async def _let_go(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
