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

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asyncflow.db.oversight import Oversight
from asyncflow.jobs import (
    JobKind,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
)
from asyncflow.uploads import Saying, UploadState
from asyncflow.views import AttemptView, EventView, JobView, StepView


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A client's Idempotency-Key, and a fingerprint of the request that carries it."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """An upload about to be created; its job gets the same id.

    *is_part*: it only holds bytes for another upload and has no job that anybody sees.
    *parts*: it is joined from so many of those, *places*: the parts that have their
    place from the beginning. *chosen*: its client chose the id.
    """

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
    client: str = ""
    #: how many uploads the client may have open, this one included
    client_limit: int = sys.maxsize
    dialect: str = ""
    is_part: bool = False
    parts: int | None = None
    places: tuple[str, ...] = ()
    concat: str = ""
    digest: str = ""
    chosen: bool = False
    once: Once | None = None
    #: smaller is sooner, before all turns
    priority: int = 0
    pipeline: str = ""
    #: the request's name in the log
    request: str = ""

    def as_stored(self) -> "UploadRow":
        """Return what the database holds of the upload as soon as it is created."""
        return UploadRow(
            seq=0,
            id=self.id,
            key=self.key,
            owner=self.owner,
            tenant=self.tenant,
            file_name=self.file_name,
            declared_type=self.declared_type,
            length=self.length,
            raw_metadata=self.raw_metadata,
            state=UploadState.RECEIVING,
            expires=self.expires,
            job_state=JobState.UPLOADING,
            version=1,
            dialect=self.dialect,
            is_part=self.is_part,
            parts=self.parts,
            concat=self.concat,
            digest=self.digest,
            checked_from=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A task, or an application event of type *name*, about to become a job.

    *payload* is JSON. *run_at*: its first steps wait until then.
    """

    id: str
    kind: JobKind
    name: str
    payload: str
    plan: tuple[PlanEntry, ...]
    owner: str
    tenant: str
    now: int
    lane: str = ""
    priority: int = 0
    run_at: int | None = None
    once: Once | None = None
    #: the request's name in the log
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRow:
    """An upload as stored. `state` is receiving, complete or ended."""

    seq: int
    id: str
    key: str
    owner: str
    tenant: str
    file_name: str
    declared_type: str
    length: int | None
    raw_metadata: str
    state: str
    expires: int | None
    job_state: JobState
    version: int
    dialect: str
    is_part: bool
    parts: int | None
    concat: str
    digest: str
    checked_from: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A part of a joined upload. `state` is None once the part is gone."""

    n: int
    part: str
    state: str | None
    length: int | None
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a committed operation changed about one job."""

    job_id: str
    version: int
    state: JobState
    kind: JobKind = JobKind.FILE
    steps: tuple[StepView, ...] = ()
    #: the terminal event, if this change ended the run
    terminal: str | None = None
    #: consumers that have newly ready steps
    ring: frozenset[str] = frozenset()
    #: consumers, and in how many seconds a step of theirs becomes ready
    due: tuple[tuple[str, float], ...] = ()
    #: attempts that must stop: (step, token)
    stop: tuple[tuple[int, int], ...] = ()
    #: steps that failed for good, those of replays too: (consumer, last verdict)
    died: tuple[tuple[str, Verdict], ...] = ()
    #: bytes were given up: the janitor has work
    trash: bool = False
    #: the job was deleted
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A step that is ours until its lease ends, with all that running it needs.

    *key* is where the file's bytes are, None for a job without a file; *payload* is the
    JSON of a task or an event. *request* is the name of the request that began the job.
    *attempt* counts how often the step was begun. A *detached* step is a replay.
    """

    step_id: int
    token: int
    job_id: str
    consumer: str
    tenant: str
    kind: JobKind
    attempt: int
    gate: bool
    detached: bool
    pipeline: str
    payload: str | None
    key: str | None
    size: int | None
    file_name: str
    declared_type: str
    media_type: str | None
    metadata: Mapping[str, str]
    facts: Mapping[str, Mapping[str, object]]
    options: Mapping[str, object]
    request: str
    #: whose turn it is: the smallest goes first
    place: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Which steps somebody could run: at most *limit*, and so many of each consumer.

    Of the consumers *long* together at most *most_long*.
    No tenant of *paused* gets any; none gets more than *tenant_limit* at once.
    """

    wants: Mapping[str, int]
    limit: int
    worker: str
    lease_until: int
    now: int
    long: frozenset[str] = frozenset()
    most_long: int = 0
    paused: frozenset[str] = frozenset()
    tenant_limit: int = sys.maxsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A derivative about to be made visible."""

    name: str
    key: str
    media_type: str
    #: bytes in the store
    size: int
    facts: Mapping[str, object]
    #: '' or 'gzip': then *length* is that of the file itself
    coding: str = ""
    length: int | None = None
    #: hashes in hexadecimal, of what is stored and of the file itself
    sha256: str = ""
    plain_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended. `plan` and `media_type` come from identify alone.

    `made` are the files of a replay: they replace the old ones when it has succeeded.
    `detail` is for everybody who may see the job, `cause` (the exception's type and
    message) and `trace` are for the operator.
    """

    verdict: Verdict
    code: str = ""
    detail: str = ""
    cause: str = ""
    trace: str = ""
    after_s: float = 0.0
    #: a random number in [0, 1) that spreads the back-off
    spread: float = 0.5
    facts: Mapping[str, object] = field(default_factory=dict)
    media_type: str | None = None
    plan: tuple[PlanEntry, ...] | None = None
    made: tuple[Published, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a job that may be downloaded."""

    job_id: str
    name: str
    key: str
    media_type: str
    #: bytes in the store, and bytes of the file itself
    size: int
    length: int
    coding: str
    #: in hexadecimal, '' where not known
    sha256: str
    plain_sha256: str
    file_name: str
    job_state: JobState
    is_original: bool
    #: every gate has said yes
    accepted: bool
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a job is."""

    owner: str
    tenant: str


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


class Database(Oversight, Protocol):
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

    async def create_upload(self, new: NewUpload) -> str:
        """Store the upload and its job (UPLOADING); return its id.

        Another id, or the chosen one again: such an upload is there already, by the
        same Idempotency-Key or by the chosen id; nothing was stored.
        Raise KeyReused, TooManyUploads.
        """
        ...

    async def created_before(self, owner: str, once: Once) -> str | None:
        """Return what a request with this Idempotency-Key has created; None: nothing.

        Raise KeyReused.
        """
        ...

    async def find_upload(self, upload_id: str) -> UploadRow:
        """Return the upload. Raise UploadNotFound."""
        ...

    async def accept(
        self, upload_id: str, *, size: int, gates: Sequence[PlanEntry], now: int
    ) -> None:
        """Make the upload complete: job PENDING, `file.uploaded`, its gate steps.

        A part becomes complete and nothing follows, but that what it is joined from
        with others does not expire, nor they, once all of them are there. Parts of an
        upload that is complete live a while longer; those without a name are given up.
        Doing it again is not an error and changes nothing.
        Raise UploadNotFound or UploadGone.
        """
        ...

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str, now: int
    ) -> bool:
        """End an unfinished upload as CANCELLED or REJECTED; tell whether it was open.

        Its bytes go to the trash; a complete upload is left alone, a part is forgotten.
        Parts that no client can name end with what they have a place in, and only so.
        Raise UploadNotFound.
        """
        ...

    async def extend_upload(self, upload_id: str, expires: int) -> None:
        """Move the end of an unfinished upload's, or of a part's, time.

        What waits for a part, and that one's other parts, get no less.
        """
        ...

    async def give_up_strays(self, last: int) -> None:
        """Give up complete parts without name and place, up to the row id *last*."""
        ...

    async def drop_parts(self, limit: int) -> int:
        """Move some of the given-up parts to the trash; return how many."""
        ...

    async def set_length(self, upload_id: str, length: int) -> bool:
        """Store a length not known before; False: it is known, and another."""
        ...

    async def set_checked_from(self, upload_id: str, at: int | None) -> None:
        """Store where a chunk begins whose checksum is still to be seen; None: none."""
        ...

    async def set_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that the whole unfinished upload must have."""
        ...

    async def say(self, upload_id: str, saying: Saying) -> bool:
        """Store what is said of an unfinished upload; False: it was not so before."""
        ...

    async def take_place(
        self, final_id: str, n: int, part_id: str, saying: Saying | None = None
    ) -> str | None:
        """Put a part into place *n*; return which part is there (the first stays).

        Who comes later says nothing. None: see `say`; the part has no place.
        Raise UploadGone if the upload has ended.
        """
        ...

    async def places(self, final_id: str) -> Sequence[Place]:
        """Return the parts of a joined upload in their order."""
        ...

    async def finals_of(self, part_id: str) -> Sequence[str]:
        """Return the unfinished uploads that a part has a place in."""
        ...

    async def open_uploads_of(self, client: str) -> int:
        """Return how many unfinished uploads are counted for a client."""
        ...

    async def expired_uploads(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of unfinished uploads, and of parts, whose time is over."""
        ...

    async def latest_upload(self) -> int:
        """Return the row id of the upload that was created last; 0: there is none."""
        ...

    async def unfinished_uploads(self, after: int, limit: int) -> Sequence[UploadRow]:
        """Return a page of unfinished uploads (for recovery), oldest first."""
        ...

    # ----- steps

    async def register(self, consumers: Sequence[Subscription], now: int) -> None:
        """Put consumers into the registry.

        Where this program is the only host, it forgets all others and skips the steps
        that wait for them: nobody will ever take them.
        """
        ...

    async def consumers(self) -> Sequence[Subscription]:
        """Return every registered consumer."""
        ...

    async def claim(self, demand: Demand) -> Sequence[Claimed]:
        """Take ready steps: by priority, then by turn."""
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
        self,
        step_id: int,
        token: int,
        ended: Ended,
        *,
        limits: Limits,
        now: int,
        patient: bool = False,
    ) -> StepState | None:
        """Store how an attempt ended and all that follows; None: the token is stale.

        If *patient*, that may wait a moment for other writes.
        """
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
        self,
        *,
        state: JobState | None,
        before: int | None,
        limit: int,
        search: str = "",
    ) -> Page:
        """Return a page of jobs without their steps, newest first.

        *search* is a part of the file's name or of the job's id, in any ASCII case.
        """
        ...

    async def attempts(self, job_id: str) -> Sequence[AttemptView]:
        """Return the attempts that did not succeed, oldest first. Raise JobNotFound."""
        ...

    async def events(self, job_id: str) -> Sequence[EventView]:
        """Return what happened to a job, oldest first. Raise JobNotFound."""
        ...

    async def owner(self, job_id: str) -> Owner:
        """Return whose job it is. Raise JobNotFound."""
        ...

    async def file(self, job_id: str, name: str) -> StoredFile:
        """Return one file. Raise JobNotFound or FileNotAvailable."""
        ...

    # ----- without a file

    async def submit(self, new: Submission) -> str:
        """Store a task or an event as a job; return its id, also of one there before.

        Raise KeyReused.
        """
        ...

    # ----- numbers

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
