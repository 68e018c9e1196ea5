"""Which consumers a file meets, with which options: the operator's say.

Pure. A file of TOML names pipelines; an upload may choose one of them by its name, and
`default` holds for the others. In a pipeline the first pattern that fits the file's
media type decides. What a pipeline does not mention stays as the consumers declare it;
gates are never left out.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import Annotated, Final, TypeAlias

import msgspec

from asyncflow import chains, jobs, shapes
from asyncflow.errors import BadSettings
from asyncflow.jobs import ACCEPTED, PlanEntry, Subscription
from asyncflow.notation import MEDIA_TYPE, parse_seconds
from asyncflow.pace import ATTEMPTS, CONCURRENCY, PRIORITY, RATE_FORM, per_second
from asyncflow.shapes import dotted, no_such

DEFAULT: Final = "default"
#: what some editors write first
BYTE_ORDER_MARK: Final = "\ufeff"
#: texts of a form, by key
FORMS: Final = {
    "rate": RATE_FORM,
    "wall": "a duration above 0, such as 10m, 90s or 2h",
}
#: what an upload can choose
_NAME: Final = re.compile(r"\w[\w.-]{0,63}")
#: the keys down to a value
Path: TypeAlias = tuple[str, ...]

Count = Annotated[int, msgspec.Meta(ge=CONCURRENCY[0], le=CONCURRENCY[1])]
Attempts = Annotated[int, msgspec.Meta(ge=ATTEMPTS[0], le=ATTEMPTS[1])]
Priority = Annotated[int, msgspec.Meta(ge=PRIORITY[0], le=PRIORITY[1])]


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
        BadSettings: it says what nobody can follow; the message names every such key.
    """
    try:
        read = tomllib.loads(text.removeprefix(BYTE_ORDER_MARK))
    except tomllib.TOMLDecodeError as bad:
        raise BadSettings(f"{name} is no TOML: {bad}") from None
    _refuse(map(_with_form, shapes.problems(read, Pipelines)), name)
    said = msgspec.convert(read, Pipelines)
    tests = (_values, _names, _patterns, _own_circles)
    _refuse((wrong for test in tests for wrong in test(said)), name)
    return said


def _with_form(problem: str) -> str:
    """Return *problem* with the form of a text that somebody took for a number."""
    for key, form in FORMS.items():
        if problem.startswith("consumers.") and f".{key} is " in problem:
            return problem.replace("accepted: a text", f"accepted: a text, {form}")
    return problem


def _refuse(problems: Iterable[str], name: str) -> None:
    if found := list(problems):
        raise BadSettings("\n".join(f"{name}: {one}" for one in found))


def _values(said: Pipelines) -> Iterator[str]:
    for name, behaviour in said.consumers.items():
        where = dotted(("consumers", name))
        if behaviour.rate is not None:
            try:
                per_second(behaviour.rate)
            except ValueError as bad:
                yield f"{where}.rate: {bad}"
        if behaviour.wall is not None:
            try:
                good = (behaviour.wall_s or 0.0) > 0
            except ValueError:
                good = False
            if not good:
                yield (f"{where}.wall is {behaviour.wall!r}; accepted: {FORMS['wall']}")


def _names(said: Pipelines) -> Iterator[str]:
    for name in said.pipelines:
        if not _NAME.fullmatch(name):
            yield (
                f"{dotted(('pipelines', name))} cannot be chosen; accepted as a name:"
                " at most 64 letters, digits, -, _ and ."
            )


def _patterns(said: Pipelines) -> Iterator[str]:
    for name, pipeline in said.pipelines.items():
        before: list[str] = []
        for pattern in pipeline.types:
            where = dotted(("pipelines", name, "types", pattern))
            if not MEDIA_TYPE.fullmatch(pattern):
                yield f"{where} is no type; accepted: media types such as image/*"
            wider = [one for one in before if fnmatch(pattern, one)]
            if wider:
                yield f"{where} never decides: {wider[0]!r} comes first and takes all"
            before.append(pattern)


def _own_circles(said: Pipelines) -> Iterator[str]:
    for where, _pattern, rule in _rules(said):
        after = {one: share.after for one, share in rule.steps.items() if share.after}
        yield from _circles(where, after)


def _circles(where: Path, after: Mapping[str, str]) -> Iterator[str]:
    for circle in chains.circles(after):
        yield f"{dotted(where)}: {' after '.join(circle)} goes in a circle"


