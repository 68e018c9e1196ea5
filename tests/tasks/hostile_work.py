"""Functions that end in every way that they should not, in the pool and on the loop."""

import asyncio
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncflow import (
    BadFile,
    Derivative,
    Result,
    Skip,
    Task,
    TryLater,
    Work,
    processor,
    task,
)


class Unspeakable(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no words")


def _throw(error: BaseException) -> None:
    raise error


def _made(work: Task) -> Derivative:
    path = (work.out or Path("nowhere")) / "made.txt"
    return Derivative(name="made", path=path, media_type="text/plain")


#: how an attempt ends, by the task's payload
ENDS: dict[str, Callable[[Task], Any]] = {
    "interrupt": lambda _w: _throw(KeyboardInterrupt()),
    "exit": lambda _w: sys.exit(3),
    "base": lambda _w: _throw(BaseException("base")),
    "generator": lambda _w: _throw(GeneratorExit()),
    "group": lambda _w: _throw(BaseExceptionGroup("g", [KeyboardInterrupt()])),
    "cancelled": lambda _w: _throw(asyncio.CancelledError()),
    "timeout": lambda _w: _throw(TimeoutError("mine")),
    "unspeakable": lambda _w: _throw(Unspeakable()),
    "odd words": lambda _w: _throw(ValueError("\ud800")),
    "later never": lambda _w: _throw(TryLater(float("inf"), "never")),
    "later nan": lambda _w: _throw(TryLater(float("nan"), "never")),
    "surrogate": lambda _w: "\ud800",
    "object": lambda _w: object(),
    "not a number": lambda _w: float("nan"),
    "keys": lambda _w: {(1, 2): 3},
    "huge": lambda _w: "x" * 2_000_000,
    "facts": lambda _w: Result(facts=[1, 2]),  # type: ignore[arg-type]
    "no reason": lambda _w: _throw(BadFile(None, None)),  # type: ignore[arg-type]
    "bytes": lambda _w: _throw(BadFile(b"..", {})),  # type: ignore[arg-type]
    "odd fault": lambda _w: _throw(BadFile("x", "it is \ud800")),
    "long fault": lambda _w: _throw(BadFile("x\0" * 100_000, "y" * 5_000_000)),
    "odd skip": lambda _w: _throw(Skip("no \ud800")),
    "mixed keys": lambda _w: {1: 2, None: 3},
}


@task("end-in-pool", attempts=1)
def end_in_pool(work: Task) -> Any:
    """End as it is told, in a worker."""
    return ENDS[work.payload](work)


@task("end-on-loop", attempts=1)
async def end_on_loop(work: Task) -> Any:
    """End as it is told, on the loop."""
    return ENDS[work.payload](work)


@task("cancel-itself", attempts=1)
async def cancel_itself(_work: Task) -> None:
    """Cancel the task that it runs in."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(30)


@task("leave-a-bomb", attempts=1)
async def leave_a_bomb(_work: Task) -> str:
    """Begin a task that wants to end the server."""

    async def bomb() -> None:
        sys.exit(7)

    begun = asyncio.create_task(bomb())
    await asyncio.wait({begun})
    return "still here"


@task("hand-over", attempts=1)
async def hand_over(work: Task) -> Result | None:
    """Return a file, or publish it, on the loop."""
    if work.payload == "publish":
        work.publish(_made(work))
        return None
    return Result(derivatives=(_made(work),))


@task("hand-over-many", attempts=1)
def hand_over_many(work: Task) -> None:
    """Publish so many files."""
    _made(work).path.write_text("text")
    for number in range(work.payload):
        work.publish(dataclasses.replace(_made(work), name=f"made-{number}"))


@task("stay", attempts=1, wall_s=0.2)
async def stay(_work: Task) -> None:
    """Go on, whoever says stop."""
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0.5)


@task("stay-long", attempts=1)
async def stay_long(work: Task) -> None:
    """Go on for longer."""
    await stay(work)


@task("block-a-thread", attempts=1)
async def block_a_thread(_work: Task) -> None:
    """Keep a thread that cannot be stopped."""
    await asyncio.to_thread(time.sleep, 3600)


@task("later", attempts=1)
def later(work: Task) -> int:
    """Ask for another time, so many times."""
    if work.attempt <= work.payload["times"]:
        raise TryLater(work.payload["after"], "not yet")
    return work.attempt


@task("later-on-loop", attempts=1)
async def later_on_loop(work: Task) -> int:
    """Ask for another time, so many times, on the loop."""
    return later(work)


@processor("moonlit", accepts=("text/plain",), ready=lambda: "the moon")
async def moonlit(_work: Work) -> Result:
    """Need what is not there, on the loop."""
    return Result()
