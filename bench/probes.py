"""Measurements beside a load, each in a process of its own until it is told to stop.

`python -m bench.probes status PORT JOB` asks for a job's status again and again;
`python -m bench.probes disk FOLDER` writes and syncs. Both end when their standard
input does, and print their times in milliseconds as JSON.
"""

import http.client
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from bench.machine import pinned, sync_data

_PAUSE_S: Final = 0.005
_WRITE: Final = b"\xa5" * (64 << 10)
#: the file starts again from its beginning here
_MOST_BYTES: Final = 64 << 20


class Probe:
    """A probe as whoever started it sees it."""

    def __init__(self, *arguments: str, cores: list[int]) -> None:
        with pinned(cores):
            self._process = subprocess.Popen(  # noqa: S603 -- argv is built here
                [sys.executable, "-m", "bench.probes", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

    def stop(self) -> list[float]:
        """End the probe; return what it measured, in milliseconds."""
        out, _err = self._process.communicate(timeout=60)
        if self._process.returncode != 0:
            raise RuntimeError("a probe failed; what it said is above")
        return cast("list[float]", json.loads(out))


def _repeat(once: Callable[[], float]) -> list[float]:
    """Call *once* until standard input ends; a first call warms up."""
    once()
    taken = [once()]
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        taken.append(once())
    return taken


def _status(port: int, job: str) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def once() -> float:
        began = time.perf_counter()
        connection.request("GET", f"/status/{job}")
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the status was answered with {answer.status}")
        return (time.perf_counter() - began) * 1000

    return _repeat(once)


def _disk(folder: Path) -> list[float]:
    path = folder / "disk-probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    at = 0

    def once() -> float:
        nonlocal at
        at += os.pwrite(fd, _WRITE, at % _MOST_BYTES)
        began = time.perf_counter()
        sync_data(fd)
        return (time.perf_counter() - began) * 1000

    try:
        return _repeat(once)
    finally:
        os.close(fd)
        path.unlink()


def main(kind: str, *arguments: str) -> None:
    """Run one probe and print what it measured."""
    if kind == "status":
        port, job = arguments
        taken = _status(int(port), job)
    else:
        taken = _disk(Path(arguments[0]))
    print(json.dumps(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
