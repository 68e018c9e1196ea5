"""A route that takes bodies by the fast path, and what to send to it."""

import asyncio
import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from asyncflow.store.base import TakesBursts
from asyncflow.store.local import LocalStore
from asyncflow.web.bodies import BodyReader, continue_later
from asyncflow.web.errors import problems
from asyncflow.web.fastpath import FastPath

KIB = 1024
MIB = 1024 * KIB


def some_bytes(count: int, seed: str = "a") -> bytes:
    return hashlib.shake_128(seed.encode()).digest(count)


def put(length: int, *fields: str) -> bytes:
    lines = ["PUT / HTTP/1.1", "Host: x", f"Content-Length: {length}", *fields, "", ""]
    return "\r\n".join(lines).encode()


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Let this process open nothing beside what it has open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Keeper:
    """A route that moves bodies into blobs as the engine does."""

    def __init__(
        self, fast: FastPath, store: LocalStore, *, window_s: float = 30.0
    ) -> None:
        self._fast = fast
        self._store = store
        self._window_s = window_s
        self.room = 1 << 40
        self.reader: BodyReader | None = None
        self.offset = 0
        self.count = 0
        self.bursts = 0
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()

    @property
    def app(self) -> web.Application:
        app = web.Application(middlewares=[problems()])
        app.router.add_put("/", self.take, expect_handler=continue_later)
        app.router.add_get("/", self.greet)
        return app

    async def greet(self, _request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def take(self, request: web.Request) -> web.Response:
        self.count += 1
        key = f"raw/{self.count:036}"
        await self._store.create(key, length=None)
        writer = await self._store.append(key, 0)
        assert isinstance(writer, TakesBursts)
        reader = self.reader = BodyReader(
            request, fast=self._fast, window_s=self._window_s
        )
        error: BaseException | None = None
        try:
            while data := await reader.read():
                await writer.write(data)
                while burst := await reader.burst(self.room - writer.offset):
                    await writer.take(burst)
                    self.bursts += 1
                    self.offset = writer.offset
        except BaseException as broken:
            error = broken
            raise
        finally:
            reader.close()
            self.offset = writer.offset
            await writer.close()
            self.ended.put_nowait(error)
        return web.Response(text=str(writer.offset))

    def kept(self, number: int = 1) -> bytes:
        return self._store.path(f"raw/{number:036}").read_bytes()

    async def how(self) -> BaseException | None:
        async with asyncio.timeout(20):
            return await self.ended.get()
