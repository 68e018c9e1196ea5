import json
from pathlib import Path

import pytest

from asyncflow.cli import main
from tests.client.small_server import SmallServer, job
from tests.server_process import serving


@pytest.fixture
def done(server: SmallServer) -> SmallServer:
    server.files = {"original": b"all of it", "thumbnail": b"small"}
    server.names = {
        "original": 'attachment; filename="photo.jpg"',
        "thumbnail": 'attachment; filename="photo-thumbnail.webp"',
    }
    links = {name: f"/jobs/j/files/{name}" for name in server.files}
    server.jobs["j"] = job("j", downloadUrls=links)
    return server


def test_every_file_of_a_job_is_fetched_and_called_as_in_a_browser(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "j", "--to", "out/deep"]) == 0

    found = {p.name: p.read_bytes() for p in Path("out/deep").iterdir()}
    assert found == {"photo.jpg": b"all of it", "photo-thumbnail.webp": b"small"}
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["out/deep/photo.jpg", "out/deep/photo-thumbnail.webp"]


def test_files_of_the_same_name_of_several_jobs_stand_side_by_side(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done.jobs["k"] = done.jobs["j"] | {"jobId": "k"}

    assert main(["download", "j", "k", "--only", "original", "--json"]) == 0

    assert {p.name for p in Path().iterdir()} == {"photo.jpg", "photo-2.jpg"}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"jobId": "j", "name": "original", "path": "photo.jpg"},
        {"jobId": "k", "name": "original", "path": "photo-2.jpg"},
    ]


def test_files_of_the_longest_name_stand_side_by_side(done: SmallServer) -> None:
    done.names["original"] = f'attachment; filename="{"p" * 251}.jpg"'
    done.jobs["k"] = done.jobs["j"] | {"jobId": "k"}

    assert main(["download", "j", "k", "--only", "original"]) == 0

    found = sorted(path.name for path in Path().iterdir())
    assert found == sorted([f"{'p' * 251}.jpg", f"{'p' * 249}-2.jpg"])


def test_only_the_files_named_are_fetched_and_none_is_overwritten(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photo-thumbnail.webp").write_text("mine")
    only = [f"--only={name}" for name in ("thumbnail", "nothing", "original")]

    assert main(["download", "nobody", "j", *only]) == 1

    assert Path("photo-thumbnail.webp").read_text() == "mine"
    assert Path("photo.jpg").read_bytes() == done.files["original"]
    said = capsys.readouterr().err
    assert "photo-thumbnail.webp exists already" in said
    assert "j nothing: " in said


@pytest.mark.parametrize(
    ("told", "called"),
    [
        ('attachment; filename="../../evil"', "_.._evil"),
        ("attachment; filename*=UTF-8''..%2F..%2Fevil", "_.._evil"),
        ('attachment; filename=".bashrc"', "_bashrc"),
        ('attachment; filename=".."', "file"),
        ("attachment", "original"),
        ("", "original"),
    ],
)
def test_a_name_neither_leads_out_of_the_folder_nor_hides_in_it(
    done: SmallServer, told: str, called: str
) -> None:
    done.names["original"] = told

    assert main(["download", "j", "--to", "out", "--only", "original"]) == 0

    found = [p for p in Path().rglob("*") if p.is_file()]
    assert [p.parent for p in found] == [Path("out")]
    assert not found[0].name.startswith(".")
    assert found[0].name.strip("_") == called.strip("_")


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

        assert main(["download", job_id, "--only", "original", *where]) == 0
        assert main(["cancel", job_id, "nobody", *where]) == 1

    assert Path("a.txt").read_bytes() == b"some notes"
    shown = capsys.readouterr()
    assert f"{job_id}  COMPLETED" in shown.out
    assert "nobody: " in shown.err


def test_files_called_as_parts_of_each_other_arrive_beside_ones_own(
    tmp_path: Path,
) -> None:
    sent = {end: f"all of a.txt{end}".encode() for end in ("", ".part", ".part.etag")}
    mine = {f"b.txt{end}": b"mine" for end in (".part", ".part.etag")}
    for name, data in mine.items():
        Path(name).write_bytes(data)
    with serving(tmp_path / "data", workers="1") as server:
        jobs = {end: server.upload(f"a.txt{end}", data) for end, data in sent.items()}
        other = server.upload("b.txt", b"all of b.txt")
        for job_id in (*jobs.values(), other):
            server.finished(job_id)
        ids = [jobs[".part.etag"], jobs[".part"], jobs[""], other]
        where = ["--url", server.url, "--token", server.token]

        assert main(["download", *ids, "--only", "original", *where]) == 0

    found = {path.name: path.read_bytes() for path in Path().iterdir()}
    wanted = {f"a.txt{end}": data for end, data in sent.items()}
    assert found == mine | wanted | {"b.txt": b"all of b.txt"}


def test_a_link_that_leads_nowhere_is_left_alone_too(
    done: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photo.jpg").symlink_to("nowhere")

    assert main(["download", "j", "--only", "original"]) == 1

    assert Path("photo.jpg").readlink() == Path("nowhere")
    assert "photo.jpg exists already" in capsys.readouterr().err
    assert done.ranges == []
