"""How long the answer takes after the last byte, with every worker busy.

The server and its workers have one half of the cores, those who measure the other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import photo, traffic
from bench.machine import cores, cpu_s
from bench.probes import Probe
from bench.rows import Row, percentile, spread
from bench.server import Server, serving

_PACE: Final = 10_000_000.0
#: the answer may take this much longer than the disk needs for a sync
_ABOVE_SYNC_MS: Final = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What one wave of uploads found, and what was measured beside it."""

    result: traffic.Result
    status_ms: list[float]
    disk_ms: list[float]
    server_cpu_s: float

    @property
    def answers_ms(self) -> list[float]:
        """The times of both kinds of answer."""
        return self.result.put_ms + self.result.patch_ms

    @property
    def above_ms(self) -> float:
        """How far the answers' p99 is above that of the disk in the same seconds."""
        return percentile(self.answers_ms, 99) - percentile(self.disk_ms, 99)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return how long uploads, status and the disk took at the same time."""
    waves, clients, rounds, before = (1, 4, 1, 2) if quick else (5, 50, 3, 12)
    ours, theirs = _halves()
    source = photo.write(folder / "photo.jpg", small=quick)
    with serving(folder, cores=ours) as server:
        jobs = [server.upload(source.read_bytes()) for _ in range(before)]
        order = traffic.Order(
            port=server.port,
            photo=str(source),
            clients=clients,
            rounds=rounds,
            bytes_per_s=_PACE,
        )
        samples = [_wave(server, order, jobs[-1], folder, theirs) for _ in range(waves)]
        waiting = server.waiting()
    size = source.stat().st_size
    return [*_answers(samples), *_beside(samples, size, waiting)]


def _wave(
    server: Server, order: traffic.Order, job: str, folder: Path, cores: list[int]
) -> _Sample:
    disk = Probe("disk", str(folder), cores=cores)
    status = Probe("status", str(server.port), job, cores=cores)
    cpu = cpu_s(server.pid)
    result = traffic.run(order, cores=cores)
    cpu = cpu_s(server.pid) - cpu
    return _Sample(
        result=result,
        status_ms=status.stop(),
        disk_ms=disk.stop(),
        server_cpu_s=cpu,
    )


def _halves() -> tuple[list[int], list[int]]:
    """Return cores for the server and cores for those who measure."""
    found = cores()
    half = len(found) // 2
    return (found[:half], found[half:]) if half else (found, found)


def _answers(samples: list[_Sample]) -> list[Row]:
    put = [ms for sample in samples for ms in sample.result.put_ms]
    patch = [ms for sample in samples for ms in sample.result.patch_ms]
    disk = [ms for sample in samples for ms in sample.disk_ms]
    above = [sample.above_ms for sample in samples]
    return [
        Row(
            what="answer p99 above fdatasync p99",
            # not the best: a claim about the slowest answers must not pick its wave
            value=percentile(above, 50),
            unit="ms",
            most=_ABOVE_SYNC_MS,
            note=f"median of {len(above)} waves, {min(above):.0f} to {max(above):.0f}",
        ),
        *spread("answer after the last byte,", put + patch),
        Row(what="of PUT (202) p50", value=percentile(put, 50), unit="ms"),
        Row(what="of PATCH (204) p50", value=percentile(patch, 50), unit="ms"),
        *spread("fdatasync of 64 KiB,", disk),
    ]


def _beside(samples: list[_Sample], size: int, waiting: int) -> list[Row]:
    status = [ms for sample in samples for ms in sample.status_ms]
    sending = [ms for sample in samples for ms in sample.result.sending_ms]
    lag = [ms for sample in samples for ms in sample.result.lag_ms]
    rates = [
        len(sample.answers_ms) * size / sample.result.seconds / 1e6
        for sample in samples
    ]
    cpu_ms = sum(sample.server_cpu_s for sample in samples) / len(sending) * 1000
    at_pace = f"at the pace it takes {size / _PACE * 1000:.0f} ms"
    return [
        *spread("GET /status,", status),
        Row(
            what="sending one photo p50",
            value=percentile(sending, 50),
            unit="ms",
            note=f"{len(sending)} of {size:,} bytes; {at_pace}",
        ),
        Row(what="throughput, best wave", value=max(rates), unit="MB/s"),
        Row(what="the server's CPU for one upload", value=cpu_ms, unit="ms"),
        Row(
            what="lag of the load generator p99",
            value=percentile(lag, 99),
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
