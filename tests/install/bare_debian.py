"""What the README promises, on a Debian that has nothing but git and Python.

Run by hand, as root: `python -m tests.install.bare_debian`. It takes some minutes:
three times a fresh Debian, with `./run demo` and tests in each.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.install.debian import Debian, room

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/newcomer"
CLONE = f"{HOME}/asyncflow"
TESTS = ("./run", "test", "-q", "tests/pure", "tests/run", "tests/cli/test_demo.py")
BARE: Mapping[str, str] = {"HOME": HOME}
#: what Python makes of a machine without a locale: text is UTF-8 all the same
PLAIN: Mapping[str, str] = {"HOME": HOME, "LC_ALL": "C"}
#: the tests make files whose names cannot be written there
POOR: Mapping[str, str] = {**PLAIN, "PYTHONUTF8": "0"}


def newcomer(root: Path, *packages: str) -> Debian:
    """Return a Debian with a user, git, Python and a clone of this repository."""
    debian = Debian.make(root)
    install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends"
    wanted = " ".join(["git", "python3", *packages])
    must(debian.run(["sh", "-c", f"{install} {wanted} >/dev/null 2>&1"]))
    must(debian.run(["useradd", "-m", "-u", "1000", "newcomer"]))
    subprocess.run(
        ["git", "clone", "-q", "--no-local", ROOT, f"{root}{CLONE}"], check=True
    )
    must(debian.run(["chown", "-R", "newcomer:newcomer", HOME]))
    return debian


def must(
    done: subprocess.CompletedProcess[str], *, say: str = "", code: int = 0
) -> None:
    """End the program unless *done* ended with *code* and said *say*."""
    if done.returncode != code or say not in done.stdout:
        sys.exit(f"expected exit code {code} and {say!r}")


def a_user_without_venv_is_told_what_to_install(root: Path) -> None:
    """A normal user cannot install it, and must not be left with a traceback."""
    debian = newcomer(root)
    done = debian.run(["./run", "demo", "--exit"], user="newcomer", env=BARE, cwd=CLONE)
    must(done, code=1, say="sudo apt-get install python3.11-venv")
    must(debian.run(["apt-get", "install", "-qq", "-y", "python3-venv"]))
    done = debian.run(["./run", "demo", "--exit"], user="newcomer", env=BARE, cwd=CLONE)
    must(done, say="COMPLETED")
    must(debian.run(TESTS, user="newcomer", env=BARE, cwd=CLONE))


def root_in_the_clone_of_a_user(root: Path) -> None:
    """Root installs what is missing by itself, in a clone that is not root's."""
    debian = newcomer(root)
    env = {"HOME": "/root"}
    must(debian.run(["./run", "demo", "--exit"], env=env, cwd=CLONE), say="COMPLETED")
    must(debian.run(TESTS, env=env, cwd=CLONE))


def a_poor_environment(root: Path) -> None:
    """No locale and no terminal, umask 077, a home that cannot be written."""
    debian = newcomer(root, "python3-venv")
    must(debian.run(["chmod", "a-w", HOME]))
    argv = ["sh", "-c", "umask 077 && exec ./run demo --exit"]
    done = debian.run(argv, user="newcomer", env=POOR, cwd=CLONE)
    must(done, say="COMPLETED")
    argv = ["sh", "-c", "umask 077 && exec ./run test -q tests/pure tests/cli"]
    must(debian.run(argv, user="newcomer", env=PLAIN, cwd=CLONE))


CASES: tuple[Callable[[Path], None], ...] = (
    a_user_without_venv_is_told_what_to_install,
    root_in_the_clone_of_a_user,
    a_poor_environment,
)


def main(wanted: list[str]) -> None:
    """Run the cases named, or all of them."""
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
        print(f"=== {case.__name__}: {case.__doc__}")  # noqa: T201 -- run by hand
        with room() as folder:
            case(folder / "debian")
    print("all is as the README says")  # noqa: T201 -- run by hand


if __name__ == "__main__":
    main(sys.argv[1:])
