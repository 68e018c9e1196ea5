"""How long steps take, from what was measured: per consumer, by bytes and by pages.

Pure.

Theory of operation
-------------------
By bytes: sizes go by powers of four, and a file is like others of a similar size. Where
there are none yet, the nearest size that was seen is taken in proportion.

By pages, where their number is known: a page is like others of a similar size, so that
pages of words do not pass for scans. A document takes so many times as long as a page.

Each attempt shows how far both would have been off. Pages count unless they were
clearly worse lately: a preview of the first page does not care about the others.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

#: of the latest attempt in the mean
WEIGHT: Final = 0.2
#: pages may be worse by a factor of two: short documents say little about them
DOUBT: Final = math.log(2)
#: what is quicker is as good as this
LEAST_S: Final = 0.01
#: from this percent on, a step is believed more than what others took
TRUSTED_AT: Final = 10.0
#: attempts of a consumer that percentiles are taken from
KEPT: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A successful attempt: whose, how many seconds, how large the file is.

    *pages* is None where nobody has counted them.
    """

    consumer: str
    seconds: float
    size: int
    pages: int | None = None


class _Means:
    """Means by classes of size; from one class to the next they grow by *growth*."""

    def __init__(self, growth: float) -> None:
        self._growth = growth
        self._means: dict[int, float] = {}
        #: how far it was off lately, as the logarithm of the factor
        self.error = 0.0

    def add(self, size: float, value: float) -> None:
        group = _group(size)
        before = self._means.get(group, value)
        self._means[group] = before + WEIGHT * (value - before)

    def at(self, size: float) -> float | None:
        if not self._means:
            return None
        group = _group(size)
        nearest = min(self._means, key=lambda known: (abs(known - group), known))
        return self._means[nearest] * self._growth ** (group - nearest)


class _Past:
    """What is known of one consumer."""

    def __init__(self) -> None:
        # from one class to the next it is four times the bytes; time grows slower
        self._by_bytes = _Means(growth=2.0)
        #: seconds for a page; a page that is larger takes about as long
        self._by_pages = _Means(growth=1.0)
        self.latest: deque[float] = deque(maxlen=KEPT)

    def add(self, spent: Spent) -> None:
        self.latest.append(spent.seconds)
        if spent.pages:
            self._compare(spent, spent.pages)
            value = spent.seconds / spent.pages
            self._by_pages.add(spent.size / spent.pages, value)
        self._by_bytes.add(spent.size, spent.seconds)

    def _compare(self, spent: Spent, pages: int) -> None:
        """See how far both ways are off, before they learn better."""
        for way, found in (
            (self._by_bytes, self._by_bytes.at(spent.size)),
            (self._by_pages, self._of_pages(spent.size, pages)),
        ):
            if found is not None:
                off = abs(math.log(max(found, LEAST_S) / max(spent.seconds, LEAST_S)))
                way.error += WEIGHT * (off - way.error)

    def _of_pages(self, size: int, pages: int) -> float | None:
        page = self._by_pages.at(size / pages)
        return None if page is None else page * pages

    def mean_s(self, size: int, pages: int | None) -> float | None:
        if pages and self._by_pages.error <= self._by_bytes.error + DOUBT:
            found = self._of_pages(size, pages)
            if found is not None:
                return found
        return self._by_bytes.at(size)


class Estimates:
    """Learns from attempts; tells means, percentiles and what is still to come."""

    def __init__(self) -> None:
        self._past: dict[str, _Past] = {}

    def add(self, spent: Spent) -> None:
        """Note a successful attempt."""
        self._past.setdefault(spent.consumer, _Past()).add(spent)

    def mean_s(
        self, consumer: str, size: int, pages: int | None = None
    ) -> float | None:
        """Return how long *consumer* takes for a file; None: nobody knows."""
        past = self._past.get(consumer)
        return None if past is None else past.mean_s(size, pages)

    def typical_s(self, consumer: str) -> float | None:
        """Return the middle of the consumer's latest attempts; None: there are none."""
        return self.percentile_s(consumer, 50.0)

    def percentile_s(self, consumer: str, percent: float) -> float | None:
        """Return what *percent* of the latest attempts did not exceed; None: none."""
        past = self._past.get(consumer)
        if past is None:
            return None
        latest = sorted(past.latest)
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


def pages_of(facts: Mapping[str, object]) -> int | None:
    """Return how many pages a file has, by the facts of its job; None: nobody knows."""
    found = facts.get("identify")
    pages = found.get("pages") if isinstance(found, Mapping) else None
    return pages if isinstance(pages, int) and pages > 0 else None


def _group(size: float) -> int:
    return math.frexp(max(1.0, size))[1] // 2
