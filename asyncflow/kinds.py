"""The kinds of settings: how each is read, what of it is accepted, how it is shown.

Rules
-----
- Text is read as a person writes it. What a toml file or a program gives is taken as
  it is, if it is of the kind: a list is no number, and neither is `true`.
- What is not accepted is told with the value; who asked says where it came from.
- A secret shows itself only to who asks for it by name.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncflow.notation import (
    DAY,
    all_match,
    check_base_url,
    check_host,
    check_path,
    parse_bytes,
    parse_number,
    parse_seconds,
    shown_bytes,
    shown_seconds,
    split_words,
)

SIZE = "bytes, such as 5GiB, 200MB or 4096"
#: sums of some of them still fit where the database keeps its numbers
MOST_BYTES = 1 << 60
LONGEST_S = 3650 * DAY
SPAN = "a duration above 0 and up to 3650d, such as 24h, 1h30m, 90s or 90 (seconds)"
AGE = "0, or a duration up to 3650d, such as 30d, 24h or 90 (seconds)"
HIDDEN = "(hidden)"
#: below this a float can tell one whole number from the next
EXACT = 1 << 53

_SWITCH = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


class Secret:
    """A text that stands in no log, no traceback and no representation."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one setting means, and which values it takes.

    `parse` returns the value that is meant, or raises; `fits` tells whether
    that value is within bounds; `text` writes it as a person would.
    """

    name: str
    meaning: str
    accepts: str
    parse: Callable[[object], Any]
    fits: Callable[[Any], bool] = lambda _value: True
    text: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    is_optional: bool = False

    def read(self, given: object) -> Any:
        """Return the value that *given* means.

        Raises:
            NotAccepted: there is none, or it is out of bounds.
        """
        if given is None and self.is_optional:
            return None
        try:
            value = self.parse(given)
        except (TypeError, ValueError, OverflowError):
            raise NotAccepted(given) from None
        if not self.fits(value):
            # of a text what it means, so that one sees what it was taken for
            raise NotAccepted(value if isinstance(given, str) else given)
        return value

    def shown(self, value: Any) -> str:
        """Return *value* as text; what is not set is empty."""
        return "" if value is None else self.text(value)


class NotAccepted(ValueError):
    """The `value`, as far as it could be read, is none that a setting takes."""

    def __init__(self, value: object) -> None:
        super().__init__("not accepted")
        self.value = value


def number(meaning: str, least: int, most: int) -> Kind:
    """Return the kind of a whole number from *least* to *most*."""
    return Kind(
        name="number",
        meaning=meaning,
        accepts=f"a whole number from {least} to {most}",
        parse=lambda given: _whole(parse_number(given)),
        fits=lambda value: least <= value <= most,
    )


def size(meaning: str, least: int = 0) -> Kind:
    """Return the kind of a number of bytes, from *least* to `MOST_BYTES`."""
    return Kind(
        name="size",
        meaning=meaning,
        accepts=f"{SIZE}, from {least} to 1048576TiB",
        parse=lambda given: _whole(parse_bytes(given)),
        fits=lambda value: least <= value <= MOST_BYTES,
        text=shown_bytes,
    )


def span(meaning: str) -> Kind:
    """Return the kind of a duration that takes some time, in seconds."""
    return Kind(
        name="duration",
        meaning=meaning,
        accepts=SPAN,
        parse=_seconds,
        fits=lambda value: 0 < value <= LONGEST_S,
        text=shown_seconds,
    )


def age(meaning: str) -> Kind:
    """Return the kind of a duration that may be 0, in seconds."""
    return Kind(
        name="duration",
        meaning=meaning,
        accepts=AGE,
        parse=_seconds,
        fits=lambda value: 0 <= value <= LONGEST_S,
        text=shown_seconds,
    )


def switch(meaning: str) -> Kind:
    """Return the kind of what is on or off."""
    return Kind(
        name="switch",
        meaning=meaning,
        accepts="true or false",
        parse=_is_on,
        text=lambda value: "true" if value else "false",
    )


def choice(meaning: str, *choices: str) -> Kind:
    """Return the kind of what is one of *choices*, written exactly so."""
    return Kind(
        name="choice",
        meaning=meaning,
        accepts="one of " + ", ".join(choices),
        parse=_string,
        fits=lambda value: value in choices,
        choices=choices,
    )


def words(
    meaning: str,
    accepts: str,
    check: Callable[[tuple[str, ...]], tuple[str, ...]] | re.Pattern[str],
) -> Kind:
    """Return the kind of a list; *check* judges it, or is the form of each word."""
    judge = all_match(check) if isinstance(check, re.Pattern) else check
    return Kind(
        name="list",
        meaning=meaning,
        accepts=accepts,
        parse=lambda given: judge(_strings(split_words(given))),
        text=",".join,
    )


def place(meaning: str, accepts: str, *, is_optional: bool = True) -> Kind:
    """Return the kind of a path to a file or folder."""
    return Kind(
        name="path",
        meaning=meaning,
        accepts=accepts,
        parse=_path,
        is_optional=is_optional,
    )


def host(meaning: str, accepts: str) -> Kind:
    """Return the kind of an address or a host name."""
    return Kind(
        name="text",
        meaning=meaning,
        accepts=accepts,
        parse=lambda given: check_host(_string(given)),
    )


def base_url(meaning: str, accepts: str) -> Kind:
    """Return the kind of an address that others can be built on, which may be unset."""
    return Kind(
        name="text",
        meaning=meaning,
        accepts=accepts,
        parse=lambda given: check_base_url(_string(given)),
        is_optional=True,
    )


def word(meaning: str, accepts: str, form: re.Pattern[str]) -> Kind:
    """Return the kind of a text of the given *form*."""
    return Kind(
        name="text",
        meaning=meaning,
        accepts=accepts,
        parse=_string,
        fits=lambda value: form.fullmatch(value) is not None,
    )


def secret(meaning: str, accepts: str, form: re.Pattern[str]) -> Kind:
    """Return the kind of a secret of the given *form*, which may be unset."""
    return Kind(
        name="secret",
        meaning=meaning,
        accepts=accepts,
        parse=_secret,
        fits=lambda value: form.fullmatch(value.get_secret_value()) is not None,
        text=str,
        is_optional=True,
    )


# ----- what a value is taken for


def _string(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError("not a text")
    return given


def _secret(given: object) -> Secret:
    return given if isinstance(given, Secret) else Secret(_string(given))


def _whole(given: object) -> int:
    if isinstance(given, float) and given.is_integer() and abs(given) < EXACT:
        return int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError("not a whole number")
    return given


def _seconds(given: object) -> float:
    found = parse_seconds(given)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError("not a duration")
    return float(found)


def _is_on(given: object) -> bool:
    found = _SWITCH.get(str(given).lower()) if isinstance(given, str | int) else None
    if found is None:
        raise ValueError("not a switch")
    return found


def _strings(given: object) -> tuple[str, ...]:
    if not isinstance(given, Iterable) or isinstance(given, bytes | dict):
        raise TypeError("not a list")
    return tuple(map(_string, given))


def _path(given: object) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise TypeError("not a path")
    check_path(given)
    return Path(given)
