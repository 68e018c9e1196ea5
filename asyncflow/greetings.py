"""A new worker's first words: what it can do, or why it cannot.

Every worker loads the same modules. So what one of them cannot load is told to whoever
started the server, by the name under which they know it.
"""

import asyncio
import importlib.metadata
from typing import TYPE_CHECKING, Final

import structlog

from asyncflow import agreement, modules, parcels
from asyncflow.errors import StartError

if TYPE_CHECKING:
    from asyncflow.crew import Hand

log = structlog.get_logger(__name__)

ENTRY_POINTS: Final = "asyncflow.processors"
#: how long a worker that dies may take for it
_EXIT_S: Final = 1.0


async def first_words(hand: "Hand", load_s: float) -> parcels.Greeting:
    """Return what a new worker can do, within *load_s* seconds of its start.

    Its folder is empty afterwards. Raise StartError if it cannot work.
    """
    try:
        async with asyncio.timeout_at(hand.started_at + load_s):
            lives = await asyncio.shield(hand.greeted)
    except TimeoutError:
        raise unfit(hand.loading, modules.too_slow(load_s)) from None
    if not lives:
        died = f"the worker process died ({await hand.end(_EXIT_S)})"
        raise unfit(hand.loading, died)
    try:
        data = parcels.read_report(hand.folder, hand.greeting)
        greeting = parcels.decode_greeting(data)
        parcels.clear(hand.folder)
    except (parcels.BadOutput, parcels.NotSeen, OSError) as error:
        raise unfit("", str(error)) from None
    lines, count = hand.prints.take()
    if count:
        log.info("worker.printed", lines=lines, bytes=count)
    if greeting.error:
        log.debug("worker.unfit", module=greeting.module, trace=greeting.trace)
        raise unfit(greeting.module, greeting.error)
    return greeting


def unfit(module: str, why: str) -> StartError:
    """Return the error of a process that cannot start, because of a *module* if any."""
    if not module or module in agreement.BUILTIN:
        return StartError(f"a worker process could not start: {why}")
    by = f"entry point {ENTRY_POINTS}" if module in default_modules() else "processors"
    return StartError(f"{by}: the module {module} cannot be loaded: {why}")


def default_modules() -> tuple[str, ...]:
    """Return the modules that register processors: ours and installed ones."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return (*agreement.BUILTIN, *sorted({entry.module for entry in found}))
