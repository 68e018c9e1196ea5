"""Which ready steps are next: by priority, then by turn, within everybody's limits.

Theory of operation
-------------------
A table has the first ready step of each consumer and tenant, in the order of claims;
triggers keep it. The claim begins at the first of each consumer. Once one is taken, the
tenant's next step stands in for it. So a claim reads about as many rows as it takes
steps, whoever else waits. A tenant that may not have any is passed by one row, however
many steps it has; there are no more such tenants than steps that run, and those that
somebody has paused by hand.
"""

import heapq
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

from asyncflow.db.queries import load
from asyncflow.db.records import Demand

SQL = load("steps.sql")

#: rows that are read at once
PAGE = 16

#: priority, turn and id of a step, and its tenant
_Row = tuple[int, int, int, str]
_BEFORE_ALL: _Row = (-(1 << 62), 0, 0, "")


class _Walk:
    """The steps of one consumer in the order of claims, those of a tenant or the first.

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
            priority, turn, step, _tenant = self._after
            after = {"priority": priority, "turn": turn, "step": step}
            args = {**self._args, **after, "limit": self._page}
            rows = self._db.execute(SQL[self._name], args).fetchall()
            yield from map(tuple, rows)
            if len(rows) < self._page:
                return
            self._after = tuple(rows[-1])


class _Merge:
    """Several walks as one."""

    def __init__(self) -> None:
        self._next: list[tuple[_Row, str, Iterator[_Row], bool]] = []

    def __bool__(self) -> bool:
        return bool(self._next)

    def add(self, consumer: str, walk: Iterator[_Row], *, of_fronts: bool) -> None:
        """Go on with *walk*, if it has not ended."""
        row = next(walk, None)
        if row is not None:
            heapq.heappush(self._next, (row, consumer, walk, of_fronts))

    def pop(self) -> tuple[_Row, str, Iterator[_Row], bool]:
        """Return the first of all steps, with the walk that it comes from."""
        return heapq.heappop(self._next)


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


def next_steps(db: sqlite3.Connection, demand: Demand) -> list[int]:
    """Return the ids of the ready steps that are next and that no limit forbids."""
    limits, merge = _Limits(db, demand), _Merge()
    page = min(PAGE, demand.limit)
    for consumer in demand.wants:
        if limits.has_room_for(consumer):
            walk = iter(_Walk(db, "fronts", {"consumer": consumer}, page=page))
            merge.add(consumer, walk, of_fronts=True)
    chosen: list[int] = []
    while merge and len(chosen) < demand.limit:
        row, consumer, walk, of_fronts = merge.pop()
        if not limits.has_room_for(consumer):
            continue
        _priority, _turn, step, tenant = row
        is_allowed = limits.allow(tenant)
        if is_allowed:
            limits.take(consumer, tenant)
            chosen.append(step)
        if of_fronts and is_allowed:
            args = {"consumer": consumer, "tenant": tenant}
            behind = iter(_Walk(db, "behind", args, after=row, page=page))
            merge.add(consumer, behind, of_fronts=False)
        if of_fronts or is_allowed:
            merge.add(consumer, walk, of_fronts=of_fronts)
    return chosen
