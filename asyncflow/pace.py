"""How many steps of a consumer may begin: at once, and in a span of time.

Pure: the clock's readings come in as arguments, in seconds.
"""

import math
import re
import sys
from dataclasses import dataclass

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: the least and the greatest of what a consumer may be given
ATTEMPTS = (1, 100)
CONCURRENCY = (1, 100_000)
PRIORITY = (-100, 100)
#: what a rate looks like, for messages
RATE_FORM = "a number and a unit of time, such as 10/s, 600/m or 5/h"


def per_second(rate: str) -> float:
    """Return *rate* ("10/s", "600/m", "5/h") as a number a second.

    Raises:
        ValueError: it is not of this form.
    """
    found = _RATE.fullmatch(rate)
    if found is None:
        raise ValueError(f"{rate!r} is not a rate; accepted: {RATE_FORM}")
    return int(found[1]) / _SECONDS[found[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restraint:
    """What holds a consumer back; None: nothing does."""

    concurrency: int | None = None
    per_s: float | None = None


class Pace:
    """One consumer's steps: how many run, and how many may begin now."""

    def __init__(self, restraint: Restraint) -> None:
        self._most = restraint.concurrency or sys.maxsize
        self._per_s = restraint.per_s
        # a second's worth may begin at once, and always one
        self._burst = max(1.0, restraint.per_s or 0.0)
        self._tokens = self._burst
        self._at: float | None = None
        self.running = 0

    def allowance(self, now_s: float) -> int:
        """Return how many steps may begin at *now_s*."""
        free = self._most - self.running
        if self._per_s is None:
            return free
        if self._at is not None:
            grown = self._tokens + (now_s - self._at) * self._per_s
            self._tokens = min(self._burst, grown)
        self._at = now_s
        # what floating point loses on the way to a whole token is no reason to wait
        return min(free, math.floor(self._tokens + 1e-6))

    def wait_s(self) -> float | None:
        """Return in how many seconds the rate lets one more begin; None: no rate does.

        As of the last call of `allowance`.
        """
        if self._per_s is None or self.running >= self._most:
            return None
        return max(0.0, 1.0 - self._tokens) / self._per_s

    def begun(self) -> None:
        """Count a step that begins."""
        self.running += 1
        self._tokens -= 1.0

    def ended(self) -> None:
        """Count a step that is over."""
        self.running -= 1
