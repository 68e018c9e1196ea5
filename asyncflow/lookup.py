"""Which uploads are there, how far they are, and how long they may stay.

Rules
-----
- Whoever asks for an upload stops the request that fills it, and hears only what is on
  stable storage.
- An upload whose time is over ends when somebody asks for it, at the latest. One that a
  request fills, or that is whole and only not accepted yet, is not late.
- Time is given once half of it is gone: not with every byte.
- A blob that a crash kept from being made is made when somebody asks how long it is.
- What was created here a moment ago need not be read back for its first request.
"""

from asyncflow import uploads
from asyncflow.chance import Clock
from asyncflow.db.base import Database
from asyncflow.db.records import Change, UploadRow
from asyncflow.endings import Endings
from asyncflow.errors import BlobExists, BlobNotFound, ClientError, UploadGone
from asyncflow.offsets import Offsets
from asyncflow.store.base import Store
from asyncflow.turns import Legacy, Turns, Upload

#: new uploads whose rows need not be read back for their first request
REMEMBERED = 256


def is_whole(row: UploadRow, offset: int) -> bool:
    """Tell whether an upload has all its bytes, and nobody has more to say of it."""
    return row.parts is None and offset == row.length and row.has_end


class Lookup:
    """Finds uploads; those that nobody finished in time end here."""

    def __init__(
        self,
        *,
        db: Database,
        store: Store,
        clock: Clock,
        turns: Turns,
        offsets: Offsets,
        endings: Endings,
        expiry_ms: int,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._turns = turns
        self._offsets = offsets
        self._endings = endings
        self.expiry_ms = expiry_ms
        self.legacy = Legacy()
        #: uploads that nobody has asked for, or changed, since they were created here
        self._fresh: dict[str, UploadRow] = {}

    async def find(self, upload_id: str, *, at_length: bool = False) -> Upload:
        """Return the upload with its durable offset, after stopping who fills it.

        *at_length*: who asks takes a file for complete once its length is reached.

        Raises:
            UploadNotFound, UploadGone: it is not there (any more).
            UploadBusy: the disk holds the earlier request's write.
        """
        row = await self.open(upload_id)
        if await self._turns.take_over(upload_id):
            row = await self.open(upload_id)
        if row.state != uploads.UploadState.RECEIVING:
            return Upload.of(row, row.length or 0)
        if row.parts is not None:
            return Upload.of(row, 0)
        offset = await self.offset_of(row)
        if is_whole(row, offset) or (at_length and offset == row.length):
            row = await self._endings.complete(row, offset)
        return Upload.of(row, offset)

    async def open(self, upload_id: str) -> UploadRow:
        """Return an upload that is there; one whose time is over ends now."""
        row = self._fresh.pop(upload_id, None)
        if row is None:
            row = await self.legacy.seen(await self._db.find_upload(upload_id))
        if row.state == uploads.UploadState.ENDED:
            raise UploadGone
        if self._is_late(row):
            await self._endings.expire(upload_id)
            raise UploadGone
        return row

    async def received(self, upload_id: str) -> int:
        """Return how many bytes have arrived, durable or not, disturbing nobody."""
        turn = self._turns.get(upload_id)
        if turn is not None:
            return turn.offset
        try:
            return await self._store.size(uploads.raw_key(upload_id))
        except BlobNotFound:
            return 0

    async def offset_of(self, row: UploadRow) -> int:
        """Return how much of an unfinished upload counts, on stable storage."""
        try:
            size = await self._offsets.of(row.key)
        except BlobNotFound:
            await self.make_blob(row, length=row.length)
            return 0
        return uploads.offset_of(size, length=row.length, checked_from=row.checked_from)

    async def make_blob(self, row: UploadRow, *, length: int | None) -> None:
        """Create the blob that is missing if the server died between the row and it.

        Raises:
            UploadNotFound, UploadGone: the upload has ended meanwhile.
        """
        try:
            await self._store.create(row.key, length=length)
        except BlobExists:
            return  # or its creator was only slower than we
        try:
            await self.open(row.id)
        except ClientError:
            # It was ended and swept since *row* was read: leave no bytes behind.
            await self._store.delete(row.key)
            raise

    # ----- new ones

    def remember(self, row: UploadRow) -> None:
        """Take note of an upload that is created now."""
        self._fresh[row.id] = row
        if len(self._fresh) > REMEMBERED:
            del self._fresh[next(iter(self._fresh))]

    def forget(self, upload_id: str) -> None:
        """Read an upload back when somebody asks for it."""
        self._fresh.pop(upload_id, None)

    def changed(self, change: Change) -> None:
        """Read back what somebody has changed."""
        if change.version > 1:  # the first is its creation
            self._fresh.pop(change.job_id, None)

    # ----- time

    def _is_late(self, row: UploadRow) -> bool:
        if row.expires is None or self._is_busy(row.id):
            return False
        return row.expires <= self._clock.now()

    def _is_busy(self, upload_id: str) -> bool:
        # A request that fills it keeps it alive; a whole one is only not accepted yet.
        return upload_id in self._turns or self._endings.awaits(upload_id)

    def needs_time(self, expires: int | None) -> bool:
        """Tell whether half of the time is gone; None: it is not looked at."""
        return (
            expires is not None and expires - self._clock.now() <= self.expiry_ms // 2
        )

    async def keep_alive(self, upload_id: str, expires: int | None) -> int | None:
        """Give an upload more time once half of it is gone; return when it is over.

        What waits for a part, and that one's other parts, live as long.
        """
        if not self.needs_time(expires):
            return expires
        later = self._clock.now() + self.expiry_ms
        await self._db.extend_upload(upload_id, later)
        return later

    async def expire(self, limit: int = 100) -> int:
        """End uploads that nobody finished in time; return how many."""
        if not self.legacy.is_over:
            return 0  # some may be whole, and only not accepted yet
        # behind those that cannot be ended now, which come first each time
        look = limit + len(self._turns) + self._endings.waiting
        ids = await self._db.expired_uploads(self._clock.now(), look)
        idle = [one for one in ids if not self._is_busy(one)][:limit]
        for upload_id in idle:
            await self._endings.expire(upload_id)
        return len(idle)
