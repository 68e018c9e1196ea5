from collections.abc import Iterator

import pytest

from tests.server_process import ServerProcess
from tests.web.live import TUS, Line, healthy_server

PAGE = ("Origin", "https://app.example.org")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tus-options")
    with healthy_server(
        folder, allowed_origins=PAGE[1], max_upload_bytes="1MiB"
    ) as found:
        yield found


ONE = "/files/019aa2f0-0000-7000-8000-000000000000"


def test_options_on_what_no_upload_can_be_called_is_404(server: ServerProcess) -> None:
    with Line(server) as line:
        assert line.ask("OPTIONS", "/files/anything").status == 404


@pytest.mark.parametrize("target", ["/files", "/files/", ONE])
def test_options_says_what_the_server_can_do(
    server: ServerProcess, target: str
) -> None:
    with Line(server) as line:
        answer = line.ask("OPTIONS", target)
    assert answer.status == 200
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(1024 * 1024)
    extensions = set(answer.headers["tus-extension"].split(","))
    assert extensions >= {
        "creation",
        "creation-with-upload",
        "expiration",
        "termination",
    }


def test_options_needs_no_version(server: ServerProcess) -> None:
    with Line(server) as line:
        assert line.ask("OPTIONS", "/files", ("Tus-Resumable", "0.2")).status == 200


def test_a_listed_page_may_send_what_tus_needs(server: ServerProcess) -> None:
    asks = [
        ("Access-Control-Request-Method", "PATCH"),
        ("Access-Control-Request-Headers", "tus-resumable,upload-offset,content-type"),
    ]
    with Line(server) as line:
        answer = line.ask("OPTIONS", "/files/x", PAGE, *asks)
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == PAGE[1]
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    for name in ("tus-resumable", "upload-offset", "upload-length", "upload-metadata"):
        assert name in allowed


def test_a_listed_page_may_read_what_tus_tells(server: ServerProcess) -> None:
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, ("Upload-Length", "3"), PAGE)
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert answer.status == 201
    for name in ("location", "upload-offset", "upload-expires", "asyncflow-job-id"):
        assert name in exposed
        assert name in answer.headers


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_another_method_is_answered_405_with_those_that_there_are(
    server: ServerProcess, method: str
) -> None:
    with Line(server) as line:
        answer = line.ask(method, "/files")
    assert answer.status == 405
    assert {"OPTIONS", "POST"} <= set(answer.headers["allow"].split(","))
