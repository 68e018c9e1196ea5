"""The lines for nginx in the documentation, with Debian's nginx and a real server."""

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyncflow.cli.child import free_port
from tests.docs.pages import blocks, page

pytestmark = pytest.mark.needs("nginx")
NAME = "files.example.org"
TOKEN = "a-token-of-the-test"
TUS = f"Host: {NAME}\r\nAuthorization: Bearer {TOKEN}\r\nTus-Resumable: 1.0.0\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """nginx in front of a server."""

    port: int
    data_dir: Path

    def talk(self, head: str, body: bytes = b"", *, whole: bool = True) -> bytes:
        """Send a request; return the answer. Not *whole*: break off after *body*."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as wire:
            more = "Connection: close\r\n\r\n"
            wire.sendall(f"{head}{TUS}{more}".encode() + body)
            if not whole:
                return b""
            answer = b""
            while data := wire.recv(65536):
                answer += data
        return answer


@contextmanager
def running(argv: list[str], port: int, **env: str) -> Iterator[None]:
    """Run a server of any kind on *port* for the length of a block."""
    program = subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **env})
    try:
        wait_for(port)
        yield
    finally:
        program.terminate()
        program.wait(30)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    behind, before = free_port(0), free_port(0)
    serve = [sys.executable, "-m", "asyncflow", "serve", "--port", str(behind)]
    serve += ["--data-dir", str(tmp_path / "data"), "--fill-level", "100"]
    configuration = written(
        tmp_path, port=before, upstream=f"http://127.0.0.1:{behind}"
    )
    nginx = ["nginx", "-p", str(tmp_path), "-c", str(configuration)]
    subprocess.run([*nginx, "-t"], check=True, capture_output=True, timeout=30)
    address = f"https://{NAME}"
    with (
        running(
            serve,
            behind,
            ASYNCFLOW_TOKEN=TOKEN,
            ASYNCFLOW_PUBLIC_URL=address,
            ASYNCFLOW_TRUSTED_PROXIES="127.0.0.1",
        ),
        running([*nginx, "-g", "daemon off;"], before),
    ):
        yield Proxy(port=before, data_dir=tmp_path / "data")


def written(folder: Path, *, port: int, upstream: str) -> Path:
    """Return a configuration with the lines of the page, without their TLS."""
    (lines,) = blocks(page("howto/behind-nginx-and-caddy.md"), "nginx")
    lines = re.sub(r"(?m)^ *ssl_.*\n", "", lines)
    lines = lines.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    lines = lines.replace("http://127.0.0.1:8080", upstream)
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        lines = f"{kind}_temp_path {folder}/{kind};\n{lines}"
    user = "user root;\n" if os.geteuid() == 0 else ""
    path = folder / "nginx.conf"
    path.write_text(
        f"{user}worker_processes 1;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{\naccess_log off;\n{lines}\n}}\n"
    )
    return path


def wait_for(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
        else:
            return


def created(proxy: Proxy, length: int) -> str:
    answer = proxy.talk(
        f"POST /files/ HTTP/1.1\r\nUpload-Length: {length}\r\nContent-Length: 0\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 201"), answer
    found = re.search(rb"(?i)\r\nlocation: (\S+)\r\n", answer)
    assert found is not None
    return "/files/" + found[1].decode().rsplit("/", 1)[-1]


def offset(proxy: Proxy, place: str) -> int:
    answer = proxy.talk(f"HEAD {place} HTTP/1.1\r\n")
    found = re.search(rb"(?i)\r\nupload-offset: (\d+)\r\n", answer)
    assert found is not None, answer
    return int(found[1])


def patch(place: str, at: int, length: int) -> str:
    return (
        f"PATCH {place} HTTP/1.1\r\nUpload-Offset: {at}\r\nContent-Length: {length}\r\n"
        "Content-Type: application/offset+octet-stream\r\n"
    )


def test_an_upload_that_breaks_behind_nginx_keeps_what_was_sent(proxy: Proxy) -> None:
    data = os.urandom(3 << 20)
    place = created(proxy, len(data))
    proxy.talk(patch(place, 0, len(data)), data[: 1 << 20], whole=False)
    end = time.monotonic() + 20
    while (at := offset(proxy, place)) == 0:
        assert time.monotonic() < end, "nothing arrived: nginx kept it to itself"
    answer = proxy.talk(patch(place, at, len(data) - at), data[at:])
    assert answer.startswith(b"HTTP/1.1 204"), answer
    job = place.rsplit("/", 1)[-1]
    stored = next((proxy.data_dir / "store").rglob(job)).read_bytes()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()


def test_a_body_larger_than_nginx_takes_by_itself_passes(proxy: Proxy) -> None:
    data = os.urandom(8 << 20)
    head = f"PUT /upload/big.bin HTTP/1.1\r\nContent-Length: {len(data)}\r\n"
    assert proxy.talk(head, data).startswith(b"HTTP/1.1 202")


def test_a_websocket_passes_nginx(proxy: Proxy) -> None:
    head = "PUT /upload/a.txt HTTP/1.1\r\nContent-Length: 5\r\n"
    found = re.search(rb'"jobId":"([^"]+)"', proxy.talk(head, b"hello"))
    assert found is not None
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as wire:
        wire.sendall(
            f"GET /ws?job={found[1].decode()} HTTP/1.1\r\n{TUS}Upgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Origin: https://{NAME}\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        said = b""
        while b'"snapshot"' not in said:
            data = wire.recv(65536)
            assert data, said
            said += data
    assert said.startswith(b"HTTP/1.1 101")


def test_requests_have_the_names_that_nginx_gives_them(proxy: Proxy) -> None:
    answer = proxy.talk("GET /nothing HTTP/1.1\r\nX-Request-Id: what-i-say\r\n")
    assert re.search(rb"(?i)\r\nx-request-id: [0-9a-f]{32}\r\n", answer), answer
