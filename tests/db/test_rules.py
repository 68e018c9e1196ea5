"""Whatever happens in whatever order, the rules of jobs and steps hold."""

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncflow import jobs
from asyncflow.db.records import Claimed, Ended
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.errors import JobNotRetryable, StepNotOpen, StepNotRetryable
from asyncflow.jobs import FINAL_STEP, JobState, Limits, PlanEntry, StepState, Verdict
from asyncflow.testing.db_world import (
    GATE,
    HOUR_MS,
    IMAGE,
    INDEX,
    LEASE_MS,
    SCAN,
    SEARCH,
    TEXT,
    World,
)

PLANS = ((), (IMAGE,), (IMAGE, TEXT), (TEXT, INDEX), (IMAGE, TEXT, SEARCH))
GATES = ((GATE,), (GATE, SCAN))
LIMITS = Limits(attempts=2, lost=2, interrupted=2)

picks = st.integers(min_value=0, max_value=1000)


class Rules(RuleBasedStateMachine):
    """A database that anything may happen to; the model is what its changes said."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(make=self.make, limits=LIMITS)
        self.jobs: list[str] = []
        self.held: list[Claimed] = []
        self.do(self.world.start())

    async def make(self, told: Any) -> SqliteDatabase:
        return SqliteDatabase(Path(self.folder.name, "some.db"), on_change=told)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.do(self.world.db.close())
        self.loop.close()
        self.folder.cleanup()

    # ----- what may happen

    @rule(gates=st.sampled_from(GATES))
    def upload(self, gates: tuple[PlanEntry, ...]) -> None:
        self.jobs.append(self.do(self.world.accepted(*gates)))

    @rule(limit=st.integers(min_value=1, max_value=3))
    def claim(self, limit: int) -> None:
        self.held += self.do(self.world.claim(limit=limit))

    @rule(pick=picks, verdict=st.sampled_from(Verdict), plan=st.sampled_from(PLANS))
    def end(self, pick: int, verdict: Verdict, plan: tuple[PlanEntry, ...]) -> None:
        """Settle an attempt; a stale one stays in hand, to be settled again."""
        if not self.held:
            return
        one = self.held[pick % len(self.held)]
        known = plan if one.consumer == "identify" else None
        self.do(
            self.world.settle(
                one, Ended(verdict=verdict, code="error", plan=known, after_s=1.0)
            )
        )

    @rule(pick=picks)
    def publish(self, pick: int) -> None:
        if self.held:
            one = self.held[pick % len(self.held)]
            self.do(self.world.publish(one, f"made by {one.consumer}"))

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        if self.jobs:
            job = self.jobs[pick % len(self.jobs)]
            self.do(self.world.db.cancel(job, self.world.now))

    @rule(pick=picks)
    def cancel_step(self, pick: int) -> None:
        if self.held:
            one = self.held[pick % len(self.held)]
            with suppress(StepNotOpen):
                self.do(self.world.db.cancel_step(one.step_id, self.world.now))

    @rule(pick=picks)
    def retry_step(self, pick: int) -> None:
        if self.held:
            one = self.held[pick % len(self.held)]
            with suppress(StepNotRetryable, JobNotRetryable):
                self.do(self.world.db.retry_step(one.step_id, self.world.now))

    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        if not self.jobs:
            return
        try:
            self.do(
                self.world.db.retry(self.jobs[pick % len(self.jobs)], self.world.now)
            )
        except JobNotRetryable:
            return

    @rule()
    def time_passes(self) -> None:
        self.world.now += HOUR_MS

    @rule()
    def leases_run_out(self) -> None:
        self.world.mono += LEASE_MS + 1
        self.do(self.world.beat())

    @rule()
    def the_server_restarts(self) -> None:
        self.do(self.world.db.close())
        self.do(self.world.start())
        self.do(self.world.db.recover(limits=LIMITS, now=self.world.now))

    # ----- what always holds

    @invariant()
    def every_move_of_a_job_is_in_the_table(self) -> None:
        for job in self.jobs:
            told = [one for one in self.world.changes if one.job_id == job]
            for before, after in itertools.pairwise(told):
                assert before.version < after.version
                assert can_become(before.state, after.state)

    @invariant()
    def a_run_that_is_over_was_told_once(self) -> None:
        for job in self.jobs:
            view = self.do(self.world.db.job(job))
            over = view.status.is_final
            assert len(self.world.terminals(job)) == view.run - (not over)

    @invariant()
    def a_job_is_over_exactly_when_none_of_its_steps_is_open(self) -> None:
        for job in self.jobs:
            view = self.do(self.world.db.job(job))
            rows = [s for s in view.steps if s.status is not StepState.WAITING]
            open_steps = [s.name for s in rows if s.status not in FINAL_STEP]
            assert bool(open_steps) != view.status.is_final
            assert len({s.name for s in rows}) == len(rows)

    @invariant()
    def a_complete_job_has_every_step_that_it_needs(self) -> None:
        good = {StepState.DONE, StepState.SKIPPED}
        for job in self.jobs:
            view = self.do(self.world.db.job(job))
            if view.status is JobState.COMPLETED:
                assert {s.status for s in view.steps if s.required} <= good

    @invariant()
    def files_belong_to_steps_that_run_or_are_done(self) -> None:
        for job in self.jobs:
            view = self.do(self.world.db.job(job))
            alive = {StepState.RUNNING, StepState.DONE}
            states = {s.name: s.status for s in view.steps}
            assert {states[made.step] for made in view.files} <= alive

    @invariant()
    def the_counters_are_what_counting_gives(self) -> None:
        assert self.do(self.world.tallies()) == self.do(self.world.counted())


def can_become(before: JobState, after: JobState) -> bool:
    """Tell whether a change may follow another: one move, or none."""
    return before is after or after in jobs.JOB_TRANSITIONS[before].values()


TestRules = Rules.TestCase
TestRules.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
