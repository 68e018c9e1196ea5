"""A filter on system calls for a process that reads hostile files.

Theory of operation
-------------------
A short program in the kernel's classic BPF looks at the number of each system call that
this process and its children make, and at some calls' arguments. All others go through.
Nothing can take the filter off again.

- Refused, with EPERM: sockets, also those of the same machine, except pairs that are
  connected from the start; calls with which one process looks into another, changes its
  limits, its priority or its cores, has signals sent to it, or talks to it by other
  means; calls that watch what others do with files, or hold them up; those for which
  one must be root; those with which a hole in the kernel is reached for; outliving the
  server; leaving the process group, by which all that a run has started is found; what
  a process cannot take back, such as more walls or another personality, from which the
  next run in it would suffer; memory and open files that belong to no process; and
  what the kernel counts for all processes of a user together, as `epoll` does: one of
  them could use up what the others need.
- Of the many things that `prctl` does, a worker has those that name and those that ask.
- Unknown, with ENOSYS: `clone3`, whose flags lie in memory, where a filter cannot look.
  A C library then uses `clone`, which may make processes and threads, not namespaces.
- Not supported, as if by the file system: to reserve room without making a file larger.
- Without effect, though they say that they worked: changes of modes, owners and times.
  Landlock knows no such calls: they would reach any file of the same user by its path,
  a token among them. A refusal would break every program that copies a file's mode.

Sources: Linux Documentation/userspace-api/seccomp_filter.rst, bpf(4), seccomp(2), and
the tables of system calls in arch/*/ of Linux.
"""

import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_PR_GET_SECCOMP: Final = 21
_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
#: over all threads: what a module has started while it was loaded is hostile ground too
_ALL_THREADS: Final = 1

#: what a kernel calls an architecture
_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: calls of the x32 ABI have this bit, and other numbers
_X32: Final = 0x40000000

#: the numbers of calls on x86_64 and on aarch64; None: there is no such call
_CALLS: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "arch_prctl": (158, None),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "fallocate": (285, 47),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "file_setattr": (469, 469),
    "finit_module": (313, 273),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "init_module": (175, 105),
    "inotify_add_watch": (254, 27),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "lchown": (94, None),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "lsm_set_self_attr": (460, 460),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "mlockall": (151, 230),
    "mmap": (9, 222),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setsid": (112, 157),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
}

