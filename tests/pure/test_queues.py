"""Everybody has a share of what may wait, and nobody can shut out the others."""

from collections import Counter

import pytest

from asyncflow.queues import Queue


def counted(queue: Queue, lanes: Counter[str]) -> None:
    """Let *queue* see that each lane has as many steps as *lanes* says."""
    queue.end_look(queue.begin_look(), lanes.total(), lanes)


def filled(limit: int, *names: str) -> tuple[Queue, Counter[str]]:
    """Return a queue after each lane in turn has added all that it may."""
    queue, lanes = Queue(limit), Counter[str]()
    for name in names:
        while queue.has_room(name):
            lanes[name] += 1
            counted(queue, lanes)
    return queue, lanes


def test_who_is_alone_has_four_fifths_of_the_room() -> None:
    queue, lanes = filled(100, "a")

    assert lanes["a"] == 80
    assert queue.has_room("b")


def test_who_comes_next_has_as_much_of_what_is_left() -> None:
    queue, lanes = filled(100, "a", "b")

    assert lanes["b"] == 16
    assert queue.has_room("c")


def test_who_had_more_before_others_came_waits_until_it_has_less() -> None:
    queue = Queue(100)
    counted(queue, Counter(a=40, b=16))
    assert queue.has_room("a")
    counted(queue, Counter(a=40, b=50))

    assert [queue.has_room(name) for name in "abc"] == [False, False, True]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_small_room_is_filled_and_no_more(limit: int) -> None:
    queue, lanes = filled(limit, "a", "b", "c", "d")

    assert lanes.total() == limit
    assert not queue.has_room(None)


def test_what_is_on_its_way_counts_for_its_lane_and_for_all() -> None:
    queue = Queue(10)
    counted(queue, Counter(a=7))

    with queue.coming("a"):
        assert (queue.total, queue.of("a")) == (8, 8)
        assert not queue.has_room("a")
        assert queue.has_room("b")


def test_what_came_while_the_database_was_looked_at_still_counts() -> None:
    queue = Queue(10)
    look = queue.begin_look()
    with queue.coming("a"):
        pass
    queue.changed(1)
    queue.end_look(look, 6, {"a": 6})

    assert (queue.total, queue.of("a")) == (7, 7)


def test_a_lane_whose_many_steps_are_done_at_once_is_not_refused() -> None:
    queue = Queue(10)
    for _ in range(1000):
        with queue.coming("a"):
            pass
        queue.changed(1)
        queue.changed(-1)

    assert queue.has_room("a")


def test_a_lane_is_told_when_the_first_of_its_own_is_due() -> None:
    queue = Queue(10)
    queue.end_look(queue.begin_look(), 9, {"a": 8, "b": 1}, {"a": 5000, "b": 7000})

    assert (queue.due("b"), queue.due("c"), queue.due(None)) == (7000, 5000, 5000)
