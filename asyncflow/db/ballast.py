"""Room on the disk that is kept for writes which make room.

On a disk that is full to the last byte a database cannot even note that something is to
be deleted. A file that holds nothing goes then, and comes back when there is room.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

#: enough for the notes of some thousand deletions
SIZE: Final = 4 << 20
#: so many times its size must be free before it is taken
_PLENTY: Final = 4


class Ballast:
    """The file at *path*. Everything here touches the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Take the room, if it is not taken and there is plenty."""
        disk = os.statvfs(self._path.parent)
        if self._path.exists() or disk.f_bavail * disk.f_frsize < _PLENTY * SIZE:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, SIZE)
            else:
                os.write(fd, bytes(SIZE))
        except OSError:
            self.drop()
        finally:
            os.close(fd)

    def drop(self) -> bool:
        """Give the room back; tell whether there was any."""
        with suppress(FileNotFoundError):
            self._path.unlink()
            log.warning("db.ballast_dropped", bytes=SIZE)
            return True
        return False
