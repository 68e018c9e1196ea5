"""One run on one worker, seen from the server: its news, its end, its outcome.

Theory of operation
-------------------
A worker does one run after the other, and not everything that a run does to it can be
seen. So how a run ends says something of two: of the run, and of who had the worker
before. `blame` is the one place where that is decided:

- A run that says itself how it ended (its function returned, refused the file, asked
  for another time or failed) had a worker that works. The worker stays, if nothing is
  left in it; what the step is charged, `jobs` knows.
- Any other ending (death, a limit, words that cannot be understood, a result that may
  not be) ends the worker, too. On a new worker nobody else can have caused it: the step
  is charged.
- If the worker had been used, that is not known. The run is repeated at once, on a new
  worker, and only what happens there counts; unless it has given something away by
  then, which cannot be taken back.
- A run that fails, or refuses its file, on a used worker that has hardly a mapping left
  is repeated as well: nobody sees that at the end of the run before, for it takes long.
- What the server itself lacks, or ends, is nobody's fault.
"""

import enum
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from asyncflow import parcels, processes
from asyncflow.causes import in_one_line
from asyncflow.crew import Attempt, End, Hand
from asyncflow.jobs import REASONS, Verdict
from asyncflow.orders import GivenUp, Made, OnDerivative, OnProgress, Order, Outcome

#: this near the budget, a death is taken for one by lack of memory
_NEAR: Final = 0.7
_EXIT_S: Final = 1.0
_AGAIN_S: Final = 2.0
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: what a function may say itself: the rest is for the server to find out
_SAYABLE: Final = frozenset(
    {
        Verdict.DONE,
        Verdict.SKIPPED,
        Verdict.BAD_FILE,
        Verdict.BAD_OUTPUT,
        Verdict.TRY_LATER,
        Verdict.ERROR,
        Verdict.LOST,
    }
)


log = structlog.get_logger(__name__)


class Blame(enum.Enum):
    """Whose fault it may be how a run ended."""

    #: nobody's that the worker would have to go for
    NOBODY = enum.auto()
    THE_RUN = enum.auto()
    #: the run's, or that of somebody who had the worker before
    UNKNOWN = enum.auto()


def blame(
    ended: End | None,
    verdict: Verdict,
    *,
    was_used: bool,
    has_given: bool,
    is_cramped: bool = False,
) -> Blame:
    """Tell whose fault it is that a run *ended* so, with this *verdict*.

    *is_cramped*: its worker had so little room that it may have failed by that.
    """
    is_bad = is_cramped or verdict in {Verdict.LOST, Verdict.BAD_OUTPUT}
    if not is_bad and ended not in {End.TIMEOUT, End.CROWD, End.SPACE}:
        return Blame.NOBODY
    return Blame.UNKNOWN if was_used and not has_given else Blame.THE_RUN


