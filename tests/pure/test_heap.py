"""The heap that all threads of the server share."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
from asyncflow import heap

if sys.argv[1] == "shared":
    heap.share()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)

def work() -> None:
    kept = [bytearray(2000) for _ in range(100)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""

FREED = """
from asyncflow import heap

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1])

taken = [bytearray(2000) for _ in range(20_000)]
last = bytearray(2000)
del taken
before = resident()
heap.give_back()
print((before - resident()) * 4096 >> 20)
"""

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not the GNU C library"
)


def told(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_threads_share_one_heap() -> None:
    assert told(SCRIPT, "as they come").count("<heap nr=") > 1
    assert told(SCRIPT, "shared").count("<heap nr=") == 1


def test_what_is_free_is_given_back_below_what_is_not() -> None:
    assert int(told(FREED)) > 20
