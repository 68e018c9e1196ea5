"""A client that is not ours."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from tusclient.client import TusClient
from tusclient.uploader import Uploader

from tests.server_process import ServerProcess
from tests.web.live import healthy_server, offset_of

DATA = b"the same words over and over\n" * 40_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("tus-client")) as found:
        yield found


def uploader(server: ServerProcess, collection: str, **more: object) -> Uploader:
    client = TusClient(server.url + collection)
    return client.uploader(
        file_stream=io.BytesIO(DATA),
        chunk_size=300_000,
        metadata={"filename": "many words.txt"},
        **more,
    )


@pytest.mark.parametrize("collection", ["/files", "/files/"])
def test_tuspy_uploads_a_file(server: ServerProcess, collection: str) -> None:
    sending = uploader(server, collection)
    sending.upload()
    job = Path(str(sending.url)).name
    found = server.finished(job)
    assert (found["status"], found["fileName"]) == ("COMPLETED", "many words.txt")
    assert server.request("GET", f"/jobs/{job}/files/original").body == DATA


def test_tuspy_goes_on_where_it_stopped(server: ServerProcess) -> None:
    first = uploader(server, "/files")
    first.upload_chunk()
    job = Path(str(first.url)).name
    assert offset_of(server, job) == 300_000
    second = uploader(server, "/files", url=first.url)
    assert second.offset == 300_000
    second.upload()
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.request("GET", f"/jobs/{job}/files/original").body == DATA
