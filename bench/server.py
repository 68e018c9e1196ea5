"""A server as a process of its own, on a free port, for one table."""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.machine import pinned

_ROOT: Final = Path(__file__).resolve().parent.parent
_STOP_S: Final = 60.0
_PATIENCE_S: Final = 120.0
_PAUSE_S: Final = 0.02
FINAL: Final = frozenset({"COMPLETED", "FAILED", "REJECTED", "CANCELLED"})


class Server:
    """`asyncflow serve`, from its start to its end."""

    def __init__(
        self,
        folder: Path,
        *,
        cores: list[int],
        module: str = "asyncflow",
        **settings: str,
    ) -> None:
        self._log = folder / "server.log"
        self.data_dir = folder / "data"
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            # this checkout is measured, whatever else is installed
            "PYTHONPATH": str(_ROOT),
            "ASYNCFLOW_FILL_LEVEL": "100",
            "ASYNCFLOW_GRACE": "1",
            "ASYNCFLOW_LOG_LEVEL": "warning",
            **{f"ASYNCFLOW_{name.upper()}": text for name, text in settings.items()},
        }
        command = [sys.executable, "-m", module, "serve", "--port", "0"]
        command += ["--data-dir", str(self.data_dir)]
        self.began = time.perf_counter()
        with pinned(cores), self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- argv is built here
                command,
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.pid = self._process.pid
        self.port = self._listen()
        cert = settings.get("tls_cert")
        self._trusted = None if cert is None else ssl.create_default_context()
        if self._trusted is not None:
            # the end of the chain, and nobody above it, is trusted
            self._trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            self._trusted.load_verify_locations(cert)

    def _listen(self) -> int:
        for line in self._process.stdout or ():
            if " listens on http" in line:
                return int(line.rsplit(":", 1)[1])
        self._process.wait(_STOP_S)
        log = self._log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"the server did not start:\n{log}")

    @property
    def url(self) -> str:
        """The server's address."""
        scheme = "http" if self._trusted is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        """Return what a path answers."""
        return self._ask(path, "GET")

    def delete(self, path: str) -> None:
        """Forget what is at a path."""
        self._ask(path, "DELETE")

    def _ask(self, path: str, method: str) -> bytes:
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 -- ours
        with urllib.request.urlopen(  # noqa: S310 -- ours
            request, timeout=60, context=self._trusted
        ) as answer:
            return bytes(answer.read())

    def upload(self, photo: bytes) -> str:
        """Upload a photo; return the job's id."""
        request = urllib.request.Request(  # noqa: S310 -- our own server
            f"{self.url}/upload/photo.jpg", data=photo, method="PUT"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- ours
            return str(json.load(answer)["jobId"])

    def finished(self, job: str) -> dict[str, Any]:
        """Return a job once it is over.

        Raises:
            RuntimeError: it was not COMPLETED.
        """
        end = time.monotonic() + _PATIENCE_S
        found: dict[str, Any] = json.loads(self.get(f"/status/{job}"))
        while found["status"] not in FINAL:
            if time.monotonic() > end:
                raise RuntimeError(f"a job was not over after {_PATIENCE_S} s")
            time.sleep(_PAUSE_S)
            found = json.loads(self.get(f"/status/{job}"))
        if found["status"] != "COMPLETED":
            raise RuntimeError(f"a job ended as {found['status']}: {found['error']}")
        return found

    def waiting(self) -> int:
        """Return how many steps wait for a worker."""
        lines = self.get("/metrics").decode().splitlines()
        counts = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if "queue_length{" in line and 'state="ready"' in line
        ]
        return int(sum(counts))

    def stop(self) -> None:
        """End the server and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def serving(
    folder: Path, *, cores: list[int], module: str = "asyncflow", **settings: str
) -> Iterator[Server]:
    """Run a server for the length of a block; *module* is what starts it."""
    server = Server(folder, cores=cores, module=module, **settings)
    try:
        yield server
    finally:
        server.stop()
