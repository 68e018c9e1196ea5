"""What a worker writes to its standard output and error, kept off the server's log.

Anybody may print anything: lines that look like the log's own, secrets, gigabytes. So a
worker prints into a file, of which the newest few kilobytes become an event of the log.
"""

import os
from pathlib import Path
from typing import Final

NAME: Final = "printed"
MOST_BYTES: Final = 4 << 10
#: the unit of st_blocks, whatever the file system's is
BLOCK: Final = 512
#: beyond this the file is emptied while the worker still prints
_TOO_MUCH: Final = 1 << 20


class Prints:
    """The file, as the server holds it: by descriptor, whatever its name becomes."""

    def __init__(self, folder: Path) -> None:
        """Make the file in *folder*."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd: int | None = os.open(folder / NAME, flags, 0o600)
        self._kept = b""
        self._bytes = 0

    def take(self) -> tuple[list[str], int]:
        """Return the newest lines printed since the last call, and all their bytes."""
        self.bound(0)
        text = self._kept.decode(errors="replace").strip()
        count, self._kept, self._bytes = self._bytes, b"", 0
        return text.splitlines(), count

    def bound(self, most: int = _TOO_MUCH) -> None:
        """Empty the file if it takes more than *most* bytes; the newest are kept."""
        if self._fd is None:
            return
        found = os.fstat(self._fd)
        # room can be taken without making a file larger
        if max(found.st_size, found.st_blocks * BLOCK) > most:
            start = max(0, found.st_size - MOST_BYTES)
            new = os.pread(self._fd, MOST_BYTES, start)
            self._kept = (self._kept + new)[-MOST_BYTES:]
            self._bytes += found.st_size
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Keep what was printed last, and let go of the file."""
        self.bound(0)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def print_into(folder: Path) -> None:
    """Let this process and its children print into the file in *folder*."""
    fd = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    for stream in (1, 2):
        os.dup2(fd, stream)
    os.close(fd)
