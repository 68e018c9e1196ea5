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
        self._look: asyncio.Task[None] | None = None

    def bytes_twice(self) -> int:
        """Return how much of the sum was counted before, as far as that is known."""
        is_good = asyncio.get_running_loop().time() < self._good_until
        return self._bytes_twice if is_good else 0

    def look(
        self, pids: Sequence[int], sum_: int, most: int, tell: Callable[[], None]
    ) -> None:
        """Have *tell* called if *pids*, whose sizes have this *sum_*, have over *most*.

        Nothing happens while a look is under way.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._weigh(pids, sum_, most, tell))

    async def _weigh(
        self, pids: Sequence[int], sum_: int, most: int, tell: Callable[[], None]
    ) -> None:
        # no thread for it: the next look is soon
        with suppress(RuntimeError):
            together = await asyncio.to_thread(processes.together_bytes, pids)
            self._bytes_twice = max(0, sum_ - together)
            self._good_until = asyncio.get_running_loop().time() + _GOOD_FOR_S
            if together > most:
                tell()
