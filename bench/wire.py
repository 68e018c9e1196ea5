"""An HTTP client that knows when its last byte left: one connection, raw sockets."""

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

#: a small send buffer: what the kernel has taken is nearly what has been sent
_SEND_BUFFER: Final = 128 << 10
_PIECE: Final = 64 << 10
_READ: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: `sent` and `came` are on `time.perf_counter`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: float
    came: float

    @property
    def waited_ms(self) -> float:
        """Milliseconds from the last byte sent to the answer's head."""
        return (self.came - self.sent) * 1000


class Wire:
    """One keep-alive connection to a server on this machine."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Return a connection to *port*."""
        sock = socket.socket()
        sock.setblocking(False)  # noqa: FBT003 -- its name
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        bytes_per_s: float | None = None,
    ) -> Reply:
        """Send a request, its body at a pace if one is given; return the answer."""
        sent = await self.send(method, path, headers, body, bytes_per_s=bytes_per_s)
        return await self.answer(sent)

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        bytes_per_s: float | None = None,
    ) -> float:
        """Send a request; return when its last byte was handed to the kernel."""
        named = {"Host": "127.0.0.1", "Content-Length": str(len(body))}
        named |= headers or {}
        lines = [f"{name}: {text}" for name, text in named.items()]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        await self._loop.sock_sendall(self._sock, head.encode("ascii"))
        began, view = self._loop.time(), memoryview(body)
        for at in range(0, len(body), _PIECE):
            if bytes_per_s is not None:
                late = began + at / bytes_per_s - self._loop.time()
                await asyncio.sleep(max(0.0, late))
            await self._loop.sock_sendall(self._sock, view[at : at + _PIECE])
        return time.perf_counter()

    async def answer(self, sent: float) -> Reply:
        """Return the answer to what was sent at *sent*."""
        head = await self._until(b"\r\n\r\n")
        came = time.perf_counter()
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in filter(None, lines):
            name, _colon, text = line.partition(":")
            headers[name.lower()] = text.strip()
        body = await self._exactly(int(headers.get("content-length", "0")))
        status = int(first.split(" ", 2)[1])
        return Reply(status=status, headers=headers, body=body, sent=sent, came=came)

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._rest += await self._more()
        head, _mark, self._rest = self._rest.partition(mark)
        return head

    async def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += await self._more()
        body, self._rest = self._rest[:count], self._rest[count:]
        return body

    async def _more(self) -> bytes:
        data = await self._loop.sock_recv(self._sock, _READ)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


async def create_tus(wire: Wire, length: int) -> str:
    """Create an upload by tus; return its id."""
    reply = await wire.ask(
        "POST",
        "/files/",
        {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(length),
            # the name photo.jpg in base64
            "Upload-Metadata": "filename cGhvdG8uanBn",
        },
    )
    check(reply, 201)
    return reply.headers["location"].rpartition("/")[2]


#: what a PATCH of tus carries beside its offset
PATCH: Final[Mapping[str, str]] = {
    "Tus-Resumable": "1.0.0",
    "Upload-Offset": "0",
    "Content-Type": "application/offset+octet-stream",
}


def check(reply: Reply, status: int) -> None:
    """Raise RuntimeError unless the answer has this status."""
    if reply.status != status:
        raise RuntimeError(f"{reply.status} instead of {status}: {reply.body[:200]!r}")
