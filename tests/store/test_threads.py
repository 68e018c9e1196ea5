"""Threads for what blocks: results, errors, cancellations and bounds."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from asyncflow.threads import Threads


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    found = Threads(2, "errand")
    yield found
    await asyncio.to_thread(found.close)


async def test_results_and_errors_come_back(threads: Threads) -> None:
    assert await threads.do(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.do(divmod, 7, 0)


async def test_no_more_threads_than_allowed_and_only_as_many_as_are_needed(
    threads: Threads,
) -> None:
    seen = {await threads.do(threading.current_thread) for _ in range(5)}
    assert len(seen) == 1
    both, free = threading.Barrier(2), threading.Event()

    def meet() -> threading.Thread:
        both.wait(10)
        return threading.current_thread()

    work = [asyncio.create_task(threads.do(meet)) for _ in range(2)]
    last = asyncio.create_task(threads.do(free.wait, 10))
    assert len({await one for one in work}) == 2
    free.set()
    assert await last
    assert sum(t.name.startswith("errand_") for t in threading.enumerate()) == 2


async def test_who_is_cancelled_waits_and_what_was_made_is_undone(
    threads: Threads,
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    undone: list[str] = []

    def make() -> str:
        begun.set()
        may_end.wait(10)
        return "made"

    task = asyncio.create_task(threads.do(make, undo=undone.append))
    assert await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["made"]


async def test_closed_threads_finish_and_take_nothing_more() -> None:
    threads = Threads(2, "closing")
    done: list[int] = []
    work = asyncio.create_task(threads.do(done.append, 1))
    await asyncio.sleep(0)
    await asyncio.to_thread(threads.close)
    await work
    assert done == [1]
    with pytest.raises(RuntimeError, match="have ended"):
        await threads.do(done.append, 2)
    assert done == [1]
