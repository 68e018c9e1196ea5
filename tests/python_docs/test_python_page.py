"""The page on Python, held to the package, and its code run against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from PIL import Image

import asyncflow
from asyncflow import Client, SyncClient
from tests.docs.pages import ROOT, blocks, page
from tests.server_process import ServerProcess

PAGE = "reference/python.md"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(
        data_dir=tmp_path / "data",
        settings={"workers": "1", "processors": "custom_processor"},
        wrap=("env", f"PYTHONPATH={ROOT / 'examples'}"),
    )
    try:
        yield made.start()
        assert made.stop() == 0, made.log()[-4000:]
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def run(folder: Path, *command: str, **env: str) -> str:
    """Run Python as a reader would; return what it prints."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("code", blocks(page(PAGE), "py"))
def test_every_program_of_the_page_runs(
    code: str, server: ServerProcess, tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((900, 700)).save(tmp_path / "photo.jpg")
    said = run(tmp_path, "-c", code.replace(ADDRESS, server.url))
    assert "completed" in said.lower()
    assert (tmp_path / "thumbnail.jpg").stat().st_size > 0


def test_the_example_of_a_sidecar_runs(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one two two")
    script = str(ROOT / "examples" / "sidecar.py")
    said = run(tmp_path, script, "notes.txt", ASYNCFLOW_URL=server.url)
    # the example of a processor has run, too
    assert said == "notes.txt COMPLETED original top\n"


def test_the_example_of_a_processor_counts_words(server: ServerProcess) -> None:
    job = server.finished(server.upload("notes.txt", b"one two two"))
    assert job["facts"]["words"] == {"words": 3}
    top = server.request("GET", job["downloadUrls"]["top"])
    assert top.body == b"2 two\n1 one\n"


def test_every_public_name_is_on_the_page_and_can_be_loaded() -> None:
    text = page(PAGE)
    for name in asyncflow.__all__:
        assert getattr(asyncflow, name) is not None
        assert name == "__version__" or re.search(rf"\b{name}\b", text), name


def test_every_method_of_the_client_is_on_the_page_and_has_a_twin() -> None:
    text = page(PAGE)
    public = [name for name in vars(Client) if not name.startswith("_")]
    for name in set(public) - {"reach"}:
        assert f"{name}(" in text, name
        ours, twin = signature(getattr(Client, name)), getattr(SyncClient, name)
        assert list(ours.parameters) == list(signature(twin).parameters), name


def test_the_command_line_uses_the_public_client_only() -> None:
    for path in (ROOT / "asyncflow" / "cli").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        inner = re.findall(
            r"^(?:from|import) (asyncflow\.client\.\w+)", text, re.MULTILINE
        )
        assert inner == [], path.name


def test_loading_the_package_loads_nothing_heavy() -> None:
    code = "import sys, asyncflow; print(*sys.modules)"
    loaded = set(run(ROOT, "-c", code).split())
    assert loaded & {"aiohttp", "asyncflow.config", "asyncio", "sqlite3"} == set()


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = import_module("asyncflow").Cleint


def test_completion_finds_every_public_name_and_loads_none(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        "-c",
        "import asyncflow, sys; names = dir(asyncflow); "
        "print(*names, 'aiohttp' in sys.modules)",
    )

    assert said.split() == [*sorted(asyncflow.__all__), "False"]