#: calls that nobody in a worker may make, whatever their arguments
REFUSED: Final = (
    # to speak with somebody
    *("socket", "connect", "bind"),
    *("shmget", "semget", "msgget", "mq_open", "add_key", "request_key", "keyctl"),
    # to look into other processes, or at what they do
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    *("perf_event_open", "process_madvise", "process_mrelease", "syslog"),
    *("inotify_init", "inotify_init1", "inotify_add_watch"),
    *("fanotify_init", "fanotify_mark", "name_to_handle_at", "open_by_handle_at"),
    # to leave the group in which all that a run starts is found, and killed
    *("setsid", "setpgid"),
    # to leave behind what the next run in this process would suffer from
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    *("lsm_set_self_attr", "modify_ldt", "mlock", "mlock2", "mlockall"),
    *("set_mempolicy", "set_mempolicy_home_node", "mbind", "move_pages"),
    *("migrate_pages", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    # to have memory, or open files, that are in no process, so that nobody counts them:
    # `sendmsg` sends files, which a filter cannot see
    *("memfd_create", "memfd_secret", "sendmsg", "sendmmsg"),
    # to use up what all processes of the user, or of the machine, have together
    *("epoll_create", "epoll_create1", "io_setup"),
    # to be somewhere else
    *("unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "open_tree"),
    *("open_tree_attr", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick"),
    # to change the machine
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("sethostname", "setdomainname", "settimeofday", "clock_settime"),
    *("adjtimex", "clock_adjtime", "ioprio_set", "iopl", "ioperm"),
    # where holes in the kernel have been found again and again
    *("bpf", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    # to mark files
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "file_setattr"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
)
_UNKNOWN_CALLS: Final = ("clone3",)
_PRETENDED_CALLS: Final = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2"),
    *("chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat"),
)

# where struct seccomp_data has what
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST: Final = 16  # the lower half of the first argument
_SECOND: Final = 24
_THIRD: Final = 32
_FOURTH: Final = 40

# where to go on: at the next line, or with the end of this name
_NEXT: Final = "next"
_ALLOW: Final = "allow"
_REFUSE: Final = "refuse"
_UNKNOWN: Final = "unknown"
_PRETEND: Final = "pretend"
_UNSUPPORTED: Final = "unsupported"

#: the ends, with what the kernel does there
_ENDS: Final = {
    _ALLOW: 0x7FFF0000,
    _REFUSE: 0x00050000 | errno.EPERM,
    _UNKNOWN: 0x00050000 | errno.ENOSYS,
    _PRETEND: 0x00050000,
    _UNSUPPORTED: 0x00050000 | errno.EOPNOTSUPP,
}


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at an argument: where to go if it is one of *values*, and if not."""

    argument: int
    values: tuple[int, ...]
    hit: str
    miss: str
    mask: int = 0xFFFFFFFF


_AF_UNIX: Final = 1
#: the others can send to any address, connected or not
_CONNECTED_KINDS: Final = (1, 5)  # SOCK_STREAM, SOCK_SEQPACKET
_KIND_MASK: Final = 0xF
_PRIO_PROCESS: Final = 0
_NOTHING: Final = 0  # the lower half of a null pointer
_EVERYBODY: Final = 0xFFFFFFFF  # -1
_PR_SET_PDEATHSIG: Final = 1
# PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_VMA, and those that only ask: for the signal
# of a parent's death, dumps, the name, filters, powers, the clock, the slack of timers,
# orphans, large pages, vectors, speculation and tags, and for what a program was given
_HARMLESS_PRCTLS: Final = (
    *(15, 38, 0x53564D41),
    *(2, 3, 7, 16, 21, 23, 25, 27, 30, 37, 39, 40, 42, 51, 52, 56, 64, 0x41555856),
)
# ARCH_SET_FS, _GET_FS, _GET_GS, the vectors and the shadow stack of a program that
# begins: the C library needs them; not what makes CPUID or a pointer a fault
_HARMLESS_ARCH_PRCTLS: Final = (
    *(0x1002, 0x1003, 0x1004, 0x1021, 0x1022, 0x1023),
    *(0x3001, 0x5001, 0x5003, 0x5005),
)
# MAP_TYPE with MAP_ANONYMOUS; MAP_SHARED with MAP_ANONYMOUS
_MEMORY_KIND: Final = 0x2F
_SHARED_MEMORY: Final = 0x21
_ASK_PERSONALITY: Final = 0xFFFFFFFF
# CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID and _NEWNET; and
# CLONE_PARENT: a child of the fork server's
_NO_CLONES: Final = 0x7E028000
# CLONE_THREAD; CLONE_FILES and CLONE_THREAD: a thread with open files of its own, which
# nobody sees who looks at the process
_THREAD: Final = 0x10000
_FILES_OF_THREADS: Final = 0x10400
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: signals for others, and files
# that whoever opens them has to wait for, or that tell of it
_HARMFUL_FCNTLS: Final = (8, 10, 15, 1024, 1026)
# FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX; FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR and
# FS_IOC_ENABLE_VERITY, which need no right to write: an original could be locked;
# FS_IOC_RESVSP, _UNRESVSP, both for 64 bits, and _ZERO_RANGE: another `fallocate`
_HARMFUL_IOCTLS: Final = (
    *(0x8901, 0x8902, 0x5412, 0x541C),
    *(0x40086602, 0x401C5820, 0x40806685),
    *(0x40305828, 0x40305829, 0x4030582A, 0x4030582B, 0x40305839),
)

_ITSELF: Final = (_Look(_FIRST, (0,), _ALLOW, _REFUSE),)

#: calls that depend on their arguments; the last look never goes on
_LOOKS: Final[Mapping[str, tuple[_Look, ...]]] = {
    "socketpair": (
        _Look(_FIRST, (_AF_UNIX,), _NEXT, _REFUSE),
        _Look(_SECOND, _CONNECTED_KINDS, _ALLOW, _REFUSE, mask=_KIND_MASK),
    ),
    # their first argument is a process: 0 is the caller itself
    "prlimit64": _ITSELF,
    "sched_setaffinity": _ITSELF,
    "setpriority": (
        _Look(_FIRST, (_PRIO_PROCESS,), _NEXT, _REFUSE),
        _Look(_SECOND, (0,), _ALLOW, _REFUSE),
    ),
    "prctl": (
        _Look(_FIRST, _HARMLESS_PRCTLS, _ALLOW, _NEXT),
        _Look(_FIRST, (_PR_SET_PDEATHSIG,), _NEXT, _REFUSE),
        _Look(_SECOND, (signal.SIGKILL,), _ALLOW, _REFUSE),
    ),
    "arch_prctl": (_Look(_FIRST, _HARMLESS_ARCH_PRCTLS, _ALLOW, _REFUSE),),
    "personality": (_Look(_FIRST, (_ASK_PERSONALITY,), _ALLOW, _REFUSE),),
    # shared memory stays when a process lets go of its pages, and nobody has it then
    "mmap": (_Look(_FOURTH, (_SHARED_MEMORY,), _REFUSE, _ALLOW, mask=_MEMORY_KIND),),
    # who sets the time of a path to now wants to know whether it exists, and makes it
    # if not, as Python's `touch`: told that it cannot be done, it opens the file
    "utimensat": (
        _Look(_SECOND, (_NOTHING,), _PRETEND, _NEXT),
        _Look(_THIRD, (_NOTHING,), _REFUSE, _PRETEND),
    ),
    "kill": (_Look(_FIRST, (_EVERYBODY,), _REFUSE, _ALLOW),),
    "clone": (
        _Look(_FIRST, (_THREAD,), _REFUSE, _NEXT, mask=_FILES_OF_THREADS),
        _Look(_FIRST, (0,), _ALLOW, _REFUSE, mask=_NO_CLONES),
    ),
    # other modes take room beyond the end of a file, where no limit on its size looks
    "fallocate": (_Look(_SECOND, (0,), _ALLOW, _UNSUPPORTED),),
    "fcntl": (_Look(_SECOND, _HARMFUL_FCNTLS, _REFUSE, _ALLOW),),
    "ioctl": (_Look(_SECOND, _HARMFUL_IOCTLS, _REFUSE, _ALLOW),),
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
    if sys.platform != "linux" or platform.machine() not in _AUDIT:
        return False
    return int(ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def forbid() -> bool:
    """Put the filter over this process, for ever; tell whether that was possible."""
    if not can_filter():
        return False
    machine = platform.machine()
    lines = program(machine)
    filled = _Program(
        len(lines), (_Instruction * len(lines))(*(_Instruction(*one) for one in lines))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    # without it only a privileged process may have a filter
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    number = numbers(machine)["seccomp"]
    done = libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filled))
    if done == 0:
        return True
    if done > 0:
        raise OSError(errno.EPERM, "a thread has a filter of its own")
    if ctypes.get_errno() in (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOSYS):
        return False  # a kernel without filters, or a container that forbids them
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


#: an instruction, where it leads if it holds and if not, and its value
_Line = tuple[int, str | int, str | int, int]

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_NOT_LESS: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter for *machine*: code, jumps if true and if false, and value.

    Jumps go forward only, 255 lines at most: each part has its own ends.
    """
    known = numbers(machine)
    opening: list[_Line] = [
        (_LOAD, _NEXT, _NEXT, _ARCHITECTURE),
        # the calls of another architecture have other numbers: none of them
        (_IF_EQUAL, _NEXT, _REFUSE, _AUDIT[machine]),
        (_LOAD, _NEXT, _NEXT, _NUMBER),
        (_IF_NOT_LESS, _REFUSE, _NEXT, _X32),
    ]
    plain: list[_Line] = [
        (_IF_EQUAL, end, _NEXT, known[name])
        for names, end in (
            (REFUSED, _REFUSE),
            (_UNKNOWN_CALLS, _UNKNOWN),
            (_PRETENDED_CALLS, _PRETEND),
        )
        for name in names
        if name in known
    ]
    closer = [
        line
        for name, looks in _LOOKS.items()
        if name in known
        for line in _block(known[name], looks)
    ]
    return [
        *_finished(opening + plain),
        *_finished(closer),
        (_RETURN, 0, 0, _ENDS[_ALLOW]),
    ]


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers that *machine* has for the calls that this filter knows."""
    column = list(_AUDIT).index(machine)
    found = {name: row[column] for name, row in _CALLS.items()}
    return {name: number for name, number in found.items() if number is not None}


def _block(number: int, looks: Iterable[_Look]) -> list[_Line]:
    """Return the lines that decide about call *number*."""
    inner: list[_Line] = []
    for look in looks:
        inner.append((_LOAD, _NEXT, _NEXT, look.argument))
        inner.append((_AND, _NEXT, _NEXT, look.mask))
        *others, last = look.values
        for left, value in zip(range(len(others), 0, -1), others, strict=True):
            inner.append((_IF_EQUAL, _past(left, look.hit), _NEXT, value))
        inner.append((_IF_EQUAL, look.hit, look.miss, last))
    return [(_IF_EQUAL, _NEXT, len(inner), number), *inner]


def _past(lines: int, where: str) -> str | int:
    """Return where a jump leads that may have *lines* to leave out."""
    return lines if where == _NEXT else where


def _finished(lines: list[_Line]) -> list[tuple[int, int, int, int]]:
    """Put ends after *lines* and have the jumps lead there; what is left goes on."""
    ends = {name: at for at, name in enumerate(_ENDS, start=len(lines) + 1)}

    def distance(at: int, target: str | int) -> int:
        if isinstance(target, int):
            return target
        return 0 if target == _NEXT else ends[target] - at - 1

    return [
        *(
            (code, distance(at, yes), distance(at, no), value)
            for at, (code, yes, no, value) in enumerate(lines)
        ),
        (_JUMP, 0, 0, len(_ENDS)),
        *((_RETURN, 0, 0, value) for value in _ENDS.values()),
    ]
