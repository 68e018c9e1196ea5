"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PACKAGE, ROOT

MAX_FILE = 600
MAX_FUNCTION = 60
#: words that say nothing about what is inside
EMPTY_NAMES = {"utils", "util", "common", "helpers", "misc", "manager"}
HEAVY = ("aiohttp", "aiosqlite", "asyncio", "sqlite3", "aiofiles")
SERVER_SIDE = ("config", "store", "db", "broker", "engine", "web", "runtime", "server")


def sources() -> Iterator[Path]:
    for folder in (PACKAGE, ROOT / "tests", ROOT / "bench", ROOT / "docs"):
        yield from folder.rglob("*.py")


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE
    }
    assert long == {}


def test_no_function_is_too_long() -> None:
    long = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MAX_FUNCTION:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = count
    assert long == {}


def test_every_module_has_a_name_that_says_something() -> None:
    assert [path for path in sources() if path.stem in EMPTY_NAMES] == []


@pytest.mark.parametrize("module", ["asyncflow.worker", "asyncflow.processors.base"])
def test_a_worker_loads_no_server_code(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    unwanted = {*HEAVY, *(f"asyncflow.{name}" for name in SERVER_SIDE)}
    assert loaded & unwanted == set()


def test_help_on_the_command_line_loads_nothing_heavy() -> None:
    loaded = _loaded_by("from asyncflow.cli import main; main(['--help'])")
    unwanted = {"aiohttp", "asyncflow.config", "asyncio", "rich", "pyvips"}
    assert loaded & unwanted == set()


def _loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=30,
    )
    return set(done.stdout.split())


def test_every_program_that_is_installed_for_tests_is_used_by_one() -> None:
    lines = (ROOT / "tests" / "needs.txt").read_text(encoding="utf-8").splitlines()
    programs = [line.split()[0] for line in lines if not line.startswith("#")]
    tests = "\n".join(
        p.read_text(encoding="utf-8") for p in ROOT.rglob("tests/**/*.py")
    )
    assert [one for one in programs if f'needs("{one}")' not in tests] == []
