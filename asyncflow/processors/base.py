"""The processor contract: a plain function from one file to derivatives and facts.

Rules
-----
- A processor runs in a pool process, synchronously, one file at a time.
- It reads `work.source`, writes only into `work.out`, and never touches a store.
- `BadFile` says the file is at fault (never retried), `TryLater` asks for another
  time, `Skip` says that a tool is missing; anything else is a failed attempt.
- `work.publish(derivative)` hands a finished file over at once, before the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from asyncflow.jobs import ACCEPTED


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
class Processor:
    """A registered processor; `ready()` returns None or which tool is missing.

    `wall_s` bounds one attempt; `memory_bytes` is the per-kind RLIMIT_AS backstop.
    `outputs` are the names that a derivative may have (fnmatch patterns).
    """

    name: str
    run: Callable[[Work], Result]
    accepts: tuple[str, ...]
    on: str
    gate: bool
    required: bool
    #: smaller is sooner; gates come before everything else
    priority: int
    outputs: tuple[str, ...]
    wall_s: float
    memory_bytes: int
    ready: Callable[[], str | None]

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
) -> Callable[[Callable[[Work], Result]], Callable[[Work], Result]]:
    """Register the decorated function as the processor called *name*.

    Raises:
        ValueError: another function is registered under this name.
    """

    def register(run: Callable[[Work], Result]) -> Callable[[Work], Result]:
        known = REGISTRY.get(name)
        if known is not None and known.run.__module__ != run.__module__:
            raise ValueError(f"a processor called {name!r} is already registered")
        REGISTRY[name] = Processor(
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
        )
        return run

    return register
