"""A WebSocket client that says exactly what a test wants it to say (RFC 6455)."""

import base64
import json
import os
import struct
from typing import Any, Self

from tests.server_process import Answer, ServerProcess
from tests.web.live import Header, Line

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ALIVE = b'{"type":"alive"}'


def upgrade(line: Line, target: str, *headers: Header, host: str | None = None) -> int:
    """Ask for a WebSocket and return the status."""
    line.head("GET", target, *handshake(), *headers, host=host)
    return answer_of(line).status


def answer_of(line: Line) -> Answer:
    """Return the answer to an upgrade, whichever it is."""
    return line.answer()


def handshake() -> list[Header]:
    """Return the headers of an upgrade."""
    return [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
    ]


class Frames:
    """An open WebSocket."""

    def __init__(self, line: Line) -> None:
        """Talk on a *line* whose handshake is over."""
        self.line = line

    @classmethod
    def open(
        cls, server: ServerProcess, target: str = "/ws", *, receive_bytes: int = 0
    ) -> Self:
        """Return a socket that the server has agreed to."""
        line = Line(server, receive_bytes=receive_bytes)
        assert upgrade(line, target) == 101
        return cls(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.sock.close()

    def frame(self, kind: int, data: bytes, *, is_last: bool = True) -> None:
        """Send one masked frame; of a message in pieces, all but one are not last."""
        size, kind = len(data), kind | 0x80 * is_last
        if size < 126:
            head = struct.pack("!BB", kind, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", kind, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", kind, 0x80 | 127, size)
        # a mask of zeros changes nothing, and the server need not know
        self.line.send(head + bytes(4) + data)

    def say(self, **wish: list[str]) -> None:
        """Subscribe or unsubscribe."""
        self.frame(TEXT, json.dumps(wish).encode())

    def next_frame(self) -> tuple[int, bytes]:
        """Return kind and data of the next frame."""
        first, second = self.line.take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.line.take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.line.take(8))
        return first & 0x0F, self.line.take(size)

    def hear(self) -> Any:
        """Return the next message about a job."""
        while True:
            kind, data = self.next_frame()
            if kind == TEXT and data != ALIVE:
                return json.loads(data)
            assert kind in {TEXT, PING, PONG}, (kind, data)

    def hear_until(self, *types: str) -> list[Any]:
        """Return the messages up to the first of one of *types*."""
        heard = [self.hear()]
        while heard[-1]["type"] not in types:
            heard.append(self.hear())
        return heard

    def close_code(self) -> int:
        """Return the code with which the server closes, passing over messages."""
        while True:
            kind, data = self.next_frame()
            if kind == CLOSE:
                (code,) = struct.unpack("!H", data[:2])
                return int(code)
