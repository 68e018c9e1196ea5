"""The part of the database contract that serves operators: what they see and do.

The rules of `asyncflow.db.base` hold here too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asyncflow.db.records import Usage
from asyncflow.estimates import Spent
from asyncflow.jobs import PlanEntry, Subscription
from asyncflow.views import AuditView, DeadView, RunningView

#: how many lines of the audit are kept
AUDIT_KEPT = 10_000
#: and how many times an alert was raised or cleared
ALERTS_KEPT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody does by hand, for the audit; *at* in milliseconds since 1970."""

    actor: str
    action: str
    target: str
    at: int
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A consumer of the registry, and who has its code.

    *nodes*: this one first, then who came last; *seen*: when the latest registered it.
    """

    subscription: Subscription
    nodes: tuple[str, ...]
    seen: int
    is_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What an operator has stopped for the time being."""

    consumers: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOffset:
    """How far a consumer has come in the event log, whose end is *head*.

    *offset* is the last event that it has nothing to do for any more; *since* is when
    its oldest ready step could have started, None without any.
    """

    offset: int
    head: int
    since: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An event that a replay may begin from."""

    seq: int
    job: int
    job_id: str
    media_type: str | None


class Oversight(Protocol):
    """What an operator sees and does."""

    async def retry_step(
        self, step_id: int, now: int, note: Note | None = None
    ) -> None:
        """Give one dead step another chance. Raise StepNotFound, StepNotRetryable."""
        ...

    async def dead_steps(
        self, consumer: str, after: int, limit: int, *, refused: bool
    ) -> Sequence[int]:
        """Return a page of a consumer's dead steps, oldest first.

        Either those whose file was *refused* by their last attempt, or the others.
        """
        ...

    async def dead_letters(
        self, consumer: str, *, before: int | None, limit: int, refused: bool
    ) -> Sequence[DeadView]:
        """Return a page of what `dead_steps` names, newest first."""
        ...

    async def refusals(self) -> Mapping[str, int]:
        """Return how many of each consumer's dead steps are refusals of a file."""
        ...

    async def running_steps(self, limit: int) -> Sequence[RunningView]:
        """Return the steps that run now, oldest first."""
        ...

    async def cancel_step(
        self, step_id: int, now: int, note: Note | None = None
    ) -> None:
        """Take one open step back; its job goes on without it.

        A gate, and the only step of a task, take their job with them.
        Raise StepNotFound, StepNotOpen.
        """
        ...

    async def forget(self, consumer: str, *, node: str, note: Note) -> None:
        """Forget who else than *node* has a consumer.

        Steps that wait for it are skipped if nobody has it any more.
        """
        ...

    async def pause(
        self, kind: str, name: str, *, on: bool, now: int, note: Note | None = None
    ) -> None:
        """Stop a consumer or a tenant for the time being, or let it go on."""
        ...

    async def pauses(self) -> Paused:
        """Return what is stopped."""
        ...

    async def causes(
        self, kind: str, *, since: int, after: int, limit: int
    ) -> Sequence[Cause]:
        """Return a page of the log: events of one type, from a moment on."""
        ...

    async def replay(self, causes: Sequence[Cause], entry: PlanEntry, now: int) -> int:
        """Give the jobs of *causes* to a consumer once more, beside their runs.

        Returns how many: a job with an open step of this consumer is left out.
        """
        ...

    async def note(self, note: Note) -> int:
        """Keep what somebody has done by hand, or is about to; return the entry's id.

        Only the newest are kept. What the server notes as `alert.raised` or
        `alert.cleared` stands apart. A *note* that another operation takes is kept if
        what it does is, and only then.
        """
        ...

    async def amend(self, entry: int, detail: Mapping[str, object]) -> None:
        """Say in an entry of the audit what has come of it."""
        ...

    async def audits(
        self, *, before: int | None, limit: int, of_alerts: bool = False
    ) -> Sequence[AuditView]:
        """Return a page of what was done by hand, or of alerts, newest first."""
        ...

    # ----- what has had its time

    async def finished_jobs(self, before: int, limit: int) -> Sequence[str]:
        """Return ids of jobs that ended before *before*, oldest first."""
        ...

    async def drop_originals(self, before: int, limit: int) -> int:
        """Give up the originals of jobs that ended before *before*; return how many.

        Their results stay; they cannot be retried any more.
        """
        ...

    async def orphans(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of *keys* that no row names and no running step has made."""
        ...

    # ----- numbers

    async def usage(self) -> Mapping[str, int]:
        """Return how many bytes the originals and derivatives of each tenant have."""
        ...

    async def usage_of(self, tenants: Collection[str]) -> Usage:
        """Return what is counted for all, and for each of *tenants* that has some.

        However many others there are.
        """
        ...

    async def lately(self, since: int) -> Sequence[tuple[int, str, int]]:
        """Return how many uploads and ends of jobs there were in each minute.

        Minutes since 1970, the event's type and the number; of the newest events only.
        """
        ...

    async def tenant_tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each tenant has in each state."""
        ...

    async def log_offsets(self) -> Mapping[str, LogOffset]:
        """Return how far each registered consumer has come."""
        ...

    async def latest_done(self, limit: int) -> Sequence[Spent]:
        """Return what the latest successful steps took, oldest first."""
        ...

    async def keep_room(self) -> None:
        """See that there is room for writes that make room, on a full disk too."""
        ...

    async def forget_idle(self) -> None:
        """Drop counters that stand at nothing, and lanes that are not ahead."""
        ...
