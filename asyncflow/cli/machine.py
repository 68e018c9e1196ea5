"""Checks the machine: cores, memory, disk, clock, kernel, limits."""

import ctypes
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from asyncflow.cli.findings import Finding, ok, stop, warn
from asyncflow.cli.terminal import clean, size_text
from asyncflow.sandbox import LINKS_ARE_SAFE, describe, landlock_abi
from asyncflow.syscalls import can_filter

_CGROUP = Path("/sys/fs/cgroup")
_MOUNTS = Path("/proc/self/mountinfo")
_LEAST_MEMORY = 1 << 30
_LEAST_DISK = 2 << 30
_MANY_FILES = 4096
_FEW_FILES = 256
_SYNCS = 15
# a durable upload waits for one; disks below this feel slow, whatever the network does
_SLOW_SYNC_MS = 50.0
# their locks and their fsync do not keep SQLite's promises
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"})
_VOLATILE = frozenset({"tmpfs", "ramfs"})
_CLOCK_UNSYNCHRONISED = 5
_FIRST_RELEASE = datetime(2026, 1, 1, tzinfo=UTC)


def machine(data_dir: Path, *, fill_level: int) -> Iterator[Finding]:
    """Check everything about this machine and the data folder."""
    yield cores()
    yield memory()
    yield _landlock()
    yield _files()
    yield clock(datetime.now(UTC))
    yield from folder(data_dir, fill_level=fill_level)


def cores(cgroup: Path = _CGROUP) -> Finding:
    """Check how many cores we may use."""
    count = float(os.cpu_count() or 1)
    if sys.platform == "linux":
        count = float(len(os.sched_getaffinity(0)))
    words = _read(cgroup / "cpu.max").split()
    if len(words) == 2 and words[0].isdecimal() and int(words[1]):  # noqa: PLR2004 -- "quota period"
        count = min(count, int(words[0]) / int(words[1]))
    if count < 1:
        hint = "give the container a whole core"
        return warn("cores", f"{count:g} of one core", hint)
    return ok("cores", f"{count:g}")


def memory(cgroup: Path = _CGROUP) -> Finding:
    """Check how much memory we may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(cgroup / "memory.max").strip()
    if limit.isdecimal():
        total = min(total, int(limit))
    if total < _LEAST_MEMORY:
        return warn("memory", size_text(total), "large pictures need about 1 GiB")
    return ok("memory", size_text(total))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _landlock() -> Finding:
    abi = landlock_abi()
    text = describe(abi, filtered=can_filter())
    if abi >= LINKS_ARE_SAFE:
        return ok("sandbox", text)
    return warn("sandbox", text, "Linux 6.2 or later has what is needed")


def _files() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} files and connections may be open at once"
    if soft == resource.RLIM_INFINITY or soft >= _MANY_FILES:
        return ok("open files", "as many as you like" if soft < 0 else text)
    hint = f"raise it: ulimit -n {_MANY_FILES * 4}, or LimitNOFILE= of the service"
    if soft < _FEW_FILES:
        return stop("open files", text, hint)
    return warn("open files", text, hint)


def clock(now: datetime) -> Finding:
    """Check that the clock is plausible and, where the kernel tells, synchronised."""
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < _FIRST_RELEASE:
        return warn("clock", f"{text} is in the past", "set the clock")
    if _kernel_clock() == _CLOCK_UNSYNCHRONISED:
        hint = "run chrony, systemd-timesyncd or the like"
        return warn("clock", f"{text}, not synchronised", hint)
    return ok("clock", text)


def _kernel_clock() -> int:
    """Return what adjtimex(2) says of the clock; 0 where there is no such call."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except AttributeError:
        return 0
    # zeros only ask; the structure is 208 bytes long, more does not hurt
    return int(adjtimex(ctypes.create_string_buffer(512)))


def folder(data_dir: Path, *, fill_level: int) -> Iterator[Finding]:
    """Check the data folder: writable, on what, how fast, how full."""
    shown = clean(str(data_dir))
    there = next(p for p in (data_dir, *data_dir.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        hint = "choose another with --data-dir, or let this user write there"
        yield stop("data folder", f"{shown} cannot be written", hint)
        return
    yield ok("data folder", shown if there == data_dir else f"{shown} (to be made)")
    yield file_system(there, _MOUNTS)
    yield _sync(there)
    yield _space(there, fill_level)


def file_system(there: Path, mounts: Path) -> Finding:
    """Check on what kind of file system *there* lies."""
    kind = _kind_of(there, _read(mounts))
    if kind in _NETWORK:
        hint = "put the data folder on a disk of this machine"
        return warn("file system", f"{kind} loses locks and writes", hint)
    if kind in _VOLATILE:
        hint = "put the data folder on a disk"
        return warn("file system", f"{kind} forgets everything at a restart", hint)
    return ok("file system", kind or "unknown")


def _kind_of(there: Path, mounts: str) -> str:
    """Return the type of the mount that holds *there*: the longest that fits."""
    real = there.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        words = before.split()
        if not dash or len(words) < 5:  # noqa: PLR2004 -- the mount point is the fifth
            continue
        point = words[4].encode().decode("unicode_escape")  # \040 is a space
        if len(point) >= best and real.is_relative_to(point):
            best, kind = len(point), after.split()[0]
    return kind


def _sync(there: Path) -> Finding:
    try:
        took = _sync_ms(there)
    except OSError as error:
        hint = "free some space, or look at the disk's health"
        return stop("fsync", f"failed: {error.strerror}", hint)
    text = f"{took:.2f} ms (median of {_SYNCS})"
    if took > _SLOW_SYNC_MS:
        hint = "every upload waits for one: a faster disk helps"
        return warn("fsync", text, hint)
    return ok("fsync", text)


def _sync_ms(there: Path) -> float:
    took = []
    with tempfile.TemporaryFile(dir=there) as probe:
        for _ in range(_SYNCS):
            probe.write(b"\0" * 4096)
            probe.flush()
            start = time.perf_counter()
            os.fdatasync(probe.fileno())
            took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


def _space(there: Path, fill_level: int) -> Finding:
    usage = shutil.disk_usage(there)
    used = 100 * (usage.total - usage.free) / usage.total
    text = f"{size_text(usage.free)} free, {used:.0f} % used"
    if used >= fill_level:
        hint = f"new files are refused above {fill_level} % (fill_level)"
        return stop("disk", text, hint)
    if usage.free < _LEAST_DISK:
        return warn("disk", text, "large uploads will not fit")
    return ok("disk", text)
