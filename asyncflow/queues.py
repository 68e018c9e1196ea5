"""How many steps wait, and whether one more may: everybody has a share of the room.

Theory of operation
-------------------
A lane may have as many steps waiting as four times what is still free. Who is alone
comes to four fifths of the room, and who comes next to four fifths of what that leaves:
no lane alone can keep out those that have nothing waiting yet. Whoever had more before
others came gets nothing more until it has less than its share.

Beyond the total, which is counted anyway, this takes numbers by lane only while much
of the room is taken: before that nobody comes near a share. They are as of the last
look at the database, and what was added since is known here.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

#: how many times what is free a lane may have waiting
SHARE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWaits:
    """What waits in one lane: its time has come, or not yet, and first at *due*.

    *due* is in milliseconds since 1970; None: nothing waits for its time.
    """

    ready: int
    delayed: int
    due: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was known beside the database when a look at it began."""

    since: int
    lately: Mapping[str, int]


class Queue:
    """Steps that wait, at most *limit*: as of a look, and what is known since."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._seen = 0
        #: how many more there are since then
        self._since = 0
        #: on their way into the database
        self._coming = 0
        self._lanes: Mapping[str, int] = {}
        self._due: Mapping[str, int] = {}
        #: came since then, by lane
        self._lately: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many wait."""
        return max(0, self._seen + self._since) + self._coming

    def of(self, lane: str) -> int:
        """Return how many of them are of *lane*, or somewhat more than that."""
        return min(self.total, self._lanes.get(lane, 0) + self._lately[lane])

    def has_room(self, lane: str | None) -> bool:
        """Tell whether *lane* may have one more; None: whether anybody may."""
        free = self.limit - self.total
        return free > 0 and (lane is None or self.of(lane) < SHARE * free)

    def due(self, lane: str | None) -> int | None:
        """Return when the first of *lane*, or of all, has waited for its time."""
        everybody = min(self._due.values(), default=None)
        return everybody if lane is None else self._due.get(lane, everybody)

    def changed(self, more: int) -> None:
        """Take note of how many *more* wait now."""
        self._since += more

    @contextmanager
    def coming(self, lane: str) -> Iterator[None]:
        """Count a job of *lane* while it is stored."""
        self._coming += 1
        self._lately[lane] += 1
        try:
            yield
        finally:
            self._coming -= 1

    def needs_lanes(self, seen: int) -> bool:
        """Tell whether it matters whose the steps are of which *seen* were counted."""
        return seen > self.limit // 2

    def begin_look(self) -> Look:
        """Return what is known before a look at the database."""
        return Look(since=self._since, lately=dict(self._lately))

    def end_look(
        self,
        look: Look,
        seen: int,
        lanes: Mapping[str, int],
        due: Mapping[str, int] | None = None,
    ) -> None:
        """Take what was counted since *look*: all, by lane, and when one is due."""
        self._seen, self._lanes, self._due = seen, lanes, due or {}
        self._since -= look.since
        self._lately -= Counter(look.lately)
