from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    Line,
    create,
    healthy_server,
    look,
    metadata,
    patch,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("tus-head")) as found:
        yield found


def test_head_tells_offset_length_metadata_and_job(server: ServerProcess) -> None:
    said = metadata(filename="a.txt", secret="x,y z")
    upload = create(server, 10, said)
    patch(server, upload, 0, b"hello")
    answer = look(server, upload)
    assert answer.status == 200
    assert answer.headers["upload-offset"] == "5"
    assert answer.headers["upload-length"] == "10"
    assert answer.headers["upload-metadata"] == said[1]
    assert answer.headers["asyncflow-job-id"] == upload
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert "upload-expires" in answer.headers


def test_a_complete_upload_still_tells_its_offset(server: ServerProcess) -> None:
    upload = create(server, 5, metadata(filename="a.txt"))
    patch(server, upload, 0, b"hello")
    answer = look(server, upload)
    assert (answer.status, answer.headers["upload-offset"]) == (200, "5")
    assert "upload-expires" not in answer.headers


def test_head_wants_the_version(server: ServerProcess) -> None:
    upload = create(server, 5)
    with Line(server) as line:
        answer = line.ask("HEAD", f"/files/{upload}")
    assert answer.status == 412
    assert answer.headers["tus-version"] == "1.0.0"


@pytest.mark.parametrize(
    "unknown", ["01a20327-a3a3-7460-ad93-e9a93f525ab8", "nothing", "%2e%2e"]
)
def test_an_unknown_upload_is_answered_404_without_a_body(
    server: ServerProcess, unknown: str
) -> None:
    answer = look(server, unknown)
    assert (answer.status, answer.body) == (404, b"")


def test_a_restart_forgets_no_byte(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tus-restart")
    with healthy_server(folder) as server:
        upload = create(server, 10)
        patch(server, upload, 0, b"hello")
    with healthy_server(folder) as server:
        assert look(server, upload).headers["upload-offset"] == "5"
        assert patch(server, upload, 5, b"world").status == 204
        assert server.finished(upload)["status"] == "COMPLETED"


def test_an_upload_whose_bytes_never_got_a_place_begins_at_zero(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path) as server:
        upload = create(server, 5, metadata(filename="a.txt"))
        server.kill()
        # as after a crash between the row and the blob
        (path,) = (server.data_dir / "store" / "raw").rglob(upload)
        path.unlink()
        server.log_path.unlink()
        server.start()
        assert look(server, upload).headers["upload-offset"] == "0"
        assert patch(server, upload, 0, b"hello").status == 204
        assert server.finished(upload)["status"] == "COMPLETED"
