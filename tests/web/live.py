"""What the tests of a whole server share: raw connections, tus requests, what is kept.

All of it is synchronous: the server is another process, and a test says one thing after
another. A header is a pair, so that a test can send it twice.
"""

import base64
import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.server_process import Answer, ServerProcess, serving

Header = tuple[str, str]
TUS: Header = ("Tus-Resumable", "1.0.0")
CHUNK: Header = ("Content-Type", "application/offset+octet-stream")
PATIENCE_S = 40.0
Found = TypeVar("Found")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root looks into a running server"
)


@contextmanager
def healthy_server(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    """Run a server; at the end it must live and have logged no fault of its own."""
    with serving(folder / "data", **settings) as server:
        yield server
        assert server.request("GET", "/livez").status == 200
        assert failures(server) == []


class Line:
    """One connection on which a test says exactly what it wants to say."""

    def __init__(self, server: ServerProcess, *, receive_bytes: int = 0) -> None:
        where = urlsplit(server.url)
        assert where.hostname is not None
        assert where.port is not None
        self.host = f"{where.hostname}:{where.port}"
        self.sock = socket.socket()
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect((where.hostname, where.port))
        self._got = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def head(
        self,
        method: str,
        target: str,
        *headers: Header,
        length: int | None = None,
        host: str | None = None,
    ) -> None:
        """Send the head of a request; *length* announces a body."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.host}"]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        lines += [f"{name}: {value}" for name, value in headers]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def ask(
        self,
        method: str,
        target: str,
        *headers: Header,
        body: bytes | None = None,
        host: str | None = None,
    ) -> Answer:
        """Send a whole request and return its answer."""
        length = None if body is None else len(body)
        self.head(method, target, *headers, length=length, host=host)
        if body:
            self.send(body)
        return self.answer(has_body=method != "HEAD")

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def first_line(self) -> str:
        """Return the first line of what comes next."""
        self._until(b"\r\n")
        return self._got.split(b"\r\n", 1)[0].decode("latin-1")

    def answer(self, *, has_body: bool = True) -> Answer:
        """Return the next answer."""
        end = self._until(b"\r\n\r\n")
        head, self._got = self._got[:end], self._got[end + 4 :]
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        status = int(first.split()[1])
        bare = not has_body or status < 200 or status in {204, 304}
        size = 0 if bare else int(headers.get("content-length", "0"))
        while len(self._got) < size:
            self._more()
        body, self._got = self._got[:size], self._got[size:]
        return Answer(status=status, headers=headers, body=body)

    def is_closed(self) -> bool:
        """Tell whether the server closes without another byte."""
        try:
            return not self._got and not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        while len(self._got) < size:
            self._more()
        data, self._got = self._got[:size], self._got[size:]
        return data

    def _until(self, mark: bytes) -> int:
        while (end := self._got.find(mark)) < 0:
            self._more()
        return end

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError(f"closed after {self._got[:200]!r}")
        self._got += data


def code_of(answer: Answer) -> str:
    """Return the code of a problem document, after a look at its form."""
    assert answer.headers["content-type"].startswith("application/problem+json")
    found = answer.json
    assert found["status"] == answer.status
    assert found["title"]
    assert found["detail"]
    return str(found["code"])


def until(ask: Callable[[], Found], timeout: float = PATIENCE_S) -> Found:
    """Ask, as a client polls, until the answer is true."""
    end = time.monotonic() + timeout
    while not (found := ask()):
        assert time.monotonic() < end, f"not within {timeout} s: {found!r}"
        time.sleep(0.01)
    return found


# ----- tus


def metadata(**values: str) -> Header:
    """Return Upload-Metadata."""
    pairs = (f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in values.items())
    return "Upload-Metadata", ",".join(pairs)


def create(server: ServerProcess, length: int, *headers: Header) -> str:
    """Create a tus upload and return its id."""
    with Line(server) as line:
        answer = line.ask(
            "POST", "/files", TUS, ("Upload-Length", str(length)), *headers
        )
    assert answer.status == 201, answer.body
    return answer.headers["location"].rpartition("/")[2]


def patch(
    server: ServerProcess, upload: str, offset: int, data: bytes, *headers: Header
) -> Answer:
    """Append *data* and return the answer."""
    at = ("Upload-Offset", str(offset))
    with Line(server) as line:
        return line.ask(
            "PATCH", f"/files/{upload}", TUS, CHUNK, at, *headers, body=data
        )


def look(server: ServerProcess, upload: str) -> Answer:
    """Ask how far an upload is."""
    with Line(server) as line:
        return line.ask("HEAD", f"/files/{upload}", TUS)


def offset_of(server: ServerProcess, upload: str) -> int:
    """Return the offset that HEAD tells."""
    answer = look(server, upload)
    assert answer.status == 200, answer
    return int(answer.headers["upload-offset"])


def half_open(
    server: ServerProcess, upload: str, offset: int, data: bytes, *, length: int
) -> Line:
    """Begin a PATCH of *length* bytes, send only *data*, and hang."""
    line = Line(server)
    at = ("Upload-Offset", str(offset))
    line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, length=length)
    line.send(data)
    return line


# ----- forms


def form(
    *files: tuple[str, bytes], boundary: str = "frontier", field: str = "file"
) -> tuple[Header, bytes]:
    """Return the Content-Type and the body of a form with *files*."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; '
        f'filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    kind = f"multipart/form-data; boundary={boundary}"
    return ("Content-Type", kind), b"".join(parts) + f"--{boundary}--\r\n".encode()


# ----- what the server keeps


def blobs(server: ServerProcess) -> set[str]:
    """Return the files of the store, by their path below it."""
    store = server.data_dir / "store"
    found = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)) for path in found}


def rows(server: ServerProcess, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask the server's database, reading only."""
    path = server.data_dir / "asyncflow.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query, values).fetchall()


def kept(server: ServerProcess) -> set[str]:
    """Return the uploads that are open or complete, or have bytes in the store.

    What earlier tests left behind may still be on its way out: a test asks whether
    anything is new, `kept(server) <= before`, never whether all is as it was.
    """
    alive = rows(
        server,
        "SELECT j.pid FROM upload u JOIN job j ON j.id = u.job_id"
        " WHERE u.state <> 'ended'",
    )
    raw = (name for name in blobs(server) if name.startswith("raw/"))
    return {str(one) for (one,) in alive} | {Path(name).name for name in raw}


def jobs(server: ServerProcess) -> int:
    """Return how many jobs there are."""
    return int(rows(server, "SELECT count(*) FROM job")[0][0])


def failures(server: ServerProcess) -> list[dict[str, Any]]:
    """Return what the server logged as its own fault; being busy is none."""
    events = server.log_events()
    bad = [one for one in events if one["level"] in {"error", "critical"}]
    return [one for one in bad if one.get("status") not in {503, 507}]


def rss_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return the memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def metric(server: ServerProcess, name: str) -> float:
    """Return one sample of `/metrics`."""
    bearer = f"Bearer {server.token}"
    text = server.request("GET", "/metrics", Authorization=bearer).body.decode()
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name} in {text[:500]}")


def listening_port(pid: int) -> int:
    """Return the port that a process listens on, from the kernel's tables."""
    fds = (str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())
    sockets = {name[8:-1] for name in fds if name.startswith("socket:[")}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _number, local, _remote, state, *_other = line.split()
        if state == "0A" and line.split()[9] in sockets:
            return int(local.rpartition(":")[2], 16)
    raise AssertionError(f"process {pid} does not listen")
