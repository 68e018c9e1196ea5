"""Many tasks at once over HTTP, from a process of their own.

`python -m bench.submit PORT NAME COUNT CONNECTIONS` prints, as JSON, how many seconds
it took and each request's milliseconds.
"""

import asyncio
import json
import subprocess
import sys
import time
from typing import Final

from bench.machine import pinned

_CREATED: Final = b" 202 "


def run(
    port: int, name: str, count: int, *, connections: int, cores: list[int]
) -> tuple[float, list[float]]:
    """Submit *count* tasks; return seconds, and the milliseconds of each request."""
    words = [str(port), name, str(count), str(connections)]
    with pinned(cores):
        done = subprocess.run(  # noqa: S603 -- argv is built here
            [sys.executable, "-m", "bench.submit", *words],
            stdout=subprocess.PIPE,
            check=True,
            timeout=300,
        )
    found = json.loads(done.stdout)
    return found["seconds"], found["ms"]


async def _client(port: int, request: bytes, count: int, ms: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if _CREATED not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(head.decode("latin-1"))
        (length,) = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ]
        await reader.readexactly(length)
        ms.append(1000 * (time.perf_counter() - began))
    writer.close()


async def _all(port: int, name: str, count: int, connections: int) -> None:
    body = json.dumps({"name": name, "payload": {"n": 1}}).encode()
    head = (
        f"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    ms: list[float] = []
    began = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for _ in range(connections):
            share = count // connections
            clients.create_task(_client(port, head.encode() + body, share, ms))
    print(json.dumps({"seconds": time.perf_counter() - began, "ms": ms}))


if __name__ == "__main__":
    asyncio.run(_all(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
