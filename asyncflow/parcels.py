"""How a file gets into a worker's slot, and how what the worker made is taken out.

Rules
-----
- Whatever lies in `out` is hostile: it may be a link, a pipe, somebody else's file, or
  change while we look. It is opened once, without following links, and only the
  descriptor is used afterwards.
- The worker must not be able to alter the original: a hard link only where the kernel
  forbids writing through it, otherwise a reflink or a copy.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import msgspec

from asyncflow import agreement, reports
from asyncflow.errors import AsyncflowError
from asyncflow.nesting import MOST_LEVELS, is_too_deep
from asyncflow.processes import WANTS

_FICLONE: Final = 0x40049409
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MEDIA_TYPE: Final = re.compile(
    r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}(; charset=utf-8)?"
)
_READ_ONLY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: more than this left in a slot is not the ordinary case
_FEW: Final = 64


class BadOutput(AsyncflowError):
    """The worker left something that it may not leave."""

    code = "bad_output"


class BadReport(BadOutput):
    """What the worker said of its run cannot be understood."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A derivative as the worker lists it."""

    name: str
    file: str
    media_type: str
    facts: dict[str, object] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says."""

    token: int
    percent: float | None = None
    made: Listed | None = None
    #: the module that it begins to load; "" when all are loaded
    loading: str | None = None
    #: how its run has ended, or what it can do; `IN_FILE`: see the slot's folder
    report: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says at the end of a run."""

    token: int
    verdict: str
    code: str = ""
    detail: str = ""
    cause: str = ""
    trace: str = ""
    after_s: float = 0.0
    facts: dict[str, object] = {}
    made: list[Listed] = []


_report: Final = msgspec.json.Decoder(Report)


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A processor as the worker has registered it."""

    name: str
    accepts: tuple[str, ...]
    on: str
    gate: bool
    required: bool
    priority: int
    outputs: tuple[str, ...]
    wall_s: float
    memory_bytes: int
    #: "pool", or "loop" for a function of *module* that the server itself calls
    runs: str = "pool"
    #: "file" or "payload"
    takes: str = "file"
    attempts: int | None = None
    concurrency: int | None = None
    rate: str | None = None
    resident: bool = False
    module: str = ""
    #: the function: `module.function`
    where: str = ""
    missing: str | None = None


class NotSeen(Exception):
    """What a worker made cannot be looked at: the server lacks something for it."""


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says once it is ready, or why it cannot be."""

    abi: int = 0
    filtered: bool = False
    processors: list[Card] = []
    #: what is wrong with the options that pipelines name
    wrong: tuple[str, ...] = ()
    #: which module could not be loaded, and why
    module: str = ""
    error: str = ""
    trace: str = ""


def bring(source: Path, slot: Path, *, link: bool) -> bool:
    """Put *source* into *slot* if that costs no copying; tell whether it is there."""
    target = slot / "in" / agreement.SOURCE
    if link:
        try:
            os.link(source, target)
        except OSError as error:
            # another filesystem, too many links, or one without links
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise
        else:
            return True
    return _reflink(source, target)


def copy(source: Path, slot: Path) -> None:
    """Put a copy of *source* into *slot*; blocks for as long as that takes."""
    shutil.copyfile(source, slot / "in" / agreement.SOURCE)


