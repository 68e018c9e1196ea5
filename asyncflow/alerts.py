"""When an operator should look: rules over a few numbers, raised and cleared.

Pure. Each rule has two thresholds, so that a number which trembles around one of them
does not raise and clear an alert every few seconds.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: alerts that are over, and still shown
MOST_PAST: Final = 100
#: attempts in the window below which a rate of failures says nothing
FEWEST_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The numbers at one moment. Shares run from 0 to 1, times are seconds.

    `attempts`, `failures` and `crashes` are those of the last minutes.
    """

    backlog: int
    delayed: int
    backlog_limit: int
    oldest_wait_s: float
    attempts: int
    failures: int
    crashes: int
    disk_used: float
    fill_level: float
    loop_lag_s: float
    wal_bytes: int
    trouble: str | None
    failing_joins: int
    stuck_keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Raised when *measure* reaches *high*, cleared when it is below *low* again."""

    name: str
    says: str
    measure: Callable[[Reading], float]
    high: float
    low: float


def _failure_share(at: Reading) -> float:
    return at.failures / at.attempts if at.attempts >= FEWEST_ATTEMPTS else 0.0


#: documented in docs/howto/watch-a-server.md
RULES: Final = (
    Rule(
        name="backlog",
        says="waiting steps have reached four fifths of the limit",
        measure=lambda at: at.backlog / at.backlog_limit,
        high=0.8,
        low=0.6,
    ),
    Rule(
        name="delayed",
        says="tasks that wait for their time have reached four fifths of the limit",
        measure=lambda at: at.delayed / at.backlog_limit,
        high=0.8,
        low=0.6,
    ),
    Rule(
        name="oldest_wait",
        says="a step has been waiting for more than ten minutes",
        measure=lambda at: at.oldest_wait_s,
        high=600.0,
        low=300.0,
    ),
    Rule(
        name="failures",
        says="more than a fifth of the latest attempts have failed",
        measure=_failure_share,
        high=0.2,
        low=0.1,
    ),
    Rule(
        name="worker_crashes",
        says="five worker processes or more died within five minutes",
        measure=lambda at: float(at.crashes),
        high=5.0,
        low=1.0,
    ),
    Rule(
        name="disk",
        says="the disk is almost as full as it may get",
        measure=lambda at: at.disk_used / at.fill_level,
        high=0.95,
        low=0.92,
    ),
    Rule(
        name="database",
        says="the database cannot write",
        measure=lambda at: 0.0 if at.trouble is None else 1.0,
        high=1.0,
        low=0.5,
    ),
    Rule(
        name="joins",
        says="a file that has come whole cannot be put together",
        measure=lambda at: float(at.failing_joins),
        high=1.0,
        low=1.0,
    ),
    Rule(
        name="trash",
        says="bytes that were deleted cannot be removed",
        measure=lambda at: float(at.stuck_keys),
        high=1.0,
        low=1.0,
    ),
    Rule(
        name="loop_lag",
        says="the event loop runs more than half a second late",
        measure=lambda at: at.loop_lag_s,
        high=0.5,
        low=0.1,
    ),
    Rule(
        name="wal",
        says="the write-ahead log is larger than 256 MiB",
        measure=lambda at: float(at.wal_bytes),
        high=256.0 * (1 << 20),
        low=128.0 * (1 << 20),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that an operator should look at, and since when (ms since 1970)."""

    name: str
    says: str
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """An alert that is over, and until when it was raised.

    None: the server ended first, and nobody knows what came of it.
    """

    alert: Alert
    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An alert was raised, or it was cleared."""

    alert: Alert
    is_raised: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What is known of a turn before this start: when which alert was raised or not."""

    name: str
    at: int
    is_raised: bool


class Alerts:
    """Remembers which alerts are raised, and some of those that were."""

    def __init__(self) -> None:
        self._raised: dict[str, Alert] = {}
        self._past: deque[Past] = deque(maxlen=MOST_PAST)

    def current(self) -> tuple[Alert, ...]:
        """Return what is raised now, in the order of the rules."""
        return tuple(self._raised[r.name] for r in RULES if r.name in self._raised)

    def past(self) -> tuple[Past, ...]:
        """Return the latest alerts that are over, newest first."""
        return tuple(reversed(self._past))

    def states(self) -> Mapping[str, bool]:
        """Tell of every rule whether it is raised."""
        return {rule.name: rule.name in self._raised for rule in RULES}

    def recall(self, turns: Iterable[Noted]) -> None:
        """Begin with what was raised and cleared before this start, oldest first."""
        says = {rule.name: rule.says for rule in RULES}
        known: dict[str, Alert] = {}
        for turn in turns:
            before = known.pop(turn.name, None)
            if before is not None:
                until = None if turn.is_raised else turn.at
                self._past.append(Past(alert=before, until=until))
            if turn.is_raised and turn.name in says:
                name = turn.name
                known[name] = Alert(name=name, says=says[name], since=turn.at)
        self._past.extend(Past(alert=alert, until=None) for alert in known.values())

    def judge(self, at: Reading, now: int) -> tuple[Turn, ...]:
        """Take a new reading; return what it raised and what it cleared."""
        return tuple(self._turns(at, now))

    def _turns(self, at: Reading, now: int) -> Iterator[Turn]:
        for rule in RULES:
            value, known = rule.measure(at), self._raised.get(rule.name)
            if known is None and value >= rule.high:
                alert = Alert(name=rule.name, says=rule.says, since=now)
                self._raised[rule.name] = alert
                yield Turn(alert=alert, is_raised=True)
            elif known is not None and value < rule.low:
                del self._raised[rule.name]
                self._past.append(Past(alert=known, until=now))
                yield Turn(alert=known, is_raised=False)
