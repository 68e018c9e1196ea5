"""Many paced uploads at once, from a process of their own.

`python -m bench.traffic` reads an `Order` as JSON from standard input and prints a
`Result`. Half of the clients speak tus (create, then PATCH), half PUT the whole file;
each has one connection and uploads one photo after another.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from bench.machine import pinned
from bench.wire import PATCH, Wire, check, create_tus

_LAG_EVERY_S: Final = 0.005


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: *rounds* photos from each of *clients*, each at *bytes_per_s*."""

    port: int
    photo: str
    clients: int
    rounds: int
    bytes_per_s: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the last byte sent to the answer; how long sending took.

    `lag_ms` is how late the generator's own loop was: it is in every answer's time.
    """

    put_ms: list[float]
    patch_ms: list[float]
    sending_ms: list[float]
    lag_ms: list[float]
    seconds: float


def run(order: Order, *, cores: list[int]) -> Result:
    """Carry out *order* in a process on *cores*; return what it measured."""
    with pinned(cores):
        done = subprocess.run(
            [sys.executable, "-m", "bench.traffic"],
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            check=True,
            timeout=300,
        )
    return msgspec.json.decode(done.stdout, type=Result)


class _Traffic:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._photo = Path(order.photo).read_bytes()
        self.put_ms: list[float] = []
        self.patch_ms: list[float] = []
        self.sending_ms: list[float] = []
        self.lag_ms: list[float] = []

    async def go(self) -> Result:
        began = time.perf_counter()
        watch = asyncio.create_task(self._watch())
        async with asyncio.TaskGroup() as clients:
            for number in range(self._order.clients):
                client = self._patch if number % 2 else self._put
                clients.create_task(self._client(client))
        watch.cancel()
        return Result(
            put_ms=self.put_ms,
            patch_ms=self.patch_ms,
            sending_ms=self.sending_ms,
            lag_ms=self.lag_ms,
            seconds=time.perf_counter() - began,
        )

    async def _client(self, upload: Callable[[Wire], Awaitable[None]]) -> None:
        wire = await Wire.connect(self._order.port)
        try:
            for _ in range(self._order.rounds):
                await upload(wire)
        finally:
            wire.close()

    async def _put(self, wire: Wire) -> None:
        began = time.perf_counter()
        pace = self._order.bytes_per_s
        path = "/upload/photo.jpg"
        reply = await wire.ask("PUT", path, body=self._photo, bytes_per_s=pace)
        check(reply, 202)
        self.put_ms.append(reply.waited_ms)
        self.sending_ms.append((reply.sent - began) * 1000)

    async def _patch(self, wire: Wire) -> None:
        upload = await create_tus(wire, len(self._photo))
        began = time.perf_counter()
        pace = self._order.bytes_per_s
        path = f"/files/{upload}"
        reply = await wire.ask("PATCH", path, PATCH, self._photo, bytes_per_s=pace)
        check(reply, 204)
        self.patch_ms.append(reply.waited_ms)
        self.sending_ms.append((reply.sent - began) * 1000)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self.lag_ms.append((loop.time() - due) * 1000)


def main() -> None:
    """Carry out the order on standard input."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    result = asyncio.run(_Traffic(order).go())
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
