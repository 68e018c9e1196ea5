import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from asyncflow import __version__
from asyncflow.cli import main
from asyncflow.cli.app import COMMANDS
from tests.client.small_server import SmallServer, job

HEAVY = ("aiohttp", "asyncio", "msgspec", "pyvips", "rich", "sqlite3")


def command(name: str) -> click.Command:
    entry = COMMANDS[name]
    found = getattr(import_module(entry.module), entry.attribute)
    assert isinstance(found, click.Command)
    return found


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from asyncflow.cli import main\n"
        "main(['--help'])\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert "LOADED []" in done.stdout
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_root_help_says_what_the_command_says(name: str) -> None:
    said = command(name).get_short_help_str(limit=200)

    assert COMMANDS[name].help.rstrip(".") == said.rstrip(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0

    assert "Usage: asyncflow" in capsys.readouterr().out
    options = [one for one in command(name).params if isinstance(one, click.Option)]
    assert all(one.help for one in options)


def test_without_a_command_the_help_is_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0

    shown = capsys.readouterr()
    assert shown.out.count("Usage:") == 1
    assert all(name in shown.out for name in COMMANDS)
    assert shown.err == ""


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert __version__ in capsys.readouterr().out


def test_a_command_that_is_none_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fly"]) == 2

    assert "No such command 'fly'" in capsys.readouterr().err


def test_escape_sequences_in_arguments_reach_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["upload", "\x1b]0;owned\x07.jpg"]) == 2

    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_are_no_reason_to_fail(
    server: SmallServer, tmp_path: Path, closed: str
) -> None:
    server.jobs["j"] = job("j")
    command = f"exec {sys.executable} -m asyncflow jobs --quiet {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if ">&-" in closed.split() else "j\n")


def test_a_closed_input_is_an_error_and_no_empty_file(server: SmallServer) -> None:
    command = f"exec {sys.executable} -m asyncflow upload - <&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert "Bad file descriptor" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not server.uploads


def test_a_ctrl_c_while_the_command_is_loaded_ends_it_without_a_word(
    tmp_path: Path,
) -> None:
    (tmp_path / "click.py").write_text(
        "import threading\nprint('loading', flush=True)\nthreading.Event().wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "asyncflow", "jobs"],
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (-signal.SIGINT, "")
