"""Shells learn our commands and options from the script that we print."""

import os
import subprocess
import sys

import pytest


def complete(words: str, position: int) -> list[str]:
    """Ask as the script does for what could stand at *position*."""
    return [text for _kind, text in offers(words, position)]


def offers(words: str, position: int) -> list[tuple[str, str]]:
    """Return what is offered, each with its kind: plain, file or dir."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow"],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(sys.path),
            "_ASYNCFLOW_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    pairs = (line.partition(",") for line in done.stdout.splitlines() if line)
    return [(kind, text) for kind, _comma, text in pairs]


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


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("upload pho", [("file", "pho")]),
        ("serve --tls-cert ce", [("file", "ce")]),
        ("serve --pipelines pi", [("file", "pi")]),
        ("serve --data-dir da", [("dir", "da")]),
        ("serve --text-engine t", [("plain", "tesserocr")]),
        ("serve --log-level w", [("plain", "warning")]),
        ("jobs --state FA", [("plain", "failed")]),
    ],
)
def test_values_are_completed_as_what_they_are(
    line: str, offered: list[tuple[str, str]]
) -> None:
    words = f"asyncflow {line}"
    assert offers(words, len(words.split()) - 1) == offered


def test_a_server_that_is_not_there_offers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASYNCFLOW_URL", "http://127.0.0.1:9")
    assert complete("asyncflow pause i", 2) == []
