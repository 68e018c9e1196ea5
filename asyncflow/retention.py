"""What has had its time: old originals, jobs, ids, and bytes that nobody names.

Rules
-----
- Everything goes in small portions behind the work of people; what is left is taken at
  the next round.
- Ids that clients chose stay nobody's for `uploads.KEEP_SPENT_MS` after their jobs were
  deleted: a late chunk brings no file back.
- An orphan is removed only when it is old: bytes are written before their row is.
"""

from collections.abc import AsyncIterator

import structlog

from asyncflow import uploads
from asyncflow.db.base import Database
from asyncflow.engine import Engine
from asyncflow.errors import AsyncflowError, JobNotFound
from asyncflow.store.base import CanList, Store

log = structlog.get_logger(__name__)

PORTION = 20
#: ids that one transaction gives back
SPENT_PORTION = 200
#: blobs that are looked up at once
LOOKED_UP = 200
#: bytes younger than this may be about to get their row
ORPHAN_AGE_S = 3600.0


class Retention:
    """Removes what has had its time; None: it is kept for ever.

    *originals_s* counts from the end of a job to the end of its original, *jobs_s* to
    the end of all that is known of it.
    """

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        originals_s: float | None,
        jobs_s: float | None,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._originals_s = originals_s
        self._jobs_s = jobs_s

    async def remove_old(self) -> None:
        """Remove originals and jobs that are older than they may get; give back ids."""
        if self._originals_s is not None:
            before = self._before(self._originals_s)
            count = 0
            while portion := await self._db.drop_originals(before, PORTION):
                count += portion
            if count:
                log.info("retention.originals", removed=count)
        if self._jobs_s is not None:
            await self._remove_jobs(self._before(self._jobs_s))
        before = self._engine.clock.now() - uploads.KEEP_SPENT_MS
        while await self._db.forget_spent(before, SPENT_PORTION):
            pass

    def _before(self, age_s: float) -> int:
        return self._engine.clock.now() - round(age_s * 1000)

    async def _remove_jobs(self, before: int) -> None:
        count = 0
        while portion := await self._db.finished_jobs(before, PORTION):
            for job in portion:
                try:
                    await self._engine.delete(job)
                except JobNotFound:
                    continue  # somebody else was faster
                count += 1
        if count:
            log.info("retention.jobs", removed=count)

    async def sweep(self) -> int:
        """Remove old blobs that nobody names; return how many."""
        if not isinstance(self._store, CanList):
            return 0
        removed = 0
        async for keys in _in_portions(self._store.keys(older_than_s=ORPHAN_AGE_S)):
            for key in await self._db.orphans(keys):
                try:
                    await self._store.delete(key)
                except AsyncflowError as error:
                    log.warning("sweep.stuck", key=key, error=error.detail)
                    continue
                log.warning("sweep.orphan", key=key)
                removed += 1
        return removed


async def _in_portions(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    portion: list[str] = []
    async for key in keys:
        portion.append(key)
        if len(portion) == LOOKED_UP:
            yield portion
            portion = []
    if portion:
        yield portion