class Run:
    """One run on one worker: publishes what it makes, and explains its end."""

    def __init__(
        self,
        hand: Hand,
        attempt: Attempt,
        card: parcels.Card,
        on_progress: OnProgress,
        on_derivative: OnDerivative,
    ) -> None:
        self.card = card
        self.hand = hand
        #: known once it has ended
        self.blame = Blame.NOBODY
        #: whether it has cost its worker's life
        self.was_fatal = False
        self._was_used = hand.jobs_done > 0
        self._has_given = False
        self._attempt = attempt
        self._on_progress = on_progress
        self._on_derivative = on_derivative
        self._published: dict[str, parcels.Listed] = {}
        #: when its time is over, by the monotonic clock
        self._until = math.inf

    def prepare(self, order: Order) -> bytes:
        """Return what gives the worker the order. Raise OSError for lack of room."""
        about = {
            "file_name": order.file_name,
            "media_type": order.media_type,
            "options": dict(order.options),
            "facts": dict(order.facts),
            "payload": order.payload,
            "job_id": order.job_id,
            "attempt": order.attempt,
            "tenant": order.tenant,
            "mapped": self.hand.mapped,
        }
        said = {
            "token": self._attempt.token,
            "processor": order.processor,
            "about": about,
        }
        return parcels.give_order(self.hand.folder, msgspec.json.encode(said))

    def begin(self, order: bytes, wall_s: float) -> None:
        """Give the worker the prepared order; what it makes is stored in its time."""
        self._until = time.monotonic() + wall_s
        self.hand.begin(self._attempt, order)

    def _is_over(self) -> bool:
        """Tell whether nobody waits for what it makes any more; on any thread."""
        is_ended = self._attempt.ended not in {None, End.REPORTED}
        return is_ended or time.monotonic() > self._until

    def stop(self, why: End) -> None:
        """Kill the worker unless it has finished."""
        self.hand.stop(why)

    async def outcome(self, budget: int, wall_s: float) -> Outcome:
        """Wait for the end of the run and say how it was."""
        try:
            outcome = await self._outcome(budget, wall_s)
        finally:
            lines, count = self.hand.prints.take()
            if count:
                log.info("step.printed", lines=lines, bytes=count)
        faults = {Verdict.BAD_OUTPUT, Verdict.ERROR, Verdict.LOST}
        self.was_fatal = self.hand.gone and outcome.verdict in faults
        self.blame = blame(
            self._attempt.ended,
            outcome.verdict,
            was_used=self._was_used,
            has_given=self._has_given,
            is_cramped=self._is_cramped(outcome.verdict),
        )
        return outcome

    def _is_cramped(self, verdict: Verdict) -> bool:
        """Tell whether a used worker may have failed for want of mappings.

        How many it has takes long to find out: so not after each run.
        """
        is_failure = self._was_used and verdict in {Verdict.ERROR, Verdict.BAD_FILE}
        return is_failure and processes.has_many_mappings(self.hand.pid)

    async def _outcome(self, budget: int, wall_s: float) -> Outcome:
        try:
            ended = await self._follow()
            if ended is End.REPORTED:
                data = parcels.read_report(self.hand.folder, self._attempt.report)
                report = parcels.decode_report(data, self._attempt.token)
                return await self._conclude(report)
        except parcels.BadOutput as error:
            self.hand.kill()
            return refused(error)
        except parcels.NotSeen as error:
            self.hand.kill()
            return server_lacks(f"the server could not take the result: {error}")
        except GivenUp:
            self.hand.stop(End.TIMEOUT)
            ended = self._attempt.ended or End.TIMEOUT
            if ended is End.REPORTED:  # in time, but for what it has made
                ended = End.TIMEOUT
        return await self._explain(ended, budget, wall_s)

    async def _explain(self, ended: End, budget: int, wall_s: float) -> Outcome:
        """Say how a run ended that has brought no report."""
        match ended:
            case End.TIMEOUT:
                detail = f"{REASONS['timeout']}: {wall_s:g} s"
                return plain(Verdict.ERROR, "timeout", detail)
            case End.MEMORY:
                return _out_of_memory(budget)
            case End.CROWD:
                return plain(Verdict.ERROR, "too_many_processes")
            case End.SPACE:
                return plain(Verdict.ERROR, "too_much_output")
            case End.CLOSED:
                return plain(Verdict.INTERRUPTED, "interrupted")
            case _:
                return await self._died(budget)

    async def _follow(self) -> End:
        """Pass on progress and derivatives until the run ends."""
        attempt = self._attempt
        while True:
            await attempt.news()
            percent, attempt.percent = attempt.percent, None
            if percent is not None:
                self._on_progress(percent)
            if attempt.ended is not None:
                return attempt.ended
            if attempt.announced:
                await self._publish(attempt.announced.popleft())

    async def _conclude(self, report: parcels.Report) -> Outcome:
        outcome = understood(report, self.hand.folder)
        if outcome.verdict is Verdict.DONE:
            for listed in report.made:
                await self._publish(listed)
        return outcome

    async def _publish(self, listed: parcels.Listed) -> None:
        """Hand a derivative over, once. Raise BadOutput if it may not be."""
        known = self._published.get(listed.name)
        if known is not None:
            if known != listed:
                raise parcels.BadOutput(f"{listed.name} was announced differently")
            return
        parcels.check_listed(listed, self.card.outputs)
        fd, size = parcels.open_output(self.hand.folder, listed.file)
        try:
            before = parcels.fingerprint(fd)
            self._has_given = True
            await self._on_derivative(
                Made(
                    name=listed.name,
                    media_type=listed.media_type,
                    size=size,
                    facts=listed.facts,
                    fd=fd,
                    is_over=self._is_over,
                )
            )
            if parcels.fingerprint(fd) != before:
                raise parcels.BadOutput(f"{listed.name} changed after it was announced")
        finally:
            os.close(fd)
        self._published[listed.name] = listed

    async def _died(self, budget: int) -> Outcome:
        """Say why the worker died: for lack of memory, or otherwise."""
        hand = self.hand
        hand.kill()
        how = await hand.end(_EXIT_S)
        number = -(hand.exitcode or 0)
        near = (
            hand.peak_rss >= _NEAR * budget
            or hand.peak_mapped >= _NEAR * self.card.memory_bytes
        )
        if near and number in (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV):
            return _out_of_memory(budget)
        return plain(Verdict.LOST, "crashed", f"{REASONS['crashed']} ({how})")


def understood(report: parcels.Report, folder: Path | None = None) -> Outcome:
    """Return what *report* says, as far as it may say it. Raise BadOutput.

    No path below *folder*, where the function worked, is shown to people.
    """
    if report.verdict not in _SAYABLE:
        raise parcels.BadReport("the report has no known verdict")
    verdict = Verdict(report.verdict)
    if verdict is Verdict.DONE:
        return Outcome(verdict=verdict, facts=report.facts)
    code = report.code if _CODE.fullmatch(report.code) else "error"
    return Outcome(
        verdict=verdict,
        code=code,
        detail=_clean(report.detail, folder) or REASONS.get(code, ""),
        cause=_clean(report.cause, folder),
        trace=report.trace,
        after_s=report.after_s if math.isfinite(report.after_s) else 0.0,
    )


def refused(error: parcels.BadOutput) -> Outcome:
    """Return the outcome of a run that gave back what it may not."""
    return plain(Verdict.BAD_OUTPUT, "bad_output", cause=str(error))


def _clean(detail: str, folder: Path | None) -> str:
    """Return *detail* in one short line, without a path below *folder*."""
    if folder is not None:
        for inner in ("in/source", "out/", "in/", ""):
            detail = detail.replace(f"{folder}/{inner}", "")
    return in_one_line(detail)


def plain(verdict: Verdict, code: str, detail: str = "", cause: str = "") -> Outcome:
    """Return an outcome with the usual words for *code*."""
    return Outcome(
        verdict=verdict, code=code, detail=detail or REASONS[code], cause=cause
    )


def server_lacks(what: str) -> Outcome:
    """Blame nobody for what the server has too little of just now."""
    return Outcome(
        verdict=Verdict.TRY_LATER, code="try_later", detail=what, after_s=_AGAIN_S
    )


def _out_of_memory(budget: int) -> Outcome:
    detail = f"{REASONS['out_of_memory']}: {budget >> 20} MiB"
    return plain(Verdict.LOST, "out_of_memory", detail)
