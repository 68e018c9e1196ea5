"""What the server sees of its workers through the kernel: memory, children, endings.

Rules
-----
- A process is signalled through its pidfd where there is one: a number may already
  belong to somebody else.
- Everything a worker starts is in its process group, which the filter of system calls
  lets nobody leave. If its parent ends, it becomes a child of the fork server, which
  adopts orphans; so does what has left the group where there is no filter.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

#: the server's own want, not the worker's fault
WANTS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_WHOLE_GROUP: Final = 4  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
_CHUNK: Final = 1 << 16
_NEARLY_A_PAGE: Final = 2048
#: how the kernel shows a filter of system calls, and that nothing takes it off
_CONFINED: Final = (b"\nNoNewPrivs:\t1\n", b"\nSeccomp:\t2\n")
#: a tree larger than this is a fork bomb: what was counted is enough to know
_MOST_PROCESSES: Final = 512
_MOST_THREADS: Final = 1024
#: a quarter of what Linux lets a process have; a worker of ours has some hundred
_MANY_MAPPINGS: Final = 16_384


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor for process *pid*; None without pidfds or if it is gone."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def kill_group(pid: int, pidfd: int | None) -> None:
    """Kill process *pid* and the group that it leads, also when it is dead already."""
    if pidfd is not None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _WHOLE_GROUP)
        except ProcessLookupError:
            return
        except OSError:
            pass  # an older kernel: by number, the group leader's entry still exists
        else:
            return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if pidfd is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_stray(pid: int) -> None:
    """Kill one process that has left its group."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return
    try:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def kill_holders(folder: str) -> int:
    """Kill who holds something in *folder* behind walls like ours; return how many.

    For what a run has started and nobody has ended, since the server and its fork
    server were killed together. A shell in which somebody looks around has no filter.
    """
    killed = 0
    for name in os.listdir("/proc") if sys.platform == "linux" else ():  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid() and _holds(name, f"{folder}/"):
            kill_stray(int(name))
            killed += 1
    return killed


def _holds(pid: str, below: str) -> bool:
    status = _read(f"/proc/{pid}/status")
    if not all(line in status for line in _CONFINED):
        return False
    try:
        links = [f"/proc/{pid}/cwd"]
        links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH208
        return any(os.readlink(link).startswith(below) for link in links)  # noqa: PTH115
    except OSError:  # gone, or somebody else's
        return False


def children(pid: int, *, threads: int | None = None) -> list[int]:
    """Return the process ids of *pid*'s children; none where there is no /proc.

    It is quicker for a process that is known to have one of *threads* only.
    """
    if threads == 1:
        return [*map(int, _read(f"/proc/{pid}/task/{pid}/children").split())]
    return _children_of(pid, _tasks(pid))


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 -- once per run
    except OSError:
        return []


def _children_of(pid: int, tasks: Iterable[str]) -> list[int]:
    found: list[int] = []
    for task in tasks:
        found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


class Condition(NamedTuple):
    """What a process has, as far as the next user of it could suffer from it."""

    threads: int
    files: int
    has_children: bool
    #: bytes of its address space
    mapped: int
    #: the signals that it ignores and those that it handles
    signals: tuple[int, int]
    #: umask, waiting and blocked signals, powers, cores, timers, whether it is stopped,
    #: priority, scheduling, limits
    rest: tuple[object, ...]


_ADDRESSES: Final = b"\nMax address space "

#: not 32 to 34, which C libraries use for themselves when a thread is started
_SIGNALS: Final = ~(0b111 << 31)


#: the states in which a process waits for somebody who lets it go on, or is dead
_STOPPED: Final = b"TtZX"


def condition(pid: int) -> Condition | None:
    """Return how process *pid* is now; None where the kernel does not say."""
    if sys.platform != "linux":
        return None
    try:
        # before Linux 6.2 it has no size
        files = _open_files(pid) or len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        status = _read(f"/proc/{pid}/status")
        # the kernel writes its lines in this order; masks have 16 digits
        umask = status.index(b"\nUmask:")
        state = status.index(b"\nState:\t", umask) + 8
        mapped = status.index(b"\nVmSize:\t", state) + 9
        threads = status.index(b"\nThreads:", mapped)
        waiting = status.index(b"\nSigPnd:", threads)
        ignored = status.index(b"\nSigIgn:\t", waiting)
        caught = status.index(b"\nSigCgt:\t", ignored)
        powers = status.index(b"\nCapInh:", caught)
        count = int(status[threads + 9 : status.index(b"\n", threads + 1)])
        return Condition(
            threads=count,
            files=files,
            has_children=bool(children(pid, threads=count)),
            mapped=int(status[mapped : status.index(b" kB\n", mapped)]) << 10,
            signals=(
                int(status[ignored + 9 : caught], 16) & _SIGNALS,
                int(status[caught + 9 : powers], 16) & _SIGNALS,
            ),
            rest=(
                status[umask : status.index(b"\n", umask + 1)],
                status[waiting:ignored],
                status[powers : status.index(b"\nvoluntary_ctxt", powers)],
                _read(f"/proc/{pid}/timers"),
                status[state] in _STOPPED,
                os.getpriority(os.PRIO_PROCESS, pid),
                os.sched_getscheduler(pid),
                *_limits(pid),
            ),
        )
    except (OSError, ValueError):
        return None


