"""Works on a document in other processes, which it may end without harm to the rest.

Theory of operation
-------------------
Native code that hangs or crashes takes its process along. So a document on which an
attempt has ended like that is never touched by the worker itself. One child opens,
reads and shows it, another one writes the searchable PDF: each is told what to do and
answers, one thing after the other. What outlasts its time, or ends the child, is given
up, and the next thing gets a new child; only the searchable PDF is gone with its child.
A document that harms nobody is spared all this: a process costs more than most pages.

The children are behind the same walls as their parent, and have nobody else to talk to.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any, Final, TypeVar

import msgspec

import asyncflow
from asyncflow.processors.clock import TOO_LATE, Clock, ends_after
from asyncflow.processors.desk import Desk, whole_s
from asyncflow.processors.pages import A4
from asyncflow.processors.sheets import Failure, Request, Sheet, Shown

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
#: what a child can be asked to do, and with what
_ASKED: Final[Mapping[str, Any]] = {
    "open": tuple[()],
    "looks_like_text": tuple[int],
    "read": tuple[int],
    "preview": tuple[str],
    "show": tuple[int],
    "blank": tuple[int],
    "add": tuple[int, Shown],
    "save": tuple[str],
}

Answer = TypeVar("Answer")


class _Process(subprocess.Popen[bytes]):
    """A process that answers each message with another."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class Apart:
    """Does what `Desk` does, but nothing of a document can end this process."""

    def __init__(self, request: Request) -> None:
        self._reading = _Child(request)
        self._copying = _Child(request)

    def open(self) -> int | Failure:
        """Return how many pages there are, or why nobody knows."""
        return self._reading.ask(int, "the document", "open")

    def looks_like_text(self, number: int) -> bool | Failure:
        """Tell whether page *number* (from 0) of a picture is worth reading."""
        return self._reading.ask(bool, _page(number), "looks_like_text", number)

    def read(self, number: int) -> Sheet | Failure:
        """Return what page *number* (from 0) says, or why nobody knows."""
        return self._reading.ask(Sheet, _page(number), "read", number)

    def preview(self, path: str) -> Failure | None:
        """Write a picture of a PDF's first page to *path*; return what hinders it."""
        return self._reading.ask(type(None), _page(0), "preview", path)

    def show(self, number: int) -> Shown | Failure:
        """Return page *number* (from 0) of pictures without words, as it was given."""
        return self._reading.ask(Shown, _page(number), "show", number)

    def blank(self, number: int) -> Shown:
        """Return an empty page as large as page *number* (from 0) of pictures."""
        found = self._reading.ask(Shown, _page(number), "blank", number)
        return Shown(size=A4) if isinstance(found, Failure) else found

    def add(self, number: int, shown: Shown) -> Failure | None:
        """Add a page to the searchable PDF; return what hinders it."""
        return self._copying.ask(type(None), _page(number), "add", number, shown)

    def save(self, path: str) -> bool | Failure:
        """Write the searchable PDF to *path*, if it has any text; tell whether."""
        return self._copying.ask(bool, "the searchable PDF", "save", path)

    def close(self) -> None:
        """End the children."""
        self._reading.close()
        self._copying.close()

    def start(self) -> bool:
        """Start a child; tell whether it is there."""
        return self._reading.start()


def desk(request: Request) -> Desk | Apart:
    """Return a desk that survives the document.

    Where Python cannot be started as a program, everything is done in this process.
    """
    apart = Apart(request)
    return apart if apart.start() else Desk(request)


def _page(number: int) -> str:
    return f"page {number + 1}"


class _Child:
    """A process with a desk, begun when it is needed and again when it has ended."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._process: _Process | None = None

    def ask(
        self, answer: type[Answer], what: str, name: str, *args: object
    ) -> Answer | Failure:
        """Have the desk do *name*; *what* is said to be at fault if that ends it."""
        if not self.start() or self._process is None:
            raise ChildProcessError("no process for a document can be started")
        # the child ends itself, but for what keeps even its clock from running
        longest = self._request.page_s + whole_s(self._request)
        clock = Clock(ends_after(longest) + _GRACE_S)
        data = _asked(self._process, msgspec.msgpack.encode((name, args)), clock)
        if data is not None:
            kind: Any = answer | Failure
            found: Answer | Failure = msgspec.msgpack.decode(data, type=kind)
            return found
        process, self._process = self._process, None
        if _end(process) == TOO_LATE or clock.is_over:
            return Failure(reason="timeout", detail=f"{what} took too long")
        return Failure(reason="crashed", detail=f"{what} ended the process it was in")

    def start(self) -> bool:
        """Start the process, unless it runs; tell whether it is there."""
        if self._process is None:
            self._process = self._begun()
        return self._process is not None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _begun(self) -> _Process | None:
        request = msgspec.json.encode(self._request).decode()
        where = json.dumps(sys.path), asyncflow.__file__
        try:
            process = _Process([sys.executable, "-c", _PROGRAM, *where, request])
        except OSError:
            return None
        if _asked(process, None, Clock(_START_S)) != _READY:
            _end(process)
            return None
        return process


def _asked(process: _Process, message: bytes | None, clock: Clock) -> bytes | None:
    """Send *message*; return the answer, or None if the process ended instead."""
    timer = threading.Timer(clock.left(), process.kill)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            if message is not None:
                _say(process.stdin, message)
            return _message(process.stdout)
    finally:
        timer.cancel()
    return None


def _end(process: _Process) -> int | None:
    """End the process; return what it ended with if it did so by itself."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    code = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout=_GRACE_S)
    process.kill()
    with process:
        return code


def _message(voice: IO[bytes]) -> bytes | None:
    head = voice.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = voice.read(length)
    return data if len(data) == length else None


def _say(voice: IO[bytes], data: bytes) -> None:
    voice.write(_LENGTH.pack(len(data)) + data)
    voice.flush()


def serve(request: str) -> None:
    """Be the child: do what is asked, until nobody is there to ask."""
    desk = Desk(msgspec.json.decode(request, type=Request))
    # what a library prints must not stand among the answers
    with open(os.dup(1), "wb") as voice:  # noqa: PTH123 -- a descriptor
        os.dup2(2, 1)
        _say(voice, _READY)
        while (message := _message(sys.stdin.buffer)) is not None:
            name, args = msgspec.msgpack.decode(message)
            done = getattr(desk, name)(*msgspec.convert(args, _ASKED[name]))
            _say(voice, msgspec.msgpack.encode(done))
