"""What the kernel can take away from a process that reads hostile files.

Theory of operation
-------------------
Four walls, each useful without the others. *Landlock* (Linux 5.13 and later) limits
which paths a process may open and, from ABI 4 on, whether it may use TCP; its rules
only tighten and pass to every child. *Resource limits* bound address space, file size
and core dumps. *Capabilities* are what root has beyond others: a process that gave them
up never has them again. *prctl* ties a process's life to its parent's and forbids
others to read its memory. Where a wall does not exist, we go on without it and say so.

Sources: Linux Documentation/userspace-api/landlock.rst, prctl(2), getrlimit(2),
capabilities(7), capset(2).
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Set as AbstractSet
from pathlib import Path
from typing import Final

from asyncflow import processes

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

_CAPABILITY_VERSION: Final = 0x20080522
#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: code and slots may be somebody else's
_KEPT_CAPABILITIES: Final = 1 << 1 | 1 << 2

# the same numbers on every architecture: newer system calls share one table
_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
_MAKE_SYM, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 12, 1 << 13, 1 << 14, 1 << 15
_ALL_OF_ABI_1: Final = (1 << 13) - 1
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_READ: Final = _READ_FILE | _READ_DIR
_RUN: Final = _READ | _EXECUTE
_USE: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE
_OWN: Final = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
    | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | _REFER | _TRUNCATE
)  # fmt: skip

#: what a program has if nobody cares, and how far it may go if it asks
_OPEN_FILES: Final = 1024
_MOST_OPEN_FILES: Final = 4096

#: of what all processes of a user have together, these remain for the others
_SPARE_PROCESSES: Final = 64
#: signals and timers that wait: others of the same user may have as many as before
_WAITING_SIGNALS: Final = 256

#: more than any address space has
_ENDLESS: Final = 1 << 62

#: the first ABI that can forbid truncation: before it, a hard link could be emptied
LINKS_ARE_SAFE: Final = 3
_HAS_NETWORK: Final = 4

_RUNTIME: Final = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin",
)  # fmt: skip
_READABLE: Final = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/fonts", "/etc/magic", "/etc/mime.types", "/etc/alternatives",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu",
)  # fmt: skip
#: what a process may read of itself: not `net`, which tells of everybody's sockets
_ITSELF: Final = (
    "auxv", "cgroup", "cmdline", "comm", "fd", "io", "limits", "maps",
    "oom_score_adj", "smaps", "smaps_rollup", "stat", "statm", "status",
)  # fmt: skip
_DEVICES: Final = ("/dev/null", "/dev/full", "/dev/urandom", "/dev/random")


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGKILL) -> None:
    """End this process when its parent, *parent_pid*, ends, however that happens.

    The signal *by* tells of it. Where the kernel has no parent-death signal, only the
    present parent is checked.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, by)
    # the parent may have died before the line above
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_inspection() -> None:
    """Keep other processes of the same user from reading this one's memory.

    The server calls it, since its memory holds secrets and other people's files.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def limit_resources(*, max_file_bytes: int) -> None:
    """Forbid core dumps and files above *max_file_bytes*; be the first to be killed.

    Some limits hold for all processes of the user together: who meets one earlier than
    the others leaves them the rest.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
        waiting = _at_most(_WAITING_SIGNALS, hard)
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (waiting, waiting))
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY:
        soft -= min(_SPARE_PROCESSES, soft // 8)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, soft))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (_at_most(_OPEN_FILES, soft), _at_most(_MOST_OPEN_FILES, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard == resource.RLIM_INFINITY or max_file_bytes < hard:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    # without /proc, or in a container that forbids it, the kernel chooses by itself
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def _at_most(wanted: int, limit: int) -> int:
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, limit)


def limit_memory(max_bytes: float) -> None:
    """Let this process map at most *max_bytes*; may be changed again later."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    _limit_addresses(_at_most(int(min(max_bytes, _ENDLESS)), hard), hard)


def bound_memory(more_bytes: float) -> None:
    """Let this process never map more than *more_bytes* beside what it has mapped."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = processes.mapped_bytes(os.getpid()) + more_bytes
    most = _at_most(int(min(wanted, _ENDLESS)), hard)
    _limit_addresses(most, most)


