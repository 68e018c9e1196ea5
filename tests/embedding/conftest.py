"""A host application with a server inside, for the tests of embedding."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import asyncflow

Host = TestClient[web.Request, web.Application]
Mount = Callable[..., Awaitable[Host]]


@pytest.fixture(autouse=True)
def log_of_a_host() -> Iterator[None]:
    """Let structlog be set up already: a server inside leaves such a log alone."""
    structlog.configure()
    yield
    structlog.reset_defaults()


@pytest.fixture
def settings(tmp_path: Path) -> asyncflow.Settings:
    """Return settings that touch nothing but the test's own folder."""
    return asyncflow.Settings(
        data_dir=tmp_path / "data", workers=1, fill_level=100, grace=5
    )


@web.middleware
async def mark(request: web.Request, handler: Any) -> web.StreamResponse:
    """Mark each answer, as a host's own middleware would."""
    answer: web.StreamResponse = await handler(request)
    answer.headers["X-Host"] = "marked"
    return answer


async def hello(_: web.Request) -> web.Response:
    """Answer as the host's own page."""
    return web.Response(text="hello from the host")


@pytest.fixture
async def mount(settings: asyncflow.Settings) -> AsyncIterator[Mount]:
    """Start a host application with a server at `/uploads`."""
    async with AsyncExitStack() as stack:

        async def start(**hooks: Any) -> Host:
            app = web.Application(middlewares=[mark])
            app.router.add_get("/hello", hello)
            asyncflow.setup(app, settings=settings, **hooks)
            return await stack.enter_async_context(TestClient(TestServer(app)))

        yield start
