"""Workers that die or freeze: the step is tried again, its effect happens once."""

import os
import signal
from collections.abc import Callable

import pytest

from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess

SLOW = probe.text(parts=2, before=0.4, between=0.5)
NAMES = {"part0", "part1"}

Moment = Callable[[ServerProcess, str], None]


def when_claimed(server: ServerProcess, job: str) -> None:
    watch.until_step(server, job, "running")


def when_working(server: ServerProcess, job: str) -> None:
    watch.until_working(server, job)


def when_published(server: ServerProcess, job: str) -> None:
    watch.until(lambda: server.status(job)["files"])


def when_settling(server: ServerProcess, job: str) -> None:
    watch.until(lambda: len(server.status(job)["files"]) == len(NAMES))


def finish(server: ServerProcess, job: str, evidence: Evidence) -> None:
    """Check that a job ends well, and that nothing is left over."""
    found = server.finished(job)
    assert found["status"] == "COMPLETED"
    assert {one["name"] for one in found["files"]} == NAMES
    watch.until(lambda: not evidence.ask("SELECT key FROM trash"))
    assert server.stop() == 0
    evidence.check()


@pytest.mark.parametrize(
    ("moment", "charges"),
    [
        # of its gate on a new worker, or the next one on the same
        (when_claimed, {0, 1}),
        # the worker has been used, and nothing has been given away
        (when_working, {0}),
        (when_published, {1}),
        (when_settling, {1}),
    ],
)
def test_a_step_whose_worker_is_killed_is_done_by_another(
    make: Make, evidence: Evidence, moment: Moment, charges: set[int]
) -> None:
    server = make()
    job = server.upload("slow.txt", SLOW)
    moment(server, job)

    os.kill(watch.worker(server), signal.SIGKILL)

    finish(server, job, evidence)
    died = evidence.ask("SELECT verdict, code FROM attempt")
    assert set(died) <= {("lost", "crashed")}
    assert len(died) in charges


def test_a_frozen_worker_is_killed_at_its_time_limit_and_its_step_retried(
    make: Make, evidence: Evidence
) -> None:
    server = make(wall_s=1.6)
    job = server.upload("slow.txt", SLOW)
    watch.until(lambda: server.status(job)["files"])

    os.kill(watch.worker(server), signal.SIGSTOP)

    failed = watch.until_step(server, job, "retrying")
    assert failed["error"]["code"] == "timeout"
    finish(server, job, evidence)


def test_a_server_that_was_frozen_past_its_leases_goes_on(
    make: Make, evidence: Evidence
) -> None:
    server = make(lease="1")
    job = server.upload("slow.txt", SLOW)
    watch.until(lambda: server.status(job)["files"])

    watch.signal_family(server, signal.SIGSTOP)
    try:
        watch.pause(2.5)
    finally:
        watch.signal_family(server, signal.SIGCONT)

    finish(server, job, evidence)
    assert evidence.ask("SELECT code FROM attempt") == []


def test_a_step_that_waits_for_its_time_is_not_forgotten_over_a_crash(
    make: Make, evidence: Evidence
) -> None:
    server = make()
    soon = watch.now() + 2
    job = server.upload("later.txt", probe.text(parts=2, until=soon, later=3))
    watch.until_step(server, job, "retrying")
    server.kill()
    server.start()  # sooner than the step's time, and nobody else will ring for it

    finish(server, job, evidence)
