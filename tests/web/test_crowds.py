"""Very many listeners of one job: told in turns, in order, each with the same frame."""

import asyncio

import pytest

from asyncflow.progress import AT_ONCE, Hub, Message
from asyncflow.views import JobView
from asyncflow.web.wire import frame


class Ear:
    """A listener that remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def hear(self, message: Message) -> None:
        self.heard.append(message.text)


async def no_job(_job: str) -> JobView:
    raise AssertionError("nobody asks for a snapshot here")


def message(text: str, kind: str = "step") -> Message:
    return Message(type=kind, job_id="job", seq=None, text=text)


def crowd_of(hub: Hub, count: int) -> list[Ear]:
    ears = [Ear() for _ in range(count)]
    for ear in ears:
        hub.join("job", ear)
    return ears


async def test_a_few_are_told_at_once() -> None:
    hub = Hub(no_job)
    ears = crowd_of(hub, AT_ONCE)
    hub.tell(message("one"))
    assert all(ear.heard == ["one"] for ear in ears)


async def test_a_crowd_is_told_everything_in_order_and_others_get_their_turn() -> None:
    hub = Hub(no_job)
    ears = crowd_of(hub, 3 * AT_ONCE)
    hub.tell(message("one"))
    hub.tell(message("two"))
    turns = 0
    while any(ear.heard != ["one", "two"] for ear in ears):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 6
    hub.tell(message("three"))
    await hub.close()
    assert all(ear.heard == ["one", "two", "three"] for ear in ears)


async def test_of_progress_that_waits_for_a_crowd_the_newest_wins() -> None:
    hub = Hub(no_job)
    ears = crowd_of(hub, 2 * AT_ONCE)
    for text in ("first", "10", "20", "30"):
        hub.tell(message(text, "step" if text == "first" else "progress"))
    hub.tell(message("last"))
    await hub.close()
    assert all(ear.heard == ["first", "30", "last"] for ear in ears)


async def test_who_leaves_a_crowd_is_told_nothing_more() -> None:
    hub = Hub(no_job)
    ears = crowd_of(hub, AT_ONCE + 1)
    hub.tell(message("one"))
    hub.tell(message("two"))
    await asyncio.sleep(0)
    for ear in ears:
        hub.leave("job", ear)
    await hub.close()
    assert all("two" not in ear.heard for ear in ears)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_says_how_long_it_is(size: int) -> None:
    made = frame("x" * size)
    assert made[0] == 0x81
    head = 2 if size < 126 else 4 if size < 65536 else 10
    told = made[1] if head == 2 else int.from_bytes(made[2:head])
    assert (told, len(made)) == (size, head + size)
    assert made[1] < 128
