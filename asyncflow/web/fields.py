"""Structured header fields (RFC 9651) and the digests that come in them (RFC 9530).

A value of the wrong type counts as absent, as the IETF draft on resumable uploads
demands; that is why these do not raise.
"""

import base64
from collections.abc import Mapping
from typing import Final

import http_sf
from multidict import CIMultiDictProxy

from asyncflow.uploads import Checksum

#: names of RFC 9530 that we compute -> ours; the better one first
DIGESTS: Mapping[str, str] = {"sha-512": "sha512", "sha-256": "sha256"}
MAX_NUMBER: Final = 10**15 - 1


def _item(headers: CIMultiDictProxy[str], name: str) -> object:
    value = ", ".join(headers.getall(name, []))
    try:
        found = http_sf.parse(value.encode("ascii"), tltype="item")
    except ValueError:  # malformed, or not ASCII
        return None
    return found[0] if isinstance(found, tuple) else None


def boolean(headers: CIMultiDictProxy[str], name: str) -> bool | None:
    """Return a field that is `?0` or `?1`, else None."""
    found = _item(headers, name)
    return found if isinstance(found, bool) else None


def integer(headers: CIMultiDictProxy[str], name: str) -> int | None:
    """Return a field that is a whole number from 0 up to 15 digits, else None."""
    found = _item(headers, name)
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if 0 <= found <= MAX_NUMBER else None


def _dictionary(headers: CIMultiDictProxy[str], name: str) -> dict[str, object]:
    if name not in headers:
        return {}
    value = ", ".join(headers.getall(name))
    try:
        found = http_sf.parse(value.encode("ascii"), tltype="dictionary")
    except ValueError:
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: item[0] for key, item in pairs if isinstance(item, tuple)}


def digests(headers: CIMultiDictProxy[str], name: str) -> tuple[Checksum, ...]:
    """Return the digests in a field of RFC 9530 that we compute, best first."""
    said = _dictionary(headers, name)
    found = []
    for theirs, ours in DIGESTS.items():
        value = said.get(theirs)
        if isinstance(value, bytes):
            found.append(Checksum(algorithm=ours, value=value))
    return tuple(found)


def wanted_digest(headers: CIMultiDictProxy[str]) -> str | None:
    """Return the name that Want-Repr-Digest prefers of those we compute, else None."""
    said = _dictionary(headers, "Want-Repr-Digest")
    weights = {name: said.get(name) for name in DIGESTS}
    known = {n: w for n, w in weights.items() if isinstance(w, int) and w > 0}
    return max(known, key=lambda name: known[name], default=None)


def shown_digest(found: Checksum) -> str:
    """Return a checksum as Repr-Digest shows it."""
    (name,) = (theirs for theirs, ours in DIGESTS.items() if ours == found.algorithm)
    return f"{name}=:{base64.b64encode(found.value).decode()}:"


def limits(values: Mapping[str, int]) -> str:
    """Return Upload-Limit."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
