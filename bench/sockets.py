"""WebSockets: what a message costs when thousands listen, and what they cost in memory.

The server runs in this process, whole but for uploads: progress is told to its hub as
an upload would tell it, so that nothing but messages is measured.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from asyncflow import logs
from asyncflow.config import Settings
from asyncflow.runtime import Runtime
from asyncflow.server import build_app
from asyncflow.turns import Announced
from asyncflow.web.auth import TokenAuth
from asyncflow.web.limits import ConnectionLimits
from asyncflow.web.site import start_site
from bench.crowd import Crowd, raise_file_limit
from bench.machine import cores, resident_mib
from bench.rows import Row, percentile

_MOST_US: Final = 15.0
_MOST_MIB: Final = 120.0
_TICK_S: Final = 0.01


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return CPU per message, memory, and how long the loop is held up."""
    raise_file_limit()
    logs.configure(level="error", as_json=True)
    many, jobs, seconds = (20, 10, 0.5) if quick else (5000, 1000, 5.0)
    # the smaller one first: memory once used is not given back
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        each = runner.run(_measure(folder / "each", [1] * jobs, 4.0, seconds))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        one = runner.run(_measure(folder / "one", [many], 8.0, seconds))
    return [
        *_rows(f"{many:,} sockets on one job", one),
        *_rows(f"{jobs:,} sockets on {jobs:,} jobs at 4/s", each),
    ]


class _Found:
    def __init__(self) -> None:
        self.messages = 0
        self.cpu_s = 0.0
        #: in as long a time without messages
        self.idle_cpu_s = 0.0
        self.idle_mib = 0.0
        self.mib = 0.0
        self.lag_ms: list[float] = []


def _rows(what: str, found: _Found) -> list[Row]:
    return [
        Row(
            what=f"{what}: CPU for a message",
            value=(found.cpu_s - found.idle_cpu_s) / found.messages * 1e6,
            unit="us",
            most=_MOST_US,
            note=f"{found.messages:,} messages; "
            f"{found.idle_cpu_s * 1000:,.0f} ms of CPU without them left out",
        ),
        Row(
            what=f"{what}: main process",
            value=found.mib,
            unit="MiB",
            most=_MOST_MIB,
            note=f"{found.idle_mib:.0f} MiB before them",
        ),
        Row(
            what=f"{what}: lag of the loop p99",
            value=percentile(found.lag_ms, 99),
            unit="ms",
        ),
    ]


async def _measure(
    folder: Path, crowds: list[int], rate: float, seconds: float
) -> _Found:
    """Let *crowds* of listeners hear of a job each, *rate* times a second."""
    settings = Settings(
        data_dir=folder, workers=1, fill_level=100, max_connections=20_000
    )
    runtime = Runtime(settings)
    await runtime.start()
    app = build_app(runtime, TokenAuth("a-token-of-the-bench", open_locally=True))
    limits = ConnectionLimits(max_connections=20_000)
    site = await start_site(app, host="127.0.0.1", port=0, limits=limits, grace_s=1.0)
    crowd = Crowd(site.port, cores=cores()[-1:])
    try:
        jobs = [await _job(runtime) for _ in crowds]
        idle = resident_mib(os.getpid())
        ids = [job for job, many in zip(jobs, crowds, strict=True) for _ in range(many)]
        await asyncio.to_thread(crowd.join, ids)
        found = await _tell(runtime, crowd, jobs, rate, seconds)
        found.idle_mib = idle
        found.mib = resident_mib(os.getpid())
        return found
    finally:
        await asyncio.to_thread(crowd.leave)
        await runtime.drain(1.0)
        await site.close()
        await runtime.close()


async def _job(runtime: Runtime) -> str:
    said = Announced(
        owner="local",
        tenant="",
        file_name="film.mp4",
        declared_type="video/mp4",
        length=1 << 20,
    )
    return (await runtime.chunks.create(said)).id


async def _tell(
    runtime: Runtime, crowd: Crowd, jobs: list[str], rate: float, seconds: float
) -> _Found:
    found = _Found()
    watch = asyncio.create_task(_watch(found.lag_ms))
    rounds = max(2, round(rate * seconds))
    found.idle_cpu_s = await _spend(crowd, rounds, 1 / rate, lambda _number: None)
    found.lag_ms.clear()

    def tell(number: int) -> None:
        for job in jobs:
            runtime.hub.uploading(job, number)

    before = await asyncio.to_thread(crowd.heard)
    found.cpu_s = await _spend(crowd, rounds, 1 / rate, tell)
    found.messages = await asyncio.to_thread(crowd.heard) - before
    watch.cancel()
    return found


async def _spend(
    crowd: Crowd, rounds: int, pause_s: float, tell: Callable[[int], None]
) -> float:
    """Return the CPU seconds of *rounds*, until all that was told is heard."""
    began = time.process_time()
    for number in range(rounds):
        tell(number)
        await asyncio.sleep(pause_s)
    await asyncio.to_thread(crowd.heard)
    return time.process_time() - began


async def _watch(lag_ms: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        lag_ms.append((loop.time() - due) * 1000)
