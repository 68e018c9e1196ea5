"""A filter on system calls for a process that reads hostile files.

Theory of operation
-------------------
A short program in the kernel's classic BPF looks at the number of each system call that
this process and its children make. All others go through. Nothing can take the filter
off again.

- Refused, with EPERM: sockets of every family but AF_UNIX, which closes what Landlock
  leaves open (UDP, raw sockets, netlink); calls with which one process looks into
  another, changes its limits, its priority or its cores, or talks to it without a
  socket; calls with which a hole in the kernel is reached for; outliving the server.
- Without effect, though they say that they worked: changes of modes, owners and times.
  Landlock knows no such calls: they would reach any file of the same user by its path,
  a token among them. A refusal would break every program that copies a file's mode.

Sources: Linux Documentation/userspace-api/seccomp_filter.rst, bpf(4), and the tables of
system calls in arch/*/ of Linux.
"""

import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_PRETEND: Final = 0x00050000

# where struct seccomp_data has what
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST: Final = 16  # the lower half of the first argument
_SECOND: Final = 24

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_NOT_LESS: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_AF_UNIX: Final = 1
#: calls of the x32 ABI have this bit, and other numbers
_X32: Final = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """An architecture: how the kernel calls it, and the numbers of its calls."""

    audit: int
    socket: int
    prctl: int
    setpriority: int
    #: those whose first argument is a process: 0 is the caller itself
    of_process: tuple[int, ...]
    refused: tuple[int, ...]
    pretended: tuple[int, ...]


# of_process: prlimit64, sched_setaffinity, _setscheduler, _setparam, _setattr
# refused: ptrace, process_vm_readv and _writev, kexec_load, bpf, keyctl, add_key,
# request_key, userfaultfd, io_uring_setup, _enter and _register, mount, umount2,
# pivot_root, unshare, setns, perf_event_open, pidfd_getfd, init_module, finit_module;
# ioprio_set, shmget, semget, msgget, mq_open, settimeofday, clock_settime, adjtimex,
# clock_adjtime, setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr,
# fremovexattr, setxattrat, removexattrat
# pretended: fchmod, fchmodat, fchmodat2, fchown, fchownat, utimensat; on x86_64 chmod,
# chown, lchown, utime, utimes and futimesat, too
_MACHINES: Final[Mapping[str, _Machine]] = {
    "x86_64": _Machine(
        audit=0xC000003E,
        socket=41,
        prctl=157,
        setpriority=141,
        of_process=(302, 203, 144, 142, 314),
        refused=(
            *(101, 310, 311, 246, 321, 250, 248, 249, 323, 425, 426, 427),
            *(165, 166, 155, 272, 308, 298, 438, 175, 313),
            *(251, 29, 64, 68, 240, 164, 227, 159, 305),
            *(188, 189, 190, 197, 198, 199, 463, 466),
        ),
        pretended=(91, 268, 452, 93, 260, 280, 90, 92, 94, 132, 235, 261),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        socket=198,
        prctl=167,
        setpriority=140,
        of_process=(261, 122, 119, 118, 274),
        refused=(
            *(117, 270, 271, 104, 280, 219, 217, 218, 282, 425, 426, 427),
            *(40, 39, 41, 97, 268, 241, 438, 105, 273),
            *(30, 194, 190, 186, 180, 170, 112, 171, 266),
            *(5, 6, 7, 14, 15, 16, 463, 466),
        ),
        pretended=(52, 53, 452, 55, 54, 88),
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint16),
        ("instructions", ctypes.POINTER(_Instruction)),
    )


def can_filter() -> bool:
    """Tell whether this kernel takes such a filter, for this machine's programs."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    return int(ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def forbid() -> bool:
    """Put the filter over this process, for ever; tell whether that was possible."""
    if not can_filter():
        return False
    lines = _lines(_MACHINES[platform.machine()])
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    # without it only a privileged process may have a filter
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    done = libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    if done == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.EACCES):
        return False  # a kernel without filters, or a container that forbids them
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


# where a jump leads: to the next line, or to one of the last three
_NEXT: Final = 0
_ALLOWED: Final = 1
_REFUSED: Final = 2
_PRETENDED: Final = 3

#: an argument, the value that leads on, and where every other leads
_Condition = tuple[int, int, int]


def _lines(machine: _Machine) -> list[_Instruction]:
    """Return the program; jumps go forward only."""
    lines = [
        (_LOAD, _NEXT, _NEXT, _ARCHITECTURE),
        # the calls of another architecture have other numbers: none of them
        (_IF_EQUAL, _NEXT, _REFUSED, machine.audit),
        (_LOAD, _NEXT, _NEXT, _NUMBER),
        (_IF_NOT_LESS, _REFUSED, _NEXT, _X32),
        *((_IF_EQUAL, _REFUSED, _NEXT, number) for number in machine.refused),
        *((_IF_EQUAL, _PRETENDED, _NEXT, number) for number in machine.pretended),
    ]
    itself: _Condition = (_FIRST, 0, _REFUSED)
    for number, conditions in (
        (machine.socket, [(_FIRST, _AF_UNIX, _REFUSED)]),
        *((number, [itself]) for number in machine.of_process),
        (machine.setpriority, [itself, (_SECOND, 0, _REFUSED)]),
        (
            machine.prctl,
            [
                (_FIRST, _PR_SET_PDEATHSIG, _ALLOWED),
                (_SECOND, signal.SIGKILL, _REFUSED),
            ],
        ),
    ):
        lines += _block(number, conditions)
    ends = {_ALLOWED: len(lines), _REFUSED: len(lines) + 1, _PRETENDED: len(lines) + 2}

    def distance(at: int, target: int) -> int:
        # a negative one is so many lines to leave out
        return -target if target <= 0 else ends[target] - at - 1

    return [
        *(
            _Instruction(code, distance(at, yes), distance(at, no), value)
            for at, (code, yes, no, value) in enumerate(lines)
        ),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
        _Instruction(_RETURN, 0, 0, _PRETEND),
    ]


def _block(
    number: int, conditions: list[_Condition]
) -> list[tuple[int, int, int, int]]:
    """Return the lines that allow call *number* if all its *conditions* hold."""
    inner = []
    for argument, value, otherwise in conditions:
        inner.append((_LOAD, _NEXT, _NEXT, argument))
        inner.append((_IF_EQUAL, _NEXT, otherwise, value))
    code, _, otherwise, value = inner.pop()
    inner.append((code, _ALLOWED, otherwise, value))
    return [(_IF_EQUAL, _NEXT, -len(inner), number), *inner]
