"""From the start of the process to the first page, and the memory it then holds."""

import time
from pathlib import Path
from typing import Final

from bench import photo
from bench.machine import cores, cpu_s, proportional_mib, resident_mib, tree
from bench.rows import Row, percentile
from bench.server import Server, serving

_MOST_S: Final = 1.5
_MOST_MIB: Final = 80.0
#: what the start itself needs for a moment has been given back by then
_SETTLED_S: Final = 1.0


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return the time to the first page and the memory, idle and after some work."""
    starts = 1 if quick else 5
    taken, cpus = [], []
    for number in range(starts):
        with serving(folder / f"start-{number}", cores=cores()) as server:
            server.get("/")
            taken.append(time.perf_counter() - server.began)
            cpus.append(sum(map(cpu_s, tree(server.pid))))
    with serving(folder / "memory", cores=cores()) as server:
        server.get("/")
        time.sleep(0 if quick else _SETTLED_S)
        idle = resident_mib(server.pid)
        _work(server, small=quick)
        memory = _memory(server)
    return [
        Row(
            what="process start to first page",
            value=min(taken),
            unit="s",
            most=_MOST_S,
            note=f"best of {starts}, median {percentile(taken, 50):.2f} s",
        ),
        Row(
            what="CPU until the first page",
            value=min(cpus),
            unit="s",
            note="server, fork server and workers",
        ),
        Row(what="main RSS idle", value=idle, unit="MiB", most=_MOST_MIB),
        *memory,
    ]


def _work(server: Server, *, small: bool) -> None:
    """Give every worker something to do, so that it has loaded what it needs."""
    picture = photo.jpeg(small=small)
    jobs = [server.upload(picture) for _ in range(2 * len(cores()))]
    for job in jobs:
        server.finished(job)


def _memory(server: Server) -> list[Row]:
    members = tree(server.pid)
    main = resident_mib(server.pid)
    shares = [proportional_mib(pid) for pid in members]
    known = [share for share in shares if share is not None]
    rows = [
        Row(what="main RSS after some photos", value=main, unit="MiB"),
        Row(
            what="whole tree, sum of RSS",
            value=sum(map(resident_mib, members)),
            unit="MiB",
            note=f"{len(members)} processes; shared pages count more than once",
        ),
    ]
    if len(known) < len(members):
        return rows
    shared = Row(
        what="whole tree, sum of PSS",
        value=sum(known),
        unit="MiB",
        note="shared pages are split",
    )
    return [*rows, shared]
