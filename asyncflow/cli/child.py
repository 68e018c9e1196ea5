"""Runs a server as a child process: started, waited for, and stopped by its own id."""

import asyncio
import os
import shlex
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from asyncflow.cli.flags import ADDRESS_IN_USE
from asyncflow.client import Client, ServerUnreachable

HOST = "127.0.0.1"
_READY_WITHIN_S = 60
_ASK_EVERY_S = 0.05
# the server's own grace period is 30 s; it may need a moment after that
_STOP_WITHIN_S = 40.0


class ServerDied(Exception):
    """The child ended although nobody stopped it; says what it said last."""

    def __init__(self, *, code: int, said: str, log: Path) -> None:
        last = said.rpartition("\n")[2].removeprefix("Error: ")
        ending = last or f"it ended with exit code {code}"
        super().__init__(f"the server does not run: {ending}; see {log}")
        self.port_was_taken = ADDRESS_IN_USE in said


class NotReady(Exception):
    """The child runs, but did not become ready in time."""


def free_port(wanted: int) -> int:
    """Return *wanted* if nobody listens there, else a port that the kernel picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # a connection that just ended must not make the port look taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                found: int = probe.getsockname()[1]
                return found
    raise OSError("no free port")


def command() -> list[str]:
    """Return how this program is run again."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    return [sys.executable, "-m", "asyncflow"]


def as_typed() -> str:
    """Return how a person runs this program again, in a shell of this folder."""
    program = sys.argv[0]
    known = shutil.which("asyncflow")
    if known is not None and Path(known).resolve() == Path(program).resolve():
        return "asyncflow"
    if Path(program).name == "__main__.py":
        return shlex.join(command())
    return shlex.quote(program)


@dataclass(slots=True, kw_only=True)
class Child:
    """A server in a process of its own; its log goes to a file."""

    process: asyncio.subprocess.Process
    url: str
    log: Path
    log_start: int

    @classmethod
    async def start(cls, *, port: int, data_dir: Path) -> Self:
        """Start a server on this machine that keeps everything in *data_dir*."""
        log = data_dir / "server.log"
        place = await asyncio.to_thread(_open_log, log)
        log_start = os.fstat(place).st_size
        try:
            process = await asyncio.create_subprocess_exec(
                *command(),
                "serve",
                *("--host", HOST, "--port", str(port), "--data-dir", str(data_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=place,
                stderr=place,
                # Ctrl-C reaches us alone: we stop the child once, by its own id
                process_group=0,
            )
        finally:
            os.close(place)
        url = f"http://{HOST}:{port}"
        return cls(process=process, url=url, log=log, log_start=log_start)

    async def ready(self, client: Client) -> None:
        """Return when the server is ready. Raise ServerDied or NotReady."""
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                while not await self._answers(client):
                    if self.process.returncode is not None:
                        raise self.died()
                    await asyncio.sleep(_ASK_EVERY_S)
        except TimeoutError:
            raise NotReady(
                f"{self.url} was not ready within {_READY_WITHIN_S} s; see {self.log}"
            ) from None

    async def _answers(self, client: Client) -> bool:
        if self.process.returncode is not None:
            return False  # whoever answers there is somebody else
        with suppress(ServerUnreachable):
            return await client.is_ready()
        return False

    def died(self) -> ServerDied:
        """Return the exception that says how the child ended."""
        return ServerDied(
            code=self.process.returncode or 0, said=self._said(), log=self.log
        )

    async def gone(self) -> None:
        """Return when the child has ended."""
        await self.process.wait()

    async def stop(self) -> bool:
        """Ask the child to end and wait; tell whether it did so by itself."""
        if self.process.returncode is not None:
            return True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.process.wait()
            return False
        return True

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _said(self) -> str:
        with suppress(OSError):
            text = self.log.read_bytes()[self.log_start :].decode(errors="replace")
            return text.strip()
        return ""


def _open_log(log: Path) -> int:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # appended to: a second demo in this folder must not wipe the log of the first
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
