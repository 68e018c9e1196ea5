"""What the server sends, as typed values; members that are not known are ignored."""

from collections.abc import Mapping
from typing import Any

import msgspec

FINAL = frozenset({"COMPLETED", "FAILED", "REJECTED", "CANCELLED"})


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """How every message is spelled: camelCase outside, snake_case here."""


class Problem(_Message, frozen=True):
    """Why something failed; `step` names the guilty step where there is one."""

    code: str
    detail: str = ""
    step: str | None = None


class Step(_Message, frozen=True):
    """One consumer's share of a job; `progress` counts from 0 to 100."""

    name: str
    status: str
    progress: float = 0.0
    attempts: int = 0
    required: bool = True
    error: Problem | None = None
    started_at: str | None = None
    finished_at: str | None = None
    next_retry: str | None = None


class Job(_Message, frozen=True):
    """Everything that happens to one file. Timestamps are ISO 8601, sizes bytes."""

    job_id: str
    status: str
    file_name: str = ""
    file_size: int | None = None
    uploaded_bytes: int | None = None
    media_type: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    failed_at: str | None = None
    progress: float = 0.0
    estimated_time_remaining: float | None = None
    retry_count: int = 0
    steps: tuple[Step, ...] = ()
    download_urls: Mapping[str, str] = {}
    facts: Mapping[str, Any] = {}
    error: Problem | None = None
    version: int = 0

    @property
    def is_final(self) -> bool:
        """Tell whether nothing more happens by itself."""
        return self.status in FINAL


class Consumer(_Message, frozen=True):
    """A consumer as an operator sees it: steps by state, how far behind the log it is.

    `oldest_s` is how long its oldest ready step has waited, in seconds. What `runs`
    "elsewhere" is not done by this server, but by `nodes`.
    """

    name: str
    paused: bool = False
    runs: str = ""
    nodes: tuple[str, ...] = ()
    missing_tool: str | None = None
    steps: Mapping[str, int] = {}
    oldest_s: float | None = None
    lag: int = 0
    per_minute: float = 0.0
    p95_s: float | None = None
    attempts: int = 0
    failures: int = 0


class Consumers(_Message, frozen=True):
    """Every consumer of a server."""

    consumers: tuple[Consumer, ...]


class Taken(_Message, frozen=True):
    """The server has taken a task, or an event."""

    task_id: str = ""
    job_id: str = ""


class Replayed(_Message, frozen=True):
    """How many steps a part of a replay has made, and where the next part begins."""

    steps: int
    next: int | None = None


class Page(_Message, frozen=True):
    """One page of the list of jobs; `next` asks for the following one."""

    jobs: tuple[Job, ...]
    next: str | None = None


class ProblemDocument(_Message, frozen=True):
    """An RFC 9457 answer."""

    code: str | None = None
    title: str = ""
    detail: str = ""


class Frame(_Message, frozen=True):
    """One message of the WebSocket; which members it has depends on `type`."""

    type: str
    job_id: str | None = None
    seq: int | None = None
    job: Job | None = None
    status: str | None = None
    step: Step | None = None
    uploaded_bytes: int | None = None
    steps: Mapping[str, float] = {}
    #: absent: nothing new is known
    estimated_time_remaining: float | msgspec.UnsetType | None = msgspec.UNSET


class Update(_Message, frozen=True):
    """Something happened to a job: what (`type`), and the job as it is now.

    `type` is `snapshot`, `step`, `progress`, or how it ended: `job.completed`,
    `job.failed`, `job.rejected`, `job.cancelled`.
    """

    type: str
    job: Job


def ending(job: Job) -> str:
    """Return the type of the update that says how *job* ended."""
    return f"job.{job.status.lower()}"
