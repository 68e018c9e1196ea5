"""Read `multipart/form-data` as it arrives (RFC 7578, RFC 2046 section 5.1).

Theory of operation
-------------------
A delimiter is `CRLF--boundary`; the first one may lack its CRLF, so the buffer starts
with one. Bytes are handed out as soon as they cannot be the beginning of a delimiter:
all but the last `len(delimiter) - 1`. One search per piece, one copy at most, and never
more than a piece in memory.
"""

import re
from typing import Final, Protocol

from asyncflow.errors import InvalidMultipart, InvalidParameter
from asyncflow.web.parsing import content_disposition

MAX_PARTS: Final = 1000
MAX_PART_HEAD: Final = 16 * 1024
#: bytes of a field that is no file
MAX_FIELD: Final = 1024
#: what stands before the first and behind the last delimiter means nothing
MAX_AROUND: Final = 64 * 1024

_BOUNDARY = re.compile(
    r"""multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))""",
    re.IGNORECASE | re.DOTALL,
)
# White space is stripped afterwards: a pattern that did it would go back and forth.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")


class Source(Protocol):
    """A body that arrives piece by piece."""

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end."""
        ...

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, or the next one, raise *error*."""
        ...


class Part:
    """One part: its headers are read, its bytes come from `read` until it is empty."""

    def __init__(self, form: "FormReader", headers: dict[str, str]) -> None:
        self._form = form
        self._over = False
        #: read, but not handed out yet
        self._ahead = b""
        disposition = headers.get("content-disposition", "")
        self.name, self.file_name = content_disposition(disposition)
        self.content_type = headers.get("content-type")
        #: bytes handed out so far
        self.received = 0

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, or the next one, raise *error*.

        The rest of the form goes with it: the bytes of a part cannot be passed over
        without waiting for them.
        """
        self._form.stop(error)

    async def read(self) -> bytes:
        """Return the next bytes of the part, empty at its end.

        Raises:
            InvalidMultipart: the body ends inside the part.
        """
        data, self._ahead = self._ahead, b""
        if self._over or data:
            return data
        data = await self._form.part_bytes()
        self._over = not data
        self.received += len(data)
        return data

    async def is_empty(self) -> bool:
        """Tell whether the part has no (more) bytes.

        Raises:
            InvalidMultipart: the body ends inside the part.
        """
        self._ahead = await self.read()
        return not self._ahead

    async def text(self) -> str:
        """Return the whole part, a field of the form, as text.

        Raises:
            InvalidMultipart: the body ends inside the part.
            InvalidParameter: it is longer than `MAX_FIELD`.
        """
        value = b""
        while data := await self.read():
            value += data
            if len(value) > MAX_FIELD:
                shown = value[:80].decode("latin-1")
                accepted = f"at most {MAX_FIELD} bytes"
                raise InvalidParameter(self.name or "", shown, accepted=accepted)
        return value.decode("utf-8", "replace").strip()


class FormReader:
    """The parts of one form, in order. Raises InvalidMultipart for what is not one."""

    def __init__(self, source: Source, content_type: str) -> None:
        found = _BOUNDARY.match(content_type)
        if found is None:
            raise InvalidMultipart(
                "Content-Type must be multipart/form-data with a boundary of 1 to 70 "
                "characters"
            )
        boundary = (found[1] or found[2]).encode()
        self._source = source
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"
        self._part: Part | None = None
        self._parts = 0
        self._ended = False

    async def next_part(self) -> Part | None:
        """Return the next part, after skipping what is left of this one."""
        if self._ended:
            return None
        if self._part is None:
            await self._skip_preamble()
        else:
            while await self._part.read():
                pass
        if await self._at_end():
            self._ended = True
            await self._skip_epilogue()
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidMultipart(f"the form has more than {MAX_PARTS} parts")
        self._part = Part(self, await self._head())
        return self._part

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, and all after it, raise *error*."""
        self._source.stop(error)

    async def part_bytes(self) -> bytes:
        """Return the next bytes before the delimiter; empty: it has been passed."""
        while True:
            at = self._buffer.find(self._delimiter)
            if at > 0:
                data, self._buffer = self._buffer[:at], self._buffer[at:]
                return data
            if at == 0:
                self._buffer = self._buffer[len(self._delimiter) :]
                return b""
            keep = len(self._delimiter) - 1
            if len(self._buffer) > keep:
                data, self._buffer = self._buffer[:-keep], self._buffer[-keep:]
                return data
            await self._more("inside a part")

    async def _more(self, where: str) -> None:
        data = await self._source.read()
        if not data:
            raise InvalidMultipart(f"the form ends {where}")
        self._buffer += data

    async def _skip_preamble(self) -> None:
        skipped = 0
        while data := await self.part_bytes():
            skipped += len(data)
            if skipped > MAX_AROUND:
                raise InvalidMultipart("the form does not begin with its boundary")

    async def _at_end(self) -> bool:
        """Read what follows a delimiter; tell whether it was the last."""
        while len(self._buffer) < 2:  # noqa: PLR2004 -- `--` or CRLF
            await self._more("after a boundary")
        if self._buffer.startswith(b"--"):
            return True
        while b"\r\n" not in self._buffer[:MAX_PART_HEAD]:
            if len(self._buffer) >= MAX_PART_HEAD:
                raise InvalidMultipart("a boundary has no end of line")
            await self._more("after a boundary")
        padding, self._buffer = self._buffer.split(b"\r\n", 1)
        if padding.strip(b" \t"):
            raise InvalidMultipart("a boundary is followed by other characters")
        # A part without headers begins with the empty line itself.
        self._buffer = b"\r\n" + self._buffer
        return False

    async def _skip_epilogue(self) -> None:
        skipped = len(self._buffer)
        while skipped <= MAX_AROUND:
            data = await self._source.read()
            if not data:
                return
            skipped += len(data)
        raise InvalidMultipart("too many bytes follow the form")

    async def _head(self) -> dict[str, str]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_PART_HEAD:
                raise InvalidMultipart(
                    f"the head of a part is larger than {MAX_PART_HEAD} bytes"
                )
            await self._more("inside the head of a part")
        if end > MAX_PART_HEAD:
            raise InvalidMultipart(
                f"the head of a part is larger than {MAX_PART_HEAD} bytes"
            )
        head, self._buffer = self._buffer[2:end], self._buffer[end + 2 :]
        headers: dict[str, str] = {}
        for line in filter(None, head.split(b"\r\n")):
            found = _HEADER.fullmatch(line)
            if found is None:
                raise InvalidMultipart("a header of a part is malformed")
            name = found[1].decode("ascii").lower()
            headers[name] = found[2].strip(b" \t").decode("utf-8", "replace")
        await self._pass_empty_line()
        return headers

    async def _pass_empty_line(self) -> None:
        """Drop the CRLF that ends the head, unless it is a delimiter's own."""
        while len(self._buffer) < len(self._delimiter) and self._delimiter.startswith(
            self._buffer
        ):
            await self._more("after the head of a part")
        if not self._buffer.startswith(self._delimiter):
            self._buffer = self._buffer[2:]
