"""The part of a file that has been downloaded so far: filled by one download at a time.

Theory of operation
-------------------
A part lies hidden beside its target, under a name that nobody has by accident; the note
next to it says that it is one of ours, and the version it is a part of (its ETag). A
later download of the same continues it. A name too long for that is cut, and told from
others by a hash.

Who fills a part holds it open and locked (flock) from before it is measured until it is
in its place or given up, and reads and writes it by that one descriptor: so no other
program can cut it, or put it in its place before it is whole.

Where the file system knows no locks, nobody can tell whether a part is being filled:
each download fills one of its own there, under a name that no other has. It is not
continued by a later one, and goes with a download that does not come to its end.

What is found under these names without our note is somebody else's: it is neither read
nor cut nor removed, and no link is followed. Bytes are written only below a note, so
that what an earlier download left is always known.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from asyncflow.naming import fitted, longest_in, size_of

_PART, _NOTE = ".asyncflow-part", ".asyncflow-part.note"
#: how our notes begin; the version follows, or nothing where it promises nothing
_OURS = "part of an asyncflow download\n"
_HASH_DIGITS = 16
#: how file systems answer that know no locks
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# what curl and browsers create with: who may read it is for the umask to say
_MODE = 0o666
_MAX_NOTE_BYTES = 1024
#: a strong entity tag (RFC 9110, section 8.8.3), of what can stand in a header here
_STRONG = re.compile(r'"[\x21\x23-\x7e]*"')


class Part:
    """What there is of the file that will be at *target*. Its methods block."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = _beside(target, _PART)
        self._note_path = _beside(target, _NOTE)
        self._place: int | None = None
        #: nobody else knows of it, also not later
        self._is_private = False

    def open(self) -> None:
        """Take the part, or begin one.

        Raise BlockingIOError if another download fills it, OSError if it cannot be had.
        """
        _check_target(self._target)
        place = None
        try:
            while place is None:
                place = _locked(self._path)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._open_private()
            return
        self._place = place
        try:
            self._check_ours()
        except OSError:
            self._let_go()
            raise

    def _open_private(self) -> None:
        with suppress(OSError):
            if self._path.lstat().st_size == 0:
                # made to be locked
                self._path.unlink()
        token = uuid.uuid4().hex
        self._path = _beside(self._target, f".{token}{_PART}")
        self._note_path = _beside(self._target, f".{token}{_NOTE}")
        self._is_private = True
        self._place = os.open(
            self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, _MODE
        )

    def _check_ours(self) -> None:
        """Raise OSError if what lies here is not known to be of an earlier download."""
        note = _read(self._note_path)
        if note is not None and note.startswith(_OURS):
            return
        if self.size():
            raise _not_ours(self._path)
        # when the machine stops, one of ours may break off at its beginning
        if note is not None and not _OURS.startswith(note):
            raise _not_ours(self._note_path)

    def close(self) -> None:
        """Let go of the part; nothing stays of one that cannot be continued."""
        if self._place is None:
            return
        try:
            if self._is_private or self.held() == 0:
                # without bytes first: they never lie here without their note
                os.ftruncate(self._place, 0)
                self._note_path.unlink(missing_ok=True)
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
        tag = (_read(self._note_path) or "").removeprefix(_OURS)
        return tag if _STRONG.fullmatch(tag) else ""

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
        """Put the part in its target's place. Raise OSError if that is taken."""
        _check_target(self._target)
        self._path.replace(self._target)
        with suppress(OSError):
            self._note_path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        place, self._place = self._fd, None
        os.close(place)

    def _note(self, tag: str) -> None:
        # a weak ETag does not promise the same bytes: such a part is not continued
        fits = _STRONG.fullmatch(tag) and len(_OURS) + len(tag) <= _MAX_NOTE_BYTES
        text = _OURS + (tag if fits else "")
        if _read(self._note_path) == text:
            return
        self._note_path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
        place = os.open(self._note_path, flags, _MODE)
        try:
            os.write(place, text.encode())
            # on the disk before the first byte that it speaks for
            os.fsync(place)
        finally:
            os.close(place)


def _check_target(target: Path) -> None:
    """Raise OSError if a file must not take the place of what is at *target*."""
    try:
        # a link may be replaced, but not one such as /dev/stdout, which means a device
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder is there", str(target))
    if not stat.S_ISREG(mode):
        why = "no regular file is there, and none takes its place"
        raise OSError(errno.EEXIST, why, str(target))


def _beside(target: Path, end: str) -> Path:
    most, name = longest_in(target.parent), f".{target.name}"
    longest = max(len(_NOTE), len(end))
    if size_of(name) + longest > most:
        told = hashlib.sha256(os.fsencode(name)).hexdigest()[:_HASH_DIGITS]
        name = fitted(name, f"~{told}", most=most - longest)
    return target.parent / f"{name}{end}"


def _read(path: Path) -> str | None:
    """Return what the note at *path* says; None: there is none.

    Raise OSError if it is no file, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise _not_ours(path) from None
        raise
    try:
        _check_plain(os.fstat(fd), path)
        return os.read(fd, _MAX_NOTE_BYTES).decode("ascii", "replace")
    finally:
        os.close(fd)


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
    _check_plain(found, path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = "another download is filling it"
        raise BlockingIOError(errno.EAGAIN, why, str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _check_plain(found: os.stat_result, path: Path) -> None:
    """Raise OSError if a file found at *path* cannot be one of ours."""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise _not_ours(path)


def _not_ours(path: Path) -> OSError:
    why = "not of an earlier download: move it away, the download needs this name"
    return OSError(errno.EEXIST, why, str(path))


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), found)
    except FileNotFoundError:
        return False
