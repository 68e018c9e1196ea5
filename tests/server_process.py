"""A real server as a process of its own, for tests."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

STOP_S = 40.0
FINAL = frozenset({"COMPLETED", "FAILED", "REJECTED", "CANCELLED"})


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back: headers by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        return None


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """`asyncflow serve` on a free port; started by `start`, ended by `stop` or `kill`.

    *settings* are given as `ASYNCFLOW_*`; *wrap* is a command that runs the server,
    *program* the command `asyncflow`.
    """

    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    wrap: tuple[str, ...] = ()
    program: tuple[str, ...] = (sys.executable, "-m", "asyncflow")
    process: subprocess.Popen[str] | None = None
    url: str = ""
    banner: str = ""

    @property
    def pid(self) -> int:
        """The server's process (of *wrap*, if there is one)."""
        assert self.process is not None
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Where the server's log goes."""
        return self.data_dir.with_name(f"{self.data_dir.name}.log")

    def spawn(self) -> None:
        """Start the process without waiting for it to be ready."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.data_dir.parent),
            "ASYNCFLOW_FILL_LEVEL": "100",
            "ASYNCFLOW_LOG_FORMAT": "json",
            **{f"ASYNCFLOW_{k.upper()}": v for k, v in self.settings.items()},
        }
        command = [*self.program, "serve", "--port", "0"]
        command += ["--data-dir", str(self.data_dir)]
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [*self.wrap, *command],
                env=env,
                cwd=self.data_dir.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def start(self) -> Self:
        """Start the process and wait until it prints its address."""
        self.spawn()
        assert self.process is not None
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            found = re.search(r"listens on (https?://\S+)", line)
            if found:
                self.url = found[1]
            if len(lines) > 1 and line.split()[:1] == ["workers"]:
                break
        self.banner = "".join(lines)
        if not self.url:
            raise AssertionError(f"no address: {self.banner}\n{self.log()[-4000:]}")
        return self

    def log(self) -> str:
        """Return what the server has logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def log_events(self) -> list[dict[str, Any]]:
        """Return the log as events; every line must be one."""
        return [json.loads(line) for line in self.log().splitlines()]

    def signal(self, number: int) -> None:
        """Send a signal to the server alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the server, as a crash would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        assert self.process is not None
        code = self.process.wait(STOP_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM the server, if it runs, and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def token(self) -> str:
        """The token of the first start."""
        return (self.data_dir / "token").read_text().strip()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = 30.0,
        **headers: str,
    ) -> Answer:
        """Send one request; header names are written with underscores."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        request = urllib.request.Request(  # noqa: S310 -- our own server
            self.url + path, data=body, method=method, headers=named
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=timeout) as answer:
                return _answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return _answer(refused.code, refused.headers, refused.read())

    def upload(self, name: str, data: bytes) -> str:
        """Send a file in one request; return the job's id."""
        quoted = urllib.request.quote(name, safe="")  # type: ignore[attr-defined]
        answer = self.request("PUT", f"/upload/{quoted}", data)
        assert answer.status == 202, answer.body
        return str(answer.json["jobId"])

    def status(self, job: str) -> Any:
        """Return the job as GET /status tells it."""
        answer = self.request("GET", f"/status/{job}")
        assert answer.status == 200, answer.body
        return answer.json

    def finished(self, job: str, timeout: float = 60.0) -> Any:
        """Return the job once it is over; the polling is what a client would do."""
        end = time.monotonic() + timeout
        while (found := self.status(job))["status"] not in FINAL:
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        else:
            return found
        raise AssertionError(
            f"not over within {timeout} s: {found}\n{self.log()[-3000:]}"
        )


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    return Answer(
        status=status, headers={k.lower(): v for k, v in headers.items()}, body=body
    )


@contextlib.contextmanager
def serving(data_dir: Path, **settings: str) -> Iterator[ServerProcess]:
    """Run a server for the length of a block; at the end it must stop cleanly."""
    server = ServerProcess(data_dir=data_dir, settings=settings).start()
    try:
        yield server
        assert server.stop() == 0, server.log()[-4000:]
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
