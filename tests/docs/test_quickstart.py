"""The quickstart, followed line by line against a real server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import blocks, page
from tests.server_process import ServerProcess, serving

ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path / "data") as running:
        yield running


def commands(name: str, program: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in blocks(page(name), "console")
        for line in block.splitlines()
        if line.startswith(f"$ {program}")
    ]


def shell(line: str, server: ServerProcess, job: str = "") -> str:
    """Run a line of a page as the reader would, here and now; return what it prints."""
    folder = server.data_dir.parent
    if not (folder / "photo.jpg").exists():
        Image.linear_gradient("L").resize((900, 700)).save(folder / "photo.jpg")
    line = line.replace(ADDRESS, server.url)
    line = line.replace(".venv/bin/asyncflow", f"{sys.executable} -m asyncflow")
    done = subprocess.run(
        ["sh", "-euc", re.sub(r"\bID\b", job, line)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ASYNCFLOW_URL": server.url,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.needs("curl")
@pytest.mark.parametrize("name", ["quickstart.md", "reference/http.md"])
def test_every_curl_line_does_what_the_page_says(
    server: ServerProcess, name: str
) -> None:
    lines = commands(name, "curl")
    uploads = [line for line in lines if "/upload" in line]
    assert uploads
    for line in uploads:
        answer = json.loads(shell(line, server))
        assert answer["status"] in {"PENDING", "PROCESSING", "COMPLETED"}
        assert server.finished(answer["jobId"])["status"] == "COMPLETED"
        for asking in set(lines) - set(uploads):
            told = json.loads(shell(asking, server, answer["jobId"]))
            assert "thumbnail" in told["downloadUrls"]


def test_every_line_with_our_own_command_works(server: ServerProcess) -> None:
    job = server.upload("first.txt", b"some text")
    lines = commands("quickstart.md", ".venv/bin/asyncflow")
    assert len(lines) >= 4
    for line in lines:
        shell(line, server, job)
