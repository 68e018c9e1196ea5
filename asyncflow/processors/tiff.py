"""Tells how large each page of a TIFF is, from its directories alone.

Whoever decodes pages walks to each of them from the first one; here one walk is enough.
Where a directory cannot be understood the walk ends, as it does for those who decode.

Sources: TIFF 6.0, section 2; for files with offsets of 64 bits ("BigTIFF"), the design
that libtiff has published.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_WIDTH, _LENGTH = 256, 257
_ORDERS: Final = {b"II": "<", b"MM": ">"}
#: by its number, how a kind of whole number is written
_KINDS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How numbers stand in a file: their order, and formats of `struct`."""

    order: str
    count: str
    offset: str

    def read(self, file: IO[bytes], kind: str) -> int:
        """Return the next number. Raise struct.error at the end of the file."""
        size = struct.calcsize(self.order + kind)
        (number,) = struct.unpack(self.order + kind, file.read(size))
        return int(number)


def sizes(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each page of the TIFF at *path*, as it is stored.

    They are 0 where the directory does not say.
    """
    with path.open("rb") as file:
        order = _ORDERS.get(file.read(2))
        if order is None:
            return
        form = _Form(order=order, count="H", offset="I")
        try:
            if form.read(file, "H") == 43:  # noqa: PLR2004 -- BigTIFF
                form = _Form(order=order, count="Q", offset="Q")
                file.seek(8)
            at, seen = form.read(file, form.offset), set[int]()
            while at and at not in seen:
                seen.add(at)
                file.seek(at)
                size, at = _directory(file, form)
                yield size
        except (struct.error, OverflowError, OSError):
            return


def _directory(file: IO[bytes], form: _Form) -> tuple[tuple[int, int], int]:
    """Return the size that the directory says, and where the next one is."""
    found = {_WIDTH: 0, _LENGTH: 0}
    room = struct.calcsize(form.order + form.offset)
    count = form.read(file, form.count)
    entry = struct.Struct(f"{form.order}HH{form.offset}{room}s")
    for _ in range(count):
        tag, kind, _values, value = entry.unpack(file.read(entry.size))
        if tag in found and kind in _KINDS:
            (side,) = struct.unpack_from(form.order + _KINDS[kind], value)
            found[tag] = max(found[tag], side)
    return (found[_WIDTH], found[_LENGTH]), form.read(file, form.offset)
