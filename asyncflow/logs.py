"""Set up the log: events with facts, for people or as JSON lines.

Rules
-----
- No secret is ever written: the ones that are known, and what looks like one, are
  replaced in the finished line, tracebacks included.
- What libraries log becomes an event of ours (`library.log`), so that every line of a
  JSON log is JSON.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Final

import structlog

HIDDEN: Final = "***"

#: a word that is cheap to look for -> what comes before a secret, and the secret, which
#: ends no string of JSON
_SECRETS: Final = {
    # a token in a header, wherever it is quoted
    "bearer": re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]+"),
    "authorization": re.compile(
        r"(?i)(\bauthorization\b[\"'\\]*\s*[:=]\s*[\"'\\]*)[^\"'\\,\r\n]+"
    ),
    # in a query, or in a form
    "token=": re.compile(r"(?i)(token=)[^&;\s\"'\\]+"),
    # the name and the password in an address
    "://": re.compile(r"(://)[^/@\s\"'\\]+(?=@)"),
}

#: the secrets of this server
_known: list[str] = []


def wants_json(log_format: str) -> bool:
    """Tell the form of the log; `auto` is for people on a terminal, else JSON."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def configure(*, level: str, as_json: bool, secrets: Iterable[str] = ()) -> None:
    """Send log events of at least *level* to standard error, without *secrets*."""
    conceal(secrets)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if as_json:
        # Without local variables: there are names, tokens and whole requests in them.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    else:
        # Plain tracebacks, for the same reason.
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    structlog.configure(
        processors=[*shared, *last, _hide],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=_Lines,
    )


class _Lines:
    """Writes lines to standard error; one that cannot be written is lost.

    Nothing that is done may fail, and no answer be held back, because the disk of the
    log is full or its reader has gone. Nor may such lines pile up in a buffer.
    """

    def __init__(self, *_args: object) -> None:
        self._file = sys.stderr

    def msg(self, message: str) -> None:
        """Write *message*, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            line = f"{message}\n".encode(errors="backslashreplace")
            os.write(self._file.fileno(), line)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def adopt_libraries() -> None:
    """Make the warnings and errors of all libraries events of ours.

    For a program that is only a server: inside another one, that one decides.
    """
    root = logging.getLogger()
    root.handlers = [_Adopted()]
    # below that libraries name files and addresses
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _Adopted(logging.Handler):
    """Passes what the standard library's logging gets on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        tell(
            "library.log",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info or None,
        )


def request_of_now() -> str:
    """Return the name that the request which is answered now has in the log, or ""."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def conceal(secrets: Iterable[str]) -> None:
    """Never let *secrets* be written, nor stored with a failure."""
    for one in secrets:
        # as it is, and as it stands in JSON
        new = {one, json.dumps(one)[1:-1]} - {"", *_known}
        _known.extend(new)


def hidden(text: str) -> str:
    """Return *text* without secrets: those that are known, and what looks like one."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    lower = text.lower()
    for word, pattern in _SECRETS.items():
        if word in lower:
            text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def _hide(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.ProcessorReturnValue:
    """Take secrets out of a finished line; the renderer before us made it a string."""
    return hidden(str(line))
