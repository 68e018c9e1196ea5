"""Puts the bytes of parts into the blob of what they become.

Rules
-----
- What two blobs can share is shared, and takes no room.
- What must be copied of parts that nobody else can name makes room for itself. It goes
  from the end, a window at a time: its bytes are durable in the joined blob before the
  row says so (`joined`), and only when the row does, durably, the parts lose them.
- So at every moment, of a crash too, byte `i` of the file is in its part if `i` is
  below `joined`, and in the joined blob if not. Whoever goes on begins at `joined`.
- A window takes room only until its parts have lost their bytes. A small one is
  granted above the fill level, too: what is all there must not wait for room that only
  it can make.
- Parts whose names clients know may serve again, and lose nothing. What is copied of
  them needs room of its own, all of it before the first byte: two files that each had
  half of it would wait for each other. If they fail they give back what they got.

Theory of operation
-------------------
From the end, because every file system can make a file shorter, and none need be able
to give back its beginning. A part that is shorter than its row says, below `joined`,
has lost bytes; it is never taken for one that gave them away.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.base import Database
from asyncflow.db.records import Place, UploadRow
from asyncflow.errors import BlobNotFound
from asyncflow.store.base import CanJoin, Interrupted, Piece, Store
from asyncflow.store.digests import digest_of

#: so much is copied before its parts lose it
WINDOW_BYTES: Final = 64 << 20
#: and so much at least, however full the disk is
LEAST_BYTES: Final = 1 << 20
#: by which parts are compared
ALGORITHM: Final = "sha256"

IsOver = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A part, and where its bytes begin and end in the file."""

    place: Place
    start: int
    end: int

    def within(self, start: int, end: int) -> Piece:
        """Return what of the part lies between two places of the file."""
        first, last = max(start, self.start), min(end, self.end)
        return Piece(
            key=self.place.key, start=first - self.start, end=last - self.start
        )


def seated(places: Sequence[Place]) -> tuple[Seat, ...]:
    """Return where each of some complete parts, in their order, has its bytes."""
    seats, at = [], 0
    for place in places:
        end = at + (place.length or 0)
        seats.append(Seat(place=place, start=at, end=end))
        at = end
    return tuple(seats)


