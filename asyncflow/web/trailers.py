"""Trailers of chunked bodies (RFC 9110 section 6.5), which aiohttp parses and forgets.

Theory of operation
-------------------
A chunked body ends with a last chunk of size 0, the trailer fields and an empty line.
`Tail` keeps the last bytes that the connection received. When the body has ended they
are read backwards: an empty line, field lines, and the line of the last chunk. No other
line of a request can be taken for a field or for that line, so the answer is right or
there is none: where a client has sent a further request behind the body, there is none.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

from aiohttp import hdrs, web

TAIL_BYTES: Final = 4096

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_LAST_CHUNK = re.compile(r"0+[ \t]*(?:;.*)?")


class Tail:
    """The last bytes of a body as they came over the connection."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, data: bytes) -> None:
        """Take what the connection received."""
        self._bytes = (self._bytes + data)[-TAIL_BYTES:]

    def fields(self) -> Mapping[str, str]:
        """Return the trailer fields of a body that has ended, by lower-case name."""
        lines = self._bytes.decode("latin-1").split("\r\n")
        if lines[-2:] != ["", ""]:
            return {}
        found: dict[str, str] = {}
        for line in reversed(lines[:-2]):
            if _LAST_CHUNK.fullmatch(line):
                return found
            field = _FIELD.fullmatch(line)
            if field is None or field[1].lower() in found:
                return {}
            found[field[1].lower()] = field[2].strip()
        return {}


@runtime_checkable
class KeepsTail(Protocol):
    """A connection that keeps the last bytes of a body that announces trailers."""

    @property
    def tail(self) -> Tail | None:
        """The last bytes of the newest body; None: it announces no trailers."""
        ...


def announces(request: web.Request, name: str) -> bool:
    """Tell whether the request says that *name* follows its body."""
    said = ",".join(request.headers.getall(hdrs.TRAILER, []))
    return name.lower() in {one.strip().lower() for one in said.split(",")}


def trailer(request: web.Request, name: str) -> str | None:
    """Return a field that came behind the body, which has been read; None: none did."""
    connection = request.protocol
    if not isinstance(connection, KeepsTail) or connection.tail is None:
        return None
    return connection.tail.fields().get(name.lower())
