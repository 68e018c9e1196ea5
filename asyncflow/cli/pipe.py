"""The standard input as a stream of bytes that nobody has to wait for.

A read that blocks cannot be called off. It is done by a thread of its own, which the
program leaves behind when it ends; and by the descriptor, for the buffered file holds a
lock that would keep the interpreter from ending.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import suppress

_PIECE_BYTES = 1 << 20
# what is read ahead: a fast pipe must not fill the memory
_PIECES_AHEAD = 4


async def standard_input() -> AsyncIterator[bytes]:
    """Yield what comes from the standard input until it ends. Raise OSError."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue(_PIECES_AHEAD)
    place = sys.stdin.fileno()

    def read() -> bytes | OSError:
        try:
            return os.read(place, _PIECE_BYTES)
        except OSError as error:
            return error

    def pump() -> None:
        # the loop is gone when somebody has interrupted the program
        with suppress(RuntimeError, CancelledError):
            piece: bytes | OSError = b"begun"
            while piece and not isinstance(piece, OSError):
                piece = read()
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    while piece := await pieces.get():
        if isinstance(piece, OSError):
            raise piece
        yield piece
