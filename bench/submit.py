"""Many tasks at once over HTTP, from a process of their own.

`python -m bench.submit PORT NAME COUNT CONNECTIONS TENANTS` prints, as JSON, how many
seconds it took and each request's milliseconds. TENANTS: `one` for all, or `each`.
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
    port: int,
    name: str,
    count: int,
    *,
    connections: int,
    cores: list[int],
    tenants: str = "one",
) -> tuple[float, list[float]]:
    """Submit *count* tasks; return seconds, and the milliseconds of each request."""
    words = [str(port), name, str(count), str(connections), tenants]
    with pinned(cores):
        done = subprocess.run(  # noqa: S603 -- argv is built here
            [sys.executable, "-m", "bench.submit", *words],
            stdout=subprocess.PIPE,
            check=True,
            timeout=300,
        )
    found = json.loads(done.stdout)
    return found["seconds"], found["ms"]


def _request(port: int, name: str, tenant: str) -> bytes:
    said = {"name": name, "payload": {"n": 1}, "tenant": tenant}
    body = json.dumps(said).encode()
    head = (
        f"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _client(port: int, requests: list[bytes], ms: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
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


async def _all(
    port: int, name: str, count: int, connections: int, tenants: str
) -> None:
    share = count // connections
    orders = [
        _request(port, name, f"tenant-{n}" if tenants == "each" else "bench")
        for n in range(share * connections)
    ]
    ms: list[float] = []
    began = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for n in range(connections):
            clients.create_task(_client(port, orders[n::connections], ms))
    print(json.dumps({"seconds": time.perf_counter() - began, "ms": ms}))


if __name__ == "__main__":
    _PORT, _NAME, _COUNT, _CONNECTIONS, _TENANTS = sys.argv[1:]
    asyncio.run(_all(int(_PORT), _NAME, int(_COUNT), int(_CONNECTIONS), _TENANTS))
