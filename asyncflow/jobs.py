"""Jobs and steps: their states, and the rules that move them.

Pure: no I/O, no clock, no randomness. The database operations call these rules inside
their transactions, so that the rows they decide on are the true ones.

Theory of operation
-------------------
A job is the set of steps caused by its events. An event written into the log creates,
in the same transaction, one step per plan entry that subscribes to it; `open` counts
the steps of the current run that are not final. The step that brings `open` to zero
decides how the run ends. Gates come first: only `file.uploaded` creates them, and the
last yes writes `file.accepted`, which creates the others. A task or an application
event is a job without a file: its first event creates its steps.

Whose job is next is decided by turns. The lanes (a client, an owner, a tenant) that
have something ready take turns, job by job, and who begins comes before the next turn
of those who had theirs (`db.fronts`). Within a lane jobs have numbers, and a step has
its job's, shifted by its consumer's priority. So whoever comes with one file stands at
the front, however many files somebody else has waiting.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

UPLOADED = "file.uploaded"
ACCEPTED = "file.accepted"
SUBMITTED = "task.submitted"
#: the owner of everything while there are no accounts
NOBODY = "local"
#: a step that asks for another time is dead when it has done so this often: by then
#: almost five days have passed, and each time is a line of its history
MOST_WAITS = 1000
LONGEST_LEAST_WAIT_S = 600.0
LONGEST_WAIT_S = 86_400.0


class JobKind(enum.StrEnum):
    """What a job is about."""

    FILE = "file"
    TASK = "task"
    EVENT = "event"


class JobState(enum.StrEnum):
    """Where a job is."""

    UPLOADING = "UPLOADING"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Tell whether the run is over."""
        return self in FINAL_JOB


class StepState(enum.StrEnum):
    """Where a step is. `waiting` is planned, or its time has not come."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    SKIPPED = "skipped"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Tell whether the step is over for this run."""
        return self in FINAL_STEP


FINAL_JOB = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.REJECTED, JobState.CANCELLED}
)
FINAL_STEP = frozenset(
    {StepState.DONE, StepState.SKIPPED, StepState.DEAD, StepState.CANCELLED}
)

#: state -> {what happens: state}; docs/explanation/state-machines.md is drawn from it
JOB_TRANSITIONS: Mapping[JobState, Mapping[str, JobState]] = {
    JobState.UPLOADING: {
        "last byte stored": JobState.PENDING,
        "refused while uploading": JobState.REJECTED,
        "terminated or expired": JobState.CANCELLED,
    },
    JobState.PENDING: {
        "first step claimed": JobState.PROCESSING,
        "cancelled": JobState.CANCELLED,
    },
    JobState.PROCESSING: {
        "last step over, none required dead or cancelled": JobState.COMPLETED,
        "last step over, a required one dead": JobState.FAILED,
        "last step over, a required one cancelled": JobState.CANCELLED,
        "a gate said no": JobState.REJECTED,
        "cancelled": JobState.CANCELLED,
    },
    JobState.COMPLETED: {"dead step retried": JobState.PROCESSING},
    JobState.FAILED: {"dead step retried": JobState.PROCESSING},
    JobState.REJECTED: {"gate retried": JobState.PROCESSING},
    JobState.CANCELLED: {"retried": JobState.PROCESSING},
}

STEP_TRANSITIONS: Mapping[StepState, Mapping[str, StepState]] = {
    StepState.WAITING: {
        "its event written": StepState.READY,
        "its time has come": StepState.READY,
        "job closed": StepState.CANCELLED,
    },
    StepState.READY: {
        "claimed": StepState.RUNNING,
        "cancelled or job closed": StepState.CANCELLED,
    },
    StepState.RUNNING: {
        "succeeded": StepState.DONE,
        "tool missing": StepState.SKIPPED,
        "failed, attempts left": StepState.RETRYING,
        "failed for good": StepState.DEAD,
        "lease lost or server stopped": StepState.READY,
        "cancelled or job closed": StepState.CANCELLED,
    },
    StepState.RETRYING: {
        "back-off over": StepState.READY,
        "cancelled or job closed": StepState.CANCELLED,
    },
    StepState.DONE: {},
    StepState.SKIPPED: {"retried": StepState.READY},
    StepState.DEAD: {"retried": StepState.READY},
    StepState.CANCELLED: {"retried": StepState.READY},
}

#: how the types of the events end that say that a step is over
STEP_ENDINGS = ("completed", "skipped", "dead")

