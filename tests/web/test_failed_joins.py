"""Files whose chunks are all there, and cannot be put together."""

import base64
import json
import uuid
from pathlib import Path

import pytest

from tests.server_process import Answer, ServerProcess, serving
from tests.web.live import (
    TUS,
    Line,
    code_of,
    create,
    failures,
    kept,
    patch,
    rows,
    until,
)


@pytest.fixture
def job() -> str:
    return str(uuid.uuid4())


def send(server: ServerProcess, job: str, index: int, data: bytes) -> Answer:
    """Send one of two chunks."""
    said = {
        "jobId": job,
        "chunkIndex": index,
        "totalChunks": 2,
        "chunk": base64.b64encode(data).decode(),
    }
    body = json.dumps(said).encode()
    kind = "application/json"
    return server.request("POST", "/upload/chunked", body, Content_Type=kind)


def blob_of_first(server: ServerProcess) -> Path:
    """Return where the bytes of the only chunk are."""
    ((part,),) = rows(server, "SELECT part FROM place")
    (path,) = (server.data_dir / "store").rglob(part)
    return path


def test_a_join_that_failed_is_made_again_without_being_asked_for(
    tmp_path: Path, job: str
) -> None:
    with serving(tmp_path / "data") as server:
        assert send(server, job, 0, b"one").status == 200
        path, away = blob_of_first(server), tmp_path / "away"
        path.rename(away)
        # the store follows no link: the bytes cannot be read, and are not gone
        path.symlink_to(away)
        assert send(server, job, 1, b"two").status == 202
        found = server.status(job)
        assert (found["status"], found["error"]["code"]) == ("UPLOADING", "store")
        path.unlink()
        away.rename(path)
        assert server.finished(job)["status"] == "COMPLETED"
        found = server.request("GET", f"/jobs/{job}/files/original")
        assert found.body == b"onetwo"


def test_a_tus_upload_of_which_a_part_was_lost_is_refused_and_ends(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data") as server:
        parts = [create(server, 3, ("Upload-Concat", "partial")) for _ in range(2)]
        for part in parts:
            assert patch(server, part, 0, b"one").status == 204
        (lost,) = (server.data_dir / "store").rglob(parts[1])
        lost.unlink()
        concat = ("Upload-Concat", "final;" + " ".join(parts))
        with Line(server) as line:
            answer = line.ask("POST", "/files/", TUS, concat)
        assert (answer.status, code_of(answer)) == (410, "upload_gone")
        ended = "SELECT state, json_extract(error, '$.code') FROM job WHERE is_part = 0"
        assert rows(server, ended) == [("CANCELLED", "part_lost")]


def test_a_file_of_which_a_chunk_was_lost_ends_and_says_so(
    tmp_path: Path, job: str
) -> None:
    with serving(tmp_path / "data") as server:
        assert send(server, job, 0, b"one").status == 200
        blob_of_first(server).unlink()
        last = send(server, job, 1, b"two")
        assert (last.status, code_of(last)) == (410, "upload_gone")
        status = server.status(job)
        assert (status["status"], status["error"]["code"]) == ("CANCELLED", "part_lost")
        assert "part 0" in status["error"]["detail"]
        assert [one["event"] for one in failures(server)] == ["join.part_lost"]
        until(lambda: not kept(server))
