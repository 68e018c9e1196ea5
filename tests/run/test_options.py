"""The options of our test suite: what is left out, what is demanded, what is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import sharing_out

ROOT = Path(__file__).resolve().parents[2]

NEEDS_A_PROGRAM = """
import pytest

@pytest.mark.needs("strace")
def test_with_a_program():
    pass

def test_without():
    pass
"""
NEEDS_A_CORPUS = "def test_real_files(corpus): assert corpus.is_dir()"
SKIPS = "import pytest\ndef test_skipped(): pytest.skip('not today')"
UNLISTED = "import pytest\n@pytest.mark.needs('gimp')\ndef test_paints(): pass"


WHERE = """
import os, pytest

@pytest.mark.parametrize("n", range(6))
def test_where(n):
    with open(__file__ + ".ran", "a") as notes:
        notes.write(f"{os.getpid()}\\n")
"""

TWICE = """
def pytest_collection_modifyitems(items):
    items += items
"""


def outcome(folder: Path, test: str, *options: str) -> tuple[int, str]:
    """Run *test* where no program is installed; return the exit code and the text."""
    (folder / "test_it.py").write_text(test)
    (folder / "empty").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--rootdir", str(folder)),
            *(
                "-p",
                "tests.conftest",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:schemathesis",
            ),
            *("-q", *options),
        ],
        cwd=folder,
        env={
            "PATH": str(folder / "empty"),
            "PYTHONPATH": str(ROOT),
            "ASYNCFLOW_CORPUS": str(folder / "nowhere"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_test_whose_program_is_missing_is_left_out_and_counted(
    tmp_path: Path, processes: str
) -> None:
    code, text = outcome(tmp_path, NEEDS_A_PROGRAM, "-n", processes)
    assert code == 0, text
    assert "not run here: 1 test needs strace" in text
    assert "1 passed" in text


def test_with_all_a_missing_program_is_a_failure(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, NEEDS_A_PROGRAM, "--all")
    assert code == pytest.ExitCode.TESTS_FAILED, text
    assert "this test needs strace" in text


def test_without_a_corpus_its_tests_are_left_out_and_counted(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, NEEDS_A_CORPUS + "\ndef test_other(): pass")
    assert code == 0, text
    assert "not run here: 1 test needs a corpus folder" in text


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_skipped_test_is_a_failure_with_all_only(
    tmp_path: Path, processes: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert outcome(tmp_path / "a", SKIPS, "-n", processes)[0] == 0
    code, text = outcome(tmp_path / "b", SKIPS, "--all", "-n", processes)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "--all: a skipped test is a failure" in text


def test_a_program_that_nobody_would_install_is_refused(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, UNLISTED)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "not in needs.txt: gimp" in text


def test_the_tests_of_a_file_run_in_one_process(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, WHERE, "-n", "2")
    assert code == 0, text
    ran = (tmp_path / "test_it.py.ran").read_text().split()
    assert (len(ran), len(set(ran))) == (6, 1)


def test_tests_of_one_name_are_refused_where_one_of_them_would_be_lost(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text(TWICE)
    code, text = outcome(tmp_path, "def test_it(): pass", "-n", "1")
    assert code == pytest.ExitCode.USAGE_ERROR, text
    assert "2 tests are called test_it.py::test_it" in text


def test_every_name_of_what_takes_long_is_there() -> None:
    for name in (*sharing_out.LONGEST, *sharing_out.APART):
        assert (ROOT / name).exists(), name


def test_what_takes_long_has_its_turn_first() -> None:
    found = ["tests/web/test_tls.py::a", *(f"{n}::a" for n in sharing_out.LONGEST)]
    turns = sorted(found, key=sharing_out.turn)
    assert turns == [*found[1:], found[0]]
