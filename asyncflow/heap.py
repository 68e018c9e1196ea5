"""How the C library hands out memory to the server's own process.

Theory of operation
-------------------
The GNU C library gives a thread a heap of its own when the one it asks is busy, up
to eight for each core. What is free in one is of no use to the threads of another. A
server has dozens of threads of which hardly two ask at the same time, since they wait
for the lock of the interpreter: one heap serves them as fast, and stays smaller.

Elsewhere than in glibc there is nothing to tell, and nothing is done.
"""

import ctypes
from typing import Final

#: M_ARENA_MAX in malloc.h
_ARENA_MAX: Final = -8


def share() -> None:
    """Have all threads that begin from now on take memory from one heap."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system what is free now, in the middle of the heap too."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
