"""Conditions and ranges of a download (RFC 9110, sections 13 and 14). Pure.

Rules
-----
- One range is served; several, or one that cannot be read, mean the whole file.
- Only GET knows ranges.
- Dates decide only where the client has no entity tag.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final, Literal

from asyncflow.errors import PreconditionFailed, RangeNotSatisfiable

# 19 digits hold any file size; more are nobody's honest request
_RANGE = re.compile(r"bytes=\s*([0-9]{0,19})-([0-9]{0,19})\s*", re.IGNORECASE)
_TAG = re.compile(r'\s*(W/)?"([^"]*)"\s*(?:,|$)')
#: a list of tags is read so far; a longer one cannot match and need not cost time
MAX_TAGS: Final = 64

Kind = Literal["whole", "part", "not modified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is to be sent: bytes from *start* up to *end* (exclusive)."""

    kind: Kind
    start: int
    end: int


def choose(
    method: str,
    headers: Mapping[str, str],
    *,
    etag: str,
    modified: datetime,
    size: int,
) -> Served:
    """Decide what a request for a file gets; *etag* is without its quotes.

    Raise PreconditionFailed or RangeNotSatisfiable.
    """
    _check_still_the_same(headers, etag=etag, modified=modified)
    if _is_known(headers, etag=etag, modified=modified):
        return Served(kind="not modified", start=0, end=0)
    whole = Served(kind="whole", start=0, end=size)
    wanted = headers.get("Range")
    if wanted is None or method != "GET":
        return whole
    condition = headers.get("If-Range")
    if condition is not None and not _is_current(condition, etag, modified):
        return whole
    return _part(wanted, size) or whole


def _part(wanted: str, size: int) -> Served | None:
    """Return the range that *wanted* names; None: it names none that can be served."""
    found = _RANGE.fullmatch(wanted)
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        return _suffix(last, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    end = min(int(last) + 1, size) if last else size
    return Served(kind="part", start=start, end=end)


def _suffix(length: str, size: int) -> Served | None:
    if not length:
        return None
    if int(length) == 0:
        raise RangeNotSatisfiable(size)
    if size == 0:
        return None  # an empty file has all the bytes asked for: none
    return Served(kind="part", start=max(0, size - int(length)), end=size)


def _check_still_the_same(
    headers: Mapping[str, str], *, etag: str, modified: datetime
) -> None:
    match = headers.get("If-Match")
    if match is not None:
        if match.strip() != "*" and not _has_tag(match, etag, weak=False):
            raise PreconditionFailed
        return
    since = _date(headers.get("If-Unmodified-Since"))
    if since is not None and _seconds(modified) > since:
        raise PreconditionFailed


def _is_known(headers: Mapping[str, str], *, etag: str, modified: datetime) -> bool:
    none_match = headers.get("If-None-Match")
    if none_match is not None:
        return none_match.strip() == "*" or _has_tag(none_match, etag, weak=True)
    since = _date(headers.get("If-Modified-Since"))
    return since is not None and _seconds(modified) <= since


def _is_current(condition: str, etag: str, modified: datetime) -> bool:
    if '"' in condition:
        return _has_tag(condition, etag, weak=False)
    return _date(condition) == _seconds(modified)


def _has_tag(value: str, etag: str, *, weak: bool) -> bool:
    for count, found in enumerate(_TAG.finditer(value)):
        if count == MAX_TAGS:
            break
        is_weak, tag = found.groups()
        if tag == etag and (weak or not is_weak):
            return True
    return False


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _seconds(moment: datetime) -> datetime:
    # a header holds whole seconds: what is compared with it must not hold more
    return moment.astimezone(UTC).replace(microsecond=0)


def http_date(moment: datetime) -> str:
    """Return *moment* as HTTP writes it."""
    return format_datetime(_seconds(moment), usegmt=True)