class Assembly:
    """Makes one blob of many.

    *window* bytes are copied before their parts lose them, *least* of them however full
    the disk is.
    """

    def __init__(
        self,
        *,
        db: Database,
        store: Store,
        admission: Admission,
        window: int = WINDOW_BYTES,
        least: int = LEAST_BYTES,
    ) -> None:
        self._db = db
        self._store = store
        self._admission = admission
        self._window, self._least = window, least

    async def put_together(
        self, row: UploadRow, places: Sequence[Place], is_over: IsOver
    ) -> None:
        """Let the blob of an upload hold the bytes of its parts, all complete.

        It may be asked again after any failure, by this server or the next.

        Raises:
            BlobNotFound: a blob is not there, or has lost bytes.
            DiskFull: there is no room now.
            Interrupted: *is_over* was true before the end.
            UploadGone: it has ended meanwhile.
        """
        seats = seated(places)
        size = seats[-1].end
        store = self._store
        if not isinstance(store, CanJoin):
            async with self._admission.joined(row.tenant, more=0, room=size):
                await self._rewrite(row.key, places, is_over)
            return
        if row.joined is None:
            await store.cut({row.key: 0})
        elif await store.size(row.key) < size:
            raise BlobNotFound(f"{row.key} has lost bytes")
        else:
            # who joined before may have died in between
            await self._take_out(store, seats, row.joined, size)
        end = size if row.joined is None else row.joined
        wholes = [one.within(0, size) for one in seats if one.end <= end]
        shared = await store.share(row.key, wholes)
        move = self._copy_all if row.concat else self._move_all
        await move(store, row, seats, (shared, end), is_over)

    async def _copy_all(
        self,
        store: CanJoin,
        row: UploadRow,
        seats: Sequence[Seat],
        span: tuple[int, int],
        is_over: IsOver,
    ) -> None:
        """Copy what parts have between two places of the file, and leave it there."""
        start, end = span
        room = end - start
        async with self._admission.joined(row.tenant, more=0, room=room):
            pieces = _pieces(seats, start, end)
            try:
                await store.copy(row.key, start, pieces, is_over=is_over)
            except BaseException:
                await store.cut({row.key: 0})
                raise

    async def _move_all(
        self,
        store: CanJoin,
        row: UploadRow,
        seats: Sequence[Seat],
        span: tuple[int, int],
        is_over: IsOver,
    ) -> None:
        """Move what parts have between two places of the file, from the end.

        The last window stays in the parts as well: they all go when the file is there.
        What fails before anything was moved gives back the room that it got.
        """
        floor, end = span
        has_moved = row.joined is not None
        while end > floor:
            most = min(self._window, end - floor)
            async with self._admission.moved(most, least=self._least) as held:
                start = max(floor, end - held.room)
                pieces = _pieces(seats, start, end)
                try:
                    await store.copy(row.key, start, pieces, is_over=is_over)
                except BaseException:
                    if not has_moved:
                        await store.cut({row.key: floor})
                    raise
                held.stored()
                if start > floor:
                    await self._db.set_joined(row.id, start)
                    has_moved = True
                    await self._take_out(store, seats, start, end)
            end = start

    async def _take_out(
        self, store: CanJoin, seats: Sequence[Seat], start: int, end: int
    ) -> None:
        """Let parts lose what they have between two places of the file."""
        touched = [one for one in seats if one.start < end and one.end > start]
        lengths = {one.place.key: max(0, start - one.start) for one in touched}
        await store.cut(lengths)

    async def _rewrite(self, key: str, parts: Sequence[Place], is_over: IsOver) -> None:
        """Copy whole parts by reading and writing them."""
        writer = await self._store.append(key, 0)
        try:
            for part in parts:
                async for data in self._store.read(part.key):
                    if is_over():
                        raise Interrupted
                    await writer.write(data)
            await writer.sync()
        finally:
            await writer.close()

    # ----- what is where

    async def lost(self, row: UploadRow, places: Sequence[Place]) -> str | None:
        """Return which bytes the store has lost of an upload, in words; None: none."""
        seats = seated(places)
        joined = seats[-1].end if row.joined is None else row.joined
        for seat in seats:
            least = min(seat.end, joined) - seat.start
            if await self._size(seat.place.key) < least:
                return f"the server has lost bytes of part {seat.place.n}"
        if row.joined is not None and await self._size(row.key) < seats[-1].end:
            return "the server has lost bytes of the file"
        return None

    async def _size(self, key: str) -> int:
        """Return how long a blob is; -1: there is none."""
        try:
            return await self._store.size(key)
        except BlobNotFound:
            return -1

    async def digest(self, final: str, n: int, part: str) -> uploads.Checksum:
        """Return the SHA-256 of the bytes of a *part* that has place *n*.

        Raises:
            BlobNotFound: it makes way for the file just now.
        """
        key = uploads.raw_key(part)
        while True:
            row = await self._db.find_upload(final)
            if row.joined is None:
                found = await digest_of(self._store, key, ALGORITHM)
            else:
                found = await self._digest_across(row, row.joined, n, key)
            # a part loses bytes only once the row has said so
            if (await self._db.find_upload(final)).joined == row.joined:
                return found

    async def _digest_across(
        self, row: UploadRow, joined: int, n: int, part: str
    ) -> uploads.Checksum:
        """Return the digest of a part whose bytes from *joined* on are in the file."""
        span = await self._db.span_of(row.id, n)
        if span is None:
            raise BlobNotFound(f"nobody knows where {part} is in the file")
        start, end = span
        border = max(start, min(end, joined))
        hasher = uploads.CHECKSUMS[ALGORITHM]()
        for piece in (
            Piece(key=part, start=0, end=border - start),
            Piece(key=row.key, start=border, end=end),
        ):
            if piece.size:
                async for data in self._store.read(piece.key, piece.start, piece.end):
                    await asyncio.to_thread(hasher.update, data)
        return uploads.Checksum(algorithm=ALGORITHM, value=hasher.digest())


def _pieces(seats: Sequence[Seat], start: int, end: int) -> list[Piece]:
    """Return what parts have between two places of the file."""
    found = (one.within(start, end) for one in seats)
    return [piece for piece in found if piece.size > 0]
