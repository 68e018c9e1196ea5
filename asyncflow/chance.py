"""Chance that nobody can guess, without a system call each time."""

import os
from typing import Final

_FETCHED: Final = 4096


class Entropy:
    """Random bytes of the kernel, fetched many at a time. For one thread."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """Return *count* bytes, 4096 at most, that were never returned before."""
        if self._at + count > len(self._bytes):
            self._bytes, self._at = os.urandom(_FETCHED), 0
        taken = self._bytes[self._at : self._at + count]
        self._at += count
        return taken
