"""The job engine: no-ops a second, tasks registered a second, slow beside fast."""

import http.client
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from bench import photo, queues, submit
from bench.rows import Row, percentile
from bench.server import Server, serving

_MODULE: Final = """
import time
from asyncflow import Task, task

@task("noop-pool")
def noop_pool(work: Task) -> None:
    return None

@task("noop-loop")
async def noop_loop(work: Task) -> None:
    return None

@task("slow", concurrency=1)
def slow(work: Task) -> None:
    time.sleep(0.25)
"""
_CONNECTIONS: Final = 64
_PATIENCE_S: Final = 240.0


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return what the engine does in a second, and what others do."""
    count = 128 if quick else 6400
    (folder / "noops.py").write_text(_MODULE, encoding="utf-8")
    rows = [*_engine(folder, count), *_tenants(folder, quick=quick)]
    rows += _slow(folder, quick=quick)
    rows += _fair(folder, quick=quick) + _busy(folder, quick=quick)
    for workers in (1,) if quick else (1, 4):
        rows += _workers(folder, count // 4, workers)
    if not quick:
        rows += _others(folder, count, rows)
    return rows


def _serve(folder: Path, **settings: str) -> Any:
    cores = sorted(os.sched_getaffinity(0))
    more = {"processors": "noops", "backlog_limit": "1000000", **settings}
    return serving(folder, cores=cores, **more)


def _engine(folder: Path, count: int) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    place = folder / "engine"
    place.mkdir()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    with _serve(place, workers="2") as server:
        _act(server, "drain")
        seconds, ms = submit.run(
            server.port, "noop-loop", count, connections=_CONNECTIONS, cores=cores
        )
        loop_s = _work_off(server, "noop-loop", count)
        _act(server, "drain")
        submit.run(server.port, "noop-pool", count, connections=16, cores=cores)
        pool_s = _work_off(server, "noop-pool", count)
    note = f"{_CONNECTIONS} connections, the client on the same cores"
    return [
        Row(
            what="tasks registered over HTTP, durable",
            value=len(ms) / seconds,
            unit="/s",
            least=3000,
            note=note,
        ),
        Row(what="registering one, p99", value=percentile(ms, 99), unit="ms"),
        Row(
            what="no-op steps on the loop, durable",
            value=count / loop_s,
            unit="/s",
            least=4000,
        ),
        Row(
            what="no-op steps through the pool, durable",
            value=count / pool_s,
            unit="/s",
            least=1200,
            note="2 workers",
        ),
    ]


def _tenants(folder: Path, *, quick: bool) -> list[Row]:
    """Measure as many tenants as tasks against one tenant, in turns."""
    cores = sorted(os.sched_getaffinity(0))
    count, rounds = (128, 1) if quick else (9024, 2)
    place = folder / "tenants"
    place.mkdir()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    rates: dict[str, list[float]] = {"one": [], "each": []}
    done = 0
    with _serve(place, workers="2", workers_min="2") as server:
        for _ in range(rounds):
            for tenants, found in rates.items():
                _act(server, "drain")
                args = {"connections": 16, "cores": cores, "tenants": tenants}
                submit.run(server.port, "noop-pool", count, **args)
                done += count
                found.append(count / _work_off(server, "noop-pool", done))
    one, each = (percentile(found, 50) for found in rates.values())
    return [
        Row(what=f"{count:,} no-op steps of one tenant", value=one, unit="/s"),
        Row(what=f"{count:,} no-op steps of as many tenants", value=each, unit="/s"),
        Row(what="against one tenant", value=each / one, unit="x", least=0.8),
    ]


def _slow(folder: Path, *, quick: bool) -> list[Row]:
    """Measure fast tasks alone, then beside a queue of slow ones."""
    cores = sorted(os.sched_getaffinity(0))
    count = 64 if quick else 512
    place = folder / "slow"
    place.mkdir()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    with _serve(place, workers="2") as server:
        took = []
        for slow in (0, 64):
            if slow:
                submit.run(server.port, "slow", slow, connections=1, cores=cores)
            began = time.perf_counter()
            submit.run(server.port, "noop-pool", count, connections=8, cores=cores)
            _until(server, "noop-pool", count * (len(took) + 1))
            took.append(time.perf_counter() - began)
    return [
        Row(
            what="fast tasks beside a slow consumer, against alone",
            value=took[1] / took[0],
            unit="x",
            most=2.0,
            note=f"{count} tasks, 2 workers, the slow one has one of them",
        )
    ]


def _fair(folder: Path, *, quick: bool) -> list[Row]:
    """Measure one client's file alone, then behind the many of another client."""
    many, tries = (40, 1) if quick else (10_000, 7)
    place = folder / "fair"
    place.mkdir()
    picture = photo.write(place / "photo.jpg", small=True).read_bytes()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    settings = {"workers": "2", "workers_min": "2", "trusted_proxies": "127.0.0.1"}
    with _serve(place, **settings) as server:
        _one(server, picture)  # whatever is warmed up by the first
        alone = [_one(server, picture) for _ in range(tries)]
        _act(server, "drain")
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(many):
            _put(link, picture, client="192.0.2.1")
        _act(server, "resume")
        beside = [_one(server, picture) for _ in range(tries)]
        left = server.waiting()
    ratio = percentile(beside, 50) / percentile(alone, 50)
    return [
        Row(what="one file alone, p50", value=percentile(alone, 50), unit="ms"),
        Row(
            what=f"the same with {many:,} of another client waiting",
            value=percentile(beside, 50),
            unit="ms",
            note=f"{left} steps still waited after it",
        ),
        Row(what="against alone", value=ratio, unit="x", most=2.0),
    ]