#: final job state -> the event that says so
TERMINAL_EVENTS: Mapping[JobState, str] = {
    JobState.COMPLETED: "job.completed",
    JobState.FAILED: "job.failed",
    JobState.REJECTED: "job.rejected",
    JobState.CANCELLED: "job.cancelled",
}

#: why a step or job ended badly: code -> plain words; documented in errors.md
REASONS: Mapping[str, str] = {
    "unsupported_type": "files of this type are refused",
    "type_mismatch": "the content is not of the declared kind",
    "empty_file": "the file has no bytes",
    "too_many_pixels": "the picture has more pixels than allowed",
    "too_many_pages": "the document has more pages than allowed",
    "too_complex": "the document unpacks to more than allowed",
    "encrypted": "the file needs a password",
    "truncated": "the file ends too early",
    "damaged": "the file cannot be read",
    "timeout": "the step ran longer than allowed",
    "out_of_memory": "the step needed more memory than allowed",
    "too_many_processes": "the step had more processes, threads or files than allowed",
    "too_much_output": "the step wrote more files, or larger ones, than allowed",
    "quota_exceeded": "what the step made is more than may be stored",
    "crashed": "the worker process died",
    "interrupted": "the server stopped too often while this step ran",
    "error": "the processor failed",
    "bad_output": "the processor made what it may not make",
    "try_later": "something outside was not ready",
    "missing_tool": "a tool that this step needs is not installed",
    "no_text": "there is no text in this picture",
    "switched_off": "this step is switched off for files of this kind",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One consumer of a job's resolved plan."""

    consumer: str
    on: str
    gate: bool = False
    required: bool = True
    priority: int = 0
    max_attempts: int = 3
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often a step may fail for each kind of reason before it is dead."""

    attempts: int = 3
    lost: int = 3
    interrupted: int = 10


class Charge(enum.StrEnum):
    """Which of a step's counters an ended attempt raises."""

    NONE = "none"
    ATTEMPT = "attempt"
    LOST = "lost"
    INTERRUPTED = "interrupted"


class Verdict(enum.StrEnum):
    """How an attempt ended, before the rules decide what that means."""

    DONE = "done"
    SKIPPED = "skipped"
    BAD_FILE = "bad_file"
    BAD_OUTPUT = "bad_output"
    TRY_LATER = "try_later"
    ERROR = "error"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often a step has failed in this run, by kind."""

    attempts: int
    lost: int
    interrupted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What becomes of a step after an attempt."""

    state: StepState
    failures: Failures
    delay_s: float = 0.0


CHARGES: Mapping[Verdict, Charge] = {
    Verdict.DONE: Charge.NONE,
    Verdict.SKIPPED: Charge.NONE,
    Verdict.BAD_FILE: Charge.ATTEMPT,
    Verdict.BAD_OUTPUT: Charge.ATTEMPT,
    Verdict.TRY_LATER: Charge.NONE,
    Verdict.ERROR: Charge.ATTEMPT,
    Verdict.LOST: Charge.LOST,
    Verdict.INTERRUPTED: Charge.INTERRUPTED,
    Verdict.RELEASED: Charge.NONE,
}


def backoff_s(failures: int, spread: float) -> float:
    """Return the pause after the *failures*-th failure: full jitter under 2^n seconds.

    *spread* is a random number in [0, 1); an hour is the ceiling.
    """
    return spread * min(3600.0, float(2**failures))


def wait_s(waits: int, after_s: float) -> float:
    """Return the pause of a step that asks for *after_s* seconds, the *waits*-th time.

    At least as many seconds as it has asked times, up to ten minutes: who asks for no
    pause costs the others less and less. A day is the ceiling.
    """
    least = min(LONGEST_LEAST_WAIT_S, float(waits))
    return min(LONGEST_WAIT_S, max(least, after_s))


def after_attempt(
    verdict: Verdict,
    before: Failures,
    limits: Limits,
    *,
    spread: float,
    after_s: float = 0.0,
    waits: int = 1,
) -> Next:
    """Decide what becomes of a step whose attempt ended with *verdict*.

    *after_s* is the pause that a `TRY_LATER` asked for, and *waits* how often the step
    has asked for one in this run.
    """
    charge = CHARGES[verdict]
    now = Failures(
        attempts=before.attempts + (charge is Charge.ATTEMPT),
        lost=before.lost + (charge is Charge.LOST),
        interrupted=before.interrupted + (charge is Charge.INTERRUPTED),
    )
    match verdict:
        case Verdict.DONE:
            return Next(state=StepState.DONE, failures=now)
        case Verdict.SKIPPED:
            return Next(state=StepState.SKIPPED, failures=now)
        case Verdict.BAD_FILE | Verdict.BAD_OUTPUT:
            return Next(state=StepState.DEAD, failures=now)
        case Verdict.TRY_LATER:
            spent = waits >= MOST_WAITS
            state = _dead_or(StepState.RETRYING, spent)
            pause = 0.0 if spent else wait_s(waits, after_s)
            return Next(state=state, failures=now, delay_s=pause)
        case Verdict.RELEASED:
            return Next(state=StepState.READY, failures=now)
        case Verdict.INTERRUPTED:
            spent = now.interrupted >= limits.interrupted
            return Next(state=_dead_or(StepState.READY, spent), failures=now)
        case Verdict.ERROR | Verdict.LOST:
            spent = now.attempts >= limits.attempts or now.lost >= limits.lost
            pause = backoff_s(now.attempts + now.lost, spread)
            state = _dead_or(StepState.RETRYING, spent)
            return Next(state=state, failures=now, delay_s=0.0 if spent else pause)


def _dead_or(state: StepState, spent: bool) -> StepState:  # noqa: FBT001 -- private
    return StepState.DEAD if spent else state


def lane_of(tenant: str, owner: str, client: str = "") -> str:
    """Return the lane of somebody's jobs; without accounts, each client has its own.

    None is that of two tenants, whatever they are called.
    """
    return f"{tenant!r}/{client if owner == NOBODY else owner}"


def lets_go_on(state: StepState, *, required: bool) -> bool:
    """Tell whether who follows a step that is over works, though it left nothing.

    So that no required step is left out for the sake of one that is not: what follows
    works on the original. Behind a required step that is dead or cancelled nothing has
    to: its job does not succeed.
    """
    given_up = state in {StepState.DEAD, StepState.CANCELLED}
    return state is StepState.SKIPPED or (given_up and not required)


def ends_as(missing: StepState | None) -> JobState:
    """Decide how a run ends whose last step is over.

    *missing* is how a required step ended that did not succeed: one that is dead, if
    there is such, before one that was cancelled.
    """
    if missing is None:
        return JobState.COMPLETED
    return JobState.FAILED if missing is StepState.DEAD else JobState.CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A consumer as the registry knows it: its plan entry and what it takes."""

    entry: PlanEntry
    accepts: tuple[str, ...] = ()

    def wants(self, media_type: str) -> bool:
        """Tell whether this consumer takes files of *media_type*."""
        return any(fnmatch(media_type, pattern) for pattern in self.accepts)


def plan_for(
    media_type: str, consumers: Iterable[Subscription]
) -> tuple[PlanEntry, ...]:
    """Return the plan of a file of *media_type*: who takes it, in priority order."""
    taken = [c.entry for c in consumers if c.wants(media_type)]
    return reachable((UPLOADED, ACCEPTED), taken)


def plan_of_event(
    kind: str, consumers: Iterable[Subscription]
) -> tuple[PlanEntry, ...]:
    """Return the plan of an application event of type *kind*: who hears of it."""
    return reachable((kind,), [c.entry for c in consumers if not c.entry.gate])


def tasks(consumers: Iterable[Subscription]) -> tuple[str, ...]:
    """Return the names of those of *consumers* that are tasks."""
    return tuple(c.entry.consumer for c in consumers if c.entry.on == SUBMITTED)


def plan_of_task(
    name: str, consumers: Iterable[Subscription]
) -> tuple[PlanEntry, ...] | None:
    """Return the plan of the task called *name*; None: there is no such task."""
    entries = [c.entry for c in consumers]
    own = [e for e in entries if e.consumer == name and e.on == SUBMITTED]
    others = [e for e in entries if e.on != SUBMITTED]
    return reachable((SUBMITTED,), [*own, *others]) if own else None


def reachable(
    begins: Iterable[str], entries: Iterable[PlanEntry]
) -> tuple[PlanEntry, ...]:
    """Return those of *entries* that the events *begins*, or each other, can cause."""
    left, taken, happening = list(entries), [], set(begins)
    while True:
        found = [entry for entry in left if entry.on in happening]
        if not found:
            break
        taken += found
        left = [entry for entry in left if entry.on not in happening]
        happening = {f"{e.consumer}.{how}" for e in found for how in STEP_ENDINGS}
    return tuple(sorted(taken, key=lambda e: (not e.gate, e.priority, e.consumer)))
