"""Other servers that take uploads, for comparison: @tus/server and nginx.

Neither is part of the program. The first is fetched by npm into a folder of the user's
cache, once; the second is used when the system has it. What is not there is left out.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.machine import pinned

_CACHE: Final = Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "asyncflow-bench"
)
_PACKAGES: Final = ("@tus/server@2.4.5", "@tus/file-store@2.1.1")
_START_S: Final = 20.0
_INSTALL_S: Final = 180.0

_TUS: Final = """
const http = require('node:http')
const {Server} = require('@tus/server')
const {FileStore} = require('@tus/file-store')
// a client that goes away must not take the server with it
process.on('uncaughtException', () => {})
const store = new FileStore({directory: process.argv[2]})
const server = new Server({path: '/files', datastore: store, relativeLocation: true})
http.createServer(server.handle.bind(server)).listen(+process.argv[3], '127.0.0.1')
"""

_NGINX: Final = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    location /dav/ {{
      root {folder}/data;
      dav_methods PUT DELETE;
      create_full_put_path on;
      client_max_body_size 0;
      client_body_buffer_size 1m;
      client_body_temp_path {folder}/data/temp;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server that runs: where it listens, what it is spoken to like."""

    name: str
    pid: int
    port: int
    kind: str
    base: str
    folder: Path

    def forget(self) -> None:
        """Remove what has been uploaded."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                path.unlink()


@contextlib.contextmanager
def running(folder: Path, *, cores: list[int], install: bool) -> Iterator[list[Peer]]:
    """Start every peer that is to be had; *install*: fetch what is missing."""
    with contextlib.ExitStack() as stack:
        peers = []
        for start in (_tus, _nginx):
            peer = start(folder, cores, stack, install=install)
            if peer is not None:
                peers.append(peer)
        yield peers


def _tus(
    folder: Path, cores: list[int], stack: contextlib.ExitStack, *, install: bool
) -> Peer | None:
    node = shutil.which("node")
    if node is None or not (_is_installed() or (install and _install())):
        return None
    script = _CACHE / "server.cjs"
    script.write_text(_TUS, encoding="utf-8")
    data, port = folder / "tus", _free_port()
    data.mkdir(parents=True)
    pid = _start([node, str(script), str(data), str(port)], cores, stack, port)
    return Peer(
        name="@tus/server", pid=pid, port=port, kind="tus", base="/files", folder=data
    )


def _is_installed() -> bool:
    return (_CACHE / "node_modules" / "@tus" / "file-store").is_dir()


def _install() -> bool:
    npm = shutil.which("npm")
    if npm is None:
        return False
    _CACHE.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(_CACHE)]
    try:
        done = subprocess.run(  # noqa: S603 -- argv is built from constants
            [*command, *_PACKAGES],
            capture_output=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and _is_installed()


def _nginx(
    folder: Path, cores: list[int], stack: contextlib.ExitStack, *, install: bool
) -> Peer | None:
    del install  # the system's own, or none
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        return None
    home, port = folder / "nginx", _free_port()
    (home / "data" / "dav").mkdir(parents=True)
    config = home / "nginx.conf"
    config.write_text(_NGINX.format(folder=home, port=port), encoding="utf-8")
    # workers of another user could not write into our folder
    user = "user root;" if os.geteuid() == 0 else ""
    command = [nginx, "-c", str(config), "-p", str(home), "-g", user]
    pid = _start(command if user else command[:-2], cores, stack, port)
    worker = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return Peer(
        name="nginx",
        pid=int(worker.split()[0]),
        port=port,
        kind="put",
        base="/dav/",
        folder=home / "data",
    )


def _start(
    command: list[str], cores: list[int], stack: contextlib.ExitStack, port: int
) -> int:
    with pinned(cores):
        process = subprocess.Popen(  # noqa: S603 -- argv is built here
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    stack.callback(_stop, process)
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1),
        ):
            return process.pid
        time.sleep(0.05)
    raise RuntimeError(f"{command[0]} did not start")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
