"""What happened lately, minute by minute: for a chart, not for accounting.

It lives in memory, begun at each start from what the log of events still tells of the
last hour; `/metrics` is what keeps history.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MINUTES = 60
MINUTE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One minute: when it began (seconds since 1970), and how often what happened."""

    at: int
    counts: Mapping[str, int]


class History:
    """Counts by name for each of the last *minutes*; older ones fall out.

    *clock* returns seconds since 1970. One event loop only; not thread-safe.
    """

    def __init__(self, clock: Callable[[], float], *, minutes: int = MINUTES) -> None:
        self._clock = clock
        self._minutes: deque[tuple[int, Counter[str]]] = deque(maxlen=minutes)
        self._move()

    def add(self, name: str) -> None:
        """Count *name* in this minute."""
        self._move()
        self._minutes[-1][1][name] += 1

    def recall(self, at_s: float, name: str, count: int) -> None:
        """Count what happened at an earlier moment, if that minute is still there."""
        at = int(at_s) // MINUTE_S * MINUTE_S
        self._move()
        first = self._minutes[-1][0] - MINUTE_S * ((self._minutes.maxlen or 1) - 1)
        if not first <= at <= self._minutes[-1][0]:
            return
        while self._minutes[0][0] > at:
            self._minutes.appendleft((self._minutes[0][0] - MINUTE_S, Counter()))
        self._minutes[(at - self._minutes[0][0]) // MINUTE_S][1][name] += count

    def minutes(self) -> tuple[Minute, ...]:
        """Return every minute there is, oldest first, the current one last."""
        self._move()
        return tuple(Minute(at=at, counts=dict(c)) for at, c in self._minutes)

    def _move(self) -> None:
        """Open the minutes up to now, also those in which nothing happened."""
        now = int(self._clock()) // MINUTE_S * MINUTE_S
        if not self._minutes:
            self._minutes.append((now, Counter()))
        first = now - MINUTE_S * ((self._minutes.maxlen or 1) - 1)
        # a clock that was set back goes on in the minute that is open
        at = max(self._minutes[-1][0] + MINUTE_S, first)
        while at <= now:
            self._minutes.append((at, Counter()))
            at += MINUTE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Lately:
    """How a consumer did: attempts and failures since the start, and its rate."""

    attempts: int
    failures: int
    per_minute: float


class Paces:
    """Counts the attempts of each consumer, and how many ended in the last minutes.

    *mono_s* returns seconds of a monotonic clock.
    """

    #: what a rate is taken from
    SPAN_S = 300.0
    KEPT = 4096

    def __init__(self, mono_s: Callable[[], float]) -> None:
        self._mono_s = mono_s
        self._began = mono_s()
        self._ends: dict[str, deque[float]] = {}
        self._attempts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def add(self, consumer: str, *, failed: bool) -> None:
        """Note an attempt that ended now."""
        self._attempts[consumer] += 1
        self._failures[consumer] += failed
        ends = self._ends.setdefault(consumer, deque(maxlen=self.KEPT))
        ends.append(self._mono_s())

    def of(self, consumer: str) -> Lately:
        """Return how *consumer* did."""
        now = self._mono_s()
        ends = self._ends.get(consumer, deque())
        while ends and ends[0] < now - self.SPAN_S:
            ends.popleft()
        span = min(self.SPAN_S, now - self._began)
        if len(ends) == self.KEPT:
            span = now - ends[0]
        return Lately(
            attempts=self._attempts[consumer],
            failures=self._failures[consumer],
            per_minute=round(60.0 * len(ends) / max(60.0, span), 1),
        )
