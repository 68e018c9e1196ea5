"""The part of a file that has been downloaded so far: filled by one download at a time.

Theory of operation
-------------------
A part lies beside its target as `.part`, with the version it is a part of (its ETag) in
`.part.etag`; a later download of the same continues it. A name too long for that is
cut, and told from others by a hash.

Who fills a part holds it open and locked (flock) from before it is measured until it is
in its place or given up, and reads and writes it by that one descriptor: so no other
program can cut it, or put it in its place before it is whole. What is found under these
names may be somebody else's trap, so no link is followed.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from asyncflow.naming import fitted, longest_in, size_of

_PART, _TAG = ".part", ".part.etag"
_HASH_DIGITS = 16
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# what curl and browsers create with: who may read it is for the umask to say
_MODE = 0o666
_MAX_TAG_BYTES = 1024
#: a strong entity tag (RFC 9110, section 8.8.3), of what can stand in a header here
_STRONG = re.compile(r'"[\x21\x23-\x7e]*"')


class Part:
    """What there is of the file that will be at *target*. Its methods block."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = _beside(target, _PART)
        self._tag_path = _beside(target, _TAG)
        self._place: int | None = None

    def open(self) -> None:
        """Take the part, or begin one.

        Raise BlockingIOError if another download fills it, OSError if it cannot be had.
        """
        place = None
        while place is None:
            place = _locked(self._path)
        self._place = place

    def close(self) -> None:
        """Let go of the part; nothing stays of one that cannot be continued."""
        if self._place is None:
            return
        try:
            if self.held() == 0:
                self._tag_path.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)
        finally:
            self._let_go()

    @property
    def _fd(self) -> int:
        if self._place is None:
            raise RuntimeError("the part is not open")
        return self._place

    def tag(self) -> str:
        """Return the version that this is a part of; empty if nobody knows."""
        try:
            fd = os.open(self._tag_path, os.O_RDONLY | _FLAGS)
        except OSError:
            return ""
        try:
            text = os.read(fd, _MAX_TAG_BYTES).decode("ascii", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)
        return text if _STRONG.fullmatch(text) else ""

    def size(self) -> int:
        """Return how many bytes lie there."""
        return os.fstat(self._fd).st_size

    def held(self) -> int:
        """Return how many bytes of a known version lie there."""
        return self.size() if self.tag() else 0

    def cut(self, length: int, tag: str) -> None:
        """Keep *length* bytes, of the version *tag*, and go on behind them."""
        os.ftruncate(self._fd, length)
        os.fsync(self._fd)
        os.lseek(self._fd, length, os.SEEK_SET)
        # after the cut: old bytes must never lie under the tag of a new version
        self._note(tag)

    def write(self, data: bytes) -> None:
        """Append *data*."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        os.fsync(self._fd)

    def publish(self) -> None:
        """Put the part in its target's place."""
        self._path.replace(self._target)
        with suppress(OSError):
            self._tag_path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        place, self._place = self._fd, None
        os.close(place)

    def _note(self, tag: str) -> None:
        self._tag_path.unlink(missing_ok=True)
        # a weak ETag does not promise the same bytes: such a part is not continued
        if not _STRONG.fullmatch(tag) or len(tag) > _MAX_TAG_BYTES:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
        with open(os.open(self._tag_path, flags, _MODE), "w", encoding="ascii") as file:  # noqa: PTH123 -- a descriptor has no path
            file.write(tag)


def _beside(target: Path, end: str) -> Path:
    most, name = longest_in(target.parent), target.name
    if size_of(f"{name}{_TAG}") > most:
        told = hashlib.sha256(os.fsencode(name)).hexdigest()[:_HASH_DIGITS]
        name = fitted(name, f"~{told}", most=most - len(_TAG))
    return target.with_name(f"{name}{end}")


def _locked(path: Path) -> int | None:
    """Open and lock the file at *path*; None: meanwhile another one lies there."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, _MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_ours(path) from None
        raise
    try:
        found = os.fstat(fd)
        _lock(fd, found, path)
        is_there = _is_at(path, found)
    except BaseException:
        os.close(fd)
        raise
    if is_there:
        return fd
    # who held it has put it in its place, or given it up
    os.close(fd)
    return None


def _lock(fd: int, found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise _not_ours(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = "another download is filling it"
        raise BlockingIOError(errno.EAGAIN, why, str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _not_ours(path: Path) -> OSError:
    why = "a link, or no regular file: remove it, the download needs this name"
    return OSError(errno.EEXIST, why, str(path))


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), found)
    except FileNotFoundError:
        return False
