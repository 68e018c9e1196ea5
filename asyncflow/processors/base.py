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
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from asyncflow.events import RESERVED
from asyncflow.jobs import ACCEPTED, SUBMITTED, UPLOADED
from asyncflow.notation import MEDIA_TYPE
from asyncflow.pace import ATTEMPTS, CONCURRENCY, PRIORITY, RATE_FORM, per_second
from asyncflow.shapes import problems

#: names are the first words of events, parts of addresses, keys of settings
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")

Function = TypeVar("Function", bound=Callable[..., object])


class Options(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What an operator can tell a processor: a subclass with a default for each field.

    What pipelines say is held against it when the server starts. `max_pixels` is
    written `maxPixels` there.
    """


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
    `options` is what the processor declares, otherwise the table that pipelines say.
    `facts` are those of earlier steps of the job, by consumer name.
    `attempt` counts how often the step was begun.
    `progress` takes 0 to 100. `publish` hands over a finished derivative.
    """

    source: Path
    out: Path
    file_name: str
    media_type: str
    options: Any = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    attempt: int = 1
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

    `resident` says that its libraries keep threads, open files or signal handlers
    between runs; without it, a worker that has such things after a run is replaced.

    `wall_s` bounds one attempt; `memory_bytes` is what it may map at most, beside what
    its worker has mapped before: a backstop, by RLIMIT_AS.
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
    resident: bool = False
    options: type[Options] | None = None

    @property
    def where(self) -> str:
        """Where the function is: `module.function`."""
        name = getattr(self.run, "__qualname__", type(self.run).__name__)
        return f"{self.run.__module__}.{name}"

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
    resident: bool = False,
    options: type[Options] | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Work` to `Result`, as processor *name*.

    `work.options` will be of the type *options*, if one is given.

    Raises:
        ValueError: another function has this name, or nobody can work like this.
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
                resident=resident,
                options=options,
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
    resident: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Task` to a result, for the events *on*.

    The result is JSON, or None, or a `Result` with files.

    Raises:
        ValueError: another function has this name, or nobody can work like this.
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
                resident=resident,
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
    resident: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function, from `Task` to a result, as the task *name*.

    `POST /tasks` runs it. The result is JSON, or None, or a `Result` with files.

    Raises:
        ValueError: another function has this name, or nobody can work like this.
    """
    if callable(name):
        raise TypeError('a task needs a name of its own: @task("send-mail")')
    return consumer(
        name,
        on=SUBMITTED,
        priority=priority,
        wall_s=wall_s,
        memory_bytes=memory_bytes,
        attempts=attempts,
        concurrency=concurrency,
        rate=rate,
        resident=resident,
    )


def _place_of(run: Callable[..., object]) -> Literal["pool", "loop"]:
    return "loop" if inspect.iscoroutinefunction(run) else "pool"


def _register(one: Processor, run: Function) -> Function:
    if found := "; ".join(_problems(one)):
        raise ValueError(f"{one.name!r} of {one.where}: {found}")
    known = REGISTRY.get(one.name)
    if known is not None and not _is_again(known.run, run):
        raise ValueError(f"{one.name!r} is the name of {known.where} and {one.where}")
    REGISTRY[one.name] = one
    return run


def _is_again(known: Callable[..., object], new: Callable[..., object]) -> bool:
    """Tell whether the same function is met once more: its module is loaded again."""
    if (known.__module__, known.__qualname__) != (new.__module__, new.__qualname__):
        return False
    return _place(known) == _place(new)


def _place(run: Callable[..., object]) -> tuple[str, int]:
    code = getattr(inspect.unwrap(run), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else ("", 0)


def _problems(one: Processor) -> Iterator[str]:
    """Return what is wrong with what a decorator was given."""
    if not _NAME.fullmatch(one.name) or one.name in RESERVED:
        yield (
            "accepted as a name: at most 40 letters, digits, - and _; not "
            f"{', '.join(sorted(RESERVED))}"
        )
    limits = {"attempts": ATTEMPTS, "concurrency": CONCURRENCY, "priority": PRIORITY}
    for name, (least, most) in limits.items():
        value = getattr(one, name)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_number and least <= value <= most):
            yield f"{name} is {value!r}; accepted: {least} to {most}"
    for name in ("wall_s", "memory_bytes"):
        value = getattr(one, name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            yield f"{name} is {value!r}; accepted: a number above 0"
    if one.rate is not None:
        try:
            per_second(one.rate)
        except (TypeError, ValueError):
            yield f"rate is {one.rate!r}; accepted: {RATE_FORM}"
    yield from _problems_of_files(one) if one.takes == "file" else ()


def _problems_of_files(one: Processor) -> Iterator[str]:
    # a single string is a sequence of letters: strangers' code need not be typed
    accepts: Any = one.accepts
    outputs: Any = one.outputs
    if isinstance(accepts, str) or not all(map(MEDIA_TYPE.fullmatch, accepts)):
        yield f'accepts is {accepts!r}; accepted: a tuple such as ("image/*",)'
    elif not accepts:
        yield "accepts names no media type"
    if isinstance(outputs, str):
        yield f"outputs is {outputs!r}; accepted: ({outputs!r},)"
    if one.gate is not (one.on == UPLOADED):
        yield f"on is {one.on!r}; a gate has {UPLOADED!r}, and nobody else"
    yield from _problems_of_options(one.options)


def _problems_of_options(kind: Any) -> Iterator[str]:
    if kind is None:
        return
    if not isinstance(kind, type) or not issubclass(kind, Options):
        yield f"options is {kind!r}; accepted: a subclass of asyncflow.Options"
        return
    try:
        kind()
        msgspec.convert({}, kind)
        typing.get_type_hints(kind)
    except (NameError, TypeError, ValueError) as error:
        yield f"{kind.__name__} cannot be its options: {error}"


def options_of(one: Processor, said: Mapping[str, object]) -> Any:
    """Return the options *said* as *one* declares them; undeclared: as they are.

    Raises:
        ValueError: they are not what it declares.
    """
    if one.options is None:
        return said
    if found := "; ".join(problems(said, one.options)):
        raise ValueError(found)
    return msgspec.convert(said, one.options)


def result_of(value: object) -> Result:
    """Return what a task's function has returned as a `Result`."""
    if isinstance(value, Result):
        return value
    return Result(facts={} if value is None else {"result": value})
