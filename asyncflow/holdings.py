"""How much of the disk one run holds, and how much it may hold.

Rules
-----
- What a run writes meets limits for each file, none in sum: that is looked at here.
- A file without a name counts as long as a process of the run has it open or mapped.
- What cannot be looked at counts as too much: paths longer than the kernel takes, and
  folders that their owner may not read. Nobody makes such for an honest purpose.
- What the server lacks for a look says nothing of the run: the next look is soon.
- Nothing here is exact: the run goes on writing meanwhile.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from asyncflow.prints import BLOCK, NAME
from asyncflow.processes import WANTS

#: of files and folders together; also what a look at them may cost
MOST_ENTRIES: Final = 50_000
#: nobody is ended for less, however little there is left
LEAST_BYTES: Final = 64 << 20
#: while more than this is left, a look now and then is enough
_PLENTY_BYTES: Final = 8 << 30
_SELDOM: Final = 10


class Disk:
    """The disk on which *folder* is, and runs that may hold *most* bytes each."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._asked = 0
        self._looks: dict[Path, asyncio.Task[None]] = {}

    def is_look_due(self) -> bool:
        """Tell whether to look at all runs; to be asked often while there are any."""
        self._asked += 1
        return self._asked % _SELDOM == 0 or self._free_bytes() < _PLENTY_BYTES

    def look(self, slot: Path, pids: Sequence[int], tell: Callable[[], None]) -> None:
        """Have *tell* called if the run in *slot*, with *pids*, holds too much.

        Another thread looks; nothing happens while it is at it.
        """
        if slot not in self._looks:
            self._looks[slot] = asyncio.create_task(self._look(slot, pids, tell))

    async def close(self) -> None:
        """Wait for the looks that are under way."""
        if self._looks:
            await asyncio.wait(self._looks.values())

    async def _look(
        self, slot: Path, pids: Sequence[int], tell: Callable[[], None]
    ) -> None:
        try:
            # no descriptor for it, or no thread: the next look will tell
            with contextlib.suppress(OSError, RuntimeError):
                held = await asyncio.to_thread(held_bytes, slot, pids)
                if held is None or held > may_hold(self._free_bytes(), self._most):
                    tell()
        finally:
            del self._looks[slot]

    def _free_bytes(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize


def may_hold(free: int, most: int) -> int:
    """Return how many bytes a run may hold while *free* are left: *most* at most.

    Never more than what is left: half of the disk remains, or a third beside two such.
    """
    return min(most, max(LEAST_BYTES, free))


def held_bytes(slot: Path, pids: Sequence[int]) -> int | None:
    """Return what the run in *slot* holds, and nameless files of *pids* with it.

    None: too much. Raise OSError for what the server itself lacks.
    """
    count, total = 0, 0
    seen: set[int] = set()
    try:
        for one in _entries(slot / "out"):
            count += 1
            if count > MOST_ENTRIES:
                return None
            if one.st_nlink == 1 or one.st_ino not in seen:
                seen.add(one.st_ino)
                total += one.st_blocks * BLOCK
    except OSError as error:
        if error.errno in WANTS:
            raise
        return None
    with contextlib.suppress(FileNotFoundError):
        total += (slot / NAME).stat().st_blocks * BLOCK
    return total + sum(
        size for inode, size in _nameless(pids).items() if inode not in seen
    )


def _entries(folder: Path) -> Iterator[os.stat_result]:
    """Yield what all is in *folder*. Raise OSError for what cannot be looked at."""
    folders = [str(folder)]
    while folders:
        where = folders.pop()
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # it has been removed meanwhile
                    if stat.S_ISDIR(found.st_mode):
                        folders.append(entry.path)
                    yield found
        except (FileNotFoundError, NotADirectoryError):
            continue


def _nameless(pids: Sequence[int]) -> dict[int, int]:
    """Return the inodes and the sizes of files of *pids* that have no name any more.

    Of those that are mapped and not open, it is only known how much is mapped.
    """
    found: dict[int, int] = {}
    for pid in pids:
        for inode, size in _mapped(pid):
            found[inode] = max(size, found.get(inode, 0))
    for pid in pids:
        for one in _opened(pid):
            if stat.S_ISREG(one.st_mode) and one.st_nlink == 0:
                found[one.st_ino] = one.st_blocks * BLOCK
    return found


def _opened(pid: int) -> Iterator[os.stat_result]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 -- thousands of names
    except OSError as error:
        if error.errno in WANTS:
            raise
        return  # it has ended, or the kernel does not say
    for one in names:
        try:
            yield os.stat(f"/proc/{pid}/fd/{one}")  # noqa: PTH116 -- thousands
        except OSError as error:
            if error.errno in WANTS:
                raise
            continue


def _mapped(pid: int) -> Iterator[tuple[int, int]]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError as error:
        if error.errno in WANTS:
            raise
        return
    for line in lines:
        if line.endswith(b" (deleted)"):
            # where from and to, rights, offset, device, inode, name
            place, _, _, _, inode, _ = line.split(None, 5)
            start, _, end = place.partition(b"-")
            yield int(inode), int(end, 16) - int(start, 16)
