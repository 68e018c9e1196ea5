"""The database contract: a private list of named operations, one transaction each.

No SQL and no closures cross it, so that another database can implement the same list.
Reshape it freely: nobody outside this package implements it.

Rules
-----
- An operation that changes what people see returns, or hands to `on_change`, a
  `Change`; `on_change` is called on the loop, in commit order, once for each.
- A stale token never changes anything: the operation says so in its result.
- Times are milliseconds since 1970 (UTC); `lease_until` and `mono` are milliseconds on
  the caller's monotonic clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asyncflow.jobs import (
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
)
from asyncflow.views import JobView, StepView


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """An upload about to be created; its job gets the same id."""

    id: str
    key: str
    owner: str
    tenant: str
    file_name: str
    declared_type: str
    length: int | None
    metadata: Mapping[str, str]
    raw_metadata: str
    expires: int
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRow:
    """An upload as stored. `state` is receiving, complete or ended."""

    seq: int
    id: str
    key: str
    owner: str
    file_name: str
    declared_type: str
    length: int | None
    raw_metadata: str
    state: str
    expires: int | None
    job_state: JobState
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a committed operation changed about one job."""

    job_id: str
    version: int
    state: JobState
    steps: tuple[StepView, ...] = ()
    #: the terminal event, if this change ended the run
    terminal: str | None = None
    #: consumers that have newly ready steps
    ring: frozenset[str] = frozenset()
    #: seconds until a retrying step becomes ready
    due_s: tuple[float, ...] = ()
    #: attempts that must stop: (step, token)
    stop: tuple[tuple[int, int], ...] = ()
    #: bytes were given up: the janitor has work
    trash: bool = False
    #: the job was deleted
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A step that is ours until its lease ends, with all that running it needs."""

    step_id: int
    token: int
    job_id: str
    consumer: str
    gate: bool
    key: str
    size: int
    file_name: str
    declared_type: str
    media_type: str | None
    metadata: Mapping[str, str]
    facts: Mapping[str, Mapping[str, object]]
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A derivative about to be made visible."""

    name: str
    key: str
    media_type: str
    size: int
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended. `plan` and `media_type` come from identify alone."""

    verdict: Verdict
    code: str = ""
    detail: str = ""
    after_s: float = 0.0
    #: a random number in [0, 1) that spreads the back-off
    spread: float = 0.5
    facts: Mapping[str, object] = field(default_factory=dict)
    media_type: str | None = None
    plan: tuple[PlanEntry, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a job that may be downloaded."""

    job_id: str
    name: str
    key: str
    media_type: str
    size: int
    file_name: str
    job_state: JobState
    is_original: bool
    #: every gate has said yes
    accepted: bool
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trash:
    """Bytes that nothing refers to any more."""

    key: str
    is_prefix: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of jobs, newest first; `next` continues after it."""

    jobs: tuple[JobView, ...]
    next: int | None


class Database(Protocol):
    """Jobs, steps, events and uploads."""

    async def start(self) -> None:
        """Open, migrate (after a copy) and get ready. Raise DatabaseTooNew."""
        ...

    async def close(self) -> None:
        """Finish what is queued and let go."""
        ...

    @property
    def trouble(self) -> str | None:
        """Say why writing does not work just now; None: it does."""
        ...

    async def probe(self, now: int) -> None:
        """Write one durable row. Raise DatabaseUnavailable if that fails."""
        ...

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> None:
        """Store the upload and its job (UPLOADING)."""
        ...

    async def find_upload(self, upload_id: str) -> UploadRow:
        """Return the upload. Raise UploadNotFound."""
        ...

    async def accept(
        self, upload_id: str, *, size: int, gates: Sequence[PlanEntry], now: int
    ) -> None:
        """Make the upload complete: job PENDING, `file.uploaded`, its gate steps.

        Doing it again is not an error and changes nothing.
        Raise UploadNotFound or UploadGone.
        """
        ...

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str, now: int
    ) -> bool:
        """End an unfinished upload as CANCELLED or REJECTED; tell whether it was open.

        Its bytes go to the trash; a complete upload is left alone.
        Raise UploadNotFound.
        """
        ...

    async def extend_upload(self, upload_id: str, expires: int) -> None:
        """Move the end of an unfinished upload's time."""
        ...

    async def expired_uploads(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of unfinished uploads whose time is over."""
        ...

    async def unfinished_uploads(self, after: int, limit: int) -> Sequence[UploadRow]:
        """Return a page of unfinished uploads (for recovery), oldest first."""
        ...

    # ----- steps

    async def register(self, consumers: Sequence[Subscription], now: int) -> None:
        """Put consumers into the registry."""
        ...

    async def consumers(self) -> Sequence[Subscription]:
        """Return every registered consumer."""
        ...

    async def claim(
        self,
        consumers: Sequence[str],
        limit: int,
        *,
        worker: str,
        lease_until: int,
        now: int,
    ) -> Sequence[Claimed]:
        """Take up to *limit* ready steps, most urgent first."""
        ...

    async def beat(
        self,
        running: Sequence[tuple[int, int]],
        *,
        lease_until: int,
        mono: int,
        now: int,
        limits: Limits,
    ) -> Sequence[tuple[int, int]]:
        """Renew the leases of *running* (step, token), then free those that are over.

        Returns those of *running* that are no longer ours.
        """
        ...

    async def publish(
        self, step_id: int, token: int, made: Published, now: int
    ) -> bool:
        """Make a derivative visible; False: the token is stale, nothing changed."""
        ...

    async def settle(
        self, step_id: int, token: int, ended: Ended, *, limits: Limits, now: int
    ) -> StepState | None:
        """Store how an attempt ended and all that follows; None: the token is stale."""
        ...

    async def recover(self, *, limits: Limits, now: int) -> int:
        """Free every lease (their owner is dead); return how many there were."""
        ...

    # ----- jobs

    async def retry(self, job_id: str, now: int) -> int:
        """Start a new run of what did not succeed; return its number.

        Raise JobNotFound or JobNotRetryable.
        """
        ...

    async def cancel(self, job_id: str, now: int) -> bool:
        """Close the job as CANCELLED; False: it was over already. Raise JobNotFound."""
        ...

    async def delete(self, job_id: str) -> None:
        """Forget the job; its bytes go to the trash. Raise JobNotFound."""
        ...

    async def job(self, job_id: str) -> JobView:
        """Return the job with its steps and files. Raise JobNotFound."""
        ...

    async def jobs(
        self, *, state: JobState | None, before: int | None, limit: int
    ) -> Page:
        """Return a page of jobs without their steps, newest first."""
        ...

    async def file(self, job_id: str, name: str) -> StoredFile:
        """Return one file. Raise JobNotFound or FileNotAvailable."""
        ...

    async def tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each consumer has in each state."""
        ...

    async def open_uploads(self) -> int:
        """Return how many uploads are unfinished."""
        ...

    async def stored_bytes(self) -> int:
        """Return how many bytes originals and derivatives have."""
        ...

    async def trash(self, limit: int) -> Sequence[Trash]:
        """Return bytes to remove."""
        ...

    async def drop_trash(self, removed: Sequence[str]) -> None:
        """Forget trash whose bytes are gone."""
        ...
