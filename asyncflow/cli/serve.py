"""`asyncflow serve`: settings from flags, then the server until it is told to stop."""

import errno
import os
import socket
import sys
from pathlib import Path

import click

from asyncflow.cli.flags import ADDRESS_IN_USE, SettingsRefused, given, setting_flags
from asyncflow.config import load
from asyncflow.errors import AsyncflowError, BadSettings


@click.command(params=setting_flags())
def serve(**values: object) -> int:
    """Start the server.

    Every flag can also be an environment variable, a line of `.env` or of
    `asyncflow.toml`; see `asyncflow settings`. Stop it with Ctrl-C: it finishes what
    it can within the grace period, and the next start continues the rest.
    """
    try:
        settings = load(given(values), env=os.environ, cwd=Path.cwd())
    except BadSettings as error:
        raise SettingsRefused(error.detail) from error
    _load_structlog_alone()
    from asyncflow.server import run  # noqa: PLC0415 -- it loads structlog

    try:
        return run(settings)
    except BadSettings as error:
        raise SettingsRefused(error.detail) from error
    except AsyncflowError as error:
        raise click.ClickException(error.detail) from error
    except socket.gaierror as error:
        where = f"host {settings.host!r} names no address of this machine"
        raise click.ClickException(f"{where}: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(ADDRESS_IN_USE) from error
        raise click.ClickException(_in_words(error)) from error


def _load_structlog_alone() -> None:
    """Load structlog without rich, which it takes for its own tracebacks if it can.

    Ours are plain, so the server would keep four MiB that nothing uses. A module whose
    place is taken by None cannot be imported (the Python reference, section 5.3.1).
    """
    is_free = "rich" not in sys.modules
    if is_free:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401, PLC0415
    finally:
        if is_free:
            del sys.modules["rich"]


def _in_words(error: OSError) -> str:
    """Return what the system refused, without its numbers."""
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}"
