"""What the README promises, on a Debian that has nothing but git and Python.

Run by hand, as root: `python -m tests.install.bare_debian`. It takes some minutes:
three times a fresh Debian, with `./run demo` and tests in each. Another Debian and a
Python of its packages: `--suite forky --python python3.14`.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.install.debian import SUITE, Debian, room

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/newcomer"
CLONE = f"{HOME}/asyncflow"
TESTS = ("./run", "test", "-q", "tests/pure", "tests/run", "tests/cli/test_demo.py")
BARE: Mapping[str, str] = {"HOME": HOME}
#: what Python makes of a machine without a locale: text is UTF-8 all the same
PLAIN: Mapping[str, str] = {"HOME": HOME, "LC_ALL": "C"}
#: the tests make files whose names cannot be written there
POOR: Mapping[str, str] = {**PLAIN, "PYTHONUTF8": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What machines are made: their Debian, and the package of their only Python."""

    suite: str = SUITE
    python: str = "python3"

    def newcomer(self, root: Path, *packages: str) -> Debian:
        """Return one with a user, git, Python and a clone of this repository."""
        debian = Debian.make(root, self.suite)
        install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends"
        wanted = " ".join(["git", self.python, *packages])
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


def a_user_without_venv_is_told_what_to_install(kind: Kind, root: Path) -> None:
    """A normal user cannot install it, and must not be left with a traceback."""
    debian = kind.newcomer(root)
    done = debian.run(["./run", "demo", "--exit"], user="newcomer", env=BARE, cwd=CLONE)
    must(done, code=1, say="sudo apt-get install python3")
    named = re.findall(r"apt-get install (python3[.][0-9]+-venv)", done.stdout)
    must(debian.run(["apt-get", "install", "-qq", "-y", *named]))
    done = debian.run(["./run", "demo", "--exit"], user="newcomer", env=BARE, cwd=CLONE)
    must(done, say="COMPLETED")
    must(debian.run(TESTS, user="newcomer", env=BARE, cwd=CLONE))


def root_in_the_clone_of_a_user(kind: Kind, root: Path) -> None:
    """Root installs what is missing by itself, in a clone that is not root's."""
    debian = kind.newcomer(root)
    env = {"HOME": "/root"}
    must(debian.run(["./run", "demo", "--exit"], env=env, cwd=CLONE), say="COMPLETED")
    must(debian.run(TESTS, env=env, cwd=CLONE))


def a_poor_environment(kind: Kind, root: Path) -> None:
    """No locale and no terminal, umask 077, a home that cannot be written."""
    debian = kind.newcomer(root, f"{kind.python}-venv")
    must(debian.run(["chmod", "a-w", HOME]))
    argv = ["sh", "-c", "umask 077 && exec ./run demo --exit"]
    done = debian.run(argv, user="newcomer", env=POOR, cwd=CLONE)
    must(done, say="COMPLETED")
    argv = ["sh", "-c", "umask 077 && exec ./run test -q tests/pure tests/cli"]
    must(debian.run(argv, user="newcomer", env=PLAIN, cwd=CLONE))


CASES: tuple[Callable[[Kind, Path], None], ...] = (
    a_user_without_venv_is_told_what_to_install,
    root_in_the_clone_of_a_user,
    a_poor_environment,
)


def main() -> None:
    """Run the cases named, or all of them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--suite", default=Kind().suite)
    asked.add_argument("--python", default=Kind().python, metavar="PACKAGE")
    names = [case.__name__ for case in CASES]
    asked.add_argument("case", nargs="*", help=", ".join(names))
    options = asked.parse_args()
    kind = Kind(suite=options.suite, python=options.python)
    for case in CASES:
        if options.case and case.__name__ not in options.case:
            continue
        print(f"=== {case.__name__}: {case.__doc__}")  # noqa: T201 -- run by hand
        with room() as folder:
            case(kind, folder / "debian")
    print("all is as the README says")  # noqa: T201 -- run by hand


if __name__ == "__main__":
    main()
