"""How many steps may begin, and how many are claimed before their time."""

import pytest

from asyncflow.pace import MOST_AHEAD, Lookahead, Pace, Restraint


def begun(pace: Pace, *, until_s: float) -> list[float]:
    """Begin whatever may begin, looked at each millisecond; return when."""
    times: list[float] = []
    for now in range(round(until_s * 1000)):
        for _ in range(pace.allowance(now / 1000)):
            pace.begun()
            pace.ended()
            times.append(now / 1000)
    return times


@pytest.mark.parametrize("rate", [1, 10, 200])
def test_a_rate_holds_in_any_second_from_the_first(rate: int) -> None:
    times = begun(Pace(Restraint(per_s=rate)), until_s=5)
    assert len(times) >= 5 * rate - 1
    for at in times:
        assert sum(at <= one < at + 1 for one in times) <= rate * 1.1 + 1


def test_what_was_not_used_is_made_up_for_a_tenth_of_a_second_at_most() -> None:
    pace = Pace(Restraint(per_s=100))
    assert pace.allowance(0.0) == 10
    assert pace.allowance(60.0) == 10


def test_nothing_of_a_consumer_that_nobody_knows_is_claimed_before_its_time() -> None:
    lookahead = Lookahead()
    assert not lookahead.is_short("report")
    assert lookahead.steps(1.0) == 0


def test_as_much_is_claimed_as_was_done_a_moment_ago() -> None:
    lookahead = Lookahead()
    for n in range(10):
        lookahead.over("report", 0.001, n / 100)
    assert lookahead.is_short("report")
    assert lookahead.steps(0.095) == 2
    # what ended while a claim went on was no longer ago than the claim
    assert lookahead.steps(0.095, claim_s=0.05) == 5
    for _ in range(100):
        lookahead.over("report", 0.001, 1.0)
    assert lookahead.steps(1.0) == MOST_AHEAD
    assert lookahead.steps(2.0) == 0


def test_each_consumer_is_short_by_its_own_steps() -> None:
    lookahead = Lookahead()
    for _ in range(4):
        lookahead.over("report", 0.001, 1.0)
        lookahead.over("film", 0.02, 1.0)
    assert lookahead.is_short("report")
    assert not lookahead.is_short("film")
    assert lookahead.steps(1.0) == 4


def test_one_long_step_is_enough_to_be_careful_for_a_while() -> None:
    lookahead = Lookahead()
    for _ in range(MOST_AHEAD):
        lookahead.over("report", 0.001, 1.0)
    lookahead.took("report", 0.2)
    assert not lookahead.is_short("report")
    for _ in range(MOST_AHEAD):
        lookahead.over("report", 0.001, 1.0)
    assert lookahead.is_short("report")
