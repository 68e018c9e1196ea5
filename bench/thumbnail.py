"""How long after the last byte of a photo its thumbnail can be fetched, all idle."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench import photo
from bench.machine import cores, cpu_s, tree
from bench.rows import Row, percentile
from bench.server import serving
from bench.wire import PATCH, Wire, check, create_tus

_MOST_MS: Final = 250.0
_OK: Final = 200
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Milliseconds after the last byte."""

    answered: float
    identified: float
    fetched: float
    completed: float


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return when answer, check, thumbnail and end of each job came."""
    count = 2 if quick else 20
    picture = photo.jpeg(small=quick)
    with serving(folder, cores=cores()) as server:
        # what a first photo loads, later ones find loaded
        for job in [server.upload(picture) for _ in range(2 * len(cores()))]:
            server.finished(job)
        members = tree(server.pid)
        cpu = sum(map(cpu_s, members))
        taken = asyncio.run(_measure(server.port, picture, count))
        cpu = sum(map(cpu_s, members)) - cpu
    fetched = [one.fetched for one in taken]
    return [
        Row(
            what="last byte to thumbnail p50",
            value=percentile(fetched, 50),
            unit="ms",
            most=_MOST_MS,
            note=f"of {count}, {len(picture):,} bytes each",
        ),
        Row(
            what="last byte to thumbnail p99", value=percentile(fetched, 99), unit="ms"
        ),
        Row(what="last byte to thumbnail min", value=min(fetched), unit="ms"),
        *_stages(taken),
        Row(
            what="CPU for one photo",
            value=cpu / count * 1000,
            unit="ms",
            note="server and workers, until the job is completed",
        ),
    ]


def _stages(taken: list[_Times]) -> list[Row]:
    stages = {
        "answer": [one.answered for one in taken],
        "identify done": [one.identified for one in taken],
        "job completed": [one.completed for one in taken],
    }
    return [
        Row(what=f"last byte to {stage} p50", value=percentile(times, 50), unit="ms")
        for stage, times in stages.items()
    ]


async def _measure(port: int, picture: bytes, count: int) -> list[_Times]:
    wire, other = await Wire.connect(port), await Wire.connect(port)
    try:
        async with aiohttp.ClientSession() as session:
            return [
                await _once(port, session, wire, other, picture) for _ in range(count)
            ]
    finally:
        wire.close()
        other.close()


async def _once(
    port: int, session: aiohttp.ClientSession, wire: Wire, other: Wire, picture: bytes
) -> _Times:
    job = await create_tus(wire, len(picture))
    url = f"ws://127.0.0.1:{port}/ws?job={job}"
    async with asyncio.timeout(_PATIENCE_S), session.ws_connect(url) as socket:
        await socket.receive()  # the snapshot
        sent = await wire.send("PATCH", f"/files/{job}", PATCH, picture)
        answer = asyncio.create_task(wire.answer(sent))
        times = await _watch(socket, other, job)
        reply = await answer
    check(reply, 204)
    after = {name: (at - sent) * 1000 for name, at in times.items()}
    return _Times(
        answered=reply.waited_ms,
        identified=after["identified"],
        fetched=after["fetched"],
        completed=after["completed"],
    )


async def _watch(
    socket: aiohttp.ClientWebSocketResponse, wire: Wire, job: str
) -> Mapping[str, float]:
    """Return when things happened; the thumbnail counts once it was fetched."""
    times: dict[str, float] = {}
    async for message in socket:
        told = json.loads(message.data)
        step = told.get("step") or {}
        if step.get("name") == "identify" and step.get("status") == "done":
            times["identified"] = time.perf_counter()
        elif step.get("name") == "image" and "fetched" not in times:
            reply = await wire.ask("GET", f"/jobs/{job}/files/thumbnail")
            if reply.status == _OK:
                times["fetched"] = reply.came
        if told["type"].startswith("job."):
            times["completed"] = time.perf_counter()
            break
    return times
