import json
import uuid
from collections.abc import Iterator

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import TUS, Header, Line, code_of, healthy_server, patch

LIMIT = 3


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("open-uploads")
    with healthy_server(folder, open_uploads=str(LIMIT)) as found:
        yield found


def create(server: ServerProcess, *headers: Header) -> Answer:
    with Line(server) as line:
        return line.ask("POST", "/files/", TUS, ("Upload-Length", "5"), *headers)


def test_a_client_may_have_so_many_uploads_open(server: ServerProcess) -> None:
    made = [create(server) for _ in range(LIMIT)]
    assert {answer.status for answer in made} == {201}
    refused = create(server)
    assert (refused.status, code_of(refused)) == (429, "too_many_uploads")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json["maxOpen"] == LIMIT
    assert server.request("PUT", "/upload/x.txt", b"hello").status == 429
    # whoever finishes or ends one may begin another
    first, second, _third = (one.headers["asyncflow-job-id"] for one in made)
    assert patch(server, first, 0, b"hello").status == 204
    assert create(server).status == 201
    with Line(server) as line:
        assert line.ask("DELETE", f"/files/{second}", TUS).status == 204
    assert create(server).status == 201
    assert create(server).status == 429


def chunk(server: ServerProcess, job: str, n: int, *, as_form: bool) -> Answer:
    said = {"jobId": job, "chunkIndex": n, "totalChunks": 3}
    if as_form:
        fields = "".join(
            "--edge\r\nContent-Disposition: form-data; "
            f'name="{name}"\r\n\r\n{value}\r\n'
            for name, value in {"chunk": "hello", **said}.items()
        )
        kind, body = "multipart/form-data; boundary=edge", f"{fields}--edge--\r\n"
    else:
        kind, body = "application/json", json.dumps({**said, "chunk": "aGVsbG8="})
    with Line(server) as line:
        asked = ("Content-Type", kind)
        return line.ask("POST", "/upload/chunked", asked, body=body.encode())


@pytest.mark.parametrize("as_form", [True, False])
def test_a_file_in_chunks_is_one_upload_and_goes_on_at_the_limit(
    server: ServerProcess, *, as_form: bool
) -> None:
    begun = [str(uuid.uuid4()) for _ in range(LIMIT)]
    for job in begun:
        assert chunk(server, job, 0, as_form=as_form).status == 200
    refused = chunk(server, str(uuid.uuid4()), 0, as_form=as_form)
    assert (refused.status, code_of(refused)) == (429, "too_many_uploads")
    assert create(server).status == 429
    for n, status in ((1, 200), (2, 202)):
        for job in begun:
            assert chunk(server, job, n, as_form=as_form).status == status
    assert chunk(server, str(uuid.uuid4()), 0, as_form=as_form).status == 200


def test_the_owner_of_the_token_is_another_client(server: ServerProcess) -> None:
    for _ in range(LIMIT):
        create(server)
    assert create(server).status == 429
    assert create(server, ("Authorization", f"Bearer {server.token}")).status == 201
