"""The script `./run`, on machines that lack this or that.

The script runs for real, in a folder of its own; what it would find on the machine is
played by small scripts that write down how they were called.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "cat", "cksum", "dirname", "env", "rm", "mkdir", "chmod", "touch")

#: a Python that has what it needs and makes an environment of another such script
PYTHON = """
case "$*" in
*version_info*3,*11*) exit {too_old} ;;
*ensurepip*) [ -e "$BOX/venv-is-there" ] || exit 1 ;;
--version) echo "Python 3.9.2" ;;
*version_info*) echo python3.12 ;;
"-m venv "*)
    mkdir -p .venv/bin
    cat "$0" >.venv/bin/python
    chmod +x .venv/bin/python ;;
"-m pip install"*) exit {pip_fails} ;;
esac
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A folder with the script in it, and a PATH that holds only what we put there."""

    folder: Path
    bin: Path

    def has(self, name: str, body: str) -> None:
        """Install a program that notes its call, then does *body*."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"$BOX/calls"\n{body}\n')
        path.chmod(0o755)

    def has_python(self, *, too_old: bool = False, pip_fails: bool = False) -> None:
        """Install a Python."""
        self.has(
            "python3", PYTHON.format(too_old=int(too_old), pip_fails=int(pip_fails))
        )

    def has_root(self, *, root: bool) -> None:
        """Be root, or not."""
        self.has("id", f"echo {0 if root else 1000}")

    def run(
        self, *arguments: str, where: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script, from its own folder or from *where*."""
        return subprocess.run(
            [str(self.folder / "run") if where else "./run", *arguments],
            cwd=where or self.folder,
            env={"PATH": str(self.bin), "BOX": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def calls(self) -> list[str]:
        """Return how the programs were called."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(folder=tmp_path / "repo", bin=tmp_path / "bin")
    made.folder.mkdir()
    made.bin.mkdir()
    shutil.copy(ROOT / "run", made.folder / "run")
    (made.folder / "pyproject.toml").write_text("")
    (made.folder / "constraints.txt").write_text("")
    (made.folder / "tests").mkdir()
    (made.folder / "tests" / "needs.txt").write_text("# some\nexotic exotic-tools\n")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (made.bin / tool).symlink_to(found)
    made.has_root(root=True)
    return made


def test_without_a_task_it_lists_them(machine: Machine) -> None:
    done = machine.run()
    assert done.returncode == 0
    for task in [
        "setup",
        "demo",
        "serve",
        "test",
        "lint",
        "check",
        "bench",
        "docs",
    ]:
        assert f"\n  {task} " in done.stdout


def test_an_unknown_task_is_wrong_usage(machine: Machine) -> None:
    done = machine.run("tset")
    assert done.returncode == 2
    assert "there is no task called tset" in done.stderr


def test_an_old_python_is_named(machine: Machine) -> None:
    machine.has_python(too_old=True)
    done = machine.run("setup")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; here is Python 3.9.2" in done.stderr


def test_no_python_at_all_is_said(machine: Machine) -> None:
    done = machine.run("setup")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; here is no Python" in done.stderr


def test_root_installs_a_missing_venv(machine: Machine) -> None:
    machine.has_python()
    machine.has("apt-get", 'case "$*" in *venv*) touch "$BOX/venv-is-there" ;; esac')
    done = machine.run("setup")
    assert done.returncode == 0, done.stderr
    assert any("install" in c and "python3.12-venv" in c for c in machine.calls())
    assert "ready" in done.stderr


def test_who_is_not_root_is_told_the_command(machine: Machine) -> None:
    machine.has_python()
    machine.has_root(root=False)
    machine.has("apt-get", "exit 1")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "sudo apt-get install python3.12-venv" in done.stderr
    assert not any(call.startswith("apt-get") for call in machine.calls())


def test_the_environment_is_made_once(machine: Machine) -> None:
    machine.has_python()
    (machine.folder / "venv-is-there").touch()
    assert machine.run("setup").returncode == 0
    first = len(machine.calls())
    assert machine.run("setup").returncode == 0
    assert len(machine.calls()) == first, "nothing changed, nothing to do"


def test_changed_requirements_are_installed(machine: Machine) -> None:
    machine.has_python()
    (machine.folder / "venv-is-there").touch()
    machine.run("setup")
    (machine.folder / "constraints.txt").write_text("new==1\n")
    before = _installs(machine)
    machine.run("setup")
    assert _installs(machine) == before + 1


def test_a_failed_installation_ends_the_task_and_is_tried_again(
    machine: Machine,
) -> None:
    machine.has_python(pip_fails=True)
    (machine.folder / "venv-is-there").touch()
    assert machine.run("test").returncode != 0
    assert not any("pytest" in call for call in machine.calls())
    machine.has_python()
    shutil.rmtree(machine.folder / ".venv")
    assert machine.run("setup").returncode == 0


def test_uv_is_used_where_it_is(machine: Machine) -> None:
    machine.has_python()
    machine.has("uv", "mkdir -p .venv/bin && cat /dev/null >.venv/bin/python")
    done = machine.run("setup")
    assert done.returncode == 0, done.stderr
    assert [c.split()[1] for c in machine.calls() if c.startswith("uv ")] == [
        "venv",
        "pip",
    ]


def test_tests_run_without_what_is_missing(machine: Machine) -> None:
    machine.has_python()
    machine.has("apt-get", "")
    (machine.folder / "venv-is-there").touch()
    done = machine.run("test", "-k", "something")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[-1] == "python3 -m pytest -n auto -k something"
    assert not any(call.startswith("apt-get") for call in machine.calls())


@pytest.mark.parametrize("one", ["tests/run/test_it.py", "test_it.py::test_this"])
def test_the_tests_of_one_file_are_not_shared_out(machine: Machine, one: str) -> None:
    machine.has_python()
    (machine.folder / "venv-is-there").touch()
    assert machine.run("test", "-x", one).returncode == 0
    assert machine.calls()[-1] == f"python3 -m pytest -x {one}"


def test_all_tests_install_what_is_missing(machine: Machine) -> None:
    machine.has_python()
    machine.has("apt-get", "")
    (machine.folder / "venv-is-there").touch()
    done = machine.run("test", "--all")
    assert done.returncode == 0, done.stderr
    assert any("install" in c and "exotic-tools" in c for c in machine.calls())
    assert machine.calls()[-1] == "python3 -m pytest -n auto --all"


@pytest.mark.parametrize("task", ["serve", "demo"])
def test_the_server_starts_in_the_folder_of_who_starts_it(
    machine: Machine, tmp_path: Path, task: str
) -> None:
    machine.has_python()
    (machine.folder / "venv-is-there").touch()
    machine.run("setup")
    program = machine.folder / ".venv" / "bin" / "asyncflow"
    program.write_text('#!/bin/sh\necho "$PWD: $*"\n')
    program.chmod(0o755)
    (tmp_path / "mine").mkdir()

    done = machine.run(task, "--port", "0", where=tmp_path / "mine")

    assert done.stdout == f"{tmp_path / 'mine'}: {task} --port 0\n"


def _installs(machine: Machine) -> int:
    return sum("-m pip install" in c and "--group" in c for c in machine.calls())
