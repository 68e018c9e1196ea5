"""Requests made from the description, right and wrong, against a running server."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import schemathesis.checks
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from asyncflow.web.openapi import document
from asyncflow.web.operations import OPERATIONS
from tests.server_process import ServerProcess, serving
from tests.web.live import failures

EXAMPLES = int(os.environ.get("ASYNCFLOW_FUZZ_EXAMPLES", "10"))
schemathesis.checks.load_all_checks()
#: every check that there is
CHECKS: list[Any] = list(schemathesis.checks.CHECKS.get_all())

#: statuses that are right beside those which each check expects of itself
CONFIG = {
    "checks": {
        "positive_data_acceptance": {
            # no schema knows which pipelines, tasks and names of events there are
            "expected-statuses": ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]
        },
        "negative_data_rejection": {
            # tus wants 412 where its version is another
            "expected-statuses": [400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422]
        },
    }
}

#: check -> path -> why it says nothing there
EXCEPT: dict[str, dict[str, str]] = {
    "positive_data_acceptance": {
        "/files/": "which headers belong together depends on the dialect",
        "/files/{id}": "which headers belong together depends on the dialect",
        "/upload/chunked": "a chunk's index is below their number",
        "/upload/{name}": "Upload-Length is the length of the body",
        "/upload": "a form may have fields with names that no header can hold",
        "/tasks": "an Idempotency-Key in the head is that in the body",
        "/events": "an Idempotency-Key in the head is that in the body",
        "/admin/tenants/{name}/pause": "a name has characters that can be read",
        "/admin/tenants/{name}/resume": "a name has characters that can be read",
    },
    "negative_data_rejection": {
        "/jobs": "parameters that nobody knows are passed over",
        "/upload": "headers that nobody knows are passed over",
    },
    "allow_header_conformance": {
        "/upload/chunked": "a file may be called so: `PUT /upload/{name}`",
    },
}

#: these would take the job away from the others
ENDING = {"DELETE"}

#: bodies of kinds that are bytes, whatever they are called
for kind in ("application/offset+octet-stream", "application/partial-upload"):
    schemathesis.serializer(kind)(lambda _context, value: value)

#: a socket is no request with an answer; its own tests are elsewhere
schema = schemathesis.openapi.from_dict(
    document(OPERATIONS), config=SchemathesisConfig.from_dict(CONFIG)
).exclude(path="/ws")


def check(
    case: schemathesis.Case[Any], answer: schemathesis.Response, *silent: str
) -> None:
    """Let every check that has something to say there look at an answer."""
    path = case.operation.path
    out = [
        one
        for one in CHECKS
        if one.__name__ in silent or path in EXCEPT.get(one.__name__, {})
    ]
    case.validate_response(answer, checks=CHECKS, excluded_checks=out)


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
    check(case, answer)
    if "id" in case.path_parameters and case.method not in ENDING:
        # ids that were made up lead nowhere; this one leads to a job
        case.path_parameters["id"] = job
        answer = case.call(base_url=server.url, headers=bearer)
        # what was wrong may have been the id
        check(case, answer, "negative_data_rejection")
