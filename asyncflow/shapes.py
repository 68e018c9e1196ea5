"""Tables that people write, held against types: every mistake by its full path.

Pure. `msgspec.convert` stops at the first mistake and hides the keys of a mapping
(`$.pipelines[...]`); this walks down level by level and leaves only the leaves to it.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

Path: TypeAlias = tuple[str | int, ...]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLACE: Final = re.compile(r" - at `.*`$")
_QUOTED: Final = re.compile(r"`([^`]+)`")
_GOT: Final = re.compile(r", got `.*`$")
#: what msgspec calls it -> what people do
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_MAX_SHOWN: Final = 80


def dotted(path: Iterable[str | int]) -> str:
    """Return *path* as TOML writes the keys, with list positions in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        key = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        text += f".{key}" if text else key
    return text


def problems(value: object, kind: Any, path: Path = ()) -> Iterator[str]:
    """Return what is wrong with *value* as a *kind*: all of it, each with its path."""
    found = list(_within(value, kind, path))
    # what concerns the whole, such as a length, counts once its parts are right
    yield from found or _whole(value, kind, path)


def no_such(name: str, names: Iterable[str]) -> str:
    """Return which of *names* somebody may have meant by *name*."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Say that *name* is no *kind*, which there are, and which of them may be meant."""
    shown, known = name[:80], sorted(names)
    near = difflib.get_close_matches(shown, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no {kind} called {shown!r}; {hint}there are {', '.join(known)}"


def _within(value: object, kind: Any, path: Path) -> Iterator[str]:
    plain, origin, args = _taken_apart(kind)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        yield from _in_struct(value, plain, path)
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _whole(key, args[0], (*path, key))
                yield from problems(inner, args[1], (*path, key))
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from problems(inner, args[0], (*path, number))


def _taken_apart(kind: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return a type without its constraints and None, its origin and its arguments."""
    while True:
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            kind = args[0]
        elif origin in (Union, UnionType):
            left = [one for one in args if one is not NoneType]
            if len(left) != 1:
                return kind, None, ()
            kind = left[0]
        else:
            return kind, origin if isinstance(origin, type) else None, args


def _in_struct(
    value: object, struct: type[msgspec.Struct], path: Path
) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    hints = get_type_hints(struct, include_extras=True)
    fields = {one.encode_name: one for one in msgspec.structs.fields(struct)}
    for key, inner in value.items():
        if key in fields:
            yield from problems(inner, hints[fields[key].name], (*path, key))
        else:
            where = dotted((*path, key))
            yield f"there is no key {where}; {no_such(str(key), fields)}"
    for name, one in fields.items():
        if one.required and name not in value:
            yield f"{dotted((*path, name))} is missing"


def _whole(value: object, kind: Any, path: Path) -> Iterator[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as bad:
        said = _GOT.sub("", _PLACE.sub("", str(bad)))
        if not said.startswith(("Expected ", "Invalid ")):
            # a type's own words
            yield ": ".join(one for one in (dotted(path), said) if one)
            return
        shown = repr(value)
        if len(shown) > _MAX_SHOWN:
            shown = f"{shown[:_MAX_SHOWN]}…"
        yield f"{dotted(path)} is {shown}; accepted: {_accepted(kind, said)}"


def _accepted(kind: Any, said: str) -> str:
    choices, lowest, highest = _limits(kind)
    if choices:
        return ", ".join(choices)
    words = _QUOTED.sub(_in_words, said.removeprefix("Expected "))
    if lowest is not None and highest is not None:
        words = re.sub(r" [<>]=.*", "", words)
        return f"{words} from {lowest} to {highest}"
    return words


def _in_words(quoted: re.Match[str]) -> str:
    names = [one for one in quoted[1].split(" | ") if one != "null"]
    return " or ".join(_WORDS.get(one, one) for one in names)


def _limits(kind: Any) -> tuple[list[str], object, object]:
    """Return the values that *kind* can have, and its least and its greatest."""
    if get_origin(kind) in (Union, UnionType):
        left = [one for one in get_args(kind) if one is not NoneType]
        return _limits(left[0]) if len(left) == 1 else ([], None, None)
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)], None, None
    if get_origin(kind) is Annotated:
        plain, *more = get_args(kind)
        if get_origin(plain) is Literal:
            return _limits(plain)
        for one in more:
            if isinstance(one, msgspec.Meta):
                return [], one.ge, one.le
    return [], None, None
