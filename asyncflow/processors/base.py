"""The contract of processors, tasks and consumers: plain functions.

A processor goes from one file to derivatives and facts; a task, and a consumer of an
application event, from a payload to a result.

Rules
-----
- A plain function runs in a pool process, one call at a time; an `async` one runs on
  the server's own loop and must never block it.
- It reads `work.source`, writes only into `work.out`, and never touches a store.
- `BadFile` says the file is at fault (never retried), `TryLater` asks for another
  time, `Skip` says that there is nothing to do; anything else is a failed attempt.
- `work.publish(derivative)` hands a finished file over at once, before the rest.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, TypeVar

from asyncflow.jobs import ACCEPTED, SUBMITTED
from asyncflow.pace import per_second

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivative:
    """One file made from the source: `name` is unique within the step."""

    name: str
    path: Path
    media_type: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a processor hands back: files not yet published, and facts it found."""

    derivatives: tuple[Derivative, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a processor is given.

    `media_type` is what identify found (declared type for identify itself);
    `facts` are those of earlier steps of the job, by consumer name.
    `progress` takes 0 to 100. `publish` hands over a finished derivative.
    """

    source: Path
    out: Path
    file_name: str
    media_type: str
    options: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    progress: Callable[[float], None] = lambda _percent: None
    publish: Callable[[Derivative], None] = lambda _made: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the function of a task, or of a consumer, is given.

    `name` is the task's name or the event's type, `payload` what came with it (JSON as
    Python has it). The same `id` can come again (at least once): it is what to
    deduplicate by. `attempt` counts how often it was begun. `progress` takes 0 to 100.
    `out` is a folder for scratch files, None on the loop; `publish` keeps one of them
    as a file of the job.
    """

    id: str
    name: str
    payload: Any
    attempt: int = 1
    tenant: str = ""
    out: Path | None = None
    progress: Callable[[float], None] = lambda _percent: None
    publish: Callable[[Derivative], None] = lambda _made: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A registered function; `ready()` returns None or which tool is missing.

    `takes` says what it is called with, `runs` where. `attempts`, `concurrency` (steps
    at once) and `rate` (such as "10/s") are None where the server's settings hold.

    `wall_s` bounds one attempt; `memory_bytes` is the per-kind RLIMIT_AS backstop.
    `outputs` are the names that a derivative may have (fnmatch patterns).
    """

    name: str
    run: Callable[[Any], Any]
    accepts: tuple[str, ...]
    on: str
    gate: bool
    required: bool
    #: how many newer jobs may go first; gates come before everything else
    priority: int
    outputs: tuple[str, ...]
    wall_s: float
    memory_bytes: int
    ready: Callable[[], str | None]
    takes: Literal["file", "payload"] = "file"
    runs: Literal["pool", "loop"] = "pool"
    attempts: int | None = None
    concurrency: int | None = None
    rate: str | None = None

    def wants(self, media_type: str) -> bool:
        """Tell whether this processor takes files of *media_type*."""
        return any(fnmatch(media_type, pattern) for pattern in self.accepts)


REGISTRY: dict[str, Processor] = {}


def processor(
    name: str,
    *,
    accepts: tuple[str, ...],
    on: str = ACCEPTED,
    gate: bool = False,
    required: bool = True,
    priority: int = 0,
    outputs: tuple[str, ...] = ("*",),
    wall_s: float = 60.0,
    memory_bytes: int = 2 << 30,
    ready: Callable[[], str | None] = lambda: None,
    attempts: int | None = None,
    concurrency: int | None = None,
    rate: str | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Work` to `Result`, as processor *name*.

    Raises:
        ValueError: another function is registered under this name.
    """

    def enrol(run: Function) -> Function:
        return _register(
            Processor(
                name=name,
                run=run,
                accepts=accepts,
                on=on,
                gate=gate,
                required=required,
                priority=priority,
                outputs=outputs,
                wall_s=wall_s,
                memory_bytes=memory_bytes,
                ready=ready,
                runs=_place_of(run),
                attempts=attempts,
                concurrency=concurrency,
                rate=rate,
            ),
            run,
        )

    return enrol


def consumer(
    name: str,
    *,
    on: str,
    required: bool = True,
    priority: int = 0,
    wall_s: float = 600.0,
    memory_bytes: int = 2 << 30,
    attempts: int | None = None,
    concurrency: int | None = None,
    rate: str | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Task` to a result, for the events *on*.

    The result is JSON, or None, or a `Result` with files.

    Raises:
        ValueError: another function is registered under this name.
    """

    def enrol(run: Function) -> Function:
        return _register(
            Processor(
                name=name,
                run=run,
                accepts=(),
                on=on,
                gate=False,
                required=required,
                priority=priority,
                outputs=("*",),
                wall_s=wall_s,
                memory_bytes=memory_bytes,
                ready=lambda: None,
                takes="payload",
                runs=_place_of(run),
                attempts=attempts,
                concurrency=concurrency,
                rate=rate,
            ),
            run,
        )

    return enrol


def task(
    name: str,
    *,
    priority: int = 0,
    wall_s: float = 600.0,
    memory_bytes: int = 2 << 30,
    attempts: int | None = None,
    concurrency: int | None = None,
    rate: str | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Task` to a result, as the task *name*.

    `POST /tasks` runs it. The result is JSON, or None, or a `Result` with files.

    Raises:
        ValueError: another function is registered under this name.
    """
    return consumer(
        name,
        on=SUBMITTED,
        priority=priority,
        wall_s=wall_s,
        memory_bytes=memory_bytes,
        attempts=attempts,
        concurrency=concurrency,
        rate=rate,
    )


def _place_of(run: Callable[..., object]) -> Literal["pool", "loop"]:
    return "loop" if inspect.iscoroutinefunction(run) else "pool"


def _register(one: Processor, run: Function) -> Function:
    known = REGISTRY.get(one.name)
    if known is not None and known.run.__module__ != one.run.__module__:
        raise ValueError(f"a processor called {one.name!r} is already registered")
    if one.rate is not None:
        per_second(one.rate)
    REGISTRY[one.name] = one
    return run


def result_of(value: object) -> Result:
    """Return what a task's function has returned as a `Result`."""
    if isinstance(value, Result):
        return value
    return Result(facts={} if value is None else {"result": value})
