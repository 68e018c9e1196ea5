"""The rules that move jobs and steps, without anything around them."""

from collections.abc import Mapping
from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

from asyncflow.jobs import (
    ACCEPTED,
    CHARGES,
    FINAL_JOB,
    FINAL_STEP,
    JOB_TRANSITIONS,
    MOST_WAITS,
    REASONS,
    STEP_TRANSITIONS,
    TERMINAL_EVENTS,
    UPLOADED,
    Charge,
    Failures,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Subscription,
    Verdict,
    after_attempt,
    backoff_s,
    ends_as,
    lets_go_on,
    plan_for,
    wait_s,
)

FRESH = Failures(attempts=0, lost=0, interrupted=0)
LIMITS = Limits(attempts=3, lost=3, interrupted=10)

counts = st.integers(min_value=0, max_value=20)
failures = st.builds(Failures, attempts=counts, lost=counts, interrupted=counts)
spreads = st.floats(min_value=0, max_value=1, exclude_max=True)
verdicts = st.sampled_from(Verdict)


State = TypeVar("State", JobState, StepState)


def reachable(table: Mapping[State, Mapping[str, State]], start: State) -> set[State]:
    found, left = {start}, [start]
    while left:
        for state in table[left.pop()].values():
            if state not in found:
                found.add(state)
                left.append(state)
    return found


def test_every_job_state_can_be_reached() -> None:
    assert reachable(JOB_TRANSITIONS, JobState.UPLOADING) == set(JobState)


def test_every_step_state_can_be_reached() -> None:
    assert reachable(STEP_TRANSITIONS, StepState.WAITING) == set(StepState)


def test_from_every_job_state_an_end_can_be_reached() -> None:
    for state in JobState:
        assert reachable(JOB_TRANSITIONS, state) & FINAL_JOB


def test_every_end_of_a_job_has_its_event() -> None:
    assert set(TERMINAL_EVENTS) == FINAL_JOB
    assert len(set(TERMINAL_EVENTS.values())) == len(FINAL_JOB)


def test_final_states_say_so() -> None:
    assert {state for state in JobState if state.is_final} == FINAL_JOB
    assert {state for state in StepState if state.is_final} == FINAL_STEP


def test_only_a_retry_leaves_a_final_state() -> None:
    whys = [
        *(why for state in FINAL_JOB for why in JOB_TRANSITIONS[state]),
        *(why for state in FINAL_STEP for why in STEP_TRANSITIONS[state]),
    ]

    assert all("retried" in why for why in whys)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Verdict.DONE, StepState.DONE),
        (Verdict.SKIPPED, StepState.SKIPPED),
        (Verdict.BAD_FILE, StepState.DEAD),
        (Verdict.BAD_OUTPUT, StepState.DEAD),
        (Verdict.TRY_LATER, StepState.RETRYING),
        (Verdict.ERROR, StepState.RETRYING),
        (Verdict.LOST, StepState.RETRYING),
        (Verdict.INTERRUPTED, StepState.READY),
        (Verdict.RELEASED, StepState.READY),
    ],
)
def test_what_becomes_of_a_fresh_step(verdict: Verdict, state: StepState) -> None:
    assert after_attempt(verdict, FRESH, LIMITS, spread=0.5).state is state


@given(verdicts, failures, spreads)
def test_every_move_is_in_the_table(
    verdict: Verdict, before: Failures, spread: float
) -> None:
    following = after_attempt(verdict, before, LIMITS, spread=spread)

    assert following.state in STEP_TRANSITIONS[StepState.RUNNING].values()


@given(verdicts, failures, spreads)
def test_an_attempt_raises_the_one_counter_it_is_charged_to(
    verdict: Verdict, before: Failures, spread: float
) -> None:
    now = after_attempt(verdict, before, LIMITS, spread=spread).failures

    raised = {
        Charge.ATTEMPT: now.attempts - before.attempts,
        Charge.LOST: now.lost - before.lost,
        Charge.INTERRUPTED: now.interrupted - before.interrupted,
    }
    charge = CHARGES[verdict]
    assert sum(raised.values()) == (0 if charge is Charge.NONE else 1)
    assert charge is Charge.NONE or raised[charge] == 1


