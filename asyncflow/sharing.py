"""What the processes of one run share, so that it is not counted for each of them.

Theory of operation
-------------------
Ten times a second the server adds up what each process of a run has. A fork shares all
that its parent had, so the sum can be many times what there really is. To count it once
takes the kernel up to a millisecond for a process: that is done only when the sum says
that the run has too much, on another thread, and again when the sum has grown by as
much as would be too much then.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from asyncflow import processes

#: some may have ended while others grew, and the sum is the same
_GOOD_FOR_S: Final = 1.0


class Shared:
    """What was found of one run."""

    def __init__(self) -> None:
        self._bytes_twice = 0
        self._good_until = 0.0
        self._is_looking = False

    def bytes_twice(self) -> int:
        """Return how much of the sum was counted before, as far as that is known."""
        is_good = asyncio.get_running_loop().time() < self._good_until
        return self._bytes_twice if is_good else 0

    def look(
        self, pids: Sequence[int], sum_: int, most: int, tell: Callable[[], None]
    ) -> None:
        """Have *tell* called if *pids*, whose sizes have this *sum_*, have over *most*.

        Nothing happens while a look is under way. Without a thread the sum counts.
        """
        if self._is_looking:
            return
        loop = asyncio.get_running_loop()

        def weigh() -> None:
            together = sum_
            try:
                together = processes.together_bytes(pids)
            finally:
                # where the loop has gone nobody waits any more
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(weighed, together)

        def weighed(together: int) -> None:
            self._is_looking = False
            self._bytes_twice = max(0, sum_ - together)
            self._good_until = loop.time() + _GOOD_FOR_S
            if together > most:
                tell()

        try:
            # one of its own: it may not wait behind work that takes long
            threading.Thread(target=weigh, name="weigh", daemon=True).start()
        except RuntimeError:
            tell()
        else:
            self._is_looking = True