def _put(link: http.client.HTTPConnection, data: bytes, *, client: str) -> str:
    link.request("PUT", "/upload/a.jpg", data, {"X-Forwarded-For": client})
    answer = link.getresponse()
    return str(json.loads(answer.read())["jobId"])


def _one(server: Server, data: bytes) -> float:
    """Upload a file and return after how many milliseconds its job was over.

    Its events tell: who asks again and again takes the time of the server.
    """
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    began = time.perf_counter()
    job = _put(link, data, client="192.0.2.2")
    link.request("GET", f"/jobs/{job}/events")
    for line in link.getresponse():
        if b"COMPLETED" in line:
            break
    took = 1000 * (time.perf_counter() - began)
    link.close()
    return took


def _busy(folder: Path, *, quick: bool) -> list[Row]:
    """Measure how busy the workers are while photos wait for them."""
    count, seconds = (8, 0.5) if quick else (500, 20.0)
    place = folder / "busy"
    place.mkdir()
    picture = photo.write(place / "photo.jpg", small=quick).read_bytes()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    with _serve(place, workers="2", workers_min="2") as server:
        _act(server, "drain")
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(count):
            _put(link, picture, client="192.0.2.1")
        _act(server, "resume")
        before, began = _busy_s(server), time.perf_counter()
        time.sleep(seconds)
        spent = _busy_s(server) - before
        share = 100 * spent / (2 * (time.perf_counter() - began))
    return [
        Row(
            what=f"workers busy while {count} photos wait",
            value=share,
            unit="%",
            least=80,
        )
    ]


def _busy_s(server: Server) -> float:
    name = "asyncflow_worker_busy_seconds_total "
    for line in server.get("/metrics").decode().splitlines():
        if line.startswith(name):
            return float(line.removeprefix(name))
    return 0.0


def _workers(folder: Path, count: int, workers: int) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    place = folder / f"workers{workers}"
    place.mkdir()
    (place / "noops.py").write_text(_MODULE, encoding="utf-8")
    with _serve(place, workers=str(workers)) as server:
        _act(server, "drain")
        submit.run(server.port, "noop-pool", count, connections=16, cores=cores)
        seconds = _work_off(server, "noop-pool", count)
    what = f"no-op steps through a pool of {workers}"
    return [Row(what=what, value=count / seconds, unit="/s")]


def _others(folder: Path, count: int, rows: list[Row]) -> list[Row]:
    (ours,) = [row.value for row in rows if "through the pool, durable" in row.what]
    found = queues.measure(folder, count=count, workers=2)
    if not found:
        return [Row(what="Celery, Dramatiq", value=0, unit="", note="no Redis here")]
    return [
        row
        for name, rate in found.items()
        for row in (
            Row(what=f"no-ops a second, {name}", value=rate, unit="/s"),
            Row(what=f"our pool against {name}", value=ours / rate, unit="x"),
        )
    ]


def _work_off(server: Server, name: str, count: int) -> float:
    """Let everything begin; return after how many seconds *count* steps are done."""
    began = time.perf_counter()
    _act(server, "resume")
    _until(server, name, count)
    return time.perf_counter() - began


def _until(server: Server, name: str, count: int) -> None:
    end = time.monotonic() + _PATIENCE_S
    while _done(server, name) < count:
        if time.monotonic() > end:
            raise RuntimeError(f"{name}: not {count} steps after {_PATIENCE_S} s")
        time.sleep(0.1)


def _done(server: Server, name: str) -> int:
    found = json.loads(_ask(server, "GET", "consumers"))["consumers"]
    (steps,) = [one["steps"] for one in found if one["name"] == name]
    return int(steps.get("done", 0))


def _act(server: Server, path: str) -> None:
    _ask(server, "POST", path)


def _ask(server: Server, method: str, path: str) -> bytes:
    token = (server.data_dir / "token").read_text(encoding="utf-8").strip()
    request = urllib.request.Request(  # noqa: S310 -- our own server
        f"{server.url}/admin/{path}",
        method=method,
        headers={"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- ours
        return bytes(answer.read())
