"""Which consumers a file meets, with which options: the operator's say.

Pure. A file of TOML names pipelines; an upload may choose one of them by its name, and
`default` holds for the others. In a pipeline the first pattern that fits the file's
media type decides. What a pipeline does not mention stays as the consumers declare it;
gates are never left out.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import Annotated, Final

import msgspec

from asyncflow import jobs
from asyncflow.errors import BadSettings
from asyncflow.jobs import ACCEPTED, SUBMITTED, PlanEntry, Subscription
from asyncflow.notation import MEDIA_TYPE, parse_seconds
from asyncflow.pace import per_second

DEFAULT: Final = "default"

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Attempts = Annotated[int, msgspec.Meta(ge=1, le=100)]
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: a misspelt key is refused."""


class Share(_Table, frozen=True, kw_only=True):
    """What a rule says of one consumer; None: as the consumer declares it."""

    required: bool | None = None
    priority: Priority | None = None
    attempts: Attempts | None = None
    #: another consumer that goes first
    after: str | None = None
    options: Mapping[str, object] = {}


class Rule(_Table, frozen=True, kw_only=True):
    """What a pipeline says of files of some media types."""

    #: who alone gets these files; None: everybody who takes them
    consumers: tuple[str, ...] | None = None
    steps: Mapping[str, Share] = {}


class Pipeline(_Table, frozen=True, kw_only=True):
    """A pipeline: its jobs' priority (smaller is sooner), and rules by media type."""

    priority: Priority = 0
    types: Mapping[str, Rule] = {}

    def rule(self, media_type: str) -> Rule | None:
        """Return the first rule that fits *media_type*."""
        for pattern, rule in self.types.items():
            if fnmatch(media_type, pattern):
                return rule
        return None


class Behaviour(_Table, frozen=True, kw_only=True):
    """How a consumer works, whatever the pipeline; None: as it declares."""

    concurrency: Count | None = None
    rate: str | None = None
    attempts: Attempts | None = None
    #: the longest attempt, such as "10m"
    wall: str | None = None

    @property
    def wall_s(self) -> float | None:
        """The longest attempt in seconds."""
        return None if self.wall is None else float(str(parse_seconds(self.wall)))


