"""How many steps may begin: at once, in a span of time, and before their time.

Pure: the clock's readings come in as arguments, in seconds.
"""

import math
import re
import sys
from collections import deque
from dataclasses import dataclass

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: the least and the greatest of what a consumer may be given
ATTEMPTS = (1, 100)
CONCURRENCY = (1, 100_000)
PRIORITY = (-100, 100)
#: of a rate, what has not been used for so long may be made up for
BURST_S = 0.1
#: how much work is claimed before its time
AHEAD_S = 0.02
MOST_AHEAD = 32
#: steps are short if the latest took no longer on the average, and none of them long
SHORT_S = 0.005
LONG_S = 0.1
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
        # so much may begin at once, and always one
        self._burst = max(1.0, (restraint.per_s or 0.0) * BURST_S)
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


class Lookahead:
    """How many steps are claimed before there is a place for them.

    While a consumer's steps are short, what is done in a moment, so that a claim costs
    little beside them. None of others: beside a longer step a claim costs nothing, and
    what is claimed holds up whose turn comes meanwhile.
    """

    def __init__(self) -> None:
        #: when the latest attempts were over, and whose they were
        self._over: deque[tuple[float, str]] = deque(maxlen=MOST_AHEAD)
        #: how long the latest of each consumer took, in seconds
        self._took: dict[str, deque[float]] = {}

    def took(self, consumer: str, seconds: float) -> None:
        """Note how long a step took, or has taken until now."""
        self._took.setdefault(consumer, deque(maxlen=MOST_AHEAD)).append(seconds)

    def over(self, consumer: str, seconds: float, now_s: float) -> None:
        """Note that a step is over."""
        self.took(consumer, seconds)
        self._over.append((now_s, consumer))

    def is_short(self, consumer: str) -> bool:
        """Tell whether the consumer's steps are known to be short."""
        took = self._took.get(consumer)
        if not took:
            return False
        return sum(took) <= SHORT_S * len(took) and max(took) <= LONG_S

    def steps(self, now_s: float, claim_s: float = 0.0) -> int:
        """Return how many short steps are done in a moment, or while a claim takes."""
        since = now_s - max(AHEAD_S, claim_s)
        lately = [consumer for over, consumer in self._over if over > since]
        short = {consumer for consumer in set(lately) if self.is_short(consumer)}
        return sum(consumer in short for consumer in lately)
