"""What the server and its workers agree on: files in a slot, messages, the first words.

Rules
-----
- Both sides import this, so it imports nothing of either.
"""

import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: the modules whose processors every worker has
BUILTIN: Final = (
    "asyncflow.processors.identify",
    "asyncflow.processors.image",
    "asyncflow.processors.text",
    "asyncflow.processors.sample",
)
REPORT: Final = "result.json"
SOURCE: Final = "source"
ORDER: Final = "order.json"
#: tells the fork server that the server has ended
FAREWELL: Final = signal.SIGUSR1
#: the token of what a worker says before its first run
NO_RUN: Final = 0
#: of a run's token, so that none can be guessed before it is told
_TOKEN_BITS: Final = 63
#: what is longer lies in a file; only on Linux does a socket take long messages
MAX_MESSAGE_BYTES: Final = 8 << 10 if sys.platform == "linux" else 1 << 10
#: instead of an order, or a report: it lies in a file
IN_FILE: Final = b"null"
#: how much more of its address space than before its first run a worker may have in
#: use after one; OCR takes 200 MiB at its first page, and 64 threads have 512 MiB
MOST_LEFT_MAPPED: Final = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What somebody asks of a processor, and the keys under which they wrote it."""

    path: tuple[str, ...]
    processor: str
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker is told once, at its start."""

    folder: str
    modules: tuple[str, ...]
    parent_pid: int
    nice: int
    max_file_bytes: int
    voice: socket.socket
    asks: tuple[Ask, ...] = ()
    #: files and folders that it may not read, also among the code that it runs
    private: tuple[str, ...] = ()


def new_token() -> int:
    """Return the token of a new run: who does not have the order cannot know it."""
    return 1 + secrets.randbits(_TOKEN_BITS)
