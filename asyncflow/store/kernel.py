"""What the local store asks of the kernel beyond the `os` module.

Everything here blocks and runs on the store's threads. Where a system or a file system
lacks a call, the work goes on without it.
"""

import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable, Sequence

_KEEP_SIZE = 1
_RANGE_WRITE = 2
_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
#: the largest block of the file systems that share blocks
_BLOCK_BYTES = 64 << 10
_COPY_BYTES = 8 << 20
#: in one call: for larger ones the kernel looks for whole megabytes of memory in one
#: piece, and where there are few it spends up to five times as long
WRITE_BYTES = 256 << 10

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_HERE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY}
    # how some file systems answer a call that they do not know
    | {errno.EBADF, errno.EPERM}
)


def _from_libc(name: str, *kinds: type) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes, function.restype = kinds, ctypes.c_int
    return function


_int, _off = ctypes.c_int, ctypes.c_int64
_fallocate = _from_libc("fallocate64", _int, _int, _off, _off) or _from_libc(
    "fallocate", _int, _int, _off, _off
)
_sync_file_range = _from_libc("sync_file_range", _int, _off, _off, ctypes.c_uint)


#: of struct open_how, for the call openat2
_SAFELY = 0x04 | 0x08  # RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH
_OPENAT2 = 437  # on every processor
_syscall = _from_libc(
    "syscall", ctypes.c_long, _int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t
)
#: how kernels, and guards around a container, answer a call that they do not know;
#: the last one: something was renamed just then, so go step by step
_UNKNOWN_CALL = frozenset({errno.ENOSYS, errno.EPERM, errno.E2BIG, errno.EAGAIN})


def open_below(folder: int, path: str, flags: int) -> int | None:
    """Open what lies at *path* below *folder*, following no link on the way.

    One call instead of one for each step. None: this system cannot do that.

    Raises:
        OSError: as `os.open` does.
    """
    if _syscall is None:
        return None
    how = struct.pack("=QQQ", flags, 0, _SAFELY)
    fd = _syscall(_OPENAT2, folder, os.fsencode(path), how, len(how))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code in _UNKNOWN_CALL:
        return None
    raise OSError(code, os.strerror(code), path)


def is_no_room(error: OSError) -> bool:
    """Tell whether *error* says that the medium, or our share of it, is full."""
    return error.errno in _NO_ROOM


def reserve(fd: int, start: int, end: int) -> bool:
    """Set aside the bytes from *start* to *end* without changing the file's length.

    `os.posix_fallocate` would make the file longer, and its length is our offset.
    Return whether they are set aside; not every file system can.

    Raises:
        OSError: there is no room.
    """
    if end <= start:
        return True
    if _fallocate is None:
        return False
    if _fallocate(fd, _KEEP_SIZE, start, end - start) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_ROOM:
        raise OSError(code, os.strerror(code))
    return False


def start_writeback(fd: int, start: int, length: int) -> None:
    """Ask for these bytes to go to the disk now, and do not wait for them."""
    if _sync_file_range is not None:
        # its errors come again from fdatasync, which is what we promise by
        _sync_file_range(fd, start, length, _RANGE_WRITE)


def sync_data(fd: int) -> None:
    """Return once the file's bytes and length are on stable storage."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 -- not on every platform

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def copy_whole(source: int, target: int, is_over: Callable[[], bool]) -> int:
    """Copy the file behind *source* into the empty one behind *target*.

    By sharing blocks where the file system can, else inside the kernel, else through
    memory; it ends halfway when *is_over*. Positions of *source* are left alone. Return
    the length in bytes.
    """
    if _share(target, _FICLONE, source):
        return os.fstat(target).st_size
    return copy(source, target, 0, sys.maxsize, 0, is_over)


def share_whole(source: int, target: int, at: int) -> bool:
    """Let the file behind *target* share all blocks of the one behind *source* at *at*.

    Tell whether it does: not every file system can, nor can it off the borders of
    blocks, nor do shared blocks have an end inside of the file.
    """
    if at % _BLOCK_BYTES:
        return False
    # struct file_clone_range: descriptor, offset, length (0: to the end), offset there
    return _share(target, _FICLONERANGE, struct.pack("=qQQQ", source, 0, 0, at))


def shareable(sizes: Sequence[int]) -> int:
    """Return how far files of these *sizes* follow each other with shared blocks."""
    at = 0
    for size in sizes:
        if size and at % _BLOCK_BYTES:
            break
        at += size
    return at


def shares_blocks(folder: int) -> bool:
    """Tell whether files of a folder can share blocks: two without a name try it."""
    if not sys.platform.startswith("linux"):
        return False
    opened: list[int] = []
    try:
        for _ in range(2):
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            opened.append(os.open(".", flags, 0o600, dir_fd=folder))
        source, target = opened
        os.pwrite(source, b"x", 0)
        return _share(target, _FICLONE, source)
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)


def copy(
    source: int, target: int, start: int, end: int, at: int, is_over: Callable[[], bool]
) -> int:
    """Copy the bytes from *start* up to *end* of one file to *at* in another.

    Inside the kernel where it can, else through memory; it ends early with the source,
    or when *is_over*. Return how many bytes were copied.
    """
    done = 0
    with contextlib.suppress(_Unsupported):
        done = _copy_in_kernel(source, target, start, end, at, is_over)
    while not is_over():
        want = min(_COPY_BYTES, end - start - done)
        if not (data := os.pread(source, want, start + done)):
            break
        done += write_all(target, data, at + done)
    return done


def write_all(fd: int, data: bytes | memoryview, at: int) -> int:
    """Write all of *data* at *at* and return its length; OSError keeps what got in."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + WRITE_BYTES], at + done)
    return done


class _Unsupported(Exception):
    pass


def _share(target: int, request: int, argument: int | bytes) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import fcntl  # noqa: PLC0415 -- not on every platform

    try:
        fcntl.ioctl(target, request, argument)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    return True


def _copy_in_kernel(
    source: int, target: int, start: int, end: int, at: int, is_over: Callable[[], bool]
) -> int:
    if not sys.platform.startswith("linux"):
        raise _Unsupported
    done = 0
    while start + done < end and not is_over():
        want = min(_COPY_BYTES, end - start - done)
        try:
            count = os.copy_file_range(source, target, want, start + done, at + done)
        except OSError as error:
            if done or error.errno not in _NOT_HERE:
                raise
            raise _Unsupported from error
        if count == 0:
            break
        done += count
    return done
