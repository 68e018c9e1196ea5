"""A server that may begin no thread: it refuses, and recovers by itself."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess
from tests.web.live import code_of

#: the limit does not hold for root: somebody else, who may read the same files
NOBODY = 61237
PLAIN = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)
WRAP = PLAIN if os.geteuid() == 0 else ()
#: more than what is taken up by the server itself before its store looks at it
LARGE = probe.text(parts=1) + b" " * 300_000


def nproc(server: ServerProcess, most: str) -> None:
    """Set how many threads the server's user may have."""
    command = [*WRAP, "prlimit", f"--pid={server.pid}", f"--nproc={most}:"]
    subprocess.run(command, check=True)


@contextlib.contextmanager
def no_thread_more(server: ServerProcess) -> Iterator[None]:
    """Let the server begin no thread."""
    command = [*WRAP, "prlimit", f"--pid={server.pid}", "--nproc"]
    command += ["--output=SOFT", "--noheadings"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    nproc(server, "1")
    try:
        yield
    finally:
        if server.process is not None and server.process.poll() is None:
            nproc(server, found.stdout.strip())


def put(server: ServerProcess) -> tuple[int, str, bool]:
    """Send a file; tell what came of it, and whether it may come again later."""
    answer = server.request("PUT", "/upload/a.txt", LARGE, timeout=10)
    code = "" if answer.status == 202 else code_of(answer)
    return answer.status, code, "retry-after" in answer.headers


def test_uploads_are_refused_while_no_thread_can_be_begun_and_taken_afterwards(
    make: Make,
) -> None:
    server = make(wrap=WRAP, workers_min="1")
    with no_thread_more(server):
        while_limited = {put(server) for _ in range(20)}

    assert while_limited == {(503, "busy", True)}
    job = server.upload("b.txt", LARGE)
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.stop() == 0


def test_the_threads_that_there_are_do_the_work_of_those_that_cannot_be_begun(
    make: Make,
) -> None:
    server = make(wrap=WRAP, workers_min="1")
    assert put(server)[0] == 202
    with no_thread_more(server), ThreadPoolExecutor(8) as senders:
        found = set(senders.map(lambda _n: put(server)[0], range(24)))

    assert found == {202}


def test_a_result_that_no_thread_can_store_is_charged_to_nobody(
    make: Make, evidence: Evidence
) -> None:
    server = make(wrap=WRAP, workers_min="1", processors="tests.tasks.work_to_do")
    said = {"name": "report-soon", "payload": {"title": "a"}}
    answer = server.request("POST", "/tasks", json.dumps(said).encode())
    assert answer.status == 202
    job = answer.json["taskId"]
    watch.until_working(server, job, "report-soon")
    with no_thread_more(server):
        watch.until(lambda: evidence.ask("SELECT code FROM attempt"))

    assert server.finished(job)["status"] == "COMPLETED"
    assert set(evidence.ask("SELECT code FROM attempt")) == {("try_later",)}
    assert server.stop() == 0


def test_a_server_stops_cleanly_where_no_thread_can_be_begun(make: Make) -> None:
    server = make(wrap=WRAP, workers_min="1")
    with no_thread_more(server):
        assert put(server)[0] == 503
        assert server.stop() == 0

    assert "Traceback" not in server.log()
