"""Which files a command uploads, of those that it is given and finds in folders."""

import os
import subprocess
from pathlib import Path

import pytest

from asyncflow.cli import main
from tests.cli.programs import ARGV, environment, lines
from tests.client.small_server import SmallServer


def test_folders_need_a_flag(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = Path("folder/deep")
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("a")
    (deep.parent / "b.txt").write_text("b")

    assert main(["upload", "folder"]) == 2
    assert "add -r" in capsys.readouterr().err
    assert main(["upload", "-r", "folder"]) == 0
    assert {one.name for one in server.uploads.values()} == {"a.txt", "b.txt"}


def test_what_a_folder_holds_besides_files_is_left_out_and_named(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder/deep").mkdir(parents=True)
    Path("folder/deep/a.txt").write_text("a")
    Path("b.txt").write_text("b")
    Path("folder/to-b.txt").symlink_to("../b.txt")
    os.mkfifo("folder/pipe")
    Path("folder/dangling.pdf").symlink_to("gone")
    Path("folder/elsewhere").symlink_to(Path.cwd().parent)

    assert main(["upload", "-r", "folder", "--json"]) == 1

    sent = {one.name for one in server.uploads.values()}
    assert sent == {"a.txt", "to-b.txt"}
    found = lines(capsys.readouterr().out)
    assert {one["file"]: one["error"] for one in found if "error" in one} == {
        "folder/pipe": "left out: no regular file",
        "folder/dangling.pdf": "left out: a link that leads nowhere",
        "folder/elsewhere": "left out: a link to a folder, which is not followed",
    }


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_folder_that_cannot_be_read_is_named(
    server: SmallServer, quiet: tuple[str, ...]
) -> None:
    closed = Path("folder/closed")
    closed.mkdir(parents=True)
    (closed / "secret.txt").write_text("s")
    Path("folder/open.txt").write_text("o")
    closed.chmod(0)
    # root reads everything, unless it is told not to
    powers = "-dac_override,-dac_read_search"
    drop = ("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}")
    wrap = drop if os.geteuid() == 0 else ()

    done = subprocess.run(
        [*wrap, *ARGV, "upload", "-r", "folder", *quiet],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    closed.chmod(0o700)
    assert done.returncode == 1
    assert [one.name for one in server.uploads.values()] == ["open.txt"]
    said = done.stderr if quiet else done.stdout
    assert "folder/closed: left out: Permission denied" in said


def test_the_same_file_twice_is_one_upload(server: SmallServer, photo: Path) -> None:
    assert main(["upload", str(photo), f"./{photo}", str(photo.absolute())]) == 0

    assert list(server.uploads) == ["job-1"]


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_file_keeps_its_name_beside_links_to_it(
    server: SmallServer, quiet: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("real").mkdir()
    Path("folder").symlink_to("real")
    Path("folder/a-latest.txt").symlink_to("report.txt")
    Path("folder/report.txt").write_text("all of 2024")
    Path("folder/zz-latest.txt").symlink_to("report.txt")

    assert main(["upload", "-r", "folder", *quiet]) == 0

    assert [one.name for one in server.uploads.values()] == ["report.txt"]
    shown = capsys.readouterr()
    said = shown.err if quiet else shown.out
    for name in ("a-latest.txt", "zz-latest.txt"):
        assert f"folder/{name}: the same file as folder/report.txt\n" in said


def test_of_links_alone_the_first_is_sent_and_the_others_are_named(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("far.txt").write_text("elsewhere")
    for name in ("one.txt", "two.txt"):
        Path(name).symlink_to("far.txt")

    assert main(["upload", "one.txt", "two.txt", "./one.txt", "--json"]) == 0

    assert [one.name for one in server.uploads.values()] == ["one.txt"]
    found = lines(capsys.readouterr().out)
    assert {one["file"]: one.get("note") for one in found} == {
        "one.txt": None,
        "two.txt": "the same file as one.txt",
    }


def test_a_folder_without_files_says_so(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty/deep").mkdir(parents=True)

    assert main(["upload", "-r", "empty", str(photo)]) == 0

    assert "empty: no files in it\n" in capsys.readouterr().out
    assert [one.name for one in server.uploads.values()] == ["photo.jpg"]


def test_what_is_no_file_is_not_waited_for(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")

    assert main(["upload", "pipe"]) == 2

    assert "pipe is no regular file" in capsys.readouterr().err
    assert server.requests == []


def test_a_file_that_vanishes_does_not_stop_the_others(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gone.jpg").symlink_to("real.jpg")
    Path("real.jpg").write_bytes(b"x")
    server.on_livez = lambda: Path("real.jpg").unlink()

    assert main(["upload", "gone.jpg", str(photo)]) == 1

    shown = capsys.readouterr().out
    assert "✗ gone.jpg: No such file or directory" in shown
    assert "✓ photo.jpg" in shown


@pytest.mark.parametrize("argv", [["upload", ""], ["upload", "-r", ""]])
def test_an_empty_name_is_not_the_current_folder(
    server: SmallServer,
    photo: Path,
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert photo.exists()

    assert main(argv) == 2

    assert "an empty name is no file" in capsys.readouterr().err
    assert server.uploads == {}
