"""Large and small uploads, beside @tus/server and nginx where those are to be had.

The server has one core, those who send have the others; servers take turns. What counts
is the server's CPU time for a GiB: elapsed time is the machine's as much as ours.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench import photo, sender
from bench.machine import cores, cpu_s
from bench.peers import Peer, running
from bench.probes import Probe
from bench.rows import Row, percentile
from bench.server import FINAL, Server, serving

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_KIB: Final = 1 << 10
#: of a sender on a network, 200 Mbit/s
_PACE: Final = 25e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """How much of everything."""

    large: int = _GIB
    reps: int = 3
    paced: int = 64 * _MIB
    eighth: int = 128 * _MIB
    small_clients: int = 32
    small_each: int = 63
    photos: int = 50
    beside: int = 256 * _MIB
    many: int = 300
    many_bytes: int = 6 * _MIB


_QUICK: Final = _Sizes(
    large=4 * _MIB,
    reps=1,
    paced=_MIB,
    eighth=_MIB,
    small_clients=2,
    small_each=3,
    photos=2,
    beside=2 * _MIB,
    many=3,
    many_bytes=_MIB,
)


@dataclass(slots=True, kw_only=True)
class _Target:
    """A server under test, ours or a peer."""

    name: str
    pid: int
    port: int
    kind: str = "tus"
    base: str = "/files/"
    tls: bool = False
    forget: Callable[[list[str]], None]
    per_gib: list[float] = field(default_factory=list)
    mib_s: list[float] = field(default_factory=list)


class _Bench:
    def __init__(self, folder: Path, sizes: _Sizes) -> None:
        self.folder = folder
        self.sizes = sizes
        found = cores()
        self.ours, self.theirs = found[:1], found[1:] or found
        self.busy: list[float] = []

    def file(self, size: int) -> str:
        """Return a file of *size* bytes that cannot be taken for anything known."""
        path = self.folder / f"body-{size}"
        if not path.exists():
            with path.open("wb") as out:
                for at in range(0, size, _MIB):
                    out.write(b"\xa7" * min(_MIB, size - at))
        return str(path)

    def send(
        self,
        target: _Target,
        path: str,
        *,
        clients: int = 1,
        each: int = 1,
        bytes_per_s: float | None = None,
    ) -> tuple[sender.Sent, float]:
        """Upload to *target*; return what was measured and the server's CPU time."""
        order = sender.Order(
            port=target.port,
            path=path,
            kind=target.kind,
            base=target.base,
            clients=clients,
            each=each,
            tls=target.tls,
            bytes_per_s=bytes_per_s,
        )
        cpu = cpu_s(target.pid)
        sent = sender.run(order, cores=self.theirs)
        cpu = cpu_s(target.pid) - cpu
        self.busy.append(sent.busy)
        target.forget(sent.jobs)
        return sent, cpu


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return the rows of uploads, ours beside those of the peers."""
    bench = _Bench(folder, _QUICK if quick else _Sizes())
    with ExitStack() as stack:
        ours = stack.enter_context(_ours(bench, "asyncflow"))
        bare = stack.enter_context(_ours(bench, "not synced", module="bench.unsynced"))
        secure = stack.enter_context(_ours(bench, "TLS", **_certificate(folder)))
        found = running(folder, cores=bench.ours, install=not quick)
        peers = [_peer(one) for one in stack.enter_context(found)]
        rows = [
            *_large(bench, ours, bare, secure, peers),
            *_paced(bench, ours, secure),
            *_eight(bench, [ours, *peers]),
            *_small(bench, [ours, *(p for p in peers if p.kind == "tus")]),
            *_photos(bench, ours),
            *_beside(bench, ours),
        ]
    with _ours(bench, "many") as fresh:
        rows += _many(bench, fresh)
    busiest = max(bench.busy)
    return [*rows, Row(what="the busiest sender's core", value=busiest, unit="cores")]


# ----- the servers


@contextmanager
def _ours(
    bench: _Bench, name: str, *, module: str = "asyncflow", **settings: str
) -> Iterator[_Target]:
    folder = bench.folder / name.replace(" ", "-")
    many = {"open_uploads": "100000", "workers": "1", **settings}
    with serving(folder, cores=bench.ours, module=module, **many) as server:
        yield _Target(
            name=name,
            pid=server.pid,
            port=server.port,
            tls="tls_cert" in settings,
            forget=lambda jobs: _forget(server, jobs),
        )


def _forget(server: Server, jobs: list[str]) -> None:
    """Wait until the workers are done with *jobs*, then remove them."""
    for job in jobs:
        while json.loads(server.get(f"/status/{job}"))["status"] not in FINAL:
            continue
        server.delete(f"/jobs/{job}")


def _peer(peer: Peer) -> _Target:
    return _Target(
        name=peer.name,
        pid=peer.pid,
        port=peer.port,
        kind=peer.kind,
        base=peer.base,
        forget=lambda _jobs: peer.forget(),
    )


def _certificate(folder: Path) -> dict[str, str]:
    import trustme  # noqa: PLC0415 -- only this table needs it

    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return {"tls_cert": str(cert), "tls_key": str(key)}


# ----- the rows


def _large(
    bench: _Bench,
    ours: _Target,
    bare: _Target,
    secure: _Target,
    peers: list[_Target],
) -> list[Row]:
    path, size = bench.file(bench.sizes.large), bench.sizes.large
    everybody = [ours, bare, secure, *peers]
    for target in everybody:
        bench.send(target, bench.file(_MIB))
    for _ in range(bench.sizes.reps):
        for target in everybody:
            sent, cpu = bench.send(target, path)
            target.per_gib.append(cpu / size * _GIB)
            target.mib_s.append(size / _MIB / sent.seconds)
    most = {id(ours): 0.85, id(bare): 0.60}
    rows = [
        _per_gib(f"1 GiB, {one.name}", one, most=most.get(id(one))) for one in everybody
    ]
    # the best of each: a peer that does not sync sometimes pays for old dirty pages
    plain = min(ours.per_gib)
    rows.append(_ratio("1 GiB, TLS / plain, best", min(secure.per_gib), plain, 2))
    rows += [
        _ratio(f"1 GiB, {one.name} / ours, best", min(one.per_gib), plain)
        for one in peers
    ]
    return rows


def _paced(bench: _Bench, ours: _Target, secure: _Target) -> list[Row]:
    """Measure uploads that come in small pieces, as from a network."""
    path, size = bench.file(bench.sizes.paced), bench.sizes.paced
    cpu: dict[str, list[float]] = {ours.name: [], secure.name: []}
    for _ in range(bench.sizes.reps):
        for target in (ours, secure):
            _sent, spent = bench.send(target, path, bytes_per_s=_PACE)
            cpu[target.name].append(spent / size * _GIB)
    plain, tls = (percentile(found, 50) for found in cpu.values())
    note = f"{tls:.1f} against {plain:.1f} CPU-s/GiB, all that the server does counted"
    row = _ratio("in 4-KiB pieces at 25 MB/s, TLS / plain", tls, plain)
    return [replace(row, note=note)]


def _per_gib(what: str, target: _Target, most: float | None = None) -> Row:
    speed = percentile(target.mib_s, 50)
    return Row(
        what=what,
        value=percentile(target.per_gib, 50),
        unit="CPU-s/GiB",
        most=most,
        note=f"{speed:,.0f} MiB/s; median of {len(target.mib_s)}, "
        f"best {min(target.per_gib):.2f}",
    )


def _ratio(what: str, upper: float, lower: float, most: float | None = None) -> Row:
    # with tiny sizes a server needs less than a tick
    return Row(what=what, value=upper / max(lower, 0.01), unit="x", most=most)


def _eight(bench: _Bench, targets: list[_Target]) -> list[Row]:
    rows = []
    for target in targets:
        size = bench.sizes.eighth * 8
        sent, cpu = bench.send(target, bench.file(bench.sizes.eighth), clients=8)
        rows.append(
            Row(
                what=f"8 x 128 MiB, {target.name}",
                value=cpu / size * _GIB,
                unit="CPU-s/GiB",
                note=f"{size / _MIB / sent.seconds:,.0f} MiB/s",
            )
        )
    return rows


def _small(bench: _Bench, targets: list[_Target]) -> list[Row]:
    rows, rates = [], []
    sizes = bench.sizes
    for target in targets:
        clients, each = sizes.small_clients, sizes.small_each
        path = bench.file(64 * _KIB)
        sent, cpu = bench.send(target, path, clients=clients, each=each)
        rates.append(len(sent.ms) / sent.seconds)
        rows.append(
            Row(
                what=f"64 KiB create+PATCH, {target.name}",
                value=rates[-1],
                unit="/s",
                least=900 if target is targets[0] else None,
                note=f"{cpu / len(sent.ms) * 1e6:,.0f} µs CPU each, "
                f"p99 {percentile(sent.ms, 99):.0f} ms",
            )
        )
    if len(rates) > 1:
        share = rates[0] / rates[1]
        rows.append(Row(what="64 KiB, ours / peer", value=share, unit="x", least=2))
    return rows


def _photos(bench: _Bench, ours: _Target) -> list[Row]:
    quick = bench.sizes.photos < _Sizes().photos
    path = photo.write(bench.folder / "photo.jpg", small=quick)
    form = _Target(
        name="form",
        pid=ours.pid,
        port=ours.port,
        kind="form",
        base="/upload",
        forget=ours.forget,
    )
    sent, cpu = bench.send(form, str(path), clients=bench.sizes.photos)
    return [
        Row(
            what="multipart photo, CPU",
            value=cpu / len(sent.ms) * 1000,
            unit="ms",
            note=f"{bench.sizes.photos} at once of {path.stat().st_size:,} bytes; "
            f"p99 {percentile(sent.ms, 99):.0f} ms",
        )
    ]


def _beside(bench: _Bench, ours: _Target) -> list[Row]:
    """Measure the status while four uploads keep the same core busy."""
    watched = sender.run(
        sender.Order(port=ours.port, path=bench.file(64 * _KIB), kind="tus"),
        cores=bench.theirs,
    ).jobs[0]
    probe = Probe("status", str(ours.port), watched, cores=bench.theirs)
    sent, cpu = bench.send(ours, bench.file(bench.sizes.beside), clients=4, each=2)
    times = probe.stop()
    size = bench.sizes.beside * 8
    return [
        Row(
            what="GET /status p99 beside 4 uploads",
            value=percentile(times, 99),
            unit="ms",
            most=6.0,
            note=f"p50 {percentile(times, 50):.1f} ms, {len(times)} asked; uploads at "
            f"{size / _MIB / sent.seconds:,.0f} MiB/s, {cpu / size * _GIB:.2f} CPU-s",
        )
    ]


def _many(bench: _Bench, fresh: _Target) -> list[Row]:
    sizes = bench.sizes
    sent, cpu = bench.send(fresh, bench.file(sizes.many_bytes), clients=sizes.many)
    status = Path(f"/proc/{fresh.pid}/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return [
        Row(
            what=f"{sizes.many} uploads at once, peak memory",
            value=int(peak.split()[1]) / _KIB,
            unit="MiB",
            most=70,
            note=f"{cpu:.2f} CPU-s, p99 {percentile(sent.ms, 99):.0f} ms",
        )
    ]
