"""What the server's own loop does for a claimed step: it awaits an `async` function.

For work that waits rather than computes. What such a function raises ends its attempt
and harms nobody else; what it blocks, it blocks for everybody.
"""

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from asyncflow.causes import cause_of, trace_of
from asyncflow.db.base import Claimed, Ended
from asyncflow.engine import Engine
from asyncflow.errors import BadFile, Skip, TryLater
from asyncflow.inputs import local_input
from asyncflow.jobs import REASONS, Verdict
from asyncflow.processors import base
from asyncflow.store.base import Store

log = structlog.get_logger(__name__)

#: steps on the loop at once; one consumer may have fewer
ROOM: Final = 256
#: of one consumer, where it does not say
CONCURRENCY: Final = 64
MAX_RESULT_BYTES: Final = 1 << 20


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

    async def work(self, claimed: Claimed) -> Ended:
        """Run one attempt and say how it ended."""
        function = self._functions[claimed.consumer]
        wall_s = self._wall_s.get(claimed.consumer, function.wall_s)
        wall = asyncio.timeout(wall_s)
        try:
            async with wall:
                facts = await self._call(function, claimed)
        except BadFile as error:
            return self._ended(Verdict.BAD_FILE, error.reason, error.detail)
        except TryLater as error:
            after_s = max(0.0, float(error.after_s))
            ended = self._ended(Verdict.TRY_LATER, "try_later", error.detail)
            return dataclasses.replace(ended, after_s=after_s)
        except Skip as error:
            return self._ended(Verdict.SKIPPED, "missing_tool", error.detail)
        except Exception as error:  # noqa: BLE001 -- a stranger's function may raise anything
            if wall.expired():
                detail = f"{REASONS['timeout']}: {wall_s:g} s"
                return self._ended(Verdict.ERROR, "timeout", detail)
            detail = f"{REASONS['error']} ({type(error).__name__})"
            return self._failed(claimed, "error", detail, error)
        return self._done(claimed, facts)

    def _done(self, claimed: Claimed, facts: Mapping[str, object]) -> Ended:
        try:
            size = len(json.dumps(facts, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            detail = "the result is not JSON"
            return self._failed(claimed, "bad_output", detail, error)
        if size > MAX_RESULT_BYTES:
            detail = f"the result is larger than {MAX_RESULT_BYTES} B"
            return self._ended(Verdict.ERROR, "bad_output", detail)
        return Ended(verdict=Verdict.DONE, facts=facts)

    def _ended(self, verdict: Verdict, code: str, detail: str) -> Ended:
        spread = self._engine.clock.spread()
        return Ended(verdict=verdict, code=code, detail=detail, spread=spread)

    def _failed(
        self, claimed: Claimed, code: str, detail: str, error: Exception
    ) -> Ended:
        ended = dataclasses.replace(
            self._ended(Verdict.ERROR, code, detail),
            cause=cause_of(error),
            trace=trace_of(error),
        )
        log.warning(
            "step.trace",
            job=claimed.job_id,
            step=claimed.consumer,
            cause=ended.cause,
            trace=ended.trace,
        )
        return ended

    async def _call(
        self, function: base.Processor, claimed: Claimed
    ) -> Mapping[str, object]:
        """Call the function with what it takes; return its facts."""
        if function.takes == "payload":
            task = base.Task(
                id=claimed.job_id,
                name=claimed.file_name,
                payload=json.loads(claimed.payload or "null"),
                attempt=claimed.attempt,
                tenant=claimed.tenant,
                progress=lambda percent: self._progress(claimed, percent),
            )
            return base.result_of(await function.run(task)).facts
        return await self._call_with_file(function, claimed)

    async def _call_with_file(
        self, function: base.Processor, claimed: Claimed
    ) -> Mapping[str, object]:
        async with local_input(self._store, claimed.key, self._scratch) as source:
            if source is None:
                raise Skip("there is no file")
            with TemporaryDirectory(dir=self._scratch) as out:
                work = base.Work(
                    source=source,
                    out=Path(out),
                    file_name=claimed.file_name,
                    media_type=claimed.media_type or claimed.declared_type,
                    options={
                        **self._options.get(claimed.consumer, {}),
                        **claimed.options,
                    },
                    facts=claimed.facts,
                    progress=lambda percent: self._progress(claimed, percent),
                )
                return base.result_of(await function.run(work)).facts

    def _progress(self, claimed: Claimed, percent: float) -> None:
        self._engine.hub.running(claimed.job_id, claimed.consumer, float(percent))
