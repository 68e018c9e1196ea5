from asyncflow.history import History


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_040.0

    def __call__(self) -> float:
        return self.now


def test_each_minute_is_counted_by_itself() -> None:
    clock = Clock()
    history = History(clock)
    history.add("completed")
    history.add("completed")
    clock.now += 60
    history.add("failed")
    first, second = history.minutes()
    assert (first.at, first.counts) == (1_700_000_040, {"completed": 2})
    assert (second.at, second.counts) == (1_700_000_100, {"failed": 1})


def test_minutes_in_which_nothing_happened_are_there() -> None:
    clock = Clock()
    history = History(clock)
    clock.now += 185
    assert [one.counts for one in history.minutes()] == [{}, {}, {}, {}]


def test_only_the_last_minutes_are_kept() -> None:
    clock = Clock()
    history = History(clock, minutes=3)
    history.add("completed")
    clock.now += 120
    assert history.minutes()[0].counts == {"completed": 1}
    clock.now += 60
    assert [one.counts for one in history.minutes()] == [{}, {}, {}]


def test_a_long_pause_costs_no_more_than_the_minutes_that_are_kept() -> None:
    clock = Clock()
    history = History(clock, minutes=3)
    clock.now += 10**9
    assert [one.at % 60 for one in history.minutes()] == [0, 0, 0]
    assert history.minutes()[-1].at == int(clock.now) // 60 * 60


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    clock = Clock()
    history = History(clock)
    history.add("completed")
    clock.now -= 3600
    history.add("completed")
    assert [one.counts for one in history.minutes()] == [{"completed": 2}]


def test_what_is_recalled_lies_in_its_own_minute() -> None:
    clock = Clock()
    history = History(clock, minutes=4)
    history.add("completed")
    now = clock()
    history.recall(now - 120, "completed", 5)
    history.recall(now - 120, "failed", 1)
    history.recall(now - 24 * 3600, "completed", 9)
    history.recall(now + 24 * 3600, "completed", 9)
    assert [one.counts for one in history.minutes()] == [
        {"completed": 5, "failed": 1},
        {},
        {"completed": 1},
    ]
