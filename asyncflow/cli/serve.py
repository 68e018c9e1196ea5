"""`asyncflow serve`: settings from flags, then the server until it is told to stop."""

import errno
import os
from pathlib import Path

import click

from asyncflow import server
from asyncflow.cli.flags import given, setting_flags
from asyncflow.config import load
from asyncflow.errors import BadSettings, StartError


@click.command(params=setting_flags())
def serve(**values: object) -> int:
    """Start the server.

    Every flag can also be an environment variable, a line of `.env` or of
    `asyncflow.toml`; see `asyncflow settings`. Stop it with Ctrl-C: it finishes what
    it can within the grace period, and the next start continues the rest.
    """
    try:
        settings = load(given(values), env=os.environ, cwd=Path.cwd())
        return server.run(settings)
    except BadSettings as error:
        raise _refusal(error.detail, exit_code=2) from error
    except StartError as error:
        raise _refusal(error.detail) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            detail = "the address is in use: choose another with --port"
            raise _refusal(detail) from error
        raise _refusal(str(error)) from error


def _refusal(detail: str, *, exit_code: int = 1) -> click.ClickException:
    refusal = click.ClickException(detail)
    refusal.exit_code = exit_code
    return refusal
