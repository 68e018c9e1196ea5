"""What the operating system keeps for a process, brought back to what it was.

Rules
-----
- This is for honest code that forgets something: a limit, an alarm, a variable. Whoever
  has taken a process over can also keep it from coming here, so the server looks for
  itself whether a worker is as it was (`processes.condition`). For what is seldom
  changed and costs time to look at, that is enough: the worker is replaced then.
"""

import contextlib
import gc
import os
import resource
import signal
import sys
import time
from typing import Any, Final

from asyncflow import stdlib

_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS: Final = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)
_STREAMS: Final = {"stdout": 1, "stderr": 2}
_HANDLED: Final = (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


class Surroundings:
    """What a process has around it at this moment."""

    def __init__(self) -> None:
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._folder = os.getcwd()  # noqa: PTH109 -- compared and set once per run
        self._environ = stdlib.environment().copy()
        self._limits = {which: resource.getrlimit(which) for which in _LIMITS}
        self._handlers = {one: signal.getsignal(one) for one in _HANDLED}
        self._zone = time.tzname
        self._streams = {name: getattr(sys, name) for name in _STREAMS}
        self._free = _free_descriptor()

    def restore(self, *, may_keep_files: bool) -> None:
        """Make everything as it was, and close the open files that nobody holds."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for one, handler in self._handlers.items():
            if handler is not None and signal.getsignal(one) is not handler:
                signal.signal(one, handler)
        signal.set_wakeup_fd(-1)
        for which, limits in self._limits.items():
            # a hard limit cannot be raised again: the server sees it, and has enough
            if resource.getrlimit(which) != limits:
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(which, limits)
        os.umask(self._umask)
        os.chdir(self._folder)
        is_changed = stdlib.environment() != self._environ
        if is_changed:
            os.environ.clear()
            os.environb.update(self._environ)
        if is_changed or time.tzname != self._zone:
            time.tzset()  # the C library reads TZ only then
        for name, stream in self._streams.items():
            setattr(sys, name, _opened(stream, _STREAMS[name]))
        self._close(may_keep_files=may_keep_files)

    def _close(self, *, may_keep_files: bool) -> None:
        free = _free_descriptor()
        if may_keep_files:
            self._free = free
        elif free != self._free:
            gc.collect()


def _free_descriptor() -> int:
    """Return the number that the next open file will have; -1: no room for one."""
    try:
        free = os.dup(1)
    except OSError:
        return -1
    os.close(free)
    return free


def _opened(stream: Any, descriptor: int) -> Any:
    """Return *stream*, or another one if somebody has closed it."""
    if stream is None or not stream.closed:
        return stream
    return open(descriptor, "w", buffering=1, errors="replace", closefd=False)