def _reflink(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    with source.open("rb") as origin, target.open("xb") as image:
        try:
            fcntl.ioctl(image.fileno(), _FICLONE, origin.fileno())
        except OSError:
            pass
        else:
            return True
    target.unlink()
    return False


def give_order(slot: Path, order: bytes) -> bytes:
    """Return the message that gives *order* to a worker; a long one goes into a file.

    Raise OSError if there is no room for it.
    """
    if len(order) <= agreement.MAX_MESSAGE_BYTES:
        return order
    (slot / "in" / agreement.ORDER).write_bytes(order)
    return agreement.IN_FILE


def read_report(slot: Path, said: bytes) -> bytes:
    """Return the report that a worker *said* there is. Raise BadReport if unfit."""
    if said != agreement.IN_FILE:
        return said
    try:
        fd, size = open_output(slot, agreement.REPORT)
    except BadOutput as error:
        raise BadReport(str(error)) from None
    try:
        if size > reports.MAX_BYTES:
            raise BadReport(f"a report of {size} bytes is too large")
        return os.read(fd, size)
    finally:
        os.close(fd)


def open_output(slot: Path, file: str) -> tuple[int, int]:
    """Open the plain file called *file* in the slot's `out`; return fd and size.

    Raise BadOutput unless it is a regular file that has this one name.
    """
    if not _NAME.fullmatch(file):
        raise BadOutput(f"{file[:80]!r} is not the plain name of a file in work.out")
    try:
        fd = os.open(slot / "out" / file, _READ_ONLY)
    except OSError as error:
        if error.errno in WANTS:
            raise NotSeen(error.strerror) from None
        why = "a link" if error.errno == errno.ELOOP else (error.strerror or "").lower()
        raise BadOutput(f"{file} cannot be opened: {why}") from None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return fd, found.st_size
    os.close(fd)
    raise BadOutput(f"{file} is not a regular file with one name")


def fingerprint(fd: int) -> tuple[int, ...]:
    """Return what changes when the file behind *fd* is written, cut or linked."""
    found = os.fstat(fd)
    return (found.st_size, found.st_mtime_ns, found.st_nlink)


def check_listed(listed: Listed, outputs: Iterable[str]) -> None:
    """Raise BadOutput unless the processor declared a derivative of this name."""
    if not _NAME.fullmatch(listed.name):
        raise BadOutput(f"{listed.name[:80]!r} is not a name for a derivative")
    if not any(fnmatch(listed.name, pattern) for pattern in outputs):
        raise BadOutput(f"{listed.name} is not among the processor's outputs")
    if not _MEDIA_TYPE.fullmatch(listed.media_type):
        raise BadOutput(f"{listed.media_type[:80]!r} is not a media type")
    if listed.file == agreement.REPORT:
        raise BadOutput("the report is not a derivative")


def clear(slot: Path) -> bool:
    """Remove the plain files of a finished run; False if the slot is not empty then."""
    left = 0
    for folder in ("in", "out"):
        with os.scandir(slot / folder) as entries:
            for entry in entries:
                left += 1
                if left > _FEW or entry.is_dir(follow_symlinks=False):
                    return False
                os.unlink(entry.path)  # noqa: PTH108 -- one call per run matters here
    return True


def remove(folder: Path) -> None:
    """Remove *folder* and all in it, however deep or forbidding; blocks meanwhile.

    Works on one level at a time: each folder found inside is first moved up beside
    the others, so neither path length nor depth nor a missing permission stops it,
    and no link is ever followed.
    """
    above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _unlock(above, folder.name)
        top = os.open(folder.name, _FOLDER, dir_fd=above)
        try:
            while folders := _unlink_files(top):
                for name in folders:
                    _raise_children(top, name)
        finally:
            os.close(top)
        os.rmdir(folder.name, dir_fd=above)
    finally:
        os.close(above)


def _unlink_files(at: int) -> list[str]:
    """Unlink everything but folders under *at*; return the folders' names."""
    folders = []
    for name in os.listdir(at):
        if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=at)
    return folders


def _raise_children(top: int, name: str) -> None:
    """Move the folders in *name* up to *top*, then remove *name*."""
    _unlock(top, name)
    inner = os.open(name, _FOLDER, dir_fd=top)
    try:
        for child in _unlink_files(inner):
            _unlock(inner, child)
            # a name that the worker cannot have taken before
            new = secrets.token_hex(16)
            os.rename(child, new, src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _unlock(at: int, name: str) -> None:
    """Give ourselves all rights on the folder *name*, not through a link."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, 0o700, dir_fd=at, follow_symlinks=False)
        return
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101 -- the descriptor's file
    finally:
        os.close(fd)


def decode_message(data: bytes) -> Message | None:
    """Return what a worker said, or None for noise."""
    if is_too_deep(data, outside=reports.OUTSIDE + 1):
        return None
    try:
        return msgspec.json.decode(data, type=Message)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def decode_report(data: bytes, token: int) -> Report:
    """Return the report of run *token*. Raise BadReport for anything else."""
    try:
        report = _report.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadReport(f"the report of the run is not readable: {error}") from None
    if is_too_deep(data, outside=reports.OUTSIDE):
        raise BadReport(f"the report has more than {MOST_LEVELS} levels")
    if report.token != token:
        raise BadReport("the report is that of another run")
    return report


def decode_greeting(data: bytes) -> Greeting:
    """Return what a new worker says. Raise BadOutput if it is unreadable."""
    try:
        return msgspec.json.decode(data, type=Greeting)
    except msgspec.MsgspecError:
        raise BadOutput("the worker's greeting is not readable") from None