def _limit_addresses(soft: int, hard: int) -> None:
    # macOS refuses any value below what the process maps already
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_privileges() -> None:
    """Give up what root may do beyond others, but for the reading of files.

    Which files those are, Landlock says. No program started later has more.
    """
    if sys.platform != "linux":
        return
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    both = (_Capabilities * 2)()
    _check(_libc().capget(ctypes.byref(header), both))
    for half, kept in zip(both, (_KEPT_CAPABILITIES, 0), strict=True):
        half.permitted &= kept
        half.effective &= kept
        half.inheritable = 0
    # a service manager may forbid the call; then there is little to give up
    with contextlib.suppress(PermissionError):
        _check(_libc().capset(ctypes.byref(header), both))


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI; 0 when it has none."""
    if sys.platform != "linux":
        return 0
    abi = _libc().syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return max(0, int(abi))


class NotApart(Exception):
    """What a worker must read is what it may not read."""


def confine(
    *, source: Path, out: Path, code: Iterable[Path], private: Iterable[str] = ()
) -> int:
    """Leave this process only the runtime, *code*, *source* to read, *out* to write.

    What is *private* stays so, although it may lie among the code. Children inherit it
    and nothing can undo it. Returns the ABI used; 0 means that the kernel has no
    Landlock and nothing was forbidden.

    Raises:
        NotApart: a folder of code is a private folder.
    """
    abi = landlock_abi()
    if abi == 0:
        return 0
    private = {os.path.realpath(path) for path in private}
    rules = _rules(source=source, out=out, code=code, private=private)
    handled = _handled(abi)
    ruleset = _create_ruleset(abi, handled)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _check(_libc().syscall(_SYS_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return abi


def describe(abi: int, *, filtered: bool) -> str:
    """Say in plain words what a worker under Landlock *abi* cannot do.

    *filtered*: its system calls are filtered as well.
    """
    if abi == 0:
        return (
            "no Landlock in this kernel: workers are limited in memory, time and "
            "file size, but can read what the server's user can"
            + (" (no network)" if filtered else "")
        )
    network = ", no TCP" if abi >= _HAS_NETWORK else ", TCP not forbidden"
    if filtered:
        network = ", no network, no sockets of other programs"
    links = "linked" if abi >= LINKS_ARE_SAFE else "copied"
    return (
        f"Landlock ABI {abi}: workers read the runtime and one file, write one "
        f"folder{network}; inputs are {links}"
    )


def _rules(
    *, source: Path, out: Path, code: Iterable[Path], private: AbstractSet[str]
) -> list[tuple[str, int]]:
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    runs = (*_RUNTIME, *roots, *map(str, code))
    # a prefix of "/" would open everything: better a worker that cannot start
    whole = [path for path in runs if os.path.realpath(path) != "/"]
    rules = [(part, _RUN) for path in whole for part in apart(path, private)]
    rules += [(path, _READ) for path in _READABLE]
    rules += [(f"/proc/self/{name}", _READ) for name in _ITSELF]
    rules += [(path, _USE) for path in _DEVICES]
    # who may write to it can share memory by it
    rules += [("/dev/zero", _READ)]
    rules += [(str(source), _READ), (str(out), _OWN)]
    return rules


def apart(path: str, private: AbstractSet[str]) -> list[str]:
    """Return *path*; if something *private* is in it, what else is in it.

    *private* are real paths. Whoever may read a folder may read all below it, so a
    folder on the way to something private is none that may be read itself.

    Raises:
        NotApart: the path is private itself.
    """
    real = os.path.realpath(path)
    if real in private:
        raise NotApart(
            f"workers must read {path}, where their code is, and may not, since the "
            "server keeps its data or settings there: put them into different folders"
        )
    if not any(one.startswith(f"{real.rstrip('/')}/") for one in private):
        return [path]
    found: list[str] = []
    # absent, or closed to us: nothing to allow
    with contextlib.suppress(OSError), os.scandir(real) as entries:
        for entry in entries:
            # a link may lead anywhere; what it names is allowed under its own name
            if not entry.is_symlink() and entry.path not in private:
                found += apart(entry.path, private)
    return found


def _handled(abi: int) -> int:
    handled = _ALL_OF_ABI_1
    for since, right in ((2, _REFER), (LINKS_ARE_SAFE, _TRUNCATE), (5, _IOCTL_DEV)):
        if abi >= since:
            handled |= right
    return handled


def _create_ruleset(abi: int, handled: int) -> int:
    network = 0b11 if abi >= _HAS_NETWORK else 0  # bind and connect
    scoped = 0b11 if abi >= 6 else 0  # noqa: PLR2004 -- abstract sockets and signals
    wanted = _Ruleset(handled, network, scoped)
    size = 24 if scoped else 16 if network else 8
    return _check(
        _libc().syscall(
            _SYS_CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(size), 0
        )
    )


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # absent on this system: nothing to allow
    try:
        if not os.path.isdir(f"/proc/self/fd/{beneath}"):  # noqa: PTH112 -- hot start path
            rights &= _FILE_RIGHTS
        rule = _PathBeneath(rights, beneath)
        _check(
            _libc().syscall(
                _SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0
            )
        )
    finally:
        os.close(beneath)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
