"""What a claim looks at: as much as it takes, whoever waits and whatever is over."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow.db import work
from asyncflow.db.queries import load, migrations
from asyncflow.db.records import Demand
from asyncflow.db.schema import connect, migrate

SQL = load("steps.sql")
FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO step(job_id, event_seq, consumer, lane, tenant, run, state, gate, required,
  priority, turn, max_attempts, options, run_at)
SELECT :job, :from + i, 'noop', iif(:each, :tenant || i, :tenant),
  iif(:each, :tenant || i, :tenant), 1, :state, 0, 1, 0, :from + i, 3, '{}', 0 FROM n
"""
FRONT = "SELECT consumer, lane, priority, turn, step, tenant FROM front ORDER BY 1, 2"
SORTED = """
SELECT consumer, lane, priority, turn, id, tenant FROM (SELECT *, row_number() OVER
  (PARTITION BY consumer, lane ORDER BY priority, turn, id) AS place
  FROM step WHERE state = 'ready')
WHERE place = 1 ORDER BY 1, 2
"""
#: what is left are deeper trees
MOST = 1.5


@dataclass(slots=True)
class Queue:
    """A database of which only the steps matter."""

    db: sqlite3.Connection
    made: int = 0

    def add(
        self, tenant: str, count: int, *, state: str = "ready", each: bool = False
    ) -> None:
        """Add steps behind those there are, of one tenant or *each* of another."""
        told = {"count": count, "from": self.made, "tenant": tenant, "job": 1}
        self.db.execute(FILL, {**told, "state": state, "each": each})
        self.made += count

    def claim(self, limit: int = 2, **more: Any) -> list[str]:
        """Claim; return whose steps those are."""
        taken, _changes = work.claim(
            self.db,
            Demand(
                wants={"noop": limit, "other": limit},
                limit=limit,
                worker="w",
                lease_until=1,
                now=1,
                **more,
            ),
        )
        return [one.tenant for one in taken]

    def cost(self, **more: Any) -> int:
        """Return how many of SQLite's own steps the third of three claims takes."""
        spent = 0

        def count() -> int:
            nonlocal spent
            spent += 1
            return 0

        for _ in range(3):
            spent = 0
            self.db.set_progress_handler(count, 1)
            assert len(self.claim(**more)) == 2
            self.db.set_progress_handler(None, 0)
        return spent


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    path = tmp_path / "asyncflow.db"
    migrate(path, migrations())
    with closing(connect(path)) as db:
        db.execute(
            "INSERT INTO job(id, pid, owner, tenant, state, file_name, declared_type,"
            " created) VALUES(1, 'job', '', '', 'PENDING', '', '', 0)"
        )
        yield Queue(db)


def test_a_claim_costs_the_same_however_many_tenants_wait(queue: Queue) -> None:
    queue.add("one", 20)
    alone = queue.cost()
    queue.add("of-many-", 3000, each=True)

    assert queue.cost() < MOST * alone


def test_a_claim_costs_the_same_however_many_tenants_had_steps(queue: Queue) -> None:
    queue.add("one", 20)
    alone = queue.cost()
    queue.add("of-many-", 3000, each=True, state="done")

    assert queue.cost() < MOST * alone


def test_the_steps_of_a_paused_tenant_are_not_walked(queue: Queue) -> None:
    queue.add("paused", 3000)
    queue.add("one", 20)
    few = queue.cost()
    queue.add("two", 20)

    assert queue.cost(paused=frozenset({"paused"})) < MOST * few
    taken = Counter(queue.claim(30, paused=frozenset({"paused"})))
    assert taken == {"one": 14, "two": 16}


def test_the_steps_of_a_tenant_at_its_limit_are_not_walked(queue: Queue) -> None:
    queue.add("full", 3000)
    queue.add("one", 20)
    queue.add("of-many-", 20, each=True)
    taken = Counter(queue.claim(40, tenant_limit=5))
    assert (taken["full"], taken["one"], taken.total()) == (5, 5, 30)
    queue.add("two", 20)
    few = queue.cost()

    assert queue.cost(tenant_limit=20) < 2 * few


def test_what_is_over_is_read_by_nobody_who_counts(queue: Queue) -> None:
    queue.add("of-many-", 3000, each=True, state="done")
    queue.add("one", 20)

    assert len(queue.db.execute(SQL["tallies"]).fetchall()) == 2


def test_the_first_steps_are_those_that_sorting_gives(queue: Queue) -> None:
    for tenant in ("a", "b", "a", "c", "a"):
        queue.add(tenant, 5)
        queue.claim(4)
        # back in front of those that are behind them
        queue.db.execute(
            "UPDATE step SET state = 'ready', lease_until = NULL"
            " WHERE state = 'running' AND id % 2"
        )
        queue.db.execute("DELETE FROM step WHERE id = (SELECT min(step) FROM front)")
        found = [tuple(one) for one in queue.db.execute(FRONT)]
        assert found
        assert found == [tuple(one) for one in queue.db.execute(SORTED)]
