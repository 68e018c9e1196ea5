"""Reads pages in a process of its own, which a page may end without harm to the others.

Theory of operation
-------------------
Native code that hangs or crashes takes its process along. So a document on which an
attempt has ended like that is read by a child: it gets the number of a page and returns
the sheet, one after the other. A page that outlasts its time, or ends the child, is
given up, and the next one gets a new child. A document that harms nobody is spared all
this: a process costs more than most pages.

The child is behind the same walls as its parent, and has nobody else to talk to.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final

import msgspec

import asyncflow
from asyncflow.processors import pages
from asyncflow.processors.clock import TOO_LATE, Clock, ends_after
from asyncflow.processors.sheets import Failure, Reader, Request, Sheet, took_too_long

#: a child that is to end itself has this long for it, in seconds
_GRACE_S: Final = 5.0
#: a second, unless the machine is busy
_START_S: Final = 60.0
#: behind its walls it may read the package, but not look for it in the folder around
_PROGRAM: Final = """
import json, sys
from importlib.util import module_from_spec, spec_from_file_location
sys.path[:] = json.loads(sys.argv[1])
found = spec_from_file_location("asyncflow", sys.argv[2])
sys.modules["asyncflow"] = package = module_from_spec(found)
found.loader.exec_module(package)
from asyncflow.processors.apart import serve
serve(sys.argv[3])
"""
_LENGTH: Final = struct.Struct(">I")
_READY: Final = b"ready"
_answer: Final = msgspec.msgpack.Decoder(Sheet | Failure)


class _Child(subprocess.Popen[bytes]):
    """A process that answers each line with a message."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class Apart:
    """Reads pages as `sheets.Reader` does, but none of them can end this process."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._child: _Child | None = None

    def read(self, number: int) -> Sheet | Failure:
        """Return what page *number* (from 0) says, or why nobody knows."""
        child = self._child or self._begun()
        if child is None:
            raise ChildProcessError("no process to read a page in can be started")
        self._child = child
        # the child ends itself, but for what keeps even its clock from running
        clock = Clock(ends_after(self._request.page_s) + _GRACE_S)
        data = _asked(child, b"%d\n" % number, clock)
        if data is not None:
            found: Sheet | Failure = _answer.decode(data)
            return found
        self._child = None
        if _end(child) == TOO_LATE or clock.is_over:
            return took_too_long(number, self._request.page_s)
        detail = f"page {number + 1} ended the process that read it"
        return Failure(reason="crashed", detail=detail)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            _end(self._child)
            self._child = None

    def start(self) -> bool:
        """Start the child; tell whether it is there."""
        self._child = self._begun()
        return self._child is not None

    def _begun(self) -> _Child | None:
        request = msgspec.json.encode(self._request).decode()
        where = json.dumps(sys.path), asyncflow.__file__
        try:
            child = _Child([sys.executable, "-c", _PROGRAM, *where, request])
        except OSError:
            return None
        if _asked(child, b"", Clock(_START_S)) != _READY:
            _end(child)
            return None
        return child


def reader(request: Request, document: pages.Document) -> Reader | Apart:
    """Return a reader of *document* that survives its pages.

    Where Python cannot be started as a program, it is read in this process.
    """
    apart = Apart(request)
    return apart if apart.start() else Reader(request, document)


def _asked(child: _Child, line: bytes, clock: Clock) -> bytes | None:
    """Say *line* to the child; return its answer, or None if it ended instead."""
    timer = threading.Timer(clock.left(), child.kill)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(line)
            child.stdin.flush()
            return _message(child.stdout)
    finally:
        timer.cancel()
    return None


def _end(child: _Child) -> int | None:
    """End the child; return what it ended with if it did so by itself."""
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    code = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = child.wait(timeout=_GRACE_S)
    child.kill()
    with child:
        return code


def _message(voice: IO[bytes]) -> bytes | None:
    head = voice.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = voice.read(length)
    return data if len(data) == length else None


def serve(request: str) -> None:
    """Be the child: read the pages whose numbers come in."""
    told = msgspec.json.decode(request, type=Request)
    # what a library prints must not stand among the answers
    with open(os.dup(1), "wb") as voice:  # noqa: PTH123 -- a descriptor
        os.dup2(2, 1)
        document = pages.Document(
            Path(told.source), told.media_type, max_pages=told.max_pages
        )
        reader = Reader(told, document)
        _say(voice, _READY)
        for line in sys.stdin:
            _say(voice, msgspec.msgpack.encode(reader.read(int(line))))


def _say(voice: IO[bytes], data: bytes) -> None:
    voice.write(_LENGTH.pack(len(data)) + data)
    voice.flush()
