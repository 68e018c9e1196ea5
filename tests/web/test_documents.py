"""Documents on a real server, from the upload to their text: bad pages among good."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processors import text_pages
from tests.server_process import ServerProcess
from tests.web.live import healthy_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("documents")
    with healthy_server(folder, workers="2") as found:
        yield found


def text_of(server: ServerProcess, job: Any) -> str:
    return server.request("GET", job["downloadUrls"]["text"]).body.decode()


def test_a_lost_page_costs_the_document_nothing_but_itself(
    server: ServerProcess, tmp_path: Path
) -> None:
    path = text_pages.with_lost_page(tmp_path / "lost.pdf")
    job = server.finished(server.upload("lost.pdf", path.read_bytes()))
    assert job["status"] == "COMPLETED"
    assert job["facts"]["identify"]["pages"] == 3
    assert job["facts"]["text"]["failedPages"] == [{"page": 2, "reason": "damaged"}]
    assert text_of(server, job) == "first\n\f\fthird\n"
    assert all(step["attempts"] == 1 for step in job["steps"])
