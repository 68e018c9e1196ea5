"""What the numbers depend on: cores, kernel, load, memory, and the disk's own speed."""

import contextlib
import mmap
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.rows import percentile

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024
_MIB: Final = 1 << 20
_BLOCK: Final = b"\x5a" * 4096


def describe(folder: Path) -> Mapping[str, object]:
    """Return the facts that belong beside every number."""
    synced = syncs_ms(folder, count=100)
    return {
        "cores": len(cores()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "loadAverage": load(),
        "fdatasyncP50Ms": round(percentile(synced, 50), 3),
        "fdatasyncP99Ms": round(percentile(synced, 99), 3),
    }


def load() -> list[float]:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    return [round(average, 2) for average in os.getloadavg()]


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(wanted: list[int]) -> Iterator[None]:
    """Give processes that are started inside the block the cores *wanted*."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def sync_data(fd: int) -> None:
    """Wait until the file's bytes are on stable storage."""
    if sys.platform == "linux":
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def syncs_ms(folder: Path, *, count: int) -> list[float]:
    """Return how long *count* small appended writes took to reach the disk."""
    taken = []
    path = folder / "sync-probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(count):
            os.write(fd, _BLOCK)
            began = time.perf_counter()
            sync_data(fd)
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    return taken


def warm(share_bytes: int) -> None:
    """Touch memory once, in a process of its own, so that no table pays for it.

    On a virtual machine the first touch of a page can cost five times the second.
    """
    code = "import sys; from bench.machine import touch; touch(int(sys.argv[1]))"
    done = [sys.executable, "-c", code, str(min(share_bytes, _free_bytes() // 2))]
    subprocess.run(done, check=True)  # noqa: S603 -- argv is built from constants


def touch(count: int) -> None:
    """Write to every page of *count* bytes of fresh memory."""
    if count <= 0:
        return
    with mmap.mmap(-1, count) as memory:
        for at in range(0, count, mmap.PAGESIZE):
            memory[at] = 1


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _MIB << 10
    found = dict(line.split(":", 1) for line in lines)
    return int(found["MemAvailable"].split()[0]) * _KIB


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that process *pid* has used (10 ms steps, Linux)."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def tree(pid: int) -> list[int]:
    """Return *pid* and its descendants (Linux)."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").iterdir():
            children = (task / "children").read_text(encoding="ascii")
            found += map(int, children.split())
    return found


def resident_mib(pid: int) -> float:
    """Return the resident memory of *pid* in MiB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * mmap.PAGESIZE / _MIB


def proportional_mib(pid: int) -> float | None:
    """Return the memory of *pid*, shared pages split among their users.

    None where the kernel does not tell: only root may ask about a guarded process.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(found[0].split()[1]) * _KIB / _MIB
