"""What the database takes and gives: plain records, in terms of the engine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from asyncflow.jobs import JobKind, JobState, PlanEntry, Verdict
from asyncflow.uploads import UploadState
from asyncflow.views import JobView, StepView


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A client's Idempotency-Key, and a fingerprint of the request that carries it."""

    key: str
    fingerprint: str


class NewUpload(msgspec.Struct, frozen=True, kw_only=True):
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
    #: its length is its end
    has_end: bool = True
    #: who is counted for it; empty: nobody
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
            has_end=self.has_end,
            checked_from=None,
            joined=None,
        )


class Submission(msgspec.Struct, frozen=True, kw_only=True):
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


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
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
    #: its length is its end: with its last byte it is complete
    has_end: bool
    checked_from: int | None
    #: from which byte on a joined upload's own blob has what its parts had
    joined: int | None
    #: the bytes of this part count with a file that is joined from it
    is_taken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many bytes count in quotas: of all tenants, and of some."""

    total: int
    by_tenant: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A part of a joined upload. `state` is None once the part is gone.

    *is_taken*: its bytes count with a file that is joined from it already.
    """

    n: int
    part: str
    state: str | None
    length: int | None
    key: str
    is_taken: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
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
    #: the job begins with this
    begins: bool = False


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
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
