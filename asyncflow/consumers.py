"""What the pool does for a claimed step.

The input is brought to a worker, the processor runs, its files go into the store as
they come, and how it ended is turned into what the engine stores. The steps are claimed
and settled by a `dispatch.Dispatcher`.
"""

import asyncio
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from pathlib import Path
from typing import Final

import structlog

from asyncflow import uploads
from asyncflow.admission import Admission
from asyncflow.db.records import Claimed, Ended, Published
from asyncflow.dispatch import Begun, StepLost, ended_by, insist, lacked, no_room
from asyncflow.engine import Engine
from asyncflow.errors import (
    AsyncflowError,
    DiskFull,
    OutputRefused,
    QuotaExceeded,
    TypeNotAllowed,
)
from asyncflow.holdings import LEAST_BYTES
from asyncflow.inputs import local_input
from asyncflow.jobs import REASONS, Verdict
from asyncflow.orders import GivenUp
from asyncflow.packing import Packed, pack
from asyncflow.pool import Made, Order, Outcome, Pool
from asyncflow.prints import BLOCK
from asyncflow.store.base import Interrupted, Store
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
    consumer name; *admission* is asked about what identify found, and what may be kept.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: Pool,
        store: Store,
        options: Mapping[str, Mapping[str, object]],
        wall_s: Mapping[str, float],
        admission: Admission,
        scratch: Path,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._store = store
        self._options = options
        self._wall_s = wall_s
        self._admission = admission
        self._scratch = scratch

    async def work(self, claimed: Claimed, begun: Begun) -> Ended:
        """Run one attempt; raise StepLost if the step is not ours any more."""
        async with (
            AsyncExitStack() as until_end,
            local_input(self._store, claimed.key, self._scratch) as source,
        ):
            handed = Handed(until_end)
            try:
                outcome = await self._run(claimed, source, begun, handed)
            except QuotaExceeded as refused:
                return self._failed(refused.code, refused.detail)
            except TooMuch:
                return self._failed("too_much_output")
            except DiskFull:
                if handed.is_much:  # whoever has filled the disk does not wait for room
                    return self._failed("too_much_output")
                raise
        ended = self._read(claimed, outcome)
        return dataclasses.replace(ended, made=tuple(handed.held))

    async def _run(
        self, claimed: Claimed, source: Path | None, begun: Begun, handed: "Handed"
    ) -> Outcome:
        order = Order(
            label=f"{claimed.consumer} of {claimed.job_id}",
            processor=claimed.consumer,
            source=source,
            file_name=claimed.file_name,
            media_type=claimed.media_type or claimed.declared_type,
            options={**self._options.get(claimed.consumer, {}), **claimed.options},
            facts=claimed.facts,
            wall_s=self._wall_s.get(claimed.consumer),
            payload=claimed.payload,
            job_id=claimed.job_id,
            attempt=claimed.attempt,
            tenant=claimed.tenant,
            place=claimed.place,
        )
        return await self._pool.run(
            order,
            on_begin=begun,
            on_progress=lambda percent: self._engine.hub.running(
                claimed.job_id, claimed.consumer, percent
            ),
            on_derivative=lambda made: self._publish(claimed, made, handed),
        )

    def _failed(self, code: str, detail: str = "") -> Ended:
        """Return the end of an attempt that has made more than it may."""
        return Ended(
            verdict=Verdict.ERROR,
            code=code,
            detail=detail or REASONS[code],
            spread=self._engine.clock.spread(),
        )

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
            self._admission.check_type(media_type)
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

    async def _publish(self, claimed: Claimed, made: Made, handed: "Handed") -> None:
        """Store a derivative, then make it visible, if the step is still ours.

        Those of a replay replace the old ones all at once, at its end: until then they
        are held, and so is what they take.
        """
        handed.count(made, self._pool.max_file_bytes)
        is_over = _ending(made)
        tenant, admission = claimed.tenant, self._admission
        async with admission.made(tenant, count=0, room=made.size):
            packed = await self._pack(made, is_over)
            with packed.file or nullcontext():
                fd = made.fd if packed.file is None else packed.file.fileno()
                size = os.fstat(fd).st_size
                more = admission.made(
                    tenant, count=size, room=0 if packed.file is None else size
                )
                async with AsyncExitStack() as until_visible:
                    until = handed.until_end if claimed.detached else until_visible
                    await until.enter_async_context(more)
                    await self._keep(claimed, made, packed, fd, is_over, handed)

    async def _pack(self, made: Made, is_over: Callable[[], bool]) -> Packed:
        packing = asyncio.to_thread(
            pack, made.fd, made.media_type, self._scratch, is_over
        )
        try:
            return await even_if_cancelled(packing)
        except GivenUp:
            raise _why_over(made) from None
        except OSError as error:
            if lacked(error) is not None:
                raise
            raise DiskFull from error

    async def _keep(
        self,
        claimed: Claimed,
        made: Made,
        packed: Packed,
        fd: int,
        is_over: Callable[[], bool],
        handed: "Handed",
    ) -> None:
        key = uploads.derivative_key(
            claimed.job_id,
            claimed.step_id,
            claimed.token,
            made.name,
            made.media_type,
        )
        kept = False
        try:
            size = await self._store.put(key, fd, is_over=is_over)
            published = Published(
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
            if claimed.detached:
                handed.held.append(published)
                kept = True
            else:
                kept = await insist(
                    lambda: self._engine.publish(claimed, published), claimed
                )
        except Interrupted:
            raise _why_over(made) from None
        finally:
            if not kept:
                # Nobody else knows of these bytes: the step may be closed already.
                with suppress(AsyncflowError):
                    await self._store.delete(key)
        if not kept:
            raise StepLost


class TooMuch(Exception):
    """A run hands over more than it may."""


class Handed:
    """What one attempt has handed over."""

    def __init__(self, until_end: AsyncExitStack) -> None:
        #: of a replay: not visible before its end
        self.held: list[Published] = []
        #: holds until the end what those take
        self.until_end = until_end
        self._files = 0
        self._bytes = 0

    @property
    def is_much(self) -> bool:
        """Whether it matters to a disk that is nearly full."""
        return self._bytes > LEAST_BYTES

    def count(self, made: Made, most_bytes: int) -> None:
        """Count a file, whatever becomes of it where it was made.

        Raises:
            OutputRefused, TooMuch: it is more than one attempt may hand over.
        """
        self._files += 1
        if self._files > MOST_FILES:
            raise OutputRefused(f"the step made more than {MOST_FILES} files")
        blocks = os.fstat(made.fd).st_blocks * BLOCK
        self._bytes += max(made.size, blocks)
        if self._bytes > most_bytes:
            raise TooMuch


def _ending(made: Made) -> Callable[[], bool]:
    """Return what tells, on any thread, that *made* is not to be stored any more."""
    task = asyncio.current_task()

    def is_over() -> bool:
        is_stopped = task is not None and task.cancelling() > 0
        return is_stopped or made.is_over() or _is_changed(made)

    return is_over


def _is_changed(made: Made) -> bool:
    return os.fstat(made.fd).st_size != made.size


def _why_over(made: Made) -> Exception:
    if _is_changed(made):
        return OutputRefused(f"{made.name} changed after it was announced")
    return GivenUp()
