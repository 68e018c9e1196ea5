"""What the pool does for a claimed step.

The input is brought to a worker, the processor runs, its files go into the store as
they come, and how it ended is turned into what the engine stores. The steps are claimed
and settled by a `dispatch.Dispatcher`.
"""

import asyncio
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

import structlog

from asyncflow import uploads
from asyncflow.db.records import Claimed, Ended, Published
from asyncflow.dispatch import Begun, StepLost, ended_by, insist, no_room
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    DiskFull,
    OutputRefused,
    TypeNotAllowed,
)
from asyncflow.inputs import local_input
from asyncflow.jobs import Verdict
from asyncflow.packing import pack
from asyncflow.pool import Made, Order, Outcome, Pool
from asyncflow.store.base import Store
from asyncflow.turns import even_if_cancelled

log = structlog.get_logger(__name__)

#: with less room than this no failure of a worker counts
SCARCE_BYTES = 16 << 20
IDENTIFY = "identify"
#: what one attempt may hand over
MOST_FILES: Final = 1000
#: RFC 6838, section 4.2
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE: Final = re.compile(rf"{_NAME}/{_NAME}")


class PoolSteps:
    """Works on steps in the pool.

    *options* and *wall_s* (the longest attempt, in seconds) are the operator's, by
    consumer name; *check_type* raises TypeNotAllowed for what identify found.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: Pool,
        store: Store,
        options: Mapping[str, Mapping[str, object]],
        wall_s: Mapping[str, float],
        check_type: Callable[[str], None],
        scratch: Path,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._store = store
        self._options = options
        self._wall_s = wall_s
        self._check_type = check_type
        self._scratch = scratch

    async def work(self, claimed: Claimed, begun: Begun) -> Ended:
        """Run one attempt; raise StepLost if the step is not ours any more."""
        made: list[Published] = []
        numbers = itertools.count(1)
        async with local_input(self._store, claimed.key, self._scratch) as source:
            order = Order(
                label=f"{claimed.consumer} of {claimed.job_id}",
                processor=claimed.consumer,
                source=source,
                file_name=claimed.file_name,
                media_type=claimed.media_type or claimed.declared_type,
                options={
                    **self._options.get(claimed.consumer, {}),
                    **claimed.options,
                },
                facts=claimed.facts,
                wall_s=self._wall_s.get(claimed.consumer),
                payload=claimed.payload,
                job_id=claimed.job_id,
                attempt=claimed.attempt,
                tenant=claimed.tenant,
                place=claimed.place,
            )
            outcome = await self._pool.run(
                order,
                on_begin=begun,
                on_progress=lambda percent: self._engine.hub.running(
                    claimed.job_id, claimed.consumer, percent
                ),
                on_derivative=lambda one: self._publish(
                    claimed, one, next(numbers), made
                ),
            )
        return dataclasses.replace(self._read(claimed, outcome), made=tuple(made))

    def _read(self, claimed: Claimed, outcome: Outcome) -> Ended:
        """Turn what the pool says into what the engine stores."""
        ended = ended_by(claimed, outcome, self._engine.clock.spread())
        if outcome.verdict in {Verdict.ERROR, Verdict.LOST} and self._is_scarce():
            return no_room()
        if outcome.verdict is not Verdict.DONE or claimed.consumer != IDENTIFY:
            return ended
        media_type = outcome.facts.get("mediaType")
        if not (isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type)):
            return dataclasses.replace(
                ended,
                verdict=Verdict.ERROR,
                code=OutputRefused.code,
                detail="what the file is was not said as a media type",
                facts={},
            )
        try:
            self._check_type(media_type)
        except TypeNotAllowed as refused:
            return Ended(
                verdict=Verdict.BAD_FILE, code=refused.code, detail=refused.detail
            )
        plan = self._engine.plan(media_type, claimed.pipeline)
        return dataclasses.replace(ended, media_type=media_type, plan=plan)

    def _is_scarce(self) -> bool:
        """Tell whether a worker may have failed for want of room: not its fault."""
        disk = os.statvfs(self._scratch)
        return disk.f_bavail * disk.f_frsize < SCARCE_BYTES

    async def _put(self, key: str, made: Made) -> Published:
        """Store a file, text compressed."""
        packing = asyncio.to_thread(pack, made.fd, made.media_type, self._scratch)
        try:
            packed = await even_if_cancelled(packing)
        except OSError as error:
            raise DiskFull from error
        with packed.file or nullcontext():
            fd = made.fd if packed.file is None else packed.file.fileno()
            size = await self._store.put(key, fd)
        return Published(
            name=made.name,
            key=key,
            media_type=made.media_type,
            size=size,
            length=packed.length,
            coding=packed.coding,
            sha256=packed.sha256,
            plain_sha256=packed.plain_sha256,
            facts=made.facts,
        )

    async def _publish(
        self, claimed: Claimed, made: Made, number: int, held: list[Published]
    ) -> None:
        """Store a derivative, then make it visible, if the step is still ours.

        Those of a replay are *held*: they replace the old ones all at once, at its end.
        """
        if number > MOST_FILES:
            raise OutputRefused(f"the step made more than {MOST_FILES} files")
        key = uploads.derivative_key(
            claimed.job_id,
            claimed.step_id,
            claimed.token,
            made.name,
            made.media_type,
        )
        kept = False
        try:
            published = await self._put(key, made)
            if claimed.detached:
                held.append(published)
                kept = True
            else:
                kept = await insist(
                    lambda: self._engine.publish(claimed, published), claimed
                )
        finally:
            if not kept:
                # Nobody else knows of these bytes: the step may be closed already.
                with suppress(AsyncflowError):
                    await self._store.delete(key)
        if not kept:
            raise StepLost
