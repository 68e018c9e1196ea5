"""The root of the command line: names the commands, loads one only when it is used.

Rules
-----
- This module imports click and nothing heavier: `asyncflow --help` must feel instant.
- Exit codes: 0 done, 1 it failed, 2 the command or a setting is wrong, 130 Ctrl-C.
- Nobody sees a traceback for a failure that could be foreseen.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper

import click

import asyncflow
from asyncflow.cli.terminal import clean

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a command lives, and its line in the root help."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "backup": Entry(
        module="asyncflow.cli.backup",
        attribute="backup",
        help="Copy all that a server keeps to the new folder DEST, also while it runs.",
    ),
    "cancel": Entry(
        module="asyncflow.cli.jobs",
        attribute="cancel",
        help="Close jobs; what succeeded stays, and what is over stays over.",
    ),
    "consumers": Entry(
        module="asyncflow.cli.consumers",
        attribute="consumers",
        help="Show what each consumer does, and how far behind it is.",
    ),
    "completion": Entry(
        module="asyncflow.cli.completion",
        attribute="completion",
        help="Print the script that completes asyncflow's commands in SHELL.",
    ),
    "delete": Entry(
        module="asyncflow.cli.jobs",
        attribute="delete",
        help="Remove jobs with all their files, for ever.",
    ),
    "demo": Entry(
        module="asyncflow.cli.demo",
        attribute="demo",
        help="Start a server, upload a picture and a scan, watch them being processed.",
    ),
    "doctor": Entry(
        module="asyncflow.cli.doctor",
        attribute="doctor",
        help="Check this machine and say what to fix.",
    ),
    "download": Entry(
        module="asyncflow.cli.download",
        attribute="download",
        help="Fetch the files of jobs.",
    ),
    "forget": Entry(
        module="asyncflow.cli.consumers",
        attribute="forget",
        help="Forget which other servers have consumers: those that are gone for good.",
    ),
    "health": Entry(
        module="asyncflow.cli.health",
        attribute="health",
        help="Ask the server on this machine whether it is ready; end with 1 if it is"
        " not.",
    ),
    "jobs": Entry(
        module="asyncflow.cli.jobs",
        attribute="jobs",
        help="List jobs, newest first.",
    ),
    "pause": Entry(
        module="asyncflow.cli.consumers",
        attribute="pause",
        help="Let consumers begin no more steps, also after a restart of the server.",
    ),
    "replay": Entry(
        module="asyncflow.cli.consumers",
        attribute="replay",
        help="Give a consumer old events once more, beside the runs of their jobs.",
    ),
    "resume": Entry(
        module="asyncflow.cli.consumers",
        attribute="resume",
        help="Let paused consumers go on.",
    ),
    "restore": Entry(
        module="asyncflow.cli.backup",
        attribute="restore",
        help="Make a new data folder from the backup SOURCE.",
    ),
    "retry": Entry(
        module="asyncflow.cli.jobs",
        attribute="retry",
        help="Run the failed steps of jobs again.",
    ),
    "serve": Entry(
        module="asyncflow.cli.serve",
        attribute="serve",
        help="Start the server.",
    ),
    "settings": Entry(
        module="asyncflow.cli.settings",
        attribute="settings",
        help="Show every setting, its value and where that comes from.",
    ),
    "status": Entry(
        module="asyncflow.cli.status",
        attribute="status",
        help="Show one job.",
    ),
    "upload": Entry(
        module="asyncflow.cli.upload",
        attribute="upload",
        help="Upload files; an interrupted upload continues.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 -- click's signature
    ) -> list[str]:
        """Name every command."""
        return sorted(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 -- click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import the command called *cmd_name*."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(entry.module), entry.attribute)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 -- click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            lines = [(name, COMMANDS[name].help) for name in sorted(COMMANDS)]
            formatter.write_dl(lines)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(asyncflow.__version__, prog_name="asyncflow")
@click.pass_context
def app(context: click.Context) -> None:
    """Take in large files resumably and process them in the background.

    Start with: asyncflow demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on *argv* (default: our own); return the exit code."""
    _stand_in_for_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # a terminal that does not know a letter gets its number, not a traceback
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        outcome = app.main(arguments, prog_name="asyncflow", standalone_mode=False)
    except click.ClickException as error:
        _complain(error)
        return error.exit_code
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read what we say has gone: the last flush must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(click.ClickException(f"{where}{error.strerror or error}"))
        return 1
    return outcome if isinstance(outcome, int) else 0


def _stand_in_for_what_is_closed() -> None:
    """Open something in the place of each standard stream that is closed.

    Else the next file or socket would take that place, and what is printed would go
    into it. What is written is lost; to read is an error.
    """
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR if place else os.O_WRONLY)
        if opened != place:
            os.dup2(opened, place)
            os.close(opened)
        setattr(sys, name, os.fdopen(place, "w" if place else "r", encoding="utf-8"))


def _complain(error: click.ClickException) -> None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    click.echo(f"Error: {clean(error.format_message())}", err=True)
