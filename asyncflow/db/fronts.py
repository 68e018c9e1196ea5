"""Which ready steps are next: by priority, then by lane, within everybody's limits.

Theory of operation
-------------------
A lane (a client, an owner, a tenant) has a tag, and who has the smallest is next. What
is claimed of it is its turn, and gives it a tag two behind the latest; a lane that
begins has one directly behind that, before the next turn of those who had theirs. A
turn is for a job: what follows in the job goes by the tag that it had, unless the lane
has gone on to another one. So lanes take turns, whatever was claimed out of order,
waited for its time, was held back or came back.

A table has the first ready step of each consumer and lane, in the order of claims;
triggers keep it. The claim begins at the first of each consumer. Once one is taken, the
lane's next step stands in for it. So a claim reads about as many rows as it takes
steps, whoever else waits. A lane whose tenant may not have any is passed by one row,
however many steps it has.
"""

import heapq
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from asyncflow.db.queries import load
from asyncflow.db.records import Demand

SQL = load("steps.sql")

#: rows that are read at once
PAGE = 16


class _Row(NamedTuple):
    """A ready step in the order of claims."""

    priority: int
    tag: int
    turn: int
    step: int
    round: int
    lane: str
    tenant: str


_BEFORE_ALL = _Row(-(1 << 62), 0, 0, 0, 0, "", "")


class _Walk:
    """The steps of one consumer in the order of claims, those of a lane or the first.

    Read page by page, since most claims need few of them.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        name: str,
        args: Mapping[str, object],
        *,
        after: _Row = _BEFORE_ALL,
        page: int,
    ) -> None:
        self._db, self._name, self._args = db, name, args
        self._after, self._page = after, page

    def __iter__(self) -> Iterator[_Row]:
        while True:
            args = {**self._after._asdict(), **self._args, "limit": self._page}
            rows = self._db.execute(SQL[self._name], args).fetchall()
            yield from map(_Row._make, rows)
            if len(rows) < self._page:
                return
            self._after = _Row._make(rows[-1])


class _Limits:
    """How many steps may still be taken of whom."""

    def __init__(self, db: sqlite3.Connection, demand: Demand) -> None:
        self._demand = demand
        self._of_consumer: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self._long = 0
        if demand.tenant_limit < sys.maxsize:
            running = db.execute(SQL["running_tenants"]).fetchall()
            self._of_tenant.update(dict(running))

    def has_room_for(self, consumer: str) -> bool:
        """Tell whether a consumer may have another step."""
        demand = self._demand
        if self._of_consumer[consumer] >= demand.wants[consumer]:
            return False
        return consumer not in demand.long or self._long < demand.most_long

    def allow(self, tenant: str) -> bool:
        """Tell whether a tenant may have another step."""
        demand = self._demand
        is_paused = tenant in demand.paused
        return not is_paused and self._of_tenant[tenant] < demand.tenant_limit

    def take(self, consumer: str, tenant: str) -> None:
        """Count a step that is taken."""
        self._of_consumer[consumer] += 1
        self._of_tenant[tenant] += 1
        self._long += consumer in self._demand.long


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """When a lane is next, and the turn that it had last, which may go on."""

    tag: int
    served_round: int
    served_tag: int

    def tag_of(self, row: _Row) -> int:
        """Return what one of its steps goes by."""
        return self.served_tag if row.round == self.served_round else self.tag


class Turns:
    """What a claim takes: steps in their order with their tags, and what follows."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.steps: list[tuple[int, int]] = []
        self.lanes: dict[str, Lane] = {}
        self.latest = int(db.execute(SQL["latest_tag"]).fetchone()["turn"])

    def tag_of(self, row: _Row) -> int:
        """Return what *row* goes by, now that others were taken."""
        lane = self.lanes.get(row.lane)
        return row.tag if lane is None else lane.tag_of(row)

    def take(self, row: _Row) -> None:
        """Take a step; unless its lane is still in the same turn, it was that one's."""
        self.steps.append((row.step, row.tag))
        lane = self.lanes.get(row.lane) or self._find(row.lane)
        if lane is None or row.round != lane.served_round:
            self.latest = max(self.latest, row.tag)
            tag = self.latest + 2
            lane = Lane(tag=tag, served_round=row.round, served_tag=row.tag)
        self.lanes[row.lane] = lane

    def _find(self, name: str) -> Lane | None:
        row = self._db.execute(SQL["lane"], {"lane": name}).fetchone()
        return None if row is None else Lane(**row)


class _Heads:
    """The next row of each walk: of each consumer's fronts, and behind each of them."""

    def __init__(self, db: sqlite3.Connection, turns: Turns, page: int) -> None:
        self._db, self._turns, self._page = db, turns, page
        #: with what comes behind a row; None: it is a front
        self._heap: list[tuple[_Row, str, Iterator[_Row] | None]] = []
        self._fronts: dict[str, Iterator[_Row]] = {}

    def begin(self, consumer: str) -> None:
        """Walk the fronts of *consumer*."""
        walk = _Walk(self._db, "fronts", {"consumer": consumer}, page=self._page)
        self._fronts[consumer] = iter(walk)
        self._go_on(consumer, None)

    def pop(self) -> tuple[_Row, str, Iterator[_Row] | None] | None:
        """Return the first of all rows; None: there are no more."""
        return heapq.heappop(self._heap) if self._heap else None

    def follow(
        self, row: _Row, consumer: str, behind: Iterator[_Row] | None, *, again: bool
    ) -> None:
        """Go on behind a *row* that was taken, or have it *again* with a later tag."""
        if behind is None:
            args = {"consumer": consumer, "lane": row.lane}
            walk = _Walk(self._db, "behind", args, after=row, page=self._page)
            behind = iter(walk)
        if again:
            self._push(row, consumer, behind)
        else:
            self._go_on(consumer, behind)

    def pass_by(self, consumer: str) -> None:
        """Go on with the fronts of *consumer*, after one of them."""
        self._go_on(consumer, None)

    def _go_on(self, consumer: str, behind: Iterator[_Row] | None) -> None:
        row = next(self._fronts[consumer] if behind is None else behind, None)
        if row is not None:
            self._push(row, consumer, behind)

    def _push(self, row: _Row, consumer: str, behind: Iterator[_Row] | None) -> None:
        now = row._replace(tag=self._turns.tag_of(row))
        heapq.heappush(self._heap, (now, consumer, behind))


def next_steps(db: sqlite3.Connection, demand: Demand) -> Turns:
    """Return the ready steps that are next and that no limit forbids."""
    limits, turns = _Limits(db, demand), Turns(db)
    heads = _Heads(db, turns, min(PAGE, demand.limit))
    for consumer in demand.wants:
        if limits.has_room_for(consumer):
            heads.begin(consumer)
    while head := heads.pop():
        row, consumer, behind = head
        if not limits.has_room_for(consumer):
            continue
        # or the lane has had its turn meanwhile
        is_due = turns.tag_of(row) == row.tag
        if is_due and limits.allow(row.tenant):
            limits.take(consumer, row.tenant)
            turns.take(row)
            if len(turns.steps) == demand.limit:
                break
            heads.follow(row, consumer, behind, again=False)
        elif not is_due:
            heads.follow(row, consumer, behind, again=True)
        if behind is None:
            heads.pass_by(consumer)
    return turns