@pytest.mark.parametrize(
    ("verdict", "limit"),
    [(Verdict.ERROR, 3), (Verdict.LOST, 3), (Verdict.INTERRUPTED, 10)],
)
def test_a_step_dies_with_the_last_failure_it_is_allowed(
    verdict: Verdict, limit: int
) -> None:
    states, so_far = [], FRESH
    for _ in range(limit):
        following = after_attempt(verdict, so_far, LIMITS, spread=0.5)
        states.append(following.state)
        so_far = following.failures

    assert states[-1] is StepState.DEAD
    assert StepState.DEAD not in states[:-1]


@given(failures, spreads)
def test_what_nobody_is_to_blame_for_never_kills_a_step(
    before: Failures, spread: float
) -> None:
    for verdict in (Verdict.RELEASED, Verdict.TRY_LATER):
        following = after_attempt(verdict, before, LIMITS, spread=spread)
        assert not following.state.is_final


@given(verdicts, failures, spreads, st.floats(min_value=0, max_value=86_400))
def test_only_a_step_that_waits_has_a_pause(
    verdict: Verdict, before: Failures, spread: float, after_s: float
) -> None:
    following = after_attempt(verdict, before, LIMITS, spread=spread, after_s=after_s)

    assert following.delay_s >= 0
    assert following.state is StepState.RETRYING or following.delay_s == 0
    if verdict is Verdict.TRY_LATER:
        assert following.delay_s == max(1.0, after_s)


@given(st.integers(min_value=1, max_value=999), st.floats(-1e300, 1e300))
def test_who_asks_for_another_time_again_and_again_waits_longer(
    waits: int, after_s: float
) -> None:
    following = after_attempt(
        Verdict.TRY_LATER, FRESH, LIMITS, spread=0.5, after_s=after_s, waits=waits
    )

    assert following.state is StepState.RETRYING
    assert min(600, waits) <= following.delay_s <= 86_400
    if waits <= after_s <= 86_400:
        assert following.delay_s == after_s


def test_who_asks_for_another_time_for_ever_is_dead_after_days() -> None:
    waited = sum(wait_s(n, 0.0) for n in range(1, MOST_WAITS))
    following = after_attempt(
        Verdict.TRY_LATER, FRESH, LIMITS, spread=0.5, waits=MOST_WAITS
    )

    assert waited > 4 * 86_400
    assert (following.state, following.delay_s) == (StepState.DEAD, 0.0)


@given(st.integers(min_value=1, max_value=200), spreads)
def test_the_pause_lies_below_its_doubling_ceiling(count: int, spread: float) -> None:
    pause = backoff_s(count, spread)

    assert 0 <= pause <= min(3600.0, 2.0**count)
    assert pause == pytest.approx(spread * min(3600.0, 2.0**count))


def test_a_run_ends_as_the_worst_of_its_required_steps() -> None:
    ends = [ends_as(one) for one in (None, StepState.CANCELLED, StepState.DEAD)]

    assert ends == [JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED]


@pytest.mark.parametrize("state", FINAL_STEP)
def test_only_a_required_step_that_was_given_up_holds_back_who_follows(
    state: StepState,
) -> None:
    left_nothing = state is not StepState.DONE

    assert lets_go_on(state, required=False) is left_nothing
    assert lets_go_on(state, required=True) is (state is StepState.SKIPPED)


def test_a_plan_holds_who_wants_the_type_gates_first_then_by_urgency() -> None:
    def taking(
        name: str, *accepts: str, on: str = ACCEPTED, priority: int = 0
    ) -> Subscription:
        entry = PlanEntry(consumer=name, on=on, gate=on == UPLOADED, priority=priority)
        return Subscription(entry=entry, accepts=accepts)

    plan = plan_for(
        "image/png",
        [
            taking("b", "image/*"),
            taking("a", "image/*"),
            taking("video", "video/*"),
            taking("first", "image/jpeg", "image/png", priority=-1),
            taking("gate", "*/*", on=UPLOADED, priority=9),
        ],
    )

    assert [entry.consumer for entry in plan] == ["gate", "first", "a", "b"]


def test_reasons_are_sentences_without_a_full_stop() -> None:
    assert all(text[0].islower() and text[-1] != "." for text in REASONS.values())
