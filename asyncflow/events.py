"""The events of the log: facts that happened, in the past tense.

Pure. Documented in docs/reference/events.md; a type that lacks its line there fails a
test. Brokers and listeners get ids only and read the rest from the server.
"""

import re
from collections.abc import Iterable, Mapping

#: event type -> what it says; `<consumer>.…` stands for one type per consumer
EVENT_TYPES: Mapping[str, str] = {
    "file.uploaded": "every byte of an upload is on stable storage",
    "file.accepted": "all gates said yes; ordinary consumers may start",
    "task.submitted": "a task was given to the server",
    "<consumer>.completed": "a step of this consumer succeeded",
    "<consumer>.skipped": "a step of this consumer had no tool to work with",
    "<consumer>.dead": "a step of this consumer failed for good",
    "<consumer>.cancelled": "somebody cancelled a step of this consumer",
    "job.replayed": "a consumer was given the job once more, beside its runs",
    "job.retried": "a new run of the job began",
    "alert.raised": "the server sees something that its operator should look at",
    "alert.cleared": "what the server had seen is over",
    "job.completed": "a run ended: every required step succeeded or was skipped",
    "job.failed": "a run ended: a required step is dead",
    "job.rejected": "a run ended: a gate said no",
    "job.cancelled": "a run ended: somebody cancelled it, or a step that it needs,"
    " or its upload ended",
}


#: first parts of type names that application events may not have
RESERVED = frozenset({"file", "task", "job", "alert"})

_WORD = r"[a-z0-9][a-z0-9_-]{0,39}"
_APPLICATION_TYPE = re.compile(rf"{_WORD}(\.{_WORD}){{1,4}}")


def is_application_type(kind: str, consumers: Iterable[str]) -> bool:
    """Tell whether an application may publish events of type *kind*.

    Its first part is neither ours nor the name of one of *consumers*.
    """
    first = kind.partition(".")[0]
    return (
        _APPLICATION_TYPE.fullmatch(kind) is not None
        and first not in RESERVED
        and first not in set(consumers)
    )


def of_step(consumer: str, state: str) -> str:
    """Return the event type that says a step of *consumer* is over in *state*."""
    return f"{consumer}.{'completed' if state == 'done' else state}"
