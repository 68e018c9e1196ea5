"""The examples for uploads in chunks, run as they stand against a real server."""

import os
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


@pytest.mark.needs("curl")
def test_the_script_with_curl_sends_a_file(server: ServerProcess, photo: Path) -> None:
    (script,) = blocks(page(PAGE), "sh")
    assert ADDRESS in script
    done = subprocess.run(
        ["sh", "-euc", script.replace(ADDRESS, server.url)],
        cwd=photo.parent,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ((job,),) = rows(server, "SELECT pid FROM job WHERE is_part = 0")
    assert job in done.stdout
    assert list(photo.parent.glob("*.chunk.*")) == []
    check(server, job, photo)


def test_the_program_sends_a_file(server: ServerProcess, photo: Path) -> None:
    (code,) = blocks(page(PAGE), "python")
    assert ADDRESS in code
    names: dict[str, Any] = {}
    exec(compile(code.replace(ADDRESS, server.url), PAGE, "exec"), names)  # noqa: S102 -- our own page
    check(server, names["send"](photo), photo)
