"""Which keys a store takes, and how a key splits into segments."""

import re

_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,255}")


def segments(key: str) -> tuple[str, ...]:
    """Return the segments of *key*.

    Raises:
        ValueError: *key* is none that asyncflow makes.
    """
    found = tuple(key.split("/"))
    for one in found:
        if one in {".", ".."} or not _SEGMENT.fullmatch(one):
            raise ValueError(f"{key[:80]!r} is no key")
    return found


def is_under(key: str, prefix: str) -> bool:
    """Tell whether *key* starts with the whole segments of *prefix*."""
    return key == prefix or key.startswith(prefix + "/")
