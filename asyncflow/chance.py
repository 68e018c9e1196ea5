"""Time, ids, and chance that nobody can guess, without a system call each time."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from asyncflow import uploads

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where time, chance and ids come from; tests bring their own."""

    wall_s: Callable[[], float] = time.time
    mono_s: Callable[[], float] = time.monotonic
    spread: Callable[[], float] = random.random
    entropy: Callable[[int], bytes] = field(default_factory=Entropy)

    def now(self) -> int:
        """Return milliseconds since 1970 (UTC)."""
        return int(self.wall_s() * 1000)

    def mono(self) -> int:
        """Return milliseconds on this host's monotonic clock."""
        return int(self.mono_s() * 1000)

    def new_id(self) -> str:
        """Return a fresh id."""
        return uploads.new_id(self.now(), self.entropy(10))
