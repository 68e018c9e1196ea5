"""How long the answer takes after the last byte, with every worker busy.

The server and its workers have one half of the cores, those who measure the other.
"""

from pathlib import Path
from typing import Final

from bench import photo, traffic
from bench.machine import cores
from bench.probes import Probe
from bench.rows import Row, percentile, spread
from bench.server import serving

_PACE: Final = 10_000_000.0
#: the answer may take this much longer than the disk needs for a sync
_ABOVE_SYNC_MS: Final = 50.0


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return how long uploads, status and the disk took at the same time."""
    clients, rounds, before = (4, 1, 2) if quick else (50, 8, 12)
    ours, theirs = _halves()
    source = photo.write(folder / "photo.jpg", small=quick)
    with serving(folder, cores=ours) as server:
        jobs = [server.upload(source.read_bytes()) for _ in range(before)]
        disk = Probe("disk", str(folder), cores=theirs)
        status = Probe("status", str(server.port), jobs[-1], cores=theirs)
        order = traffic.Order(
            port=server.port,
            photo=str(source),
            clients=clients,
            rounds=rounds,
            bytes_per_s=_PACE,
        )
        result = traffic.run(order, cores=theirs)
        status_ms, disk_ms = status.stop(), disk.stop()
        waiting = server.waiting()
    size = source.stat().st_size
    return [*_answers(result, disk_ms), *_beside(result, status_ms, size, waiting)]


def _halves() -> tuple[list[int], list[int]]:
    """Return cores for the server and cores for those who measure."""
    found = cores()
    half = len(found) // 2
    return (found[:half], found[half:]) if half else (found, found)


def _answers(result: traffic.Result, disk_ms: list[float]) -> list[Row]:
    both = result.put_ms + result.patch_ms
    sync = percentile(disk_ms, 99)
    above = percentile(both, 99) - sync
    return [
        *spread("answer after the last byte,", both),
        Row(what="of PUT (202) p50", value=percentile(result.put_ms, 50), unit="ms"),
        Row(
            what="of PATCH (204) p50", value=percentile(result.patch_ms, 50), unit="ms"
        ),
        *spread("fdatasync of 64 KiB,", disk_ms),
        Row(
            what="answer p99 above fdatasync p99",
            value=above,
            unit="ms",
            most=_ABOVE_SYNC_MS,
        ),
    ]


def _beside(
    result: traffic.Result, status_ms: list[float], size: int, waiting: int
) -> list[Row]:
    count = len(result.put_ms) + len(result.patch_ms)
    wanted = size / _PACE * 1000
    return [
        *spread("GET /status,", status_ms),
        Row(what="uploads", value=count, unit="", note=f"of {size:,} bytes"),
        Row(
            what="sending one photo p50",
            value=percentile(result.sending_ms, 50),
            unit="ms",
            note=f"at the pace it takes {wanted:.0f} ms",
        ),
        Row(
            what="throughput",
            value=count * size / result.seconds / 1e6,
            unit="MB/s",
        ),
        Row(
            what="lag of the load generator p99",
            value=percentile(result.lag_ms, 99),
            unit="ms",
            note="is part of every answer",
        ),
        Row(
            what="steps waiting at the end",
            value=waiting,
            unit="",
            note="above 0: the workers were busy throughout",
        ),
    ]
