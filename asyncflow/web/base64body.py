"""A chunk in JSON: what stands beside the bytes, and the bytes, decoded as they go on.

Theory of operation
-------------------
A decoder of JSON would make all of a body in one go, and nothing else could run
meanwhile; what it made would lie beside the body. But base64 has no quotation mark: so
the string with the bytes is found without a decoder, and decoded piece by piece. What
is left is small, or refused, and is decoded as any other JSON.
"""

import base64
import re
from typing import Final

import msgspec

from asyncflow.errors import BodyTooLarge, InvalidParameter

#: what may stand beside the string with the bytes
MOST_BESIDE: Final = 64 * 1024
#: so much of the string is decoded in one go, for some 2 ms
PIECE: Final = 256 * 1024
#: an escape is so long at most
_ESCAPE: Final = len("\\u002b")


class Base64Body:
    """Bytes that lie in memory as base64, in a string of JSON from *start* to *end*.

    `read` raises InvalidParameter where it is no base64.
    """

    def __init__(self, name: str, text: bytearray, start: int, end: int) -> None:
        self._name = name
        self._text = text
        self._at, self._end = start, end
        #: characters that make no whole bytes yet
        self._rest = b""
        self._stopped: Exception | None = None

    def stop(self, error: Exception) -> None:
        """Make the next read raise *error*."""
        self._stopped = error

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end."""
        while self._at < self._end:
            if self._stopped is not None:
                raise self._stopped
            if piece := self._next():
                return piece
        return b""

    def _next(self) -> bytes:
        at, stop = self._at, min(self._at + PIECE, self._end)
        if stop < self._end:
            escape = self._text.rfind(b"\\", stop - _ESCAPE, stop)
            stop = stop if escape < 0 else escape
        self._at = stop
        text = bytes(self._text[at:stop])
        try:
            if b"\\" in text:
                text = msgspec.json.decode(b'"' + text + b'"', type=str).encode()
            text = self._rest + text
            is_last = stop == self._end
            whole = len(text) if is_last else len(text) // 4 * 4
            self._rest = text[whole:]
            # padding before the end would be taken for the end
            given = text[:whole] if is_last else text[:whole].replace(b"=", b"-")
            return base64.b64decode(given, validate=True)
        except (ValueError, msgspec.DecodeError):
            shown = text[:40].decode("latin-1")
            raise InvalidParameter(self._name, shown, accepted="base64") from None


def split(text: bytearray, name: str) -> tuple[bytes, Base64Body]:
    """Return a JSON object without the string of its member *name*, and that string.

    The object has an empty one instead, and is not looked into.

    Raises:
        BodyTooLarge: too much stands beside it.
    """
    # inside of a string the marks would be escaped, and no longer like this
    found = re.compile(rb'"%b"[ \t\r\n]*:[ \t\r\n]*"' % name.encode()).search(
        text, 0, MOST_BESIDE
    )
    start = len(text) if found is None else found.end()
    end = text.find(b'"', start)
    end = len(text) if end < 0 else end
    if start + len(text) - end > MOST_BESIDE:
        raise BodyTooLarge(f"beside {name!r} there may be {MOST_BESIDE} bytes of JSON")
    beside = bytes(text[:start] + text[end:])
    return beside, Base64Body(name, text, start, end)
