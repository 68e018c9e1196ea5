"""Many open WebSockets, from a process of their own, that count what they hear.

`python -m bench.crowd PORT` reads lists of job ids as JSON lines from standard input
and opens one socket per id, then prints how many are open. An empty line makes it print
how many messages have come so far; it ends with its standard input.
"""

import asyncio
import json
import resource
import subprocess
import sys
from typing import Final

from bench.machine import pinned

_AT_ONCE: Final = 100
_LENGTH_IN_2: Final = 126
_LENGTH_IN_8: Final = 127


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; return how many."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Crowd:
    """The listeners as whoever started them sees them."""

    def __init__(self, port: int, *, cores: list[int]) -> None:
        with pinned(cores):
            self._process = subprocess.Popen(  # noqa: S603 -- argv is built here
                [sys.executable, "-m", "bench.crowd", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def join(self, jobs: list[str]) -> None:
        """Open one socket for each of *jobs*; return when all have their snapshot."""
        if self._ask(json.dumps(jobs)) != len(jobs):
            raise RuntimeError("not every socket could be opened")

    def heard(self) -> int:
        """Return how many messages have come to all sockets together."""
        return self._ask("")

    def _ask(self, line: str) -> int:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the crowd has no pipes")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def leave(self) -> None:
        """Close every socket and end the process."""
        self._process.communicate(timeout=60)


class _Listener(asyncio.Protocol):
    """One socket: speaks just enough of RFC 6455 to count text messages."""

    def __init__(self, port: int, job: str) -> None:
        self._head = (
            f"GET /ws?job={job} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ).encode()
        self._data = b""
        self._is_open = False
        self.messages = 0
        self.first = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.first.done():
            self.first.set_exception(exc or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._is_open:
            head, end, self._data = self._data.partition(b"\r\n\r\n")
            if not end:
                self._data = head
                return
            self._is_open = True
        while (size := _frame_size(self._data)) and size <= len(self._data):
            self.messages += self._data[0] == 0x81  # noqa: PLR2004 -- a text message
            self._data = self._data[size:]
        if self.messages and not self.first.done():
            self.first.set_result(None)


def _frame_size(data: bytes) -> int:
    """Return the size of the frame that *data* begins with; 0: not known yet."""
    if len(data) < 2 or len(data) < (head := _head_size(data[1])):  # noqa: PLR2004
        return 0
    if head == 2:  # noqa: PLR2004 -- the length is in the second byte
        return 2 + data[1]
    return head + int.from_bytes(data[2:head])


def _head_size(length: int) -> int:
    return {_LENGTH_IN_2: 4, _LENGTH_IN_8: 10}.get(length, 2)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    listeners: list[_Listener] = []
    gate = asyncio.Semaphore(_AT_ONCE)

    async def join(job: str) -> None:
        async with gate:
            made = _Listener(port, job)
            await loop.create_connection(lambda: made, "127.0.0.1", port)
            await made.first
            listeners.append(made)

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip():
            before = len(listeners)
            await asyncio.gather(*map(join, json.loads(line)))
            print(len(listeners) - before, flush=True)
        else:
            print(sum(one.messages for one in listeners), flush=True)


def main() -> None:
    """Serve the commands on standard input."""
    raise_file_limit()
    asyncio.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
