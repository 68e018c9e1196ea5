"""Which parts of a joined upload have come, with how many bytes, and what they show.

Rules
-----
- A joined upload has so many places; each takes one part, and the first one stays.
- What comes a second time must have the same bytes; then it goes, and all is well.
- What is said of a file may come with any part, and is said once.
- An upload that its parts show to be no file that is taken ends at once: when they are
  too large together, or when the first one begins like a file that is forbidden.
- What is known of places is remembered, and read again after a restart.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from asyncflow import uploads
from asyncflow.assembly import ALGORITHM, Assembly
from asyncflow.chunks import Chunks
from asyncflow.db.base import Database
from asyncflow.db.records import Change, UploadRow
from asyncflow.engine import Engine
from asyncflow.errors import (
    BlobNotFound,
    ChunkConflict,
    UploadComplete,
    UploadNotFound,
)
from asyncflow.store.base import Store
from asyncflow.store.digests import digest_of
from asyncflow.turns import Upload, said_of

#: uploads whose places are remembered, each at most 10 kB
REMEMBERED: Final = 1000
COMPLETE = uploads.UploadState.COMPLETE
NOTHING_SAID: Final = uploads.Said(
    file_name="", declared_type="application/octet-stream", raw_metadata="", digest=""
)


#: returns what is said of a file now, of what was said before
Say = Callable[[uploads.Said], uploads.Said]


def say_nothing(before: uploads.Said) -> uploads.Said:
    """Say nothing beyond what was said before."""
    return before


def said_expressly(said: uploads.Said) -> uploads.Said:
    """Return what is said of a file's kind, but nothing while that may come yet."""
    return said if said.raw_metadata else NOTHING_SAID


class Received:
    """Which places of an upload have come, with how many bytes in all."""

    def __init__(self, total: int) -> None:
        self._there = bytearray(total)
        self.count = 0
        self.bytes = 0
        #: the part in the first place, once it has come
        self.first = ""

    @property
    def is_all(self) -> bool:
        """Tell whether none is missing."""
        return self.count == len(self._there)

    @property
    def percent(self) -> float:
        """How many of the places have come, of a hundred."""
        return 100.0 * self.count / len(self._there)

    def has(self, n: int) -> bool:
        """Tell whether a place has come."""
        return bool(self._there[n])

    def add(self, n: int, part: str, size: int) -> None:
        """Note that a place has come, perhaps again: then the first part stays."""
        if self._there[n]:
            return
        self._there[n] = 1
        self.count += 1
        self.bytes += size
        if n == 0:
            self.first = part

    def missing(self, most: int) -> tuple[int, ...]:
        """Return the first places that have not come, at *most* so many."""
        found: list[int] = []
        n = self._there.find(0)
        while n >= 0 and len(found) < most:
            found.append(n)
            n = self._there.find(0, n + 1)
        return tuple(found)


