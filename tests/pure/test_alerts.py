"""The rules of alerts."""

from dataclasses import replace
from typing import Any

import pytest

from asyncflow.alerts import MOST_PAST, RULES, Alerts, Noted, Reading

CALM = Reading(
    backlog=0,
    delayed=0,
    backlog_limit=100,
    oldest_wait_s=0.0,
    attempts=100,
    failures=0,
    crashes=0,
    disk_used=0.5,
    fill_level=0.9,
    loop_lag_s=0.0,
    wal_bytes=0,
    trouble=None,
    failing_joins=0,
    stuck_keys=0,
)
#: rule -> a reading that raises it, one between its thresholds, one that clears it
READINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "backlog": ({"backlog": 80}, {"backlog": 70}, {"backlog": 59}),
    "delayed": ({"delayed": 80}, {"delayed": 70}, {"delayed": 59}),
    "oldest_wait": (
        {"oldest_wait_s": 600.0},
        {"oldest_wait_s": 400.0},
        {"oldest_wait_s": 299.0},
    ),
    "failures": ({"failures": 20}, {"failures": 15}, {"failures": 9}),
    "worker_crashes": ({"crashes": 5}, {"crashes": 1}, {"crashes": 0}),
    "disk": ({"disk_used": 0.86}, {"disk_used": 0.84}, {"disk_used": 0.8}),
    "database": ({"trouble": "no"}, {"trouble": "no"}, {"trouble": None}),
    "joins": ({"failing_joins": 3}, {"failing_joins": 1}, {"failing_joins": 0}),
    "trash": ({"stuck_keys": 3}, {"stuck_keys": 1}, {"stuck_keys": 0}),
    "loop_lag": ({"loop_lag_s": 0.5}, {"loop_lag_s": 0.2}, {"loop_lag_s": 0.05}),
    "wal": ({"wal_bytes": 256 << 20}, {"wal_bytes": 200 << 20}, {"wal_bytes": 1}),
}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_an_alert_is_raised_once_and_cleared_once(name: str) -> None:
    high, between, low = (replace(CALM, **said) for said in READINGS[name])
    alerts = Alerts()

    assert alerts.judge(CALM, 1) == ()
    (raised,) = alerts.judge(high, 2)
    assert (raised.alert.name, raised.is_raised, raised.alert.since) == (name, True, 2)
    # a number that trembles says nothing new
    assert alerts.judge(between, 3) == ()
    assert alerts.judge(high, 4) == ()
    assert [one.name for one in alerts.current()] == [name]
    assert alerts.states()[name]
    (cleared,) = alerts.judge(low, 5)
    assert (cleared.alert.name, cleared.is_raised) == (name, False)
    assert alerts.current() == ()
    (past,) = alerts.past()
    assert (past.alert.name, past.alert.since, past.until) == (name, 2, 5)


def test_alerts_of_before_a_start_are_recalled() -> None:
    turns = [("disk", 1, True), ("disk", 2, False), ("no rule", 3, True)]
    turns += [("wal", 4, True), ("wal", 5, True), ("wal", 6, False), ("disk", 7, True)]
    alerts = Alerts()
    alerts.recall(Noted(name=n, at=at, is_raised=on) for n, at, on in turns)

    past = [(one.alert.name, one.alert.since, one.until) for one in alerts.past()]
    # what was not cleared ended with its server
    assert past == [
        ("disk", 7, None),
        ("wal", 5, 6),
        ("wal", 4, None),
        ("disk", 1, 2),
    ]
    assert alerts.current() == ()


def test_only_the_latest_alerts_that_are_over_are_kept() -> None:
    alerts = Alerts()
    for now in range(0, 2 * (MOST_PAST + 7), 2):
        alerts.judge(replace(CALM, trouble="no"), now)
        alerts.judge(CALM, now + 1)
    kept = alerts.past()
    assert len(kept) == MOST_PAST
    ends = [one.until or 0 for one in kept]
    assert ends == sorted(ends, reverse=True)
    assert kept[0].until == 2 * (MOST_PAST + 6) + 1


def test_a_few_failures_of_a_few_attempts_are_no_alert() -> None:
    assert Alerts().judge(replace(CALM, attempts=19, failures=19), 1) == ()


def test_several_alerts_are_told_in_the_order_of_the_rules() -> None:
    alerts = Alerts()
    bad = replace(CALM, backlog=100, trouble="no", loop_lag_s=1.0)

    assert [t.alert.name for t in alerts.judge(bad, 1)] == [
        "backlog",
        "database",
        "loop_lag",
    ]
