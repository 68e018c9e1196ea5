"""Backups of a server under load, what they restore, and what is damaged."""

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.server_process import Answer, ServerProcess, serving


def picture(shade: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (64, 48), (shade % 256, 90, 40)).save(made, "PNG")
    return made.getvalue()


def asyncflow(*argv: str | Path, here: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asyncflow", *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        timeout=100,
    )


@contextmanager
def under_load(server: ServerProcess) -> Iterator[list[str]]:
    """Upload and delete on two threads for the length of a block; give what stayed."""
    over = threading.Event()
    begun = threading.Barrier(3)
    kept: list[str] = []

    def people(number: int) -> None:
        count = 0
        while not over.is_set():
            job = server.upload(f"{number}-{count}.bin", picture(count) + b"\0" * 9999)
            if count % 3:
                kept.append(job)
            else:
                deleted = server.request(
                    "DELETE", f"/jobs/{job}", Authorization=bearer(server)
                )
                assert deleted.status == 204
            count += 1
            if count == 3:
                begun.wait(30)

    threads = [threading.Thread(target=people, args=(one,)) for one in (1, 2)]
    for thread in threads:
        thread.start()
    begun.wait(30)
    try:
        yield kept
    finally:
        over.set()
        for thread in threads:
            thread.join()


def bearer(server: ServerProcess) -> str:
    return f"Bearer {server.token}"


