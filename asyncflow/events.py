"""The events of the log: facts that happened, in the past tense.

Pure. Documented in docs/reference/events.md; a type that lacks its line there fails a
test. Brokers and listeners get ids only and read the rest from the server.
"""

from collections.abc import Mapping

#: event type -> what it says; `<consumer>.…` stands for one type per consumer
EVENT_TYPES: Mapping[str, str] = {
    "file.uploaded": "every byte of an upload is on stable storage",
    "file.accepted": "all gates said yes; ordinary consumers may start",
    "<consumer>.completed": "a step of this consumer succeeded",
    "<consumer>.skipped": "a step of this consumer had no tool to work with",
    "<consumer>.dead": "a step of this consumer failed for good",
    "job.retried": "a new run of the job began",
    "job.completed": "a run ended: every required step succeeded or was skipped",
    "job.failed": "a run ended: a required step is dead",
    "job.rejected": "a run ended: a gate said no",
    "job.cancelled": "a run ended: somebody cancelled it, or its upload ended",
}


def of_step(consumer: str, state: str) -> str:
    """Return the event type that says a step of *consumer* is over in *state*."""
    return f"{consumer}.{'completed' if state == 'done' else state}"
