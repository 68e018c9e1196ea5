from pathlib import Path

import pytest

from asyncflow.cli import main
from tests.client.small_server import SmallServer, job
from tests.server_process import serving


@pytest.fixture
def done(server: SmallServer) -> SmallServer:
    server.files = {"original": b"all of it", "thumbnail": b"small"}
    links = {name: f"/jobs/j/files/{name}" for name in server.files}
    server.jobs["j"] = job("j", downloadUrls=links)
    return server


def test_every_file_of_a_job_is_fetched(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "j", "--to", "out/deep"]) == 0

    found = {p.name: p.read_bytes() for p in Path("out/deep").iterdir()}
    assert found == done.files
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["out/deep/original", "out/deep/thumbnail"]


def test_only_the_files_named_are_fetched_and_none_is_overwritten(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("thumbnail").write_text("mine")

    assert main(["download", "j", "thumbnail", "nothing", "original"]) == 1

    assert Path("thumbnail").read_text() == "mine"
    assert Path("original").read_bytes() == done.files["original"]
    said = capsys.readouterr().err
    assert "thumbnail exists already" in said
    assert "nothing: " in said


def test_a_name_that_leads_out_of_the_folder_is_refused(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done.jobs["j"] = job("j", downloadUrls={"../evil": "/jobs/j/files/original"})

    assert main(["download", "j", "--to", "out"]) == 1

    assert "../evil: this is no name" in capsys.readouterr().err
    assert list(Path().rglob("*")) == [Path("out")]


def test_a_job_without_files_is_said_plainly(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done.jobs["j"] = job("j", "PENDING")

    assert main(["download", "j"]) == 1

    assert "no files" in capsys.readouterr().err


def test_a_job_of_a_real_server_is_fetched_and_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "data", workers="1") as server:
        job_id = server.upload("a.txt", b"some notes")
        server.finished(job_id)
        where = ["--url", server.url, "--token", server.token]

        assert main(["download", job_id, "original", *where]) == 0
        assert main(["cancel", job_id, "nobody", *where]) == 1

    assert Path("original").read_bytes() == b"some notes"
    shown = capsys.readouterr()
    assert f"{job_id}  COMPLETED" in shown.out
    assert "nobody: " in shown.err
