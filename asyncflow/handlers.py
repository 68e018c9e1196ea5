"""What the server's own loop does for a claimed step: it awaits an `async` function.

For work that waits rather than computes. What such a function raises ends its attempt
and harms nobody else; what it blocks, it blocks for everybody.

Theory of operation
-------------------
The function runs in a task of its own, which turns every ending into the report that a
worker would write, and lets nothing else out: asyncio ends the whole server for a
KeyboardInterrupt or SystemExit that leaves a task. The attempt only watches that task.
So it ends when its time is over, or when it is cancelled, whatever the function makes
of that: a function that goes on all the same is a stray, shown to the operator until it
ends.
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from asyncflow import parcels, reports, runs
from asyncflow.db.records import Claimed, Ended
from asyncflow.dispatch import LACK_S, Begun, ended_by, lacked
from asyncflow.engine import Engine
from asyncflow.errors import Skip, TryLater
from asyncflow.inputs import local_input
from asyncflow.jobs import REASONS, Verdict
from asyncflow.orders import Outcome
from asyncflow.processors import base
from asyncflow.store.base import Store

log = structlog.get_logger(__name__)

#: steps on the loop at once; one consumer may have fewer
ROOM: Final = 256
#: of one consumer, where it does not say
CONCURRENCY: Final = 64
#: what a function that is stopped has for its `finally` blocks
STOP_S: Final = 5.0
#: a worker's reports are told apart by it; here each call returns its own
_TOKEN: Final = 0
_NO_FILES: Final = (
    "an async function makes no files: make them in a plain one, in a worker"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A function that goes on although its attempt is over: it ignores being stopped.

    *since* is when it was told to stop, in milliseconds since 1970.
    """

    job_id: str
    step: str
    attempt: int
    since: int


class LoopSteps:
    """Works on steps on the loop.

    *options* and *wall_s* (the longest attempt, in seconds) are the operator's, by
    consumer name. A function that takes a file may read it and must not write; it
    returns facts, and no files.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        store: Store,
        functions: Mapping[str, base.Processor],
        options: Mapping[str, Mapping[str, object]],
        wall_s: Mapping[str, float],
        scratch: Path,
    ) -> None:
        self._engine = engine
        self._store = store
        self._functions = functions
        self._options = options
        self._wall_s = wall_s
        self._scratch = scratch
        self._open: set[tuple[int, int]] = set()
        self._strays: dict[asyncio.Task[bytes], Stray] = {}

    def strays(self) -> tuple[Stray, ...]:
        """Return the functions that go on although they were told to stop."""
        return tuple(self._strays.values())

    async def work(self, claimed: Claimed, begun: Begun) -> Ended:
        """Run one attempt and say how it ended."""
        begun()
        function = self._functions[claimed.consumer]
        wall_s = self._wall_s.get(claimed.consumer, function.wall_s)
        held = (claimed.step_id, claimed.token)
        self._open.add(held)
        name = f"call-{claimed.step_id}-{claimed.token}"
        call = asyncio.create_task(self._call(function, claimed), name=name)
        try:
            await asyncio.wait({call}, timeout=wall_s)
            is_late = not call.done()
        finally:
            # also when the step is not ours any more, or the server stops
            self._open.discard(held)
            if not call.done():
                await self._stop(call, claimed)
        if not is_late:
            return self._ended(claimed, _read(call.result()))
        detail = f"{REASONS['timeout']}: {wall_s:g} s"
        if call in self._strays:
            detail += ", and goes on all the same"
        return self._ended(claimed, runs.plain(Verdict.ERROR, "timeout", detail))

    async def _stop(self, call: asyncio.Task[bytes], claimed: Claimed) -> None:
        """End the function's task; one that ignores that becomes a stray."""
        call.cancel()
        try:
            await asyncio.wait({call}, timeout=STOP_S)
        finally:
            if not call.done():
                self._strays[call] = Stray(
                    job_id=claimed.job_id,
                    step=claimed.consumer,
                    attempt=claimed.attempt,
                    since=self._engine.clock.now(),
                )
                log.warning("step.goes_astray", task=call.get_name())
                call.add_done_callback(self._come_back)

    def _come_back(self, call: asyncio.Task[bytes]) -> None:
        del self._strays[call]
        log.info("step.stray_ended", task=call.get_name())

    def _ended(self, claimed: Claimed, outcome: Outcome) -> Ended:
        return ended_by(claimed, outcome, self._engine.clock.spread())

    # ----- the function's own task

    async def _call(self, function: base.Processor, claimed: Claimed) -> bytes:
        """Call the function; return its report, whatever it does."""
        try:
            result = await self._result(function, claimed)
            said = reports.unfit(_NO_FILES)
            if not result.derivatives:
                said = reports.of_facts(result.facts)
            return reports.encode({"token": _TOKEN, **said})
        except _NoFiles:
            said = reports.unfit(_NO_FILES)
        except BaseException as error:  # noqa: BLE001 -- what leaves a task may end the server
            lack = lacked(error)
            # it shares all of that with the server
            why = error if lack is None else TryLater(LACK_S, lack)
            said = reports.of_error(why)
        return reports.encode({"token": _TOKEN, **said})

    async def _result(self, function: base.Processor, claimed: Claimed) -> base.Result:
        missing = function.ready()
        if missing is not None:
            raise Skip(f"{missing} is not installed")
        if function.takes == "payload":
            return base.result_of(await function.run(self._task(claimed)))
        return await self._result_of_file(function, claimed)

    def _task(self, claimed: Claimed) -> base.Task:
        return base.Task(
            id=claimed.job_id,
            name=claimed.file_name,
            payload=json.loads(claimed.payload or "null"),
            attempt=claimed.attempt,
            tenant=claimed.tenant,
            progress=self._progress(claimed),
            publish=_refuse_file,
        )

    async def _result_of_file(
        self, function: base.Processor, claimed: Claimed
    ) -> base.Result:
        async with local_input(self._store, claimed.key, self._scratch) as source:
            if source is None:
                raise Skip("there is no file")
            with TemporaryDirectory(dir=self._scratch) as out:
                work = base.Work(
                    source=source,
                    out=Path(out),
                    file_name=claimed.file_name,
                    media_type=claimed.media_type or claimed.declared_type,
                    options=base.options_of(
                        function,
                        {
                            **self._options.get(claimed.consumer, {}),
                            **claimed.options,
                        },
                    ),
                    facts=claimed.facts,
                    attempt=claimed.attempt,
                    progress=self._progress(claimed),
                    publish=_refuse_file,
                )
                found: base.Result = await function.run(work)
                return found

    def _progress(self, claimed: Claimed) -> Callable[[float], None]:
        held = (claimed.step_id, claimed.token)

        def progress(percent: float) -> None:
            value = float(percent)
            if held in self._open and math.isfinite(value):
                self._engine.hub.running(claimed.job_id, claimed.consumer, value)

        return progress


class _NoFiles(Exception):
    """A function on the loop wants to hand over a file."""


def _refuse_file(_made: base.Derivative) -> None:
    raise _NoFiles(_NO_FILES)


def _read(data: bytes) -> Outcome:
    """Return what a report says, judged as that of a worker."""
    try:
        return runs.understood(parcels.decode_report(data, _TOKEN))
    except parcels.BadOutput as error:
        return runs.refused(error)