def _rules(said: Pipelines) -> Iterator[tuple[Path, str, Rule]]:
    for name, pipeline in said.pipelines.items():
        for pattern, rule in pipeline.types.items():
            yield ("pipelines", name, "types", pattern), pattern, rule


def asks(said: Pipelines) -> Iterator[tuple[Path, str, Mapping[str, object]]]:
    """Return the options of each step, with their keys and the consumer's name."""
    for where, _pattern, rule in _rules(said):
        for consumer, share in rule.steps.items():
            yield (*where, "steps", consumer, "options"), consumer, share.options


def check(
    said: Pipelines,
    consumers: Iterable[Subscription],
    name: str,
    wrong: Iterable[str] = (),
) -> None:
    """Return if what the file *name* says of consumers can come to pass.

    *wrong* is what the consumers themselves find wrong with their options.

    Raises:
        BadSettings: it names one that there is not, or asks what nobody can do.
    """
    known = {one.entry.consumer: one for one in consumers}
    problems = [
        f"consumers: {_nobody(one, known)}"
        for one in said.consumers
        if one not in known
    ]
    for where, pattern, rule in _rules(said):
        problems += _Check(where, pattern, rule, known).problems()
    _refuse((*problems, *wrong), name)


class _Check:
    """One rule, held against the consumers that there are."""

    def __init__(
        self, where: Path, pattern: str, rule: Rule, known: Mapping[str, Subscription]
    ) -> None:
        self._where, self._pattern = where, pattern
        self._rule, self._known = rule, known

    def problems(self) -> Iterator[str]:
        """Return what is wrong with it."""
        yield from self._list()
        for consumer, share in self._rule.steps.items():
            yield from self._step(consumer, share)
        yield from self._circles()

    def _list(self) -> Iterator[str]:
        chosen = self._rule.consumers or ()
        where = dotted((*self._where, "consumers"))
        for number, consumer in enumerate(chosen):
            if consumer in chosen[:number]:
                yield f"{where} names {consumer!r} twice"
            elif consumer in self._known and self._known[consumer].entry.gate:
                yield (
                    f"{where}: {consumer!r} is a gate, which looks at every file first;"
                    " accepted: consumers that are none"
                )
            else:
                yield from self._unfit(where, consumer)

    def _step(self, consumer: str, share: Share) -> Iterator[str]:
        where = dotted((*self._where, "steps", consumer))
        yield from self._unfit(where, consumer)
        gate = consumer in self._known and self._known[consumer].entry.gate
        if gate and (share.after is not None or share.required is False):
            yield f"{where} is a gate: always required, and before all others"
        if not gate:
            yield from self._left_out(where, consumer)
        if share.after is None:
            return
        first = self._known.get(share.after)
        if first is not None and first.entry.gate:
            yield (
                f"{where}.after is {share.after!r}; accepted: a consumer of files that"
                " is no gate"
            )
            return
        yield from self._unfit(f"{where}.after", share.after)
        yield from self._left_out(f"{where}.after", share.after)

    def _unfit(self, where: str, consumer: str) -> Iterator[str]:
        """Tell why *consumer* can have no part in this rule."""
        if consumer not in self._known:
            yield f"{where}: {_nobody(consumer, self._known)}"
            return
        accepts = self._known[consumer].accepts
        if not accepts:
            yield f"{where}: {consumer!r} takes no files; accepted: who does, no gate"
        elif not any(_may_meet(self._pattern, one) for one in accepts):
            shown = ", ".join(accepts)
            yield (
                f"{where}: {consumer!r} takes no files of {self._pattern}, only {shown}"
            )

    def _left_out(self, where: str, consumer: str) -> Iterator[str]:
        chosen = self._rule.consumers
        if chosen is not None and consumer in self._known and consumer not in chosen:
            yield f"{where}: {consumer!r} is not among the consumers of this rule"

    def _circles(self) -> Iterator[str]:
        """Tell of circles that what the consumers declare closes."""
        after = {}
        for name, one in self._known.items():
            share = self._rule.steps.get(name, Share())
            first = share.after or chains.followed(one.entry.on)
            if first is not None:
                after[name] = first
        yield from _circles(self._where, after)


def _may_meet(one: str, other: str) -> bool:
    """Tell whether some media type fits both patterns."""
    if "*" in (one, other):
        return True
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return all(
        fnmatch(a, b) or fnmatch(b, a) or ("*" in a and "*" in b) for a, b in pairs
    )


def _nobody(name: str, known: Iterable[str]) -> str:
    return f"there is no consumer called {name!r}; {no_such(name, known)}"
