"""How long steps take, from what was measured: per consumer and size of the file.

Pure. Sizes go by powers of four: a file is like others of a similar size. Where there
are none yet, the nearest size that was seen is taken in proportion.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

#: of the latest attempt in the mean
WEIGHT: Final = 0.2
#: from this percent on, a step is believed more than what others took
TRUSTED_AT: Final = 10.0
#: attempts of a consumer that percentiles are taken from
KEPT: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A successful attempt: whose, how many seconds, how many bytes the file has."""

    consumer: str
    seconds: float
    size: int


class Estimates:
    """Learns from attempts; tells means, percentiles and what is still to come."""

    def __init__(self) -> None:
        #: consumer -> size class -> mean seconds
        self._means: dict[str, dict[int, float]] = {}
        self._latest: dict[str, deque[float]] = {}

    def add(self, spent: Spent) -> None:
        """Note a successful attempt."""
        means = self._means.setdefault(spent.consumer, {})
        group = _group(spent.size)
        before = means.get(group, spent.seconds)
        means[group] = before + WEIGHT * (spent.seconds - before)
        latest = self._latest.setdefault(spent.consumer, deque(maxlen=KEPT))
        latest.append(spent.seconds)

    def mean_s(self, consumer: str, size: int) -> float | None:
        """Return how long *consumer* takes for *size* bytes; None: nobody knows."""
        means = self._means.get(consumer)
        if not means:
            return None
        group = _group(size)
        nearest = min(means, key=lambda known: (abs(known - group), known))
        # a step between two classes is a factor of four in bytes; time grows slower
        return means[nearest] * 2.0 ** (group - nearest)

    def typical_s(self, consumer: str) -> float | None:
        """Return the middle of the consumer's latest attempts; None: there are none."""
        return self.percentile_s(consumer, 50.0)

    def percentile_s(self, consumer: str, percent: float) -> float | None:
        """Return what *percent* of the latest attempts did not exceed; None: none."""
        latest = sorted(self._latest.get(consumer, ()))
        if not latest:
            return None
        return latest[min(len(latest) - 1, int(len(latest) * percent / 100.0))]

    def work_s(self, consumers: Iterable[str], size: int) -> float | None:
        """Return the sum for *consumers*; None: one of them has no history."""
        means = [self.mean_s(consumer, size) for consumer in consumers]
        known = [mean for mean in means if mean is not None]
        return sum(known) if len(known) == len(means) else None

    def queue_s(self, waiting: Mapping[str, int], workers: int) -> float:
        """Return how long *workers* need for what waits, as far as anybody knows."""
        total = sum(n * (self.typical_s(name) or 0.0) for name, n in waiting.items())
        return total / max(1, workers)


def left_s(mean_s: float, *, percent: float, ran_s: float, still_s: float) -> float:
    """Return how long a running step should still take.

    *ran_s* is how long it runs, *still_s* since when its *percent* has not moved: the
    pace is that of the time before. What others took (*mean_s*) counts until it has
    shown a pace of its own: a document of eight pages is not like one of two.
    """
    like_others = mean_s * (1.0 - percent / 100.0)
    if percent <= 0.0:
        return like_others
    own = max(0.0, ran_s - still_s) * (100.0 - percent) / percent - still_s
    trust = min(1.0, percent / TRUSTED_AT)
    return trust * max(0.0, own) + (1.0 - trust) * like_others


def _group(size: int) -> int:
    return math.frexp(max(1, size))[1] // 2
