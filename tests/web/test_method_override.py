from collections.abc import Iterator

import pytest

from tests.server_process import ServerProcess
from tests.web.live import CHUNK, TUS, Header, Line, create, healthy_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("override")) as found:
        yield found


def meant(method: str) -> Header:
    return "X-HTTP-Method-Override", method


def test_a_post_may_stand_for_every_method_of_an_upload(server: ServerProcess) -> None:
    upload, other = create(server, 5), create(server, 5)
    with Line(server) as line:
        at = ("Upload-Offset", "0")
        here = f"/files/{upload}"
        answer = line.ask("POST", here, TUS, CHUNK, at, meant("PATCH"), body=b"hel")
        assert (answer.status, answer.headers["upload-offset"]) == (204, "3")
        answer = line.ask("POST", here, TUS, meant("head"))
        assert (answer.status, answer.headers["upload-offset"]) == (200, "3")
        answer = line.ask("POST", f"/files/{other}", TUS, meant("DELETE"))
        assert answer.status == 204
        assert line.ask("HEAD", f"/files/{other}", TUS).status == 410


@pytest.mark.parametrize("headers", [[], [meant("PUT")], [meant("CONNECT")]], ids=str)
def test_a_post_stands_for_nothing_else(
    server: ServerProcess, headers: list[Header]
) -> None:
    with Line(server) as line:
        answer = line.ask("POST", f"/files/{create(server, 5)}", TUS, *headers)
    assert answer.status == 405
    assert "PATCH" in answer.headers["allow"]
