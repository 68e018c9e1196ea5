"""What the operating system keeps for a process, brought back to what it was.

Rules
-----
- This is for honest code that forgets something: a limit, an alarm, a variable. Whoever
  has taken a process over can also keep it from coming here, so the server looks for
  itself whether a worker is as it was (`processes.condition`).
"""

import contextlib
import gc
import os
import resource
import signal
import sys
from typing import Any, Final

_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS: Final = tuple(
    sorted(
        value for name, value in vars(resource).items() if name.startswith("RLIMIT_")
    )
)
_STREAMS: Final = {"stdin": (0, "r"), "stdout": (1, "w"), "stderr": (2, "w")}
_CHANGEABLE: Final = tuple(
    sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
)


class Surroundings:
    """What a process has around it at this moment."""

    def __init__(self) -> None:
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._folder = os.getcwd()  # noqa: PTH109 -- compared and set once per run
        self._environ = dict(os.environ)
        self._limits = {which: resource.getrlimit(which) for which in _LIMITS}
        self._handlers = {one: signal.getsignal(one) for one in _CHANGEABLE}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._streams = {name: getattr(sys, name) for name in _STREAMS}
        self._files = _open_files()

    def restore(self, *, may_keep_files: bool) -> None:
        """Make everything as it was, and close the open files that nobody holds."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for one, handler in self._handlers.items():
            if handler is not None and signal.getsignal(one) is not handler:
                signal.signal(one, handler)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        for which, limits in self._limits.items():
            # a hard limit cannot be raised again: the server sees it, and has enough
            if resource.getrlimit(which) != limits:
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(which, limits)
        os.umask(self._umask)
        os.chdir(self._folder)
        if os.environ != self._environ:
            os.environ.clear()
            os.environ.update(self._environ)
        for name, stream in self._streams.items():
            setattr(sys, name, _opened(stream, *_STREAMS[name]))
        self._close(may_keep_files=may_keep_files)

    def _close(self, *, may_keep_files: bool) -> None:
        files = _open_files()
        if may_keep_files:
            self._files = files
        elif files > self._files:
            gc.collect()


def _opened(stream: Any, descriptor: int, mode: str) -> Any:
    """Return *stream*, or another one if somebody has closed it."""
    if stream is None or not stream.closed:
        return stream
    return open(descriptor, mode, buffering=1, errors="replace", closefd=False)


def _open_files() -> int:
    """Return how many descriptors are open; 0 where the kernel does not count them."""
    try:
        return os.stat("/proc/self/fd").st_size  # noqa: PTH116 -- once per run
    except OSError:
        return 0
