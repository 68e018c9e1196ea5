"""What is said of an attempt at its end, in the worker as well as on the loop.

Whatever a function returns or raises becomes a report, and every report becomes JSON
of a bounded size; who reads it (`parcels`, `runs`) trusts it no more than that.

Rules
-----
- Nothing that a stranger's object does while it is looked at leaves this module: what
  cannot be said is an ended attempt too.
- A worker loads this: no server code is imported here.
"""

import json
from collections.abc import Mapping
from typing import Final

from asyncflow.causes import MAX_TRACE, cause_of, trace_of
from asyncflow.errors import BadFile, Skip, TryLater
from asyncflow.jobs import REASONS, Verdict
from asyncflow.nesting import MOST_LEVELS, is_too_deep

#: a report beyond this is the function's fault
MAX_BYTES: Final = 1 << 20
#: levels of a report around what a function has returned
OUTSIDE: Final = 2

#: text as it is, so that what is no text is found here
_write: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def of_facts(facts: object) -> dict[str, object]:
    """Return the report of an attempt that has found *facts*."""
    if not isinstance(facts, Mapping):
        return unfit(f"the facts are a {type(facts).__name__}, not a mapping")
    return {"verdict": Verdict.DONE, "facts": dict(facts)}


def of_error(error: BaseException) -> dict[str, object]:
    """Return the report of an attempt that ended by *error*, of whatever kind."""
    try:
        return _said_by(error)
    except BaseException as worse:  # noqa: BLE001 -- the error itself cannot be looked at
        return _failure(Verdict.ERROR, "error", worse)


def _said_by(error: BaseException) -> dict[str, object]:
    match error:
        case BadFile():
            if not isinstance(error.reason, str):
                kind = type(error.reason).__name__
                return unfit(f"the reason of a BadFile is a {kind}, not a string")
            return _plain(Verdict.BAD_FILE, error.reason, error.detail)
        case TryLater():
            later = _plain(Verdict.TRY_LATER, "try_later", error.detail)
            return {**later, "after_s": float(error.after_s)}
        case Skip():
            if not isinstance(error.reason, str):
                kind = type(error.reason).__name__
                return unfit(f"the reason of a Skip is a {kind}, not a string")
            return _plain(Verdict.SKIPPED, error.reason, error.detail)
        case MemoryError():
            return _failure(Verdict.LOST, "out_of_memory", error)
        case _:
            return _failure(Verdict.ERROR, "error", error)


def unfit(why: str, cause: str = "") -> dict[str, object]:
    """Return the report of an attempt that gave back what it may not."""
    return {**_plain(Verdict.BAD_OUTPUT, "bad_output", why), "cause": _text(cause)}


def _plain(verdict: Verdict, code: str, detail: str) -> dict[str, object]:
    return {"verdict": verdict, "code": _text(code), "detail": _text(detail)}


def _failure(verdict: Verdict, code: str, error: BaseException) -> dict[str, object]:
    kind = "" if isinstance(error, MemoryError) else f" ({type(error).__name__})"
    said = _plain(verdict, code, REASONS[code] + kind)
    return {**said, "cause": _text(cause_of(error)), "trace": _text(trace_of(error))}


def _text(text: str) -> str:
    """Return *text*, no longer than anybody reads, so that it can be written."""
    return text[:MAX_TRACE].encode(errors="backslashreplace").decode()


def encode(report: Mapping[str, object]) -> bytes:
    """Return *report* as JSON; of facts that cannot be stored, it says just that."""
    try:
        data = _write(report).encode()
    except Exception as error:  # noqa: BLE001 -- a stranger's object may raise anything
        return _instead(report, "the result is not JSON", cause_of(error))
    if len(data) > MAX_BYTES:
        return _instead(report, f"the result is larger than {MAX_BYTES} B")
    if is_too_deep(data, outside=OUTSIDE):
        return _instead(report, f"the result has more than {MOST_LEVELS} levels")
    return data


def _instead(report: Mapping[str, object], why: str, cause: str = "") -> bytes:
    return json.dumps({"token": report.get("token", 0), **unfit(why, cause)}).encode()
