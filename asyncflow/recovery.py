"""After a crash: uploads that were whole, joined, or cut off when the server died.

Rules
-----
- Each upload is looked at by itself: one bad blob keeps no server from starting.
- What only the disk or the database stood in the way of is tried again by `again`.
- Only what a dead server left is looked at: recovery may come late, after requests.
"""

from collections.abc import Awaitable, Callable

import structlog

from asyncflow.chunks import Chunks
from asyncflow.db.base import Database
from asyncflow.db.records import UploadRow
from asyncflow.errors import (
    AsyncflowError,
    ClientError,
    ServerBusy,
    StoreUnavailable,
)
from asyncflow.joining import Joiner
from asyncflow.uploads import UploadState

log = structlog.get_logger(__name__)

PAGE = 500

Recover = Callable[[UploadRow], Awaitable[bool]]


class Recovery:
    """Sees to the uploads that a dead server left unfinished."""

    def __init__(self, *, db: Database, chunks: Chunks, joiner: Joiner) -> None:
        self._db = db
        self._chunks = chunks
        self._joiner = joiner
        #: what to try again: upload -> how
        self._left: dict[str, Recover] = {}
        #: the row id of the last upload that a dead server may have left
        self._last: int | None = None
        self._has_strays = False

    async def look(self) -> None:
        """Note what there is before the first request."""
        if self._last is None:
            self._last = await self._db.latest_upload()

    async def run(self) -> int:
        """Look at every unfinished upload; return how many are jobs now."""
        await self.look()
        # parts first: what is joined from them waits for the last one
        plain = await self._each(self._chunks.recover)
        joined = await self._each(self._joiner.recover)
        await self._give_up_strays()
        return plain + joined

    async def _give_up_strays(self) -> None:
        """Give up parts of which nobody ever heard that they had come."""
        try:
            await self._db.give_up_strays(self._last or 0)
        except AsyncflowError as error:
            log.warning("strays.not_given_up", error=error.detail)
            self._has_strays = True
        else:
            self._has_strays = False

    async def _each(self, recover: Recover) -> int:
        found, after = 0, 0
        while page := await self._db.unfinished_uploads(after, PAGE):
            after = page[-1].seq
            for row in page:
                if row.seq <= (self._last or 0):
                    found += await self._one(row, recover)
        return found

    async def _one(self, row: UploadRow, recover: Recover) -> bool:
        try:
            return await recover(row)
        except ClientError:
            return False  # it was refused, or its time was over as well
        except AsyncflowError as error:
            log.warning("upload.not_recovered", upload=row.id, error=error.detail)
            if isinstance(error, ServerBusy | StoreUnavailable):
                self._left[row.id] = recover
        except Exception:  # a bug about one upload must not end the others' recovery
            log.exception("upload.not_recovered", upload=row.id)
        return False

    async def again(self) -> None:
        """Try again what the disk or the database stood in the way of."""
        left, self._left = self._left, {}
        for upload_id, recover in left.items():
            try:
                row = await self._db.find_upload(upload_id)
            except ClientError:
                continue  # deleted meanwhile
            if row.state == UploadState.RECEIVING:
                await self._one(row, recover)
        if self._has_strays:
            await self._give_up_strays()
        await self._joiner.again()
