"""A task to try things out with: it takes its time and says how far it is."""

import time

from asyncflow.processors.base import Task, task

SECONDS = 5.0
PARTS = 50


@task("sample-task")
def sample_task(work: Task) -> dict[str, object]:
    """Take five seconds, then return the payload."""
    began = time.monotonic()
    for part in range(PARTS):
        work.progress(100.0 * part / PARTS)
        time.sleep(SECONDS / PARTS)
    return {"echo": work.payload, "seconds": round(time.monotonic() - began, 2)}
