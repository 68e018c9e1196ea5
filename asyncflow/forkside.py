"""The first thing a fork server imports: it dies with the server and ignores signals.

Theory of operation
-------------------
A worker dies with the fork server, but what a worker has started does not die with the
worker. So the fork server does not just die when the server does: it is told, kills
everybody below it, also those that it adopts then, and ends when nobody is left.

Rules
-----
- Nothing imported here may start a thread or use libvips: a worker forked afterwards
  would hang. Loading a library's code is enough to make the later forks quick.
- Importing this module anywhere but in our fork server changes nothing.
"""

import atexit
import contextlib
import functools
import importlib
import os
import signal
import time
import warnings
from typing import Final

from asyncflow import agreement, processes, sandbox

#: carries the server's process id to its fork server
PARENT = "ASYNCFLOW_SERVER_PID"
#: loaded once, shared by every worker; absent ones are no error
HEAVY = ("pyvips", "magic", "PIL.Image", "PIL.ImageOps")

#: somebody who is held up inside the kernel cannot be killed: not for ever, then
_LOOKS: Final = 5000
_PAUSE_S: Final = 0.001


def settle(server_pid: int) -> None:
    """Tie this process to the server and prepare it for forking workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    end = functools.partial(_end_with_everybody, os.getpid())
    signal.signal(agreement.FAREWELL, end)
    # it may notice by itself that nobody can ask for a worker any more, and leave
    atexit.register(end)
    sandbox.die_with_parent(server_pid, by=agreement.FAREWELL)
    sandbox.adopt_orphans()
    # what we adopt, the standard library's fork server reaps with a warning
    warnings.filterwarnings("ignore", message="forkserver: waitpid")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _end_with_everybody(own_pid: int, *_signal: object) -> None:
    """Kill all that is below the fork server, then end it; in a worker do nothing."""
    if os.getpid() != own_pid:
        return
    for _ in range(_LOOKS):
        for child in processes.children(own_pid):
            group = processes.group_of(child) or own_pid
            with contextlib.suppress(OSError):
                if group != own_pid:
                    os.killpg(group, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(_PAUSE_S)
    os._exit(0)


if PARENT in os.environ:
    settle(int(os.environ.pop(PARENT)))
