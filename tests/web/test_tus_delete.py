from collections.abc import Iterator

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    TUS,
    Line,
    blobs,
    code_of,
    create,
    healthy_server,
    look,
    metadata,
    patch,
    until,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("tus-delete")) as found:
        yield found


def delete(server: ServerProcess, upload: str) -> Answer:
    with Line(server) as line:
        return line.ask("DELETE", f"/files/{upload}", TUS)


def test_an_ended_upload_is_gone_with_its_bytes(server: ServerProcess) -> None:
    upload = create(server, 10)
    patch(server, upload, 0, b"hello")
    assert delete(server, upload).status == 204
    assert look(server, upload).status == 410
    late = patch(server, upload, 5, b"world")
    assert (late.status, code_of(late)) == (410, "upload_gone")
    again = delete(server, upload)
    assert (again.status, code_of(again)) == (410, "upload_gone")
    until(lambda: not [name for name in blobs(server) if upload in name])
    assert server.status(upload)["status"] == "CANCELLED"
    assert server.status(upload)["error"]["code"] == "terminated"


def test_a_complete_upload_is_a_job_now_and_stays(server: ServerProcess) -> None:
    upload = create(server, 5, metadata(filename="a.txt"))
    patch(server, upload, 0, b"hello")
    answer = delete(server, upload)
    assert (answer.status, code_of(answer)) == (403, "upload_complete")
    assert "job" in answer.json["detail"]
    assert server.finished(upload)["status"] == "COMPLETED"


def test_delete_wants_the_version_and_a_known_upload(server: ServerProcess) -> None:
    with Line(server) as line:
        upload = create(server, 5)
        assert line.ask("DELETE", f"/files/{upload}").status == 412
        assert look(server, upload).status == 200
    assert delete(server, "01a20327-a3a3-7460-ad93-e9a93f525ab8").status == 404


def test_a_deleted_job_ends_its_unfinished_upload(server: ServerProcess) -> None:
    upload = create(server, 10)
    patch(server, upload, 0, b"hello")
    assert server.request("DELETE", f"/jobs/{upload}").status == 204
    assert look(server, upload).status == 404
    until(lambda: not [name for name in blobs(server) if upload in name])


def test_a_cancelled_job_ends_its_unfinished_upload(server: ServerProcess) -> None:
    upload = create(server, 10)
    patch(server, upload, 0, b"hello")
    answer = server.request("POST", f"/jobs/{upload}/cancel")
    assert answer.json["cancelled"] is True
    assert look(server, upload).status == 410
    until(lambda: not [name for name in blobs(server) if upload in name])
