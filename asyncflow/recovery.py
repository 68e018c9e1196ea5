"""After a crash: uploads that were whole, joined, or cut off when the server died.

Rules
-----
- Each upload is looked at by itself: one bad blob keeps no server from starting.
- It is done behind the requests, some at once: however many there are, the server
  listens at once. An upload that a request names is looked at first, and the request
  waits for that: it meets each upload as if all had been looked at before.
- What only the disk or the database stood in the way of is tried again by `again`.
- Only what a dead server left is looked at. Until all of it has been, nothing expires
  unasked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from asyncflow.admission import Admission
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
from asyncflow.turns import Legacy
from asyncflow.uploads import UploadState

log = structlog.get_logger(__name__)

PAGE: Final = 500
#: so many uploads are looked at together, beside those that requests name
AT_ONCE: Final = 8

Recover = Callable[[UploadRow], Awaitable[bool]]


class Recovery(Legacy):
    """Sees to the uploads that a dead server left unfinished.

    *counting* counts what is not a job yet where there are quotas, which hold from the
    first request on.
    """

    def __init__(
        self,
        *,
        db: Database,
        chunks: Chunks,
        joiner: Joiner,
        counting: Admission | None = None,
    ) -> None:
        self._db = db
        self._chunks = chunks
        self._joiner = joiner
        self._counting = counting
        #: what to try again: upload -> how
        self._left: dict[str, Recover] = {}
        #: the row id of the last upload that a dead server may have left
        self._last: int | None = None
        self._has_strays = False
        #: row ids of uploads that are looked at now, and of those that have been
        self._running: dict[int, asyncio.Task[bool]] = {}
        self._done: set[int] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._all: asyncio.Task[None] | None = None
        self.is_over = False

    async def look(self) -> None:
        """Note what there is before the first request."""
        if self._last is not None:
            return
        last = await self._db.latest_upload()
        if self._counting is not None:
            await self._count(self._counting, last)
        self._last = last

    async def _count(self, counting: Admission, last: int) -> None:
        """Count what only the blobs tell: uploads of unknown length."""
        after = 0
        while page := await self._db.unfinished_uploads(after, PAGE):
            after = page[-1].seq
            for row in page:
                if row.seq <= last and row.length is None and row.parts is None:
                    held = await self._chunks.lookup.received(row.id)
                    counting.found(row.id, row.tenant, held)

    def begin(self) -> None:
        """Begin to look at every unfinished upload, behind the requests."""
        self._all = asyncio.create_task(self._run(), name="recovery")

    async def _run(self) -> None:
        try:
            whole = await self.run()
        except AsyncflowError as error:
            # `again` begins anew
            log.warning("recovery.waits", error=error.detail)
            return
        if whole:
            log.info("server.recovered", uploads=whole)

    async def stop(self) -> None:
        """End; the next start looks at what has not been."""
        tasks = [*self._running.values(), *filter(None, [self._all])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def run(self) -> int:
        """Look at every unfinished upload; return how many are jobs now."""
        await self.look()
        # parts first: what is joined from them waits for the last one
        plain = await self._each(are_joined=False)
        joined = await self._each(are_joined=True)
        self.is_over = True
        self._done.clear()
        await self._give_up_strays()
        return plain + joined

    async def seen(self, row: UploadRow) -> UploadRow:
        """Look at an upload that a request names; return what is stored of it then.

        The request goes on whatever became of that: it meets the same troubles itself.
        """
        is_open = row.state == UploadState.RECEIVING
        if self.is_over or not is_open or row.seq > (self._last or 0):
            return row
        if await self._once(row) is None:
            return row
        return await self._db.find_upload(row.id)

    async def _give_up_strays(self) -> None:
        """Give up parts of which nobody ever heard that they had come."""
        try:
            await self._db.give_up_strays(self._last or 0)
        except AsyncflowError as error:
            log.warning("strays.not_given_up", error=error.detail)
            self._has_strays = True
        else:
            self._has_strays = False

    async def _each(self, *, are_joined: bool) -> int:
        found, after = 0, 0
        while page := await self._db.unfinished_uploads(after, PAGE):
            after = page[-1].seq
            old = [
                row
                for row in page
                if row.seq <= (self._last or 0)
                and are_joined is (row.parts is not None)
            ]
            whole = await asyncio.gather(*(self._in_turn(row) for row in old))
            found += sum(map(bool, whole))
        return found

    async def _in_turn(self, row: UploadRow) -> bool | None:
        async with self._slots:
            return await self._once(row)

    async def _once(self, row: UploadRow) -> bool | None:
        """Look at an upload, or wait for who does; tell whether it is a job now.

        None: it has been looked at before, or is what the current task looks at.
        """
        running = self._running.get(row.seq)
        if row.seq in self._done or running is asyncio.current_task():
            return None
        if running is None:
            joined = row.parts is not None
            recover = self._joiner.recover if joined else self._chunks.recover
            running = asyncio.create_task(self._one(row, recover), name="recover")
            self._running[row.seq] = running
            running.add_done_callback(lambda _: self._looked_at(row.seq))
        # whoever waits may go away
        await asyncio.wait([running])
        return running.result()

    def _looked_at(self, seq: int) -> None:
        del self._running[seq]
        if not self.is_over:
            self._done.add(seq)

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
        if self._all is not None and self._all.done() and not self.is_over:
            self.begin()
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
