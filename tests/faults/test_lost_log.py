"""A log that nobody can write: lines are lost, and nothing else."""

import json

import pytest

from tests.faults import probe
from tests.faults.conftest import Make

FULL = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
NOBODY_READS = ("bash", "-c", 'exec "$@" 2> >(exec true)', "bash")


@pytest.mark.parametrize("wrap", [FULL, NOBODY_READS], ids=["full", "nobody reads"])
def test_everything_is_answered_and_done_without_a_log(
    make: Make, wrap: tuple[str, ...]
) -> None:
    server = make(wrap=wrap, log_level="debug")

    job = server.upload("a.txt", probe.text(parts=1))
    assert server.finished(job)["status"] == "COMPLETED"
    missing = server.request("GET", "/jobs/nothing")
    assert (missing.status, missing.json["code"]) == (404, "job_not_found")
    refused = server.request("POST", "/tasks", json.dumps({"name": "none"}).encode())
    assert 400 <= refused.status < 500
    assert server.stop() == 0
