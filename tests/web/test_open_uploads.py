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


def test_the_owner_of_the_token_is_another_client(server: ServerProcess) -> None:
    for _ in range(LIMIT):
        create(server)
    assert create(server).status == 429
    assert create(server, ("Authorization", f"Bearer {server.token}")).status == 201
