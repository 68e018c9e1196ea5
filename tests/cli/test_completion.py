"""Shells learn our commands and options from the script that we print."""

import os
import subprocess
import sys

import pytest


def complete(words: str, position: int) -> list[str]:
    """Ask as the script does for what could stand at *position*."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow"],
        env={
            "PATH": os.environ["PATH"],
            "_ASYNCFLOW_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_the_program(shell: str) -> None:
    command = [sys.executable, "-m", "asyncflow", "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"_ASYNCFLOW_COMPLETE={shell}_complete" in done.stdout


def test_an_unknown_shell_is_refused_with_those_we_know() -> None:
    command = [sys.executable, "-m", "asyncflow", "completion", "cmd"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bash" in done.stderr


def test_a_command_and_an_option_are_completed() -> None:
    assert complete("asyncflow up", 1) == ["upload"]
    assert "--wait" in complete("asyncflow upload --w", 2)
