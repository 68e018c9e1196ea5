"""What people and programs see of a job: the shapes of the JSON we send.

Pure. Names are camelCase on the wire, progress runs from 0 to 100, times are seconds,
timestamps ISO 8601 UTC. A field without a value is `null`, never absent.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from asyncflow.jobs import FINAL_STEP, JobKind, JobState, PlanEntry, StepState


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of everything that is sent."""


class ErrorView(View, frozen=True, kw_only=True):
    """Why something ended badly, or does not go on.

    `step` names the consumer, if one is to blame.
    """

    code: str
    detail: str
    step: str | None = None


class StepView(View, frozen=True, kw_only=True):
    """One consumer's share of a job."""

    name: str
    status: StepState
    progress: float = 0.0
    attempts: int = 0
    required: bool = True
    error: ErrorView | None = None
    started_at: str | None = None
    finished_at: str | None = None
    next_retry: str | None = None
    not_before: str | None = None


class DeadView(View, frozen=True, kw_only=True):
    """A dead letter: a step that failed for good."""

    step_id: int
    step: str
    job_id: str
    kind: JobKind
    file_name: str
    tenant: str
    failures: int
    detached: bool
    error: ErrorView | None
    #: the exception's type and message
    cause: str | None
    finished_at: str | None


class RunningView(View, frozen=True, kw_only=True):
    """A step that is being worked on. `worker` is the server's host and process.

    `waiting`: it has been claimed, and waits for a worker process.
    """

    step_id: int
    step: str
    job_id: str
    kind: JobKind
    file_name: str
    tenant: str
    attempt: int
    detached: bool
    worker: str | None
    started_at: str | None
    progress: float = 0.0
    waiting: bool = False


class UploadingView(View, frozen=True, kw_only=True):
    """An unfinished upload. `received` bytes have come, durable or not.

    `error`: why it is not complete although all of it has come.
    """

    job_id: str
    file_name: str
    length: int | None
    received: int
    dialect: str
    tenant: str
    is_part: bool
    error: ErrorView | None = None


class AuditView(View, frozen=True, kw_only=True):
    """Something that somebody has done by hand."""

    id: int
    at: str | None
    actor: str
    action: str
    target: str
    detail: Mapping[str, object]


class AttemptView(View, frozen=True, kw_only=True):
    """An attempt that did not succeed: the history of a dead letter."""

    step: str
    run: int
    verdict: str
    code: str
    detail: str
    #: the exception's type and message, and where it came from
    cause: str | None
    traceback: str | None
    worker: str | None
    started_at: str | None
    finished_at: str | None


class EventView(View, frozen=True, kw_only=True):
    """Something that happened to a job."""

    seq: int
    type: str
    run: int
    at: str | None


class FileView(View, frozen=True, kw_only=True):
    """A derivative: its key in the store and what is known about it."""

    name: str
    step: str
    key: str
    media_type: str
    size: int
    sha256: str | None = None
    facts: Mapping[str, object] = {}


class JobView(View, frozen=True, kw_only=True):
    """A job, as `GET /status/{jobId}` answers."""

    job_id: str
    kind: JobKind = JobKind.FILE
    status: JobState
    file_name: str
    file_size: int | None
    uploaded_bytes: int | None = None
    media_type: str | None = None
    processing_type: str | None = None
    metadata: Mapping[str, str] = {}
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    failed_at: str | None = None
    progress: float = 0.0
    estimated_time_remaining: float | None = None
    accepted: bool = False
    #: false: the original was removed after its time, or there never was one
    original_kept: bool = True
    run: int = 1
    retry_count: int = 0
    next_retry: str | None = None
    steps: tuple[StepView, ...] = ()
    files: tuple[FileView, ...] = ()
    processed_files: Mapping[str, Mapping[str, str]] = {}
    download_urls: Mapping[str, str] = {}
    facts: Mapping[str, Mapping[str, object]] = {}
    error: ErrorView | None = None
    version: int

    def with_estimate(self, seconds: float | None) -> "JobView":
        """Return the job with how long it should still take."""
        rounded = None if seconds is None else round(seconds, 3)
        return msgspec.structs.replace(self, estimated_time_remaining=rounded)


def timestamp(ms: int | None) -> str | None:
    """Return milliseconds since 1970 as ISO 8601 UTC with milliseconds."""
    if ms is None:
        return None
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(text: str | None) -> int | None:
    """Return what `timestamp` has written as milliseconds since 1970."""
    if text is None:
        return None
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def waiting(plan: tuple[PlanEntry, ...], known: set[str]) -> tuple[StepView, ...]:
    """Return the steps of *plan* that have no row yet."""
    return tuple(
        StepView(name=entry.consumer, status=StepState.WAITING, required=entry.required)
        for entry in plan
        if entry.consumer not in known
    )


def share_done(steps: tuple[StepView, ...]) -> float:
    """Return the mean progress of *steps*, 0 to 100; one that is over counts whole."""
    if not steps:
        return 0.0
    total = sum(100.0 if s.status in FINAL_STEP else s.progress for s in steps)
    return round(total / len(steps), 1)