class Pipelines(_Table, frozen=True, kw_only=True):
    """Everything that the file says."""

    consumers: Mapping[str, Behaviour] = {}
    pipelines: Mapping[str, Pipeline] = {}

    def find(self, name: str) -> Pipeline | None:
        """Return the pipeline called *name*, by default the default one."""
        return self.pipelines.get(name or DEFAULT) or (
            Pipeline() if name in {"", DEFAULT} else None
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that an upload may choose."""
        return tuple(sorted({DEFAULT, *self.pipelines}))

    def plan(
        self, name: str, media_type: str, consumers: Iterable[Subscription]
    ) -> tuple[PlanEntry, ...]:
        """Return the plan of a file of *media_type* in the pipeline called *name*."""
        known = tuple(consumers)
        # one that is gone since the upload chose it is as good as none
        rule = (self.find(name) or Pipeline()).rule(media_type)
        if rule is None:
            return jobs.plan_for(media_type, known)
        wanted = [one for one in known if _belongs(rule, one)]
        there = {one.entry.consumer for one in wanted if one.wants(media_type)}
        return jobs.plan_for(media_type, (_shaped(rule, one, there) for one in wanted))


def _belongs(rule: Rule, one: Subscription) -> bool:
    return one.entry.gate or (
        rule.consumers is None or one.entry.consumer in rule.consumers
    )


def _shaped(rule: Rule, one: Subscription, there: set[str]) -> Subscription:
    share = rule.steps.get(one.entry.consumer)
    if share is None:
        return one
    before = one.entry
    on = before.on
    if share.after is not None:
        # who should go first may not take files of this type
        on = f"{share.after}.completed" if share.after in there else ACCEPTED
    entry = replace(
        before,
        on=on,
        required=before.required if share.required is None else share.required,
        priority=_or(share.priority, before.priority),
        max_attempts=_or(share.attempts, before.max_attempts),
        options={**before.options, **share.options},
    )
    return replace(one, entry=entry)


def _or(said: int | None, before: int) -> int:
    return before if said is None else said


def parse(text: str, name: str) -> Pipelines:
    """Return what the TOML *text* of the file *name* says.

    Raises:
        BadSettings: it says what nobody can follow; the message names the key.
    """
    try:
        said = msgspec.convert(tomllib.loads(text), Pipelines)
    except tomllib.TOMLDecodeError as bad:
        raise BadSettings(f"{name} is no TOML: {bad}") from None
    except msgspec.ValidationError as bad:
        raise BadSettings(f"{name}: {bad}") from None
    problems = [*_values(said), *_patterns(said), *_circles(said)]
    if problems:
        raise BadSettings("\n".join(f"{name}: {one}" for one in problems))
    return said


def _values(said: Pipelines) -> Iterator[str]:
    for name, behaviour in said.consumers.items():
        if behaviour.rate is not None:
            try:
                per_second(behaviour.rate)
            except ValueError as bad:
                yield f"consumers.{name}.rate: {bad}"
        if behaviour.wall is not None:
            try:
                good = (behaviour.wall_s or 0.0) > 0
            except ValueError:
                good = False
            if not good:
                yield (
                    f"consumers.{name}.wall is {behaviour.wall!r}; accepted: a duration"
                    " above 0, such as 10m, 90s or 2h"
                )


def _patterns(said: Pipelines) -> Iterator[str]:
    for name, pipeline in said.pipelines.items():
        for pattern in pipeline.types:
            if not MEDIA_TYPE.fullmatch(pattern):
                yield (
                    f"pipelines.{name}.types.{pattern!r}; accepted: media types such as"
                    " image/*"
                )


def _circles(said: Pipelines) -> Iterator[str]:
    for where, rule in _rules(said):
        for start in rule.steps:
            seen, at = [start], rule.steps[start].after
            while at is not None and at not in seen:
                seen.append(at)
                at = rule.steps[at].after if at in rule.steps else None
            if at == start:
                yield f"{where}: {' after '.join([*seen, start])} goes in a circle"


def _rules(said: Pipelines) -> Iterator[tuple[str, Rule]]:
    for name, pipeline in said.pipelines.items():
        for pattern, rule in pipeline.types.items():
            yield f"pipelines.{name}.types.{pattern!r}", rule


def check(said: Pipelines, consumers: Iterable[Subscription], name: str) -> None:
    """Return if the file *name* speaks of consumers that there are.

    Raises:
        BadSettings: it names one that there is not, or orders what cannot be ordered.
    """
    known = {one.entry.consumer: one.entry for one in consumers}
    problems = [
        f"{where}: {_nobody(consumer, known)}"
        for where, consumer in _mentions(said)
        if consumer not in known
    ]
    for where, rule in _rules(said):
        for consumer, share in rule.steps.items():
            gate = consumer in known and known[consumer].gate
            if gate and (share.after is not None or share.required is False):
                problems.append(
                    f"{where}.steps.{consumer} is a gate: it is always required, and"
                    " goes before all others"
                )
            first = known.get(share.after or "")
            if first is not None and (first.gate or first.on == SUBMITTED):
                problems.append(
                    f"{where}.steps.{consumer}.after is {share.after!r}; accepted: a"
                    " consumer of files that is no gate"
                )
    if problems:
        raise BadSettings("\n".join(f"{name}: {one}" for one in problems))


def _mentions(said: Pipelines) -> Iterator[tuple[str, str]]:
    for consumer in said.consumers:
        yield "consumers", consumer
    for where, rule in _rules(said):
        for consumer in rule.consumers or ():
            yield f"{where}.consumers", consumer
        for consumer, share in rule.steps.items():
            yield f"{where}.steps", consumer
            if share.after is not None:
                yield f"{where}.steps.{consumer}.after", share.after


def _nobody(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    return f"there is no consumer called {name!r}; {hint}"