def content(server: ServerProcess, job: str) -> dict[str, bytes]:
    """Return every file of a job, by name."""
    links = server.status(job)["downloadUrls"]
    answers = {name: server.request("GET", link) for name, link in links.items()}
    assert all(answer.status == 200 for answer in answers.values())
    return {name: answer.body for name, answer in answers.items()}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a server leaves that has worked on a picture and stopped."""
    place = tmp_path_factory.mktemp("left") / "data"
    with serving(place) as server:
        job = server.upload("one.png", picture(7))
        assert server.finished(job)["status"] == "COMPLETED"
    return place


@pytest.fixture
def folder(left: Path, tmp_path: Path) -> Path:
    """Return such a data folder, to do with as one likes."""
    return shutil.copytree(left, tmp_path / "data", symlinks=True)


def blobs(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "store").rglob("*") if p.is_file())


def test_a_backup_taken_under_load_restores_to_a_server_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data") as server:
        jobs = [server.upload(f"{one}.png", picture(one)) for one in range(3)]
        for job in jobs:
            assert server.finished(job)["status"] == "COMPLETED"
        before = {job: content(server, job) for job in jobs}
        with under_load(server):
            made = asyncflow(
                *("backup", tmp_path / "copy", "--data-dir", server.data_dir, "--json"),
                here=tmp_path,
            )
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["missing"] == []
    back = asyncflow(
        "restore", tmp_path / "copy", "--data-dir", tmp_path / "again", here=tmp_path
    )
    assert back.returncode == 0, back.stderr
    with serving(tmp_path / "again") as server:
        assert {job: content(server, job) for job in jobs} == before
        listed = server.request("GET", "/jobs", Authorization=bearer(server))
        for one in listed.json["jobs"]:
            assert server.finished(one["jobId"])["status"] in {"COMPLETED", "REJECTED"}


def test_every_file_of_a_backup_under_load_is_one_that_its_database_names(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data") as server, under_load(server):
        made = asyncflow(
            "backup", tmp_path / "copy", "--data-dir", server.data_dir, here=tmp_path
        )
        assert made.returncode == 0, made.stderr
    with sqlite3.connect(tmp_path / "copy" / "asyncflow.db") as db:
        (named,) = db.execute(
            "SELECT (SELECT count(*) FROM upload) + (SELECT count(*) FROM derivative)"
        ).fetchone()
    db.close()
    assert named == len(blobs(tmp_path / "copy")) > 0


def test_an_unfinished_upload_is_left_out_of_a_backup(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        begun = server.request(
            "POST", "/files/", b"", Tus_Resumable="1.0.0", Upload_Length="100"
        )
        assert begun.status == 201
        made = asyncflow(
            "backup", tmp_path / "copy", "--data-dir", server.data_dir, here=tmp_path
        )
    assert made.returncode == 0, made.stderr
    assert blobs(tmp_path / "copy") == []
    asyncflow(
        "restore", tmp_path / "copy", "--data-dir", tmp_path / "again", here=tmp_path
    )
    with serving(tmp_path / "again") as server:
        place = "/files/" + begun.headers["location"].rsplit("/", 1)[-1]
        gone = server.request("HEAD", place, Tus_Resumable="1.0.0")
        assert gone.status == 404


def send_chunk(server: ServerProcess, job: str, index: int, **said: str) -> Answer:
    """Send one of two chunks."""
    body = {"jobId": job, "chunkIndex": index, "totalChunks": 2, "chunk": "aGVsbG8="}
    return server.request(
        "POST",
        "/upload/chunked",
        json.dumps(body | said).encode(),
        Content_Type="application/json",
    )


def test_parts_of_unfinished_files_are_left_out_of_a_backup(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        job = str(uuid.uuid4())
        sent = send_chunk(server, job, 0)
        assert sent.status == 200, sent.body
        named = server.request(
            "POST",
            "/files/",
            b"hello",
            Tus_Resumable="1.0.0",
            Upload_Length="5",
            Upload_Concat="partial",
            Content_Type="application/offset+octet-stream",
        )
        assert named.headers["upload-offset"] == "5"
        made = asyncflow(
            "backup", tmp_path / "copy", "--data-dir", server.data_dir, here=tmp_path
        )
    assert made.returncode == 0, made.stderr
    assert blobs(tmp_path / "copy") == []
    asyncflow(
        "restore", tmp_path / "copy", "--data-dir", tmp_path / "again", here=tmp_path
    )
    with closing(sqlite3.connect(tmp_path / "again" / "asyncflow.db")) as db:
        left = "SELECT (SELECT count(*) FROM upload), (SELECT sum(bytes) FROM usage)"
        assert db.execute(left).fetchone() in {(0, 0), (0, None)}


def test_a_backup_names_the_files_that_are_not_put_together_yet(
    tmp_path: Path,
) -> None:
    argv = ("backup", tmp_path / "copy", "--data-dir", tmp_path / "data", "--json")
    job = str(uuid.uuid4())
    with serving(tmp_path / "data") as server:
        assert send_chunk(server, job, 0, fileName="movie.bin").status == 200
        (part,) = [p for p in blobs(tmp_path / "data") if p.stat().st_size]
        away = tmp_path / "away"
        part.rename(away)
        # the store follows no link: the bytes cannot be read, and are not gone
        part.symlink_to(away)
        assert send_chunk(server, job, 1).status == 202
        made = asyncflow(*argv, here=tmp_path)
    told = json.loads(made.stdout)
    assert told["unjoined"] == [{"jobId": job, "name": "movie.bin"}]
    assert json.loads((tmp_path / "copy" / "backup.json").read_text()) == told
    assert f"not put together yet: job {job}, movie.bin" in made.stderr
    assert "1 files are not in it" in made.stderr
    assert made.returncode == 0


def test_a_stopped_server_is_backed_up_as_well(folder: Path, tmp_path: Path) -> None:
    made = asyncflow("backup", tmp_path / "copy", "--data-dir", folder, here=tmp_path)
    assert made.returncode == 0, made.stderr
    assert [p.read_bytes() for p in blobs(tmp_path / "copy")] == [
        p.read_bytes() for p in blobs(folder)
    ]


def test_a_backup_is_for_nobody_else_to_read(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    asyncflow("backup", copy, "--data-dir", folder, here=tmp_path)
    modes = {path.stat().st_mode & 0o077 for path in [copy, *copy.rglob("*")]}
    assert modes == {0}


def test_a_backup_names_what_is_missing_and_keeps_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    lost = next(p for p in blobs(folder) if "processed" in p.parts)
    lost.unlink()
    made = asyncflow("backup", tmp_path / "copy", "--data-dir", folder, here=tmp_path)
    assert made.returncode == 1
    assert lost.name in made.stderr
    assert len(blobs(tmp_path / "copy")) == len(blobs(folder))
    back = asyncflow(
        "restore", tmp_path / "copy", "--data-dir", tmp_path / "again", here=tmp_path
    )
    assert back.returncode == 0, back.stderr


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_folder_with_something_in_it_is_left_alone(
    folder: Path, tmp_path: Path, command: str
) -> None:
    asyncflow("backup", tmp_path / "copy", "--data-dir", folder, here=tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("mine")
    argv = {
        "backup": (tmp_path / "full", "--data-dir", folder),
        "restore": (tmp_path / "copy", "--data-dir", tmp_path / "full"),
    }
    done = asyncflow(command, *argv[command], here=tmp_path)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["precious"]


def test_a_backup_that_was_cut_short_is_not_restored(
    folder: Path, tmp_path: Path
) -> None:
    asyncflow("backup", tmp_path / "copy", "--data-dir", folder, here=tmp_path)
    (tmp_path / "copy" / "backup.json").unlink()
    done = asyncflow(
        "restore", tmp_path / "copy", "--data-dir", tmp_path / "again", here=tmp_path
    )
    assert done.returncode == 1
    assert "cut short" in done.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("missing", "its bytes are missing"),
        ("shorter", "instead of"),
        ("changed", "another sha256"),
    ],
)
def test_a_restore_names_what_was_damaged_in_the_backup_and_keeps_the_rest(
    folder: Path, tmp_path: Path, harm: str, says: str
) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    asyncflow("backup", copy, "--data-dir", folder, here=tmp_path)
    (original,) = [p for p in blobs(copy) if "raw" in p.parts]
    damage(original, harm)
    done = asyncflow("restore", copy, "--data-dir", again, here=tmp_path)
    assert done.returncode == 1
    assert original.name in done.stderr
    assert says in done.stderr
    whole = len(blobs(folder)) - 1
    assert f"{whole} files are back" in done.stdout
    assert (again / "asyncflow.db").is_file()
    assert len(blobs(again)) == whole + (harm == "changed")


def test_a_restore_tells_programs_which_jobs_are_damaged(
    folder: Path, tmp_path: Path
) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    asyncflow("backup", copy, "--data-dir", folder, "--quiet", here=tmp_path)
    (original,) = [p for p in blobs(copy) if "raw" in p.parts]
    original.unlink()
    argv = ("restore", copy, "--data-dir", again, "--json", "--quiet")
    done = asyncflow(*argv, here=tmp_path)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["dataDir"] == str(again)
    assert [one["jobId"] for one in told["damaged"]] == [original.name]
    assert told["blobs"] == len(blobs(folder)) - 1


def damage(original: Path, harm: str) -> None:
    data = original.read_bytes()
    if harm == "missing":
        original.unlink()
    else:
        original.write_bytes(data[:-1] + (b"" if harm == "shorter" else b"!"))


def test_a_backup_into_the_data_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    done = asyncflow("backup", folder / "backups", "--data-dir", folder, here=tmp_path)
    assert done.returncode == 1
    assert "must not lie within each other" in done.stderr


def test_what_is_no_data_folder_is_not_backed_up(tmp_path: Path) -> None:
    done = asyncflow("backup", tmp_path / "copy", "--data-dir", tmp_path, here=tmp_path)
    assert done.returncode == 1
    assert "is it the data folder?" in done.stderr


def findings(folder: Path) -> tuple[int, list[str]]:
    argv = ["doctor", "--verify", "--json", "--data-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
        env={"PATH": "/usr/bin:/bin", "ASYNCFLOW_DATA_DIR": str(folder / "no")}
        | {"ASYNCFLOW_FILL_LEVEL": "100", "PYTHONPATH": ":".join(sys.path)},
        timeout=100,
    )
    found = json.loads(done.stdout)["checks"]
    return done.returncode, [f["text"] for f in found if f["name"] == "files"]


def test_whole_files_are_found_whole(folder: Path) -> None:
    assert findings(folder) == (0, ["every stored file is there and whole"])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("missing", "its bytes are missing"),
        ("shorter", "instead of"),
        ("changed", "another sha256"),
    ],
)
def test_a_damaged_file_is_found_and_named(folder: Path, harm: str, says: str) -> None:
    (original,) = [p for p in blobs(folder) if "raw" in p.parts]
    damage(original, harm)
    code, (text,) = findings(folder)
    assert code == 1
    assert original.name in text
    assert says in text
