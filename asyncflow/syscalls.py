"""A filter on system calls for a process that reads hostile files.

Theory of operation
-------------------
A short program in the kernel's classic BPF looks at the number of each system call that
this process and its children make. It refuses, with EPERM, sockets of every family but
AF_UNIX, which closes what Landlock leaves open (UDP, raw sockets, netlink), and the
calls with which one process looks into another or a hole in the kernel is reached for.
All others go through. Nothing can take the filter off again.

Sources: Linux Documentation/userspace-api/seccomp_filter.rst, bpf(4), and the tables of
system calls in arch/*/ of Linux.
"""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM

# where struct seccomp_data has what
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16

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
    refused: tuple[int, ...]


# ptrace, process_vm_readv and _writev, kexec_load, bpf, keyctl, add_key, request_key,
# userfaultfd, io_uring_setup, _enter and _register, mount, umount2, pivot_root,
# unshare, setns, perf_event_open, pidfd_getfd, init_module, finit_module
_MACHINES: Final[Mapping[str, _Machine]] = {
    "x86_64": _Machine(
        audit=0xC000003E,
        socket=41,
        refused=(
            *(101, 310, 311, 246, 321, 250, 248, 249, 323, 425, 426, 427),
            *(165, 166, 155, 272, 308, 298, 438, 175, 313),
        ),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        socket=198,
        refused=(
            *(117, 270, 271, 104, 280, 219, 217, 218, 282, 425, 426, 427),
            *(40, 39, 41, 97, 268, 241, 438, 105, 273),
        ),
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


def _lines(machine: _Machine) -> list[_Instruction]:
    """Return the program: jumps go forward only, to one of its last two lines."""
    lines: list[tuple[int, int | None, int | None, int]] = []
    refuse, allow = -1, -2  # resolved below; None is the next line
    lines.append((_LOAD, None, None, _ARCHITECTURE))
    # the calls of another architecture have other numbers: none of them
    lines.append((_IF_EQUAL, None, refuse, machine.audit))
    lines.append((_LOAD, None, None, _NUMBER))
    lines.append((_IF_NOT_LESS, refuse, None, _X32))
    lines += [(_IF_EQUAL, refuse, None, number) for number in machine.refused]
    lines.append((_IF_EQUAL, None, allow, machine.socket))
    lines.append((_LOAD, None, None, _FIRST_ARGUMENT))
    lines.append((_IF_EQUAL, allow, refuse, _AF_UNIX))
    places = {allow: len(lines), refuse: len(lines) + 1}

    def distance(at: int, target: int | None) -> int:
        return 0 if target is None else places[target] - at - 1

    return [
        *(
            _Instruction(code, distance(at, yes), distance(at, no), value)
            for at, (code, yes, no, value) in enumerate(lines)
        ),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
    ]
