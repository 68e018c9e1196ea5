"""How values are written by people: sizes, durations, lists, hosts, addresses.

Rules
-----
- A function that reads text passes on what is no text: a toml file has real numbers.
- What cannot be understood is a ValueError; the caller knows how to say it.
"""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1 << 40,
}
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY}
# not \d, which takes the digits of every script
_NUMBER = re.compile(r"[0-9]{1,15}")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-z]*)")
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.*-]+")
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
LANGUAGE = re.compile(r"[a-z]{3}(_[A-Za-z]+)?")
MEDIA_TYPE = re.compile(r"\*|[A-Za-z0-9!#$&^_.+*?-]+/[A-Za-z0-9!#$&^_.+*?-]+")
TOKEN = re.compile(r"[!-~]{8,}")
NODE = re.compile(r"[A-Za-z0-9._-]{1,100}")


def parse_number(value: object) -> object:
    """Return the whole number that a text of digits means; pass on what is no text.

    Raises:
        ValueError: the text is anything but 1 to 15 digits.
    """
    if not isinstance(value, str):
        return value
    if not _NUMBER.fullmatch(value.strip()):
        raise ValueError("not a whole number")
    return int(value)


def parse_bytes(value: object) -> object:
    """Return the bytes that `5GiB`, `200MB` or `4096` mean; pass on what is no text.

    Raises:
        ValueError: the text is no size.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip().lower())
    if found is None or found[2] not in _BYTE_UNITS:
        raise ValueError("not a size")
    if "." in found[1] and not found[2]:
        raise ValueError("bytes come whole")
    return int(float(found[1]) * _BYTE_UNITS[found[2]])


def parse_seconds(value: object) -> object:
    """Return the seconds that `24h`, `1h30m` or `90` mean; pass on what is no text.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not text or _SPAN.sub("", text):
        raise ValueError("not a duration")
    return sum(float(n) * _TIME_UNITS[unit] for n, unit in _SPAN.findall(text))


def split_words(value: object) -> object:
    """Return the words of a comma-separated text; pass on what is no text."""
    if not isinstance(value, str):
        return value
    return tuple(word.strip() for word in value.split(",") if word.strip())


def shown_bytes(count: int) -> str:
    """Return *count* as people write it: `5GiB`."""
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def shown_seconds(span: float) -> str:
    """Return *span* as people write it: `24h`."""
    for size, unit in ((HOUR, "h"), (MINUTE, "m")):
        # below two of a unit the smaller one reads better: 90s, 75s, 60s
        if span > size and span % size == 0:
            return f"{int(span / size)}{unit}"
    return f"{int(span)}s" if span == int(span) else f"{span:.3f}s"


def all_match(
    pattern: re.Pattern[str],
) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return a check that every word of a list is of the form *pattern*."""

    def check(words: tuple[str, ...]) -> tuple[str, ...]:
        if not all(pattern.fullmatch(word) for word in words):
            raise ValueError("not of this form")
        return words

    return check


def check_host(value: str) -> str:
    """Return *value* if it can be an address or a host name."""
    if not value or re.search(r"[\s/]", value):
        raise ValueError("not a host")
    return value


def check_networks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return *values* if each is an address or a network such as 10.0.0.0/8."""
    for value in values:
        ipaddress.ip_network(value, strict=False)
    return values


def check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return *values* in lower case if each is a scheme, a host and perhaps a port."""
    for value in values:
        parts = _split_http(value)
        if parts.path or parts.query or parts.fragment:
            raise ValueError("not an origin")
    return tuple(value.lower() for value in values)


def check_base_url(value: str) -> str:
    """Return *value* without its last slash if other addresses can be built on it."""
    parts = _split_http(value)
    if parts.query or parts.fragment:
        raise ValueError("not a base address")
    return value.rstrip("/")


def check_path(value: object) -> object:
    """Return *value* if it can be the name of a file or folder."""
    if value == "" or "\0" in str(value):
        raise ValueError("not a path")
    return value


def _split_http(value: str) -> SplitResult:
    parts = urlsplit(value)
    # .port parses: a bad port is a ValueError here, not at the first request
    bad = parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0
    if bad or parts.username is not None or re.search(r"\s", value):
        raise ValueError("not an http address")
    return parts
