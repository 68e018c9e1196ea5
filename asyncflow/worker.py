"""What runs inside a pool process: one order after another, one file at a time.

Theory of operation
-------------------
`begin` is the executor's initializer: it ties the process to its parent, limits it
and remembers its slot. `serve` is the executor's only call: it loads the processors and
confines the process; then it takes orders, one at a time, until the server hangs up.
Orders and what a run has to say are messages of JSON on one socket; what is too long
for a message lies in the slot's folder instead. No pickle and no exception ever comes
back. Progress and finished derivatives are announced only if there is room on the
socket: the report lists every derivative again.

Rules
-----
- No server code is imported here, nor asyncio: a worker stays small and starts fast.
"""

import contextlib
import io
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

from asyncflow import reports, sandbox, stdlib, syscalls
from asyncflow.agreement import (
    FAREWELL,
    IN_FILE,
    MAX_MESSAGE_BYTES,
    MOST_LEFT_MAPPED,
    NO_RUN,
    ORDER,
    REPORT,
    SOURCE,
    Ask,
    Setup,
)
from asyncflow.causes import cause_of, trace_of
from asyncflow.errors import Skip
from asyncflow.modules import CannotLoad, load
from asyncflow.prints import print_into
from asyncflow.processors import base
from asyncflow.shapes import problems
from asyncflow.surroundings import Surroundings

#: leaves room for what stands around a report
_MAX_REPORT_BYTES: Final = MAX_MESSAGE_BYTES - 64
#: at most 20 progress messages a second; the server tells clients less often still
_PROGRESS_EVERY_S: Final = 0.05


class _Desk:
    """This process's place: its folder and its voice."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.source = Path(setup.folder, "in")
        self.out = Path(setup.folder, "out")
        self.voice = setup.voice
        self.is_confined = False

    def say(self, message: Mapping[str, object]) -> None:
        """Tell the server, unless it is busy: what matters stands in the report too."""
        data = json.dumps(message).encode()
        if len(data) <= MAX_MESSAGE_BYTES:
            with contextlib.suppress(OSError):
                self.voice.send(data, socket.MSG_DONTWAIT)

    def report(self, token: int, report: Mapping[str, object]) -> None:
        """Tell the server how something ended, and wait until it can be told.

        Raise OSError if there is no room for a long report.
        """
        data = reports.encode(report)
        if len(data) > _MAX_REPORT_BYTES:
            _write(self.out / REPORT, data)
            data = IN_FILE
        self.voice.send(b'{"token":%d,"report":%b}' % (token, data))

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield what the server wants done, until it hangs up."""
        while data := self.voice.recv(MAX_MESSAGE_BYTES):
            if data == IN_FILE:
                data = (self.source / ORDER).read_bytes()
            yield json.loads(data)


_desks: list[_Desk] = []


