"""What is begun is ended before a cancellation goes on."""

import asyncio

import pytest

from asyncflow.turns import even_if_cancelled


async def test_work_ends_however_often_its_caller_is_cancelled() -> None:
    may_end, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        await may_end.wait()
        ended = True

    caller = asyncio.create_task(even_if_cancelled(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended
