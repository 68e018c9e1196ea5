"""The lines for nginx beside another program, with Debian's nginx and a real server."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asyncflow.cli.child import free_port
from tests.docs.pages import blocks, page
from tests.packaging.test_nginx import running
from tests.server_process import ServerProcess

pytestmark = pytest.mark.needs("nginx")
LOGGED_IN = {"Cookie": "session=good"}


class Program(BaseHTTPRequestHandler):
    """The program of the page, as far as nginx asks it."""

    def do_GET(self) -> None:
        """Tell whether somebody is logged in."""
        is_known = self.path == "/session" and "good" in self.headers.get("Cookie", "")
        self.send_response(204 if is_known else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server, and the port of the nginx in front of it."""

    server: ServerProcess
    port: int

    def ask(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Ask as a browser does."""
        wire = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            wire.request("GET", path, headers={"Host": "www.example.com", **headers})
            answer = wire.getresponse()
            return answer.status, answer.read()
        finally:
            wire.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    port, behind = free_port(0), free_port(0)
    # as the page starts it; what it prints is its public address
    serve = [sys.executable, "-m", "asyncflow", "serve", "--port", str(behind)]
    serve += ["--data-dir", str(tmp_path / "data"), "--fill-level", "100"]
    server = ServerProcess(data_dir=tmp_path / "data", url=f"http://127.0.0.1:{behind}")
    with (
        running(serve, behind, ASYNCFLOW_PUBLIC_URL="https://www.example.com"),
        ThreadingHTTPServer(("127.0.0.1", 0), Program) as program,
    ):
        thread = threading.Thread(target=program.serve_forever)
        thread.start()
        (lines,) = blocks(page("howto/sidecar.md"), "nginx")
        lines = lines.replace("http://127.0.0.1:8080", server.url)
        mine = f"http://127.0.0.1:{program.server_port}"
        lines = lines.replace("http://127.0.0.1:8000", mine)
        try:
            with running(nginx(tmp_path, port, lines), port):
                yield Place(server=server, port=port)
        finally:
            program.shutdown()
            thread.join()


def nginx(folder: Path, port: int, lines: str) -> list[str]:
    """Write a configuration; return the command that runs it."""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}worker_processes 1;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log;\nevents {{ worker_connections 64; }}\n"
        f"http {{\naccess_log off;\n{temporary}\n"
        f"server {{\nlisten 127.0.0.1:{port};\n{lines}\n}}\n}}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=30)
    return [*command, "-g", "daemon off;"]


def test_visitors_get_what_has_passed_its_checks_and_nothing_else(place: Place) -> None:
    good = place.server.upload("notes.txt", b"some notes")
    bad = place.server.upload("drawing.psd", b"8BPS" + bytes(2000))
    assert place.server.finished(good)["status"] == "COMPLETED"
    assert place.server.finished(bad)["status"] == "REJECTED"
    original = "/jobs/{}/files/original".format

    assert place.ask(original(good), **LOGGED_IN) == (200, b"some notes")
    assert place.ask(f"/status/{bad}", **LOGGED_IN)[0] == 200
    assert place.ask("/capabilities", **LOGGED_IN)[0] == 200
    assert place.ask(original(bad), **LOGGED_IN)[0] == 404
    # a token of another program's is not held against its visitor
    jwt = {"Authorization": "Bearer one-of-another-kind"}
    assert place.ask(original(good), **LOGGED_IN, **jwt)[0] == 200
    # nor does the operator's open anything here
    operator = {"Authorization": f"Bearer {place.server.token}"}
    assert place.ask(original(bad), **LOGGED_IN, **operator)[0] == 404


def test_nobody_passes_without_a_session_and_no_other_path_is_passed_on(
    place: Place,
) -> None:
    job = place.server.upload("notes.txt", b"some notes")
    place.server.finished(job)

    assert place.ask(f"/jobs/{job}/files/original")[0] == 401
    for path in ("/jobs", "/admin", "/metrics", "/tasks", "/wsx", "/session"):
        assert place.ask(path, **LOGGED_IN)[0] == 404
