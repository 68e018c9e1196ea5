"""The examples for uploads in chunks, run as they stand against a real server."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.docs.pages import blocks, page
from tests.server_process import ServerProcess, serving
from tests.web.live import rows

PAGE = "howto/upload-in-chunks.md"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path / "data") as running:
        yield running


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return a photo of two chunks."""
    path = tmp_path / "photo.jpg"
    noise = Image.frombytes("RGB", (2800, 2200), os.urandom(2800 * 2200 * 3))
    noise.save(path, quality=97)
    assert 8 << 20 < path.stat().st_size < 16 << 20
    return path


def check(server: ServerProcess, job: str, photo: Path) -> None:
    """Return if the job has the photo, which came in two chunks."""
    status = server.finished(job)
    assert (status["status"], status["fileName"]) == ("COMPLETED", "photo.jpg")
    found = server.request("GET", f"/jobs/{job}/files/original")
    assert found.body == photo.read_bytes()
    assert rows(server, "SELECT count(*) FROM place") == [(2,)]


def script(folder: Path, url: str, name: str = "photo.jpg") -> subprocess.Popen[str]:
    """Start the script in *folder*, where what it leaves behind can be seen."""
    (text,) = blocks(page(PAGE), "sh")
    assert ADDRESS in text
    assert text.startswith("file=photo.jpg ")
    text = text.replace("photo.jpg", name, 1)
    (folder / "tmp").mkdir()
    return subprocess.Popen(
        ["sh", "-euc", text.replace(ADDRESS, url)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.needs("curl")
def test_the_script_with_curl_sends_a_file(server: ServerProcess, photo: Path) -> None:
    with script(photo.parent, server.url) as running:
        told, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    ((job,),) = rows(server, "SELECT pid FROM job WHERE is_part = 0")
    assert job in told
    assert list((photo.parent / "tmp").iterdir()) == []
    check(server, job, photo)


@pytest.mark.needs("curl")
def test_the_script_sends_an_empty_file(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with script(tmp_path, server.url, "empty.txt") as running:
        _told, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert rows(server, "SELECT length FROM upload WHERE parts = 1") == [(0,)]


@pytest.mark.needs("curl")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_the_script_leaves_nothing_behind_when_it_is_stopped(
    photo: Path, signal_number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with script(photo.parent, url) as running:
            # curl is there, and waits for an answer
            with silent.accept()[0]:
                assert list((photo.parent / "tmp").iterdir()) != []
                running.send_signal(signal_number)
            running.communicate(timeout=60)
    assert running.returncode == 128 + signal_number
    assert list((photo.parent / "tmp").iterdir()) == []


def test_the_program_sends_a_file(server: ServerProcess, photo: Path) -> None:
    (code,) = blocks(page(PAGE), "python")
    assert ADDRESS in code
    names: dict[str, Any] = {}
    exec(compile(code.replace(ADDRESS, server.url), PAGE, "exec"), names)  # noqa: S102 -- our own page
    check(server, names["send"](photo), photo)