def _limits(pid: int) -> tuple[bytes, bytes, bytes]:
    """Return every limit of *pid* that the kernel knows. Raise ValueError if it won't.

    Of the address space, which every run limits anew, only how far that may go.
    """
    said = _read(f"/proc/{pid}/limits")
    start = said.index(_ADDRESSES) + len(_ADDRESSES)
    end = said.index(b"\n", start)
    _soft, hard, _unit = said[start:end].split()
    return said[:start], hard, said[end:]


class Family(NamedTuple):
    """Processes with all that they have started, up to a bound."""

    pids: list[int]
    #: where the memory and the files of each are seen: at another thread if the first
    #: one has ended, for then the process itself seems to have none
    faces: list[int]
    threads: int
    #: before Linux 6.2 nobody tells how many are open, but for who counts them all
    files: int


def family(pids: Iterable[int]) -> Family:
    """Return *pids* and their descendants."""
    found, faces, count, files = [*pids], list[int](), 0, 0
    for pid in found:
        if len(found) > _MOST_PROCESSES or count > _MOST_THREADS:
            break
        tasks = _tasks(pid)
        count += len(tasks)
        faces.append(_face(pid, tasks))
        files += _open_files(faces[-1])
        if count <= _MOST_THREADS:
            found += _children_of(pid, tasks)
    return Family(pids=found, faces=faces, threads=count, files=files)


def tree(pid: int) -> list[int]:
    """Return *pid* and its descendants, up to a bound."""
    return family([pid]).pids


def _face(pid: int, tasks: Sequence[str]) -> int:
    if len(tasks) == 1 or rss_bytes(pid):
        return pid
    return next((one for one in map(int, tasks) if rss_bytes(one)), pid)


def _open_files(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/fd").st_size  # noqa: PTH116 -- ten times a second
    except OSError:
        return 0


def group_of(pid: int) -> int | None:
    """Return the process group of *pid*; None when it is gone."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def rss_bytes(pid: int) -> int:
    """Return the resident memory of *pid*; 0 when unknown."""
    return _statm(pid)[1]


def together_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of *pids*, what they share counted once.

    This takes up to a millisecond for each.
    """
    return sum(map(_share_bytes, pids))


def _share_bytes(pid: int) -> int:
    said = _read(f"/proc/{pid}/smaps_rollup")
    start = said.find(b"\nPss:")
    if start < 0:  # the kernel does not say, or not to us
        return rss_bytes(pid)
    return int(said[start + 5 : said.index(b" kB\n", start)]) << 10


def mapped_bytes(pid: int) -> int:
    """Return the address space of *pid*; 0 when unknown."""
    return _statm(pid)[0]


def has_many_mappings(pid: int) -> bool:
    """Tell whether *pid* uses up so many mappings that something may have failed.

    This takes longer than all else that is looked at here, so no more are counted.
    """
    found = 0
    for piece in _pieces(f"/proc/{pid}/maps"):
        found += piece.count(b"\n")
        if found > _MANY_MAPPINGS:
            return True
    return False


def _statm(pid: int) -> tuple[int, int]:
    numbers = _read(f"/proc/{pid}/statm").split()
    if not numbers:
        return (0, 0)
    return (int(numbers[0]) * _PAGE, int(numbers[1]) * _PAGE)


def _read(name: str) -> bytes:
    """Return a small file of /proc; nothing when its process is gone."""
    return b"".join(_pieces(name))


def _pieces(name: str) -> Iterator[bytes]:
    """Yield a file of /proc bit by bit; nothing when its process is gone."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # the kernel hands a list out by the page, ending with a whole entry
        while piece := os.read(fd, _CHUNK):
            yield piece
            if len(piece) <= _NEARLY_A_PAGE:
                return
    except OSError:
        return
    finally:
        os.close(fd)
