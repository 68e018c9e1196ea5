"""What the pool is asked for, and what it answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from asyncflow.jobs import Verdict

OnProgress = Callable[[float], None]


class GivenUp(Exception):
    """The time of a run was over before what it made was stored."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt at one step.

    `source` is a local file that the worker may read, None for a job without one;
    `wall_s` None means the processor's own limit. `payload` is the JSON of a task or of
    an event.
    """

    label: str
    processor: str
    source: Path | None
    file_name: str
    media_type: str
    options: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    wall_s: float | None = None
    payload: str | None = None
    job_id: str = ""
    attempt: int = 1
    tenant: str = ""
    #: of orders that wait for a worker, the smallest goes first
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished derivative; `fd` is open for reading until `on_derivative` returns.

    `is_over` tells whether the run has been ended, or its time: then whoever stores the
    file gives up, and raises GivenUp. Any thread may ask.
    """

    name: str
    media_type: str
    size: int
    facts: Mapping[str, object]
    fd: int
    is_over: Callable[[], bool] = _never


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    `code` is one of `jobs.REASONS` or the processor's own, `detail` a sentence for
    people; `cause` (one line) and `trace` are for the operator only.
    """

    verdict: Verdict
    code: str = ""
    detail: str = ""
    cause: str = ""
    trace: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One worker process, for listings."""

    slot: int
    pid: int
    state: Literal["idle", "running", "starting"]
    label: str
    age_s: float
    rss_bytes: int
    jobs_done: int


OnDerivative = Callable[[Made], Awaitable[None]]
