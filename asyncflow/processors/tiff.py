"""Finds the pages of a TIFF by its directories, and opens each as if it were alone.

Theory of operation
-------------------
A TIFF is a chain: its header says where the first directory is, each directory where
the next one. Whoever decodes a page walks to it from the first one and then on to the
last, to count them: for all pages that is the square of their number. Here one walk is
enough. For whoever decodes it, the header of the file then seems to lead to the page's
own directory, and that one to no other; every other byte is as it is in the file.

Where a directory cannot be understood the walk ends, as it does for those who decode.

Sources: TIFF 6.0, section 2; for files with offsets of 64 bits ("BigTIFF"), the design
that libtiff has published.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_WIDTH, _LENGTH = 256, 257
#: libtiff takes more for nonsense
_MOST_ENTRIES: Final = 4096
_ORDERS: Final = {b"II": "<", b"MM": ">"}
#: by its number, how a kind of whole number is written
_KINDS: Final = {
    1: "B",
    3: "H",
    4: "I",
    6: "b",
    8: "h",
    9: "i",
    16: "Q",
    17: "q",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How numbers stand in a file: their order, and formats of `struct`.

    `first` is where the header says where the first directory is.
    """

    order: str
    count: str
    offset: str
    first: int

    @property
    def room(self) -> int:
        """How many bytes an offset takes."""
        return struct.calcsize(self.order + self.offset)

    def read(self, file: IO[bytes], kind: str) -> int:
        """Return the next number. Raise struct.error at the end of the file."""
        size = struct.calcsize(self.order + kind)
        (number,) = struct.unpack(self.order + kind, file.read(size))
        return int(number)

    def written(self, offset: int) -> bytes:
        """Return *offset* as it is written in the file."""
        return struct.pack(self.order + self.offset, offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the TIFF at `path`; its sides as they are stored, 0 where unsaid.

    `changes` are places in the file, and the bytes that make this page its only one.
    """

    path: Path
    width: int
    height: int
    changes: tuple[tuple[int, bytes], ...]

    @contextlib.contextmanager
    def opened(self) -> Iterator["Alone"]:
        """Open the file as if this page were its only one."""
        with self.path.open("rb") as file:
            yield Alone(file, self.changes)


class Alone:
    """A file with a few bytes exchanged, to read and to seek in."""

    def __init__(self, file: IO[bytes], changes: tuple[tuple[int, bytes], ...]) -> None:
        self._file = file
        self._changes = changes
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes; none at the end of the file."""
        start = self._file.tell()
        data = self._file.read(size)
        for at, new in self._changes:
            first, last = max(at, start), min(at + len(new), start + len(data))
            if first < last:
                fresh = new[first - at : last - at]
                data = data[: first - start] + fresh + data[last - start :]
        return data


def pages(path: Path) -> Iterator[Page]:
    """Yield the pages of the TIFF at *path*."""
    unreadable = struct.error, OverflowError, OSError
    with path.open("rb") as file, contextlib.suppress(*unreadable):
        form = _form(file)
        if form is None:
            return
        file.seek(form.first)
        at, seen = form.read(file, form.offset), set[int]()
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            width, height = _size(file, form)
            end = file.tell()
            changes = (form.first, form.written(at)), (end, form.written(0))
            yield Page(path=path, width=width, height=height, changes=changes)
            file.seek(end)
            at = form.read(file, form.offset)


def _form(file: IO[bytes]) -> _Form | None:
    order = _ORDERS.get(file.read(2))
    if order is None:
        return None
    form = _Form(order=order, count="H", offset="I", first=4)
    if form.read(file, "H") == 43:  # noqa: PLR2004 -- BigTIFF
        return _Form(order=order, count="Q", offset="Q", first=8)
    return form


def _size(file: IO[bytes], form: _Form) -> tuple[int, int]:
    """Return the width and height that the directory here says; go to its end."""
    found = {_WIDTH: 0, _LENGTH: 0}
    count = form.read(file, form.count)
    if count > _MOST_ENTRIES:
        raise struct.error("no directory has so many entries")
    entry = struct.Struct(f"{form.order}HH{form.offset}{form.room}s")
    for _ in range(count):
        tag, kind, _values, value = entry.unpack(file.read(entry.size))
        if tag in found and kind in _KINDS:
            found[tag] = max(found[tag], _number(file, form, _KINDS[kind], value))
    return found[_WIDTH], found[_LENGTH]


def _number(file: IO[bytes], form: _Form, kind: str, value: bytes) -> int:
    """Return the number in an entry; one that has no room there is elsewhere."""
    if struct.calcsize(form.order + kind) <= form.room:
        (number,) = struct.unpack_from(form.order + kind, value)
        return int(number)
    back = file.tell()
    (at,) = struct.unpack(form.order + form.offset, value)
    file.seek(at)
    number = form.read(file, kind)
    file.seek(back)
    return number
