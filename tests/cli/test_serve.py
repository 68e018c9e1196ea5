import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from asyncflow.cli import main
from asyncflow.cli.flags import setting_flags
from asyncflow.config import declared
from tests.server_process import serving

SERVE = [sys.executable, "-m", "asyncflow", "serve"]


def serve(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        timeout=100,
    )


def test_every_setting_is_a_flag() -> None:
    assert [flag.name for flag in setting_flags()] == [one.name for one in declared()]


def test_all_bad_settings_are_named_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--port", "many", "--workers", "-1"]) == 2

    shown = capsys.readouterr().err
    assert "port is 'many'" in shown
    assert "workers is '-1'" in shown


def test_a_port_in_use_is_said_plainly() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        done = serve("--port", str(other.getsockname()[1]))

    assert done.returncode == 1
    assert "the address is in use: choose another with --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_another_machine_is_said_plainly() -> None:
    done = serve("--host", "192.0.2.1", "--allow-public", "--port", "0")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_a_damaged_database_is_named_with_what_helps() -> None:
    Path("data").mkdir()
    Path("data/asyncflow.db").write_bytes(os.urandom(20_000))

    done = serve("--data-dir", "data", "--port", "0")

    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "data/asyncflow.db: the database's file is damaged" in said
    assert "`asyncflow restore`" in said


def test_a_data_folder_that_cannot_be_made_is_said_plainly() -> None:
    Path("file").write_text("")

    done = serve("--data-dir", "file/data", "--port", "0")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_with_success(number: signal.Signals) -> None:
    program = subprocess.Popen(
        [*SERVE, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert program.stdout is not None
    assert "listens on http://127.0.0.1:" in program.stdout.readline()

    program.send_signal(number)
    said, _ = program.communicate(timeout=30)

    assert program.returncode == 0
    # who keeps this output must not keep a secret with it
    assert Path("data/token").read_text().strip() not in said


def test_a_module_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    done = serve("--port", "0", "--data-dir", str(tmp_path), "--processors", "nosuch")

    assert done.returncode == 1
    assert "there is no module called 'nosuch'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_in_the_place_of_a_module_is_said_plainly(tmp_path: Path) -> None:
    done = serve("--port", "0", "--data-dir", str(tmp_path), "--processors", "tasks.py")

    assert done.returncode == 1
    assert "name the module without .py: tasks\n" in done.stderr


def test_a_host_that_names_nothing_is_said_plainly(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path), "--port", "0")
    done = serve(*folder, "--host", "nowhere.invalid", "--allow-public")

    assert done.returncode == 1
    assert "host 'nowhere.invalid' names no address" in done.stderr


@pytest.mark.needs("curl")
def test_the_upload_line_works_when_it_is_pasted_and_shows_no_token_of_yours(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (30, 20), "teal").save("photo.jpg")
    for number, settings in enumerate(({}, {"token": "somebody-has-set-it"})):
        with serving(tmp_path / f"data{number}", workers="1", **settings) as server:
            found = re.search(r"^  upload +(curl .+)$", server.banner, re.MULTILINE)
            assert found is not None
            done = subprocess.run(  # noqa: S602 -- what a person would paste
                f"{found[1]} -sf",
                shell=True,
                env={**os.environ, "ASYNCFLOW_TOKEN": settings.get("token", "")},
                check=False,
                timeout=100,
            )

        assert done.returncode == 0
        assert "somebody-has-set-it" not in server.banner


def test_a_language_that_cannot_be_read_is_said_at_once_and_to_clients(
    tmp_path: Path,
) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), "teal").save(photo)
    with serving(tmp_path / "data", workers="1", text_languages="xyz") as server:
        ready = server.request("GET", "/capabilities").json["processors"]
        bearer = f"Bearer {server.token}"
        path = "/admin/consumers"
        found = server.request("GET", path, Authorization=bearer).json["consumers"]
        job = server.finished(server.upload("photo.png", photo.read_bytes()))
        assert server.process is not None
        assert server.process.stdout is not None
        said = next(line for line in server.process.stdout if "text " in line)

    (text,) = [one for one in ready if one["name"] == "text"]
    assert (text["ready"], text["missingTool"]) == (False, "data to read xyz")
    assert [one["missingTool"] for one in found if one["name"] == "text"] == [
        "data to read xyz"
    ]
    assert said == "  text      missing: data to read xyz\n"
    (step,) = [one for one in job["steps"] if one["name"] == "text"]
    assert step["status"] == "skipped"


def test_a_server_does_not_load_what_only_people_look_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    program = (
        "import sys\n"
        "from asyncflow.cli import main\n"
        f"main(['serve', '--port', '0', '--data-dir', {str(tmp_path / 'file')!r}])\n"
        "print({'asyncflow.server', 'structlog', 'rich'} & {*sys.modules})\n"
        "import rich.console\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert set(re.findall(r"[\w.]+", done.stdout)) == {"asyncflow.server", "structlog"}
