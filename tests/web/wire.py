"""Raw sockets: a client that says exactly what a test wants it to say."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncflow.web.site import Site

Serve = Callable[..., Awaitable[Site]]
Dial = Callable[..., Awaitable["Wire"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One parsed HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    pairs: tuple[tuple[str, str], ...] = field(default=())

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document."""
        assert self.headers["content-type"].startswith("application/problem+json")
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def code(self) -> str:
        """The problem's code."""
        return str(self.problem["code"])


class Wire:
    """A client that says exactly what a test wants it to say."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(
        self, head: str, body: bytes = b"", *, host: str = "localhost"
    ) -> Answer:
        """Send a request of a head's lines (without Host) and a body."""
        line, *rest = head.strip().splitlines()
        lines = [line, f"Host: {host}", *(text.strip() for text in rest), "", ""]
        await self.send("\r\n".join(lines).encode("latin-1") + body)
        return await self.answer(has_body=not line.startswith("HEAD"))

    async def answer(self, *, has_body: bool = True) -> Answer:
        """Read one answer, however long it takes the test's own timeout."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = tuple(
            (k.lower(), v.strip()) for k, v in (s.split(":", 1) for s in lines)
        )
        status = int(first.split()[1])
        size = int(dict(pairs).get("content-length", "0"))
        bare = not has_body or status < 200 or status in {204, 304}
        body = b"" if bare else await self.reader.readexactly(size)
        return Answer(status=status, headers=dict(pairs), body=body, pairs=pairs)

    async def rest(self) -> bytes:
        """Read until the server closes; a reset raises."""
        return await self.reader.read()

    def end_sending(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Vanish, with a reset instead of a farewell."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what gives no signal: something that happens inside aiohttp."""
    while not is_so():  # noqa: ASYNC110 -- see above; the test's timeout bounds it
        await asyncio.sleep(0.001)
