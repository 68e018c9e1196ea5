import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from asyncflow.cli.child import free_port

DEMO = [sys.executable, "-m", "asyncflow", "demo"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(sys.path)}


def demo(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=100,
    )


@contextmanager
def staying(*argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a demo up to the point where it waits; yield it and all that it said."""
    program = subprocess.Popen(
        [*DEMO, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
    )
    assert program.stdout is not None
    said = ""
    try:
        for line in program.stdout:
            said += line
            if line.startswith("Ctrl-C stops it."):
                break
        yield program, said
    finally:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=30)


def is_open(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def small_picture() -> Path:
    path = Path("small.png")
    Image.new("RGB", (900, 600), "teal").save(path)
    return path


def address(said: str) -> str:
    found = re.search(r"Starting a server on (\S+)", said)
    assert found is not None
    return found[1]


def test_the_demo_ends_with_a_processed_picture_and_no_server() -> None:
    done = demo("--exit", "--port", "0")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "COMPLETED" in done.stdout
    for name in ("thumbnail", "medium", "large"):
        assert f"/files/{name}?inline=1" in done.stdout
    text = done.stdout.split("Its text begins:")[1]
    assert "The morning fog lifted at seven" in text
    assert "We counted forty-one larks" in text
    letter = Path("data/demo/spring-report.txt").read_text(encoding="utf-8")
    assert "bring the\nlong tape" in letter.replace("\n\n", "\n")
    assert not is_open(address(done.stdout))
    assert Path("data/demo/valley-at-dawn.jpg").stat().st_size > 500_000


def test_what_is_made_stands_upright_and_does_not_say_where_it_was_taken(
    picture: Path,
) -> None:
    with staying("--port", "0", "--file", str(picture)) as (_, said):
        found = re.search(r"http\S+/medium\?inline=1", said)
        assert found is not None
        with urlopen(found[0], timeout=10) as answer:  # noqa: S310 -- our own server
            Path("medium.jpg").write_bytes(answer.read())

    with Image.open("medium.jpg") as image:
        assert image.width > image.height
        assert not image.getexif().get_ifd(0x8825)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_demo_and_its_server(
    number: signal.Signals, small_picture: Path
) -> None:
    with staying("--port", "0", "--file", str(small_picture)) as (program, said):
        assert is_open(address(said))

        program.send_signal(number)

        assert program.wait(30) == 0
        assert not is_open(address(said))


def test_nothing_goes_on_when_nobody_reads_what_the_demo_says(
    small_picture: Path,
) -> None:
    program = subprocess.Popen(
        [*DEMO, "--exit", "--port", "0", "--file", str(small_picture)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert program.stdout is not None
    assert program.stderr is not None
    with program.stdout, program.stderr:
        said = program.stdout.readline()
        program.stdout.close()
        complaints = program.stderr.read()

    assert program.wait(30) == 1
    assert "pipe" not in complaints
    assert not is_open(address(said))


def test_the_lines_to_try_work_when_they_are_pasted(small_picture: Path) -> None:
    Path("data").mkdir()
    Path("data/token").write_text("the-secret-of-another-server\n")
    argv = ("--port", "0", "--file", str(small_picture))
    with staying(*argv) as (_, said):
        found = re.findall(r"^  (.+ upload .+)YOUR-FILES$", said, re.MULTILINE)
        line = f"{found[0]} {shlex.quote(str(small_picture))}"
        done = subprocess.run(  # noqa: S602 -- what a person would paste
            line, shell=True, env=environment(), check=False, timeout=100
        )

    assert done.returncode == 0


@pytest.mark.needs("curl")
def test_a_token_that_was_set_is_asked_for_and_not_shown(
    small_picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCFLOW_TOKEN", "somebody-has-set-it")
    with staying("--port", "0", "--file", str(small_picture)) as (_, said):
        found = re.findall(r"^  (curl .+)$", said, re.MULTILINE)
        done = subprocess.run(  # noqa: S602 -- what a person would paste
            f"{found[0]} -sf", shell=True, env=environment(), check=False, timeout=100
        )

    assert done.returncode == 0
    assert "somebody-has-set-it" not in said


def test_a_port_in_use_is_no_obstacle(small_picture: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        done = demo("--exit", "--port", str(port), "--file", str(small_picture))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Port {port} is in use" in done.stdout


def test_a_folder_in_use_is_said_plainly(small_picture: Path) -> None:
    argv = ("--port", "0", "--file", str(small_picture))
    with staying(*argv) as (_, said):
        second = demo("--exit", *argv)

        assert second.returncode == 1
        assert "--data-dir" in second.stderr
        assert "Traceback" not in second.stderr
        assert is_open(address(said))


def test_a_file_that_is_refused_ends_the_demo_badly() -> None:
    Path("page.jpg").write_text("<html>not a photo</html>")

    done = demo("--exit", "--port", "0", "--file", "page.jpg")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_free_port_is_taken_as_it_is_wished() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        wished = probe.getsockname()[1]

    assert free_port(wished) == wished
