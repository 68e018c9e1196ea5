"""Bodies that are read whole, and the memory that all of them may take together.

Rules
-----
- What is counted is what has come, never what was announced: who says much and sends
  nothing takes nothing from others.
- When the memory is full, the body of which the least has come of late makes room, be
  it the newest: bodies that move come to their end, and those that are only held open
  never keep others out for long.
- A body that has come whole stays until its reader has done with it, who makes little
  more of it than there is: what takes memory beside it is to be read in pieces.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from asyncflow.errors import BodyTooLarge, ServerBusy
from asyncflow.web.bodies import KIB, BodyReader

#: what one body counts at least: its reader and its buffers take memory, too
LEAST: Final = 16 * KIB
#: what one that has just begun is taken to have brought
FRESH: Final = 64 * KIB
#: what came so long ago counts for a third of what comes now
LATELY_S: Final = 5.0


def taken(size: int) -> int:
    """Return how much memory *size* bytes take: what grows has an eighth to spare."""
    return size + size // 8


class Whole:
    """One body in memory."""

    def __init__(self, reader: BodyReader, now: float) -> None:
        self.reader = reader
        self.data = bytearray()
        #: what is counted for it
        self.held = 0
        #: why it is not read to its end
        self.refused: ServerBusy | None = None
        self._lately = float(FRESH)
        self._at = now

    def lately(self, now: float) -> float:
        """Return how much has come of late."""
        return self._lately * math.exp((self._at - now) / LATELY_S)

    def add(self, piece: bytes, now: float) -> None:
        """Take the next bytes."""
        self._lately, self._at = self.lately(now) + len(piece), now
        self.data += piece


class Wholes:
    """Reads bodies whole, all together in at most *limit_bytes*."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        on_refusal: Callable[[str], None] = lambda _code: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._limit = limit_bytes
        self._on_refusal = on_refusal
        self._clock = clock
        self._coming: set[Whole] = set()
        #: by all bodies, those that have come included
        self.held = 0

    @asynccontextmanager
    async def read(
        self, request: web.BaseRequest, *, max_bytes: int, min_rate: int = KIB
    ) -> AsyncIterator[Whole]:
        """Read a body whole, and hold it until the end of the context.

        Raises:
            BodyTooLarge: before reading, when it says so.
            ServerBusy: other bodies take all the memory, and move faster.
        """
        check_length(request, max_bytes)
        whole = Whole(BodyReader(request, min_rate=min_rate), self._now())
        try:
            self._coming.add(whole)
            self._hold(whole, 0)
            async for piece in whole.reader:
                self._hold(whole, len(piece))
                whole.add(piece, self._now())
                if len(whole.data) > max_bytes:
                    raise _too_large(max_bytes)
            self._coming.discard(whole)
            yield whole
        finally:
            self._drop(whole)

    def _now(self) -> float:
        clock = self._clock or asyncio.get_running_loop().time
        return clock()

    def _hold(self, whole: Whole, more: int) -> None:
        """Count *more* bytes of a body that is coming.

        Raises:
            ServerBusy: it had to make room, now or before.
        """
        size = max(LEAST, taken(len(whole.data) + more))
        if whole.refused is None and self.held + size - whole.held > self._limit:
            self._make_room(whole, size - whole.held)
        if whole.refused is not None:
            raise whole.refused
        self.held += size - whole.held
        whole.held = size

    def _make_room(self, whole: Whole, count: int) -> None:
        """Refuse bodies until *count* bytes fit, or *whole* is one of the refused."""
        now = self._now()
        for slowest in sorted(self._coming, key=lambda one: one.lately(now)):
            self._refuse(slowest)
            if slowest is whole or self.held + count <= self._limit:
                return

    def _refuse(self, whole: Whole) -> None:
        whole.refused = ServerBusy(
            "the memory for bodies that are read whole is taken by faster ones"
        )
        self._on_refusal(whole.refused.code)
        self._drop(whole)
        whole.reader.stop(whole.refused)

    def _drop(self, whole: Whole) -> None:
        self._coming.discard(whole)
        whole.data = bytearray()
        self.held -= whole.held
        whole.held = 0


def check_length(request: web.BaseRequest, max_bytes: int) -> None:
    """Return unless a body says that it is too large. Raise BodyTooLarge."""
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {max_bytes} bytes")


async def read_whole(
    request: web.BaseRequest, wholes: Wholes, *, max_bytes: int, min_rate: int = KIB
) -> bytes:
    """Return a whole small body, which counts until it has come.

    Raises:
        BodyTooLarge, ServerBusy: as `Wholes.read` says.
    """
    async with wholes.read(request, max_bytes=max_bytes, min_rate=min_rate) as whole:
        return bytes(whole.data)
