"""Parts of files on their way to a client."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from asyncflow.web.errors import problems
from asyncflow.web.sendfile import Sender
from tests.web.keeper import MIB, no_descriptor, some_bytes
from tests.web.wire import Dial, Serve

DATA = some_bytes(3 * MIB)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


async def test_a_file_for_which_no_descriptor_is_left_can_be_asked_for_again(
    serve: Serve, dial: Dial, file: int
) -> None:
    with ThreadPoolExecutor(1) as pool:
        sender = Sender(pool)
        is_crowded = True

        async def route(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = len(DATA)
            with ExitStack() as stack:
                if is_crowded:
                    stack.enter_context(no_descriptor())
                await sender.send(request, response, file, 0, len(DATA))
            await response.write_eof()
            return response

        app = web.Application(middlewares=[problems()])
        app.router.add_get("/", route)
        wire = await dial(await serve(app))
        refused = await wire.ask("GET / HTTP/1.1")
        assert (refused.status, refused.code) == (503, "busy")
        is_crowded = False
        assert (await wire.ask("GET / HTTP/1.1")).body == DATA
