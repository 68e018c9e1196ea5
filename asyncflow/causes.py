"""What a stranger's function has raised, in a line and as a traceback of bounded size.

Pure. It is for the operator: an exception's message can hold anything, also the data of
other people, so whoever asks for a job hears only the exception's type.
"""

import traceback
from typing import Final

MAX_CAUSE: Final = 500
MAX_TRACE: Final = 16_000
#: what is kept with the attempt: the innermost calls stand last
MAX_KEPT: Final = 4_000
#: why Python finds the module that a function imports, and may not read it
_LATE_IMPORT: Final = (
    " (a worker reads only what its modules have loaded at its start, and their "
    "packages: import it at the top of the module, or make a package of both)"
)


def cause_of(error: BaseException) -> str:
    """Return the type and the message of *error* in one line."""
    try:
        message = str(error) + _hint(error)
    except Exception:  # noqa: BLE001 -- a stranger's __str__ may raise anything
        message = "its message cannot be read"
    kind = type(error).__name__
    return in_one_line(f"{kind}: {message}" if message else kind)


def _hint(error: BaseException) -> str:
    if isinstance(error, PermissionError) and str(error.filename).endswith(".py"):
        return _LATE_IMPORT
    return ""


def trace_of(error: BaseException) -> str:
    """Return the traceback of *error*, its end if it is long."""
    return "".join(traceback.format_exception(error))[-MAX_TRACE:]


def in_one_line(text: str) -> str:
    """Return *text* without line ends and control characters, cut if it is long."""
    line = " ".join(text.split())
    return "".join(one for one in line if one.isprintable())[:MAX_CAUSE]


def joined(detail: str, cause: str, trace: str) -> str:
    """Return the three as one text, from which `parted` takes them."""
    kept = trace if len(trace) <= MAX_KEPT else "…" + trace[-MAX_KEPT:]
    return "\n".join((in_one_line(detail), in_one_line(cause), kept)).rstrip("\n")


def parted(text: str) -> tuple[str, str, str]:
    """Return the detail, the cause and the traceback that *text* was joined from."""
    detail, _, rest = text.partition("\n")
    cause, _, trace = rest.partition("\n")
    return detail, cause, trace
