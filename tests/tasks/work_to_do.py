"""Tasks and consumers of somebody's own, as `--processors` loads them."""

import asyncio
import errno
import time

from asyncflow import (
    BadFile,
    Derivative,
    Result,
    Skip,
    Task,
    TryLater,
    consumer,
    task,
)


@task("add")
def add(work: Task) -> int:
    """Add numbers."""
    return sum(work.payload)


@task("report")
def report(work: Task) -> Result:
    """Write a file."""
    assert work.out is not None
    path = work.out / "report.txt"
    path.write_text(f"{work.payload['title']} for {work.tenant}")
    made = Derivative(name="report", path=path, media_type="text/plain")
    return Result(derivatives=(made,), facts={"result": "written"})


@task("report-soon", attempts=1)
def report_soon(work: Task) -> Result:
    """Write a file after a moment."""
    work.progress(10)
    time.sleep(1.5)
    return report(work)


@task("hold", attempts=1)
def hold(work: Task) -> None:
    """Take as long as it is told."""
    work.progress(10)
    time.sleep(work.payload)


@task("refuse")
def refuse(work: Task) -> None:
    """Find fault with the payload."""
    raise BadFile("error", f"{work.payload!r} is not what it should be")


@task("echo-later")
async def echo_later(work: Task) -> object:
    """Return the payload after a pause, on the loop."""
    work.progress(50)
    await asyncio.sleep(0.01)
    return work.payload


@task("linger", attempts=1)
async def linger(work: Task) -> None:
    """Take as long as it is told, on the loop."""
    await asyncio.sleep(work.payload)


@task("echo")
def echo(work: Task) -> object:
    """Return the payload, in a worker."""
    return work.payload


@task("dig")
def dig(work: Task) -> object:
    """Return a list in a list in a list."""
    found: list[object] = []
    for _level in range(work.payload - 1):
        found = [found]
    return found


@task("dig-later")
async def dig_later(work: Task) -> object:
    """Return the same on the loop."""
    return dig(work)


@task("no-tool")
def no_tool(_work: Task) -> None:
    """Lack a tool."""
    raise Skip("the printer is not here")


@task("no-tool-later")
async def no_tool_later(_work: Task) -> None:
    """Lack a tool on the loop."""
    raise Skip("the printer is not here")


@task("wait-first")
async def wait_first(work: Task) -> int:
    """Ask for another time at first."""
    if work.attempt == 1 and work.payload == "once":
        raise TryLater(0.01, "not yet")
    return work.attempt


@task("find-no-descriptor", attempts=1)
async def find_no_descriptor(work: Task) -> int:
    """Find at first that the server may open no file more."""
    if work.attempt == 1:
        raise OSError(errno.EMFILE, "Too many open files")
    return work.attempt


@task("fail-always", attempts=2)
async def fail_always(_work: Task) -> None:
    """Fail."""
    raise RuntimeError("no luck")


@task("one-at-a-time", concurrency=1)
async def one_at_a_time(_work: Task) -> list[float]:
    """Say from when to when it ran."""
    began = time.monotonic()
    await asyncio.sleep(0.02)
    return [began, time.monotonic()]


@task("explode", attempts=1)
def explode(work: Task) -> None:
    """Fail for a reason, in a worker."""
    raise ValueError(f"the reason why\nis {work.payload}")


@task("explode-later", attempts=1)
async def explode_later(work: Task) -> None:
    """Fail for a reason, on the loop."""
    raise ValueError(f"the reason why\nis {work.payload}")


@task("give-up", attempts=1)
async def give_up(_work: Task) -> None:
    """Wait for something else in vain."""
    raise TimeoutError("the mail server is silent")


@task("unanswerable-here", attempts=1)
def unanswerable_here(_work: Task) -> object:
    """Return what is not JSON, in a worker."""
    return object()


@task("unanswerable", attempts=1)
async def unanswerable(_work: Task) -> object:
    """Return what is not JSON."""
    return object()


@consumer("say-late", on="clock.struck")
def say_late(work: Task) -> None:
    """Say only at its end how far it is."""
    time.sleep(1.5)
    work.progress(99)


@consumer("bill", on="order.paid")
def bill(work: Task) -> str:
    """Write a bill."""
    return f"bill for {work.payload['order']}"


@consumer("mail", on="bill.completed")
async def mail(work: Task) -> str:
    """Send it."""
    return f"mailed {work.payload['order']} ({work.name})"


@consumer("count", on="order.paid", required=False)
async def count(work: Task) -> None:
    """Fail, which nobody minds."""
    raise BadFile("error", "cannot count")
