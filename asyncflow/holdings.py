"""How much of the disk one run holds, and how much it may hold.

Rules
-----
- What a run writes meets limits for each file, none in sum: that is looked at here.
- A file without a name counts as long as a process of the run has it open or mapped.
- What cannot be looked at counts as too much: paths longer than the kernel takes, and
  folders that their owner may not read. Nobody makes such for an honest purpose.
- Of a file without a name that is mapped and not open nobody tells its size. Whoever
  has one is left alone until the disk is short of room.
- What the server lacks for a look says nothing of the run: the next look is soon.
- Nothing here is exact: the run goes on writing meanwhile.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
_SHORT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a run holds: *count* bytes, or at least so many."""

    count: int
    is_certain: bool


class Disk:
    """The disk on which *folder* is, and runs that may hold *most* bytes each.

    Above *fill_level* per cent, and with less than a gigabyte, it is short of room.
    """

    def __init__(self, folder: Path, most: int, fill_level: float = 100.0) -> None:
        self._folder = folder
        self._most = most
        self._free_share = 1 - fill_level / 100
        self._asked = 0
        self._looks: dict[Path, asyncio.Task[None]] = {}

    def is_look_due(self) -> bool:
        """Tell whether to look at all runs; to be asked often while there are any."""
        self._asked += 1
        free, is_short = self._room()
        return self._asked % _SELDOM == 0 or is_short or free < _PLENTY_BYTES

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
                held = await asyncio.to_thread(held_by, slot, pids)
                free, is_short = self._room()
                if (
                    held is None
                    or held.count > may_hold(free, self._most)
                    or (is_short and not held.is_certain)
                ):
                    tell()
        finally:
            del self._looks[slot]

    def _room(self) -> tuple[int, bool]:
        """Return how many bytes are free, and whether those are few."""
        found = os.statvfs(self._folder)
        few = max(_SHORT_BYTES, self._free_share * found.f_blocks * found.f_frsize)
        free = found.f_bavail * found.f_frsize
        return free, free < few


def may_hold(free: int, most: int) -> int:
    """Return how many bytes a run may hold while *free* are left: *most* at most.

    Never more than what is left: half of the disk remains, or a third beside two such.
    """
    return min(most, max(LEAST_BYTES, free))


def held_by(slot: Path, pids: Sequence[int]) -> Held | None:
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
    mapped = _mapped_nameless(slot, pids)
    # now, for what was mapped before and is open until now is known
    opened = _opened_nameless(pids)
    both = {**mapped, **opened}
    total += sum(size for inode, size in both.items() if inode not in seen)
    return Held(count=total, is_certain=mapped.keys() <= opened.keys() | seen)


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


def _opened_nameless(pids: Sequence[int]) -> dict[int, int]:
    """Return the inodes and the sizes of open files of *pids* without a name."""
    return {
        one.st_ino: one.st_blocks * BLOCK
        for pid in pids
        for one in _opened(pid)
        if stat.S_ISREG(one.st_mode) and one.st_nlink == 0
    }


def _mapped_nameless(slot: Path, pids: Sequence[int]) -> dict[int, int]:
    """Return the inodes of such files of *slot* that are mapped, and how much of each.

    Programs map others: a library that was replaced while they run.
    """
    below = os.fsencode(f"{os.path.realpath(slot)}/")
    found: dict[int, int] = {}
    for pid in pids:
        for inode, size in _mapped(pid, below):
            found[inode] = max(size, found.get(inode, 0))
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


def _mapped(pid: int, below: bytes) -> Iterator[tuple[int, int]]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError as error:
        if error.errno in WANTS:
            raise
        return
    for line in lines:
        if line.endswith(b" (deleted)") and below in line:
            # where from and to, rights, offset, device, inode, name
            place, _, _, _, inode, _ = line.split(None, 5)
            start, _, end = place.partition(b"-")
            yield int(inode), int(end, 16) - int(start, 16)
