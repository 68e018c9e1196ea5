"""Requests made from the description, right and wrong, against a running server."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    not_a_server_error,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asyncflow.web.openapi import document
from asyncflow.web.operations import OPERATIONS
from tests.server_process import ServerProcess, serving
from tests.web.live import failures

EXAMPLES = int(os.environ.get("ASYNCFLOW_FUZZ_EXAMPLES", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

#: these would take the job away from the others
ENDING = {"DELETE"}

#: bodies of kinds that are bytes, whatever they are called
for kind in ("application/offset+octet-stream", "application/partial-upload"):
    schemathesis.serializer(kind)(lambda _context, value: value)

#: a socket is no request with an answer; its own tests are elsewhere
schema = schemathesis.openapi.from_dict(document(OPERATIONS)).exclude(path="/ws")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(folder / "data", workers="1", max_upload_bytes="1MB") as running:
        yield running
        assert running.request("GET", "/livez").status == 200
        assert failures(running) == []


@pytest.fixture(scope="module")
def job(server: ServerProcess) -> str:
    """Return a job that is over, with a file to download."""
    made = server.upload("notes.txt", b"some notes")
    assert server.finished(made)["status"] == "COMPLETED"
    return made


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_declared_one(
    case: schemathesis.Case[Any], server: ServerProcess, job: str
) -> None:
    bearer = {"Authorization": f"Bearer {server.token}"}
    answer = case.call(base_url=server.url, headers=bearer)
    case.validate_response(answer, checks=CHECKS)
    if "id" in case.path_parameters and case.method not in ENDING:
        # ids that were made up lead nowhere; this one leads to a job
        case.path_parameters["id"] = job
        answer = case.call(base_url=server.url, headers=bearer)
        case.validate_response(answer, checks=CHECKS)
