"""The first thing a fork server imports: it dies with the server and ignores signals.

Rules
-----
- Nothing imported here may start a thread or use libvips: a worker forked afterwards
  would hang. Loading a library's code is enough to make the later forks quick.
- Importing this module anywhere but in our fork server changes nothing.
"""

import contextlib
import importlib
import os
import signal
import warnings

from asyncflow import sandbox

#: carries the server's process id to its fork server
PARENT = "ASYNCFLOW_SERVER_PID"
#: loaded once, shared by every worker; absent ones are no error
HEAVY = ("pyvips", "magic", "PIL.Image", "PIL.ImageOps")


def settle(server_pid: int) -> None:
    """Tie this process to the server and prepare it for forking workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    sandbox.die_with_parent(server_pid)
    sandbox.adopt_orphans()
    # what we adopt, the standard library's fork server reaps with a warning
    warnings.filterwarnings("ignore", message="forkserver: waitpid")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if PARENT in os.environ:
    settle(int(os.environ.pop(PARENT)))