def begin(setup: Setup) -> None:
    """Become a worker: called once, before anything else."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(FAREWELL, signal.SIG_DFL)
    os.setpgid(0, 0)
    sandbox.die_with_parent(setup.parent_pid)
    sandbox.limit_resources(max_file_bytes=setup.max_file_bytes)
    os.nice(setup.nice)
    # they do what they are told, and have no walls
    stdlib.part_from_helpers()
    setup.voice.settimeout(None)
    print_into(Path(setup.folder))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    desk = _Desk(setup)
    # programs that a processor starts find their scratch space here too
    os.environ["TMPDIR"] = str(desk.out)
    _desks.append(desk)


def serve() -> int:
    """Report what this process can do, then do what it is told."""
    (desk,) = _desks
    greeting = _greeting(desk)
    surroundings = Surroundings()
    desk.report(NO_RUN, greeting)
    for order in desk.orders():
        if not desk.is_confined:
            break
        _attend(desk, surroundings, **order)
    return 0


def _attend(
    desk: _Desk,
    surroundings: Surroundings,
    token: int,
    processor: str,
    about: Mapping[str, object],
) -> None:
    """Run *processor* on what the slot and *about* hold, and report how that ended.

    What the server hears last, it takes for the end: everything is as before then.
    """
    report = _Run(desk, token).go(processor, about)
    known = base.REGISTRY.get(processor)
    surroundings.restore(may_keep_files=known is not None and known.resident)
    try:
        desk.report(token, report)
    except OSError as error:
        desk.report(token, {"token": token, **reports.of_error(error)})


def _greeting(desk: _Desk) -> dict[str, object]:
    """Load the processors and confine this process; return what it can do."""
    try:
        if syscalls.can_filter():
            # the filter knows no epoll, and Python has looked for it already
            selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]
        _load(desk)
        _list_packages()
        abi = sandbox.confine(
            source=desk.source,
            out=desk.out,
            code=_code_folders(),
            private=desk.setup.private,
        )
        sandbox.drop_privileges()
        asked = [one.memory_bytes for one in base.REGISTRY.values()]
        sandbox.bound_memory(MOST_LEFT_MAPPED + max(asked, default=0))
        filtered = syscalls.forbid()
        desk.is_confined = True
        return {
            "abi": abi,
            "filtered": filtered,
            "processors": [_card(one) for one in base.REGISTRY.values()],
            "wrong": [wrong for ask in desk.setup.asks for wrong in _refused(ask)],
        }
    except sandbox.NotApart as mixed:
        return {"error": str(mixed)}
    except CannotLoad as bad:
        return {"module": bad.module, "error": bad.why, "trace": bad.trace}
    except BaseException as error:  # noqa: BLE001 -- the boundary: nothing may cross but a report
        return {"error": cause_of(error), "trace": trace_of(error)}


def _refused(ask: Ask) -> Iterator[str]:
    """Return what the processor cannot make of its options: only it knows them."""
    known = base.REGISTRY.get(ask.processor)
    if known is not None and known.options is not None:
        yield from problems(ask.options, known.options, ask.path)


def _load(desk: _Desk) -> None:
    """Import the modules that register functions. Raise CannotLoad for a bad one."""
    for module in desk.setup.modules:
        # who dies now, or hangs, leaves behind where it was
        desk.say({"token": 0, "loading": module})
        load(module)
    desk.say({"token": 0, "loading": ""})


class _Run:
    """One attempt: what it has said so far."""

    def __init__(self, desk: _Desk, token: int) -> None:
        self._desk = desk
        self._token = token
        self._made: dict[str, dict[str, object]] = {}
        self._quiet_until = 0.0

    def go(self, name: str, about: Mapping[str, Any]) -> dict[str, object]:
        """Run the processor called *name*; turn every ending into a report."""
        try:
            result = self._perform(name, about)
            for derivative in result.derivatives:
                self._made[derivative.name] = self._entry(derivative)
            report = reports.of_facts(result.facts)
        except BaseException as error:  # noqa: BLE001 -- SystemExit too is a failure
            report = reports.of_error(error)
        made = list(self._made.values())
        return {"token": self._token, "made": made, **report}

    def _perform(self, name: str, about: Mapping[str, Any]) -> base.Result:
        processor = base.REGISTRY.get(name)
        if processor is None:
            raise Skip(f"this worker has no processor called {name!r}")
        missing = processor.ready()
        if missing is not None:
            raise Skip(f"{missing} is not installed")
        sandbox.limit_memory(about["mapped"] + processor.memory_bytes)
        if processor.takes == "payload":
            return base.result_of(processor.run(self._task(about)))
        found: base.Result = processor.run(self._file(processor, about))
        return found

    def _file(self, processor: base.Processor, about: Mapping[str, Any]) -> base.Work:
        return base.Work(
            source=self._desk.source / SOURCE,
            out=self._desk.out,
            file_name=about["file_name"],
            media_type=about["media_type"],
            options=base.options_of(processor, about["options"]),
            facts=about["facts"],
            attempt=about["attempt"],
            progress=self._progress,
            publish=self._publish,
        )

    def _task(self, about: Mapping[str, Any]) -> base.Task:
        return base.Task(
            id=about["job_id"],
            name=about["file_name"],
            payload=json.loads(about["payload"] or "null"),
            attempt=about["attempt"],
            tenant=about["tenant"],
            out=self._desk.out,
            progress=self._progress,
            publish=self._publish,
        )

    def _entry(self, made: base.Derivative) -> dict[str, object]:
        inside = made.path.parent == self._desk.out
        return {
            "name": made.name,
            # the server refuses anything that does not lie directly in `out`
            "file": made.path.name if inside else str(made.path),
            "media_type": made.media_type,
            "facts": dict(made.facts),
        }

    def _publish(self, made: base.Derivative) -> None:
        self._made[made.name] = entry = self._entry(made)
        self._desk.say({"token": self._token, "made": entry})

    def _progress(self, percent: float) -> None:
        now = time.monotonic()
        if now < self._quiet_until or not math.isfinite(percent):
            return
        self._quiet_until = now + _PROGRESS_EVERY_S
        self._desk.say({"token": self._token, "percent": float(percent)})


def _write(path: Path, data: bytes) -> None:
    """Write *data* to a new file at *path*, whatever is there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except FileExistsError:  # the processor wrote a file of this name
        path.unlink()
        handle = os.open(path, flags, 0o600)
    with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 -- a descriptor
        file.write(data)


def _card(known: base.Processor) -> dict[str, object]:
    return {
        "name": known.name,
        "accepts": known.accepts,
        "on": known.on,
        "gate": known.gate,
        "required": known.required,
        "priority": known.priority,
        "outputs": known.outputs,
        "wall_s": known.wall_s,
        "memory_bytes": known.memory_bytes,
        "runs": known.runs,
        "takes": known.takes,
        "attempts": known.attempts,
        "concurrency": known.concurrency,
        "rate": known.rate,
        "resident": known.resident,
        "module": known.run.__module__,
        "where": known.where,
        "missing": known.ready(),
    }


def _list_packages() -> None:
    """Have Python list the folders of packages while it may.

    A folder with something private in it cannot be listed later, only what else is in
    it be read; a module that a function imports is found by what was listed.
    """
    runtime = (f"{sys.prefix}/", f"{sys.base_prefix}/")
    for module in list(sys.modules.values()):
        for folder in getattr(module, "__path__", ()):
            if not folder.startswith(runtime):
                PathFinder.find_spec("_", [folder])


def _code_folders() -> set[Path]:
    """Return where the loaded packages live, so that their other modules can load.

    A folder that holds a package is not named itself: in a checkout it may be the
    folder that holds the server's data as well.
    """
    folders = set()
    runtime = (f"{sys.prefix}/", f"{sys.base_prefix}/")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or file.startswith(runtime):
            continue
        path = Path(file)
        if "." not in name:
            folders.add(path.parent if hasattr(module, "__path__") else path)
        elif getattr(sys.modules.get(name.partition(".")[0]), "__file__", None) is None:
            folders.add(path.parent)  # in a package without an __init__.py
    return folders
