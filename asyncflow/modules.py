"""Modules of other people: loaded within a time, and explained if they cannot be.

Theory of operation
-------------------
A worker loads a module first; the server watches it and kills one that takes too long.
The server itself loads those whose functions run on its loop, on its main thread, as
any program would (a database handle opened there belongs to that thread). While it
does, the loop stands still, so an alarm bounds that time, and a signal to stop, which
the loop could not hear, interrupts the import before it goes on to the loop.
"""

import contextlib
import importlib
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from asyncflow.causes import cause_of, trace_of
from asyncflow.errors import ShuttingDown

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class CannotLoad(Exception):
    """A module cannot be loaded: its name, why in one line, and the traceback."""

    def __init__(self, module: str, why: str, trace: str = "") -> None:
        super().__init__(module, why, trace)
        self.module, self.why, self.trace = module, why, trace


class _Interrupted(BaseException):
    """The time is over, or somebody stops the server."""


def load(module: str) -> None:
    """Import *module*. Raise CannotLoad for whatever that ends in."""
    try:
        importlib.import_module(module)
    except _Interrupted:
        raise
    except ModuleNotFoundError as error:
        # one that a module of theirs looks for in vain has a place
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise CannotLoad(module, _reason(error, module), trace_of(error)) from None
        why = (
            f"there is no module called {error.name!r}: name modules that are"
            " installed, or lie in the folder where the server starts"
        )
        if module.endswith(".py"):
            why = f"name the module without .py: {module.removesuffix('.py')}"
        raise CannotLoad(module, why) from None
    except BaseException as error:  # noqa: BLE001 -- a stranger's module may even exit
        raise CannotLoad(module, _reason(error, module), trace_of(error)) from None


def load_here(module: str, within_s: float) -> None:
    """Import *module* into the server, on its main thread.

    Raises:
        CannotLoad: it cannot be imported, or not in time.
        ShuttingDown: a signal said to stop meanwhile.
    """
    heard: list[int] = []
    try:
        with _interrupted_by(heard, within_s):
            load(module)
    except _Interrupted:
        if heard[0] != signal.SIGALRM:
            raise ShuttingDown from None
        raise CannotLoad(module, too_slow(within_s)) from None


def too_slow(within_s: float) -> str:
    """Return the words for a module that was not loaded in time."""
    return f"it was still being loaded after {within_s:g} s (the setting load_timeout)"


@contextlib.contextmanager
def _interrupted_by(heard: list[int], within_s: float) -> Iterator[None]:
    """Interrupt the block by a signal to stop, or when its time is over."""

    def stop(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        raise _Interrupted

    before = {one: signal.signal(one, stop) for one in (*_STOPPING, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_REAL, within_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        # a loop has been told by its own descriptor; whoever has a handler has not
        for told in heard:
            handler = before[signal.Signals(told)]
            if callable(handler):
                handler(told, None)


def _reason(error: BaseException, module: str) -> str:
    """Return what *error* says, and where: in the module if it was there."""
    said = cause_of(error)
    if isinstance(error, SyntaxError):
        return said  # its words name the place
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [one for one in frames if one[0].f_globals.get("__name__") == module]
    if not own:
        return said
    frame, line = own[-1]
    return f"{said} ({Path(frame.f_code.co_filename).name}, line {line})"