class Gathering:
    """Gives parts their places, and remembers which ones have come."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        chunks: Chunks,
        assembly: Assembly,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._chunks = chunks
        self._assembly = assembly
        self._received: dict[str, Received] = {}

    async def check(self, final: Upload, total: int, n: int, size: int) -> int | None:
        """Return how many bytes have come, if *size* more can be taken for place *n*.

        None: that one has come before.

        Raises:
            UploadTooLarge: it would be too large; it has been refused and ended.
        """
        if await self.has(final, total, n):
            return None
        come = (await self._received_of(final.id, total)).bytes
        await self._chunks.endings.refuse_if(final.id, NOTHING_SAID, b"", come + size)
        return come

    async def has(self, final: Upload, total: int, n: int) -> bool:
        """Tell whether place *n* of an upload is taken."""
        return (await self._received_of(final.id, total)).has(n)

    async def place(
        self, final: Upload, total: int, n: int, part: Upload, say: Say = say_nothing
    ) -> Received | None:
        """Give a complete part its place, or end it if its bytes are there already.

        Return which of *total* places have come by then; None: the upload has become
        complete meanwhile, and the part has no place in it.
        *say* returns what is said of the file with this part, beside what was before;
        what it raises is raised, and the part has no place. It may be asked again.

        Raises:
            ChunkConflict: another one is there, with other bytes.
            UploadTooLarge, TypeMismatch, TypeNotAllowed: the upload can be no file that
                is taken; it has been refused and ended.
        """
        try:
            there, saying = await self._take(final.id, n, part.id, say)
        except UploadComplete:
            return None
        if there != part.id:
            try:
                is_same = await self._is_same(final.id, n, there, part)
            except (BlobNotFound, UploadNotFound):
                if (await self._chunks.find(final.id)).is_complete:
                    return None
                raise
            if not is_same:
                raise ChunkConflict(f"chunk {n} has come before, with other bytes")
            saying = await self._saying(final.id, say)
            while not await self._db.say(final.id, saying):
                saying = await self._saying(final.id, say)
            await self._chunks.terminate(part.id)
        await self._chunks.lookup.keep_alive(final.id, final.expires)
        received = await self._received_with(final.id, total, n, part)
        if received is None:
            return None
        is_news = received.first == part.id or saying.after != saying.before
        await self._judge(final.id, received, saying.after if is_news else None)
        self._engine.hub.uploading(final.id, received.bytes, received.percent)
        return received

    async def _take(
        self, final: str, n: int, part: str, say: Say
    ) -> tuple[str, uploads.Saying]:
        """Put a part into a place; return which one is there, and what is said.

        Raises:
            UploadComplete: its places have been given up.
        """
        saying = await self._saying(final, say)
        while (there := await self._db.take_place(final, n, part, saying)) is None:
            saying = await self._saying(final, say)
        return there, saying

    async def _is_same(self, final: str, n: int, there: str, part: Upload) -> bool:
        """Tell whether a part has the bytes of one that came before."""
        if (await self._db.find_upload(there)).length != part.offset:
            # who sends a byte shall not have gigabytes read for it
            return False
        found = await digest_of(self._store, uploads.raw_key(part.id), ALGORITHM)
        return await self._assembly.digest(final, n, there) == found

    async def _received_with(
        self, final: str, total: int, n: int, part: Upload
    ) -> Received | None:
        """Return which places have come, and *part* among them.

        None: the upload has become complete meanwhile.

        Raises:
            UploadGone: it has ended meanwhile.
        """
        is_known = final in self._received
        received = await self._received_of(final, total)
        if not (is_known or received.has(n)):
            # with the upload its parts are over
            self._received.pop(final, None)
            if (await self._chunks.find(final)).is_complete:
                return None
        # who looked the places up may have done so before this one was taken
        received.add(n, part.id, part.offset)
        return received

    async def _judge(
        self, final: str, received: Received, said: uploads.Said | None
    ) -> None:
        """Refuse an upload as soon as what has come of it shows that it is not taken.

        *said*: what is said of its kind, if that or its first bytes are news.
        """
        first = b""
        if said is not None and received.first:
            first = await self.head(received.first)
        kind = NOTHING_SAID if said is None else said_expressly(said)
        await self._chunks.endings.refuse_if(final, kind, first, received.bytes)

    async def head(self, part: str) -> bytes:
        """Return the first bytes of a complete part, none if it makes way just now."""
        key, end = uploads.raw_key(part), uploads.SIGNATURE_BYTES
        with suppress(BlobNotFound):
            return b"".join([data async for data in self._store.read(key, 0, end)])
        return b""

    async def judge_parts(self, row: UploadRow) -> None:
        """Refuse an upload of named parts as soon as they show that it is not taken."""
        places = await self._db.places(row.id)
        there = [place for place in places if place.state == COMPLETE]
        size, first = sum(place.length or 0 for place in there), b""
        if there and there[0].n == 0:
            first = await self.head(there[0].part)
        await self._chunks.endings.refuse_if(row.id, row, first, size)

    async def arrived(self, row: UploadRow) -> tuple[int, float]:
        """Return how many bytes of an unfinished upload have come.

        And how many of a hundred, where nobody knows its length.
        """
        if row.parts is None:
            return await self._chunks.lookup.received(row.id), 0.0
        if not row.concat:
            received = await self._received_of(row.id, row.parts)
            return received.bytes, received.percent
        size = complete = 0
        for place in await self._db.places(row.id):
            if place.state == COMPLETE:
                complete += 1
                size += place.length or 0
            else:
                size += await self._chunks.lookup.received(place.part)
        return size, 100.0 * complete / row.parts

    async def _saying(self, final: str, say: Say) -> uploads.Saying:
        before = said_of(await self._db.find_upload(final))
        return uploads.Saying(before=before, after=say(before))

    async def _received_of(self, final: str, total: int) -> Received:
        if (known := self._received.get(final)) is not None:
            return known
        found = Received(total)
        for place in await self._db.places(final):
            if place.state == COMPLETE:
                found.add(place.n, place.part, place.length or 0)
        if len(self._received) >= REMEMBERED:
            del self._received[next(iter(self._received))]
        return self._received.setdefault(final, found)

    def lacks_some(self, final: str) -> bool:
        """Tell whether it is known of an upload that a place is empty."""
        received = self._received.get(final)
        return received is not None and not received.is_all

    def changed(self, change: Change) -> None:
        """Forget the places of an upload that is over."""
        if change.terminal is not None or change.gone:
            self._received.pop(change.job_id, None)
