"""`python -m bench.soak [--minutes 20]`: mixed load for long, and what grows meanwhile.

One server; uploads in several dialects, tasks in the pool and on the loop, events,
watchers that come and go, polls, downloads, cancellations and deletions, some of them
broken off. A sample is taken every few seconds; a slope is a straight line through the
samples of the second half, when caches are full.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench import photo
from bench.rows import Row, plain
from bench.server import Server, serving

CLIENTS: Final = 6
SAMPLE_S: Final = 5.0
PAUSE_S: Final = 0.05
_MIB: Final = 1 << 20
_CHUNK: Final = "application/offset+octet-stream"
_MODULE: Final = """
from asyncflow import Task, task

@task("in-pool")
def in_pool(work: Task) -> int:
    return sum(range(1000))

@task("on-loop")
async def on_loop(work: Task) -> object:
    return work.payload

@task("fails", attempts=1)
async def fails(work: Task) -> None:
    raise RuntimeError("on purpose")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the server's main process has at one moment."""

    at_s: float
    rss_mib: float
    fds: int
    threads: int
    tasks: float
    wal_mib: float


class Crowd:
    """Clients that do a little of everything until told to stop."""

    def __init__(self, server: Server, picture: bytes) -> None:
        self._url = server.url
        self._picture = picture
        self.counts: Counter[str] = Counter()
        self._jobs: list[str] = []

    async def live(self, seed: int, until: float) -> None:
        """Do one thing after the other."""
        rng = random.Random(seed)  # noqa: S311 -- repeatable load
        things: Sequence[Callable[..., Awaitable[None]]] = (
            self._put,
            self._tus,
            self._broken,
            self._task,
            self._task,
            self._event,
            self._watch,
            self._poll,
            self._download,
            self._end,
        )
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as web:
            while time.monotonic() < until:
                thing = rng.choice(things)
                try:
                    await thing(web, rng)
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.counts[f"error: {type(error).__name__}"] += 1
                self.counts[thing.__name__.strip("_")] += 1
                await asyncio.sleep(rng.uniform(0, 2 * PAUSE_S))

    def _note(self, job: str) -> None:
        self._jobs.append(job)
        del self._jobs[:-500]

    async def _put(self, web: aiohttp.ClientSession, _rng: random.Random) -> None:
        async with web.put("/upload/photo.jpg", data=self._picture) as answer:
            if answer.status == 202:  # noqa: PLR2004 -- accepted
                self._note((await answer.json())["jobId"])

    async def _create(self, web: aiohttp.ClientSession) -> str:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(self._picture))}
        headers["Upload-Metadata"] = "filename cGhvdG8uanBn"
        async with web.post("/files/", headers=headers) as answer:
            return answer.headers["Asyncflow-Job-Id"]

    async def _tus(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        job, offset = await self._create(web), 0
        while offset < len(self._picture):
            part = self._picture[offset : offset + rng.randrange(10_000, 200_000)]
            async with web.patch(
                f"/files/{job}", data=part, headers=_patching(offset)
            ) as answer:
                offset = int(answer.headers.get("Upload-Offset", len(self._picture)))
        self._note(job)

    async def _broken(self, web: aiohttp.ClientSession, _rng: random.Random) -> None:
        job = await self._create(web)

        async def half() -> AsyncIterator[bytes]:
            yield self._picture[: len(self._picture) // 2]
            raise ConnectionResetError

        with contextlib.suppress(aiohttp.ClientError, ConnectionResetError):
            async with web.patch(f"/files/{job}", data=half(), headers=_patching(0)):
                pass
        async with web.delete(f"/files/{job}", headers={"Tus-Resumable": "1.0.0"}):
            pass

    async def _task(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        name = rng.choice(("in-pool", "on-loop", "on-loop", "fails"))
        said = {"name": name, "payload": {"n": rng.random()}}
        async with web.post("/tasks", json=said) as answer:
            if answer.status == 202:  # noqa: PLR2004 -- accepted
                self._note((await answer.json())["taskId"])

    async def _event(self, web: aiohttp.ClientSession, _rng: random.Random) -> None:
        async with web.post("/events", json={"type": "soak.beat"}):
            pass

    async def _watch(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        if not self._jobs:
            return
        async with web.ws_connect(f"/ws?job={rng.choice(self._jobs)}") as socket:
            with contextlib.suppress(TimeoutError, TypeError):
                await socket.receive_str(timeout=1.0)

    async def _poll(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        if self._jobs:
            async with web.get(f"/status/{rng.choice(self._jobs)}") as answer:
                await answer.read()

    async def _download(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        if self._jobs:
            job = rng.choice(self._jobs)
            async with web.get(f"/jobs/{job}/files/thumbnail") as answer:
                await answer.read()

    async def _end(self, web: aiohttp.ClientSession, rng: random.Random) -> None:
        if not self._jobs:
            return
        job = self._jobs.pop(rng.randrange(len(self._jobs)))
        if rng.random() < 0.5:  # noqa: PLR2004 -- half of them
            async with web.post(f"/jobs/{job}/cancel"):
                pass
        async with web.delete(f"/jobs/{job}"):
            pass


def _patching(offset: int) -> dict[str, str]:
    return {
        "Tus-Resumable": "1.0.0",
        "Content-Type": _CHUNK,
        "Upload-Offset": str(offset),
    }


def take(server: Server, began: float) -> Sample:
    """Look at the server's main process."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    wal = server.data_dir / "asyncflow.db-wal"
    return Sample(
        at_s=time.monotonic() - began,
        rss_mib=int(facts["VmRSS"].split()[0]) / 1024,
        fds=len(list(Path(f"/proc/{server.pid}/fd").iterdir())),
        threads=int(facts["Threads"]),
        tasks=_metric(server, "asyncflow_loop_tasks"),
        wal_mib=wal.stat().st_size / _MIB if wal.exists() else 0.0,
    )


def _metric(server: Server, name: str) -> float:
    for line in server.get("/metrics").decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    raise RuntimeError(f"the server has no metric {name}")


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Return by how much *value* grows a minute, over the second half of *samples*."""
    late = samples[len(samples) // 2 :]
    times, values = [s.at_s / 60 for s in late], [value(s) for s in late]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    pairs = zip(times, values, strict=True)
    return sum((t - middle) * (v - mean) for t, v in pairs) / spread if spread else 0.0


async def _load(
    server: Server, picture: bytes, seconds: float
) -> tuple[list[Sample], Counter[str]]:
    began = time.monotonic()
    crowd, samples = Crowd(server, picture), []
    async with asyncio.TaskGroup() as group:
        for seed in range(CLIENTS):
            group.create_task(crowd.live(seed, began + seconds))
        while time.monotonic() < began + seconds:
            await asyncio.sleep(min(SAMPLE_S, seconds / 8))
            samples.append(await asyncio.to_thread(take, server, began))
    return samples, crowd.counts


def measure(folder: Path, *, seconds: float) -> list[Row]:
    """Run the load for *seconds* and return what grew."""
    (folder / "soak_tasks.py").write_text(_MODULE, encoding="utf-8")
    picture = photo.write(folder / "photo.jpg", small=True).read_bytes()
    settings = {
        "processors": "soak_tasks",
        "keep_jobs": f"{max(10, int(seconds / 10))}s",
        "backlog_limit": "1000000",
    }
    cores = sorted(os.sched_getaffinity(0))
    with serving(folder, cores=cores, **settings) as server:
        samples, counts = asyncio.run(_load(server, picture, seconds))
    done = sum(n for name, n in counts.items() if not name.startswith("error"))
    errors = sum(n for name, n in counts.items() if name.startswith("error"))
    late = samples[len(samples) // 2 :]
    return [
        Row(what="things done", value=done, unit="", note=_listed(counts)),
        Row(what="requests that failed", value=errors, unit="", most=0),
        Row(what="RSS at the end", value=samples[-1].rss_mib, unit="MiB"),
        Row(
            what="RSS grows by",
            value=slope(samples, lambda s: s.rss_mib),
            unit="MiB/min",
            most=1.0,
        ),
        Row(
            what="descriptors grow by",
            value=slope(samples, lambda s: s.fds),
            unit="/min",
            most=0.5,
        ),
        Row(
            what="threads grow by",
            value=slope(samples, lambda s: s.threads),
            unit="/min",
            # pools of threads fill up slowly, to their bounds
            most=0.5,
        ),
        Row(
            what="tasks of the loop grow by",
            value=slope(samples, lambda s: s.tasks),
            unit="/min",
            most=0.5,
        ),
        Row(
            what="write-ahead log, largest",
            value=max(s.wal_mib for s in late),
            unit="MiB",
            most=64,
        ),
    ]


def _listed(counts: Counter[str]) -> str:
    return json.dumps(dict(counts.most_common()))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asyncflow-soak-") as folder:
        rows = measure(Path(folder), seconds=60.0 * options.minutes)
    print(plain(f"soak ({options.minutes:g} min)", rows), flush=True)
    return int(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
