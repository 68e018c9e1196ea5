"""Documents on a real server, from the upload to their text: bad pages among good."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processors import text_pages
from tests.server_process import ServerProcess
from tests.web.live import healthy_server

RULES = """
[pipelines.hurried.types."application/pdf".steps.text]
options = { pageS = 1 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("documents")
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    with healthy_server(folder, workers="2", pipelines=str(rules)) as found:
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


def test_a_page_that_nothing_can_stop_costs_an_attempt_and_not_the_document(
    server: ServerProcess, tmp_path: Path
) -> None:
    typed = text_pages.typed_pdf([["typed"]], tmp_path / "typed.pdf")
    slow = text_pages.plan(tmp_path / "plan.pdf", curves=200_000, at_once=True)
    path = text_pages.joined([typed, slow, typed, slow], tmp_path / "all.pdf")
    sent = server.request("PUT", "/upload/all.pdf?pipeline=hurried", path.read_bytes())
    job = server.finished(sent.json["jobId"])
    assert job["status"] == "COMPLETED"
    assert job["facts"]["text"]["failedPages"] == [
        {"page": page, "reason": "timeout"} for page in (2, 4)
    ]
    assert text_of(server, job) == "typed\n\f\ftyped\n\f"
    attempts = {step["name"]: step["attempts"] for step in job["steps"]}
    assert attempts == {"identify": 1, "text": 2}
