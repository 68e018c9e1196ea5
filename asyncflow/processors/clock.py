"""The time that one page of a document may take, whatever is done with it.

Rules
-----
- A page has one clock for all of it: opening, looking, drawing, reading.
- Whatever goes on for long asks the clock as it goes on. Native code that asks nobody
  is ended with its process, a while after the page's time is over.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

#: native code that holds on to a page for this much longer ends the process
_PATIENCE: Final = 2.0
#: what the process ends with then
TOO_LATE: Final = 70


class PageTimeout(Exception):
    """A page took longer than it may."""


class Clock:
    """What is left of a page's time."""

    def __init__(self, within_s: float) -> None:
        self._end = time.monotonic() + within_s

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._end

    def left(self) -> float:
        """Return the seconds left. Raise PageTimeout if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise PageTimeout
        return left


def ends_after(within_s: float) -> float:
    """Return after how many seconds a process ends that cannot stop a page in time."""
    return within_s * _PATIENCE


@contextlib.contextmanager
def limited(within_s: float) -> Iterator[Clock]:
    """Yield the clock of a page; end this process if the block outlasts it by far."""
    timer = threading.Timer(ends_after(within_s), os._exit, (TOO_LATE,))
    timer.daemon = True
    timer.start()
    try:
        yield Clock(within_s)
    finally:
        timer.cancel()
