"""What a check finds out, as a value that can be shown or sent."""

from typing import Literal

import msgspec

Level = Literal["ok", "warn", "missing", "stop"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `asyncflow doctor`.

    `ok`: fine. `warn`: works, but not as well as it could. `missing`: an optional part
    is not there, its steps are skipped. `stop`: the server would not start or not work.
    `hint` says what to do about it.
    """

    name: str
    level: Level
    text: str
    hint: str = ""


def ok(name: str, text: str) -> Finding:
    """Return a finding that needs nobody's attention."""
    return Finding(name=name, level="ok", text=text)


def warn(name: str, text: str, hint: str) -> Finding:
    """Return a finding somebody should look at one day."""
    return Finding(name=name, level="warn", text=text, hint=hint)


def missing(name: str, text: str, hint: str) -> Finding:
    """Return a finding about an optional part that is not there."""
    return Finding(name=name, level="missing", text=text, hint=hint)


def stop(name: str, text: str, hint: str) -> Finding:
    """Return a finding that keeps the server from working."""
    return Finding(name=name, level="stop", text=text, hint=hint)
