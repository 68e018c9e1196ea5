"""Cuts file names to what a file system takes, without losing how they end."""

import os
from pathlib import Path
from typing import Final

#: what common file systems take; some that encrypt take less
MAX_BYTES: Final = 255
#: no real suffix is longer: a full stop before more than that is one of a sentence
_MAX_SUFFIX_BYTES: Final = 31


def parted(name: str) -> tuple[str, str]:
    """Return *name* as its stem and its suffix; the full stop belongs to the suffix.

    A name such as `.profile` has none.
    """
    stem, dot, suffix = name.rpartition(".")
    if not stem or not suffix or size_of(suffix) > _MAX_SUFFIX_BYTES:
        return name, ""
    return stem, dot + suffix


def fitted(stem: str, end: str, *, most: int = MAX_BYTES) -> str:
    """Return *stem* and *end* as one name of at most *most* bytes; the stem is cut."""
    room = most - size_of(end)
    while stem and size_of(stem) > room:
        stem = stem[:-1]
    return stem + end


def size_of(name: str) -> int:
    """Return how many bytes *name* has at most as a file's name."""
    # Python hands bytes that are no UTF-8 on as halves of surrogate pairs
    return len(name.encode("utf-8", "surrogatepass"))


def longest_in(folder: Path) -> int:
    """Return how many bytes a name in *folder* may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        return MAX_BYTES
