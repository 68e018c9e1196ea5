"""Trailers of chunked bodies (RFC 9110 section 6.5), which aiohttp does not tell.

Theory of operation
-------------------
A chunked body is a row of chunks, each behind a line with its size; one of size 0 ends
them, and trailer fields and an empty line end the body (RFC 9112 section 7.1).
`ChunkedBody` goes along with what the connection receives, from size line to size line,
and takes the fields out. What is wrong with chunks is the parser's to say; what is
wrong with trailers is said here.
"""

import re
from typing import Final, Protocol, runtime_checkable

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from asyncflow.errors import ClientError, HeadTooLarge, MalformedRequest

#: what the trailer fields of one body may hold
TRAILER_BYTES: Final = 8192

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\x20-\x7e\x80-\xff\t]*)\r\n")
# `int` alone would take signs, underscores and 0x as well
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r\n")
_NO_FIELDS: Final = CIMultiDictProxy(CIMultiDict[str]())


class ChunkedBody:
    """Follows a chunked body over the connection, up to its end."""

    def __init__(self, most_fields: int) -> None:
        self._most_fields = most_fields
        self.is_over = False
        #: its trailer fields
        self.fields = CIMultiDict[str]()
        #: what is wrong with them
        self.wrong: ClientError | None = None
        self._skip = 0
        self._line = b""
        self._in_trailers = False
        self._trailer_bytes = 0
        self._is_lost = False

    def feed(self, data: bytes, at: int = 0) -> tuple[int, bytes]:
        """Take what came from *at* on.

        Return the position in *data* behind it, at the latest where the body ends, and
        the bytes without trailers.
        """
        start = at
        while at < len(data) and not self._is_lost:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if self._in_trailers:
                self._take_trailer(is_whole=end > 0)
                if self.is_over or self.wrong:
                    return at, b"\r\n"
                start = at
            elif end:
                self._begin_chunk()
                if self._in_trailers:
                    return at, data[start:at]
            elif len(self._line) > TRAILER_BYTES:
                self._is_lost = True
        end = len(data) if self._is_lost else at
        return end, data[start:end]

    def _take_trailer(self, *, is_whole: bool) -> None:
        if self._trailer_bytes + len(self._line) > TRAILER_BYTES:
            self.wrong = HeadTooLarge("the trailers are larger than this server takes")
        if self.wrong or not is_whole:
            return
        line, self._line = self._line.decode("latin-1"), b""
        self._trailer_bytes += len(line)
        self.is_over = line == "\r\n"
        field = _FIELD.fullmatch(line)
        if field is not None:
            self.fields.add(field[1], field[2].strip(" \t"))
        elif not self.is_over:
            self.wrong = MalformedRequest("a trailer is malformed")
        if len(self.fields) > self._most_fields:
            self.wrong = HeadTooLarge("there are more trailers than this server takes")

    def _begin_chunk(self) -> None:
        line, self._line = self._line, b""
        found = _SIZE.match(line)
        if found is None:
            # the parser will say so
            self._is_lost = True
            return
        size = int(found[1], 16)
        self._in_trailers = size == 0
        # its end of line, too
        self._skip = size + 2 if size else 0


@runtime_checkable
class KeepsTrailers(Protocol):
    """A connection that keeps the trailers of the bodies that came over it."""

    def trailers_of(self, content: StreamReader) -> CIMultiDict[str] | None:
        """Return the trailer fields of a body that has ended; None: it has none."""
        ...


def trailers(request: web.Request) -> CIMultiDictProxy[str]:
    """Return the fields that came behind the body of *request*, which has been read."""
    if request.content_length is not None:
        return _NO_FIELDS  # only a chunked body has trailers
    connection = request.protocol
    if not isinstance(connection, KeepsTrailers):
        return _NO_FIELDS
    found = connection.trailers_of(request.content)
    return _NO_FIELDS if found is None else CIMultiDictProxy(found)


def announces(request: web.Request, name: str) -> bool:
    """Tell whether the request says that *name* follows its body."""
    said = ",".join(request.headers.getall(hdrs.TRAILER, []))
    return name.lower() in {one.strip().lower() for one in said.split(",")}
