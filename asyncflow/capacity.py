"""How many cores and how much memory this process may use."""

import contextlib
import os
import resource
from pathlib import Path
from typing import Final

_SLOT_MEMORY_CAP: Final = 4 << 30
#: more are never needed, and programs that a worker starts may look at each
_MANY_FILES: Final = 1 << 16
#: the database, the loop, threads that read and write
_FILES_OF_SERVER: Final = 64
#: pipes, a folder, results on their way
_FILES_OF_WORKER: Final = 16


def default_size() -> int:
    """Return how many cores the affinity mask and the cgroup give us, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cores()
    return cores if quota is None else max(1, min(cores, round(quota)))


def default_memory(size: int) -> int:
    """Return one slot's memory budget on this machine or in this container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    if limit is not None:
        total = min(total, limit)
    return min(_SLOT_MEMORY_CAP, max(256 << 20, total // (size + 1)))


def raise_file_limit() -> int:
    """Let this process open as many files as it may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MANY_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def files_needed(workers: int, connections: int) -> int:
    """Return how many files a server opens, each connection with a file of its own."""
    return _FILES_OF_SERVER + workers * _FILES_OF_WORKER + 2 * connections


def connections_within(files: int, workers: int) -> int:
    """Return how many connections leave enough of *files* for everything else."""
    return (files - files_needed(workers, 0)) // 2


def available_memory() -> int:
    """Return how many bytes more this machine or container would give us now."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text("ascii")
        free = int(text.partition("MemAvailable:")[2].split()[0]) << 10
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup_number("memory.current", "memory/memory.usage_in_bytes")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free


def _cgroup_cores() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return int(quota) / int(period)
    quota_us = _cgroup_number("cpu/cpu.cfs_quota_us")
    period_us = _cgroup_number("cpu/cpu.cfs_period_us")
    if quota_us is None or period_us is None or quota_us <= 0:
        return None
    return quota_us / period_us


def _cgroup_number(*names: str) -> int | None:
    """Return the first of these cgroup files that holds a number."""
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text("ascii"))
    return None
