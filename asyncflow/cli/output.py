"""How a command prints its results: for people, for programs, or as briefly as it can.

Rules
-----
- Without a flag a result is a line, or a few, for a person.
- With `--json` it is JSON and nothing else comes to the standard output.
- With `--quiet` it is the one word that another command takes, or nothing.
- With both it is JSON, and nothing beside it.
- What went wrong is said on the standard error, whatever the flags.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The form that somebody asked for."""

    as_json: bool
    quiet: bool

    def tell(self, result: object, text: str, *, brief: str | None = None) -> None:
        """Print one result: as JSON, as *text*, or as *brief* if there is one."""
        if self.as_json:
            click.echo(msgspec.json.encode(result).decode())
        elif not self.quiet:
            click.echo(text)
        elif brief is not None:
            click.echo(brief)

    def document(self, result: object, text: str, *, brief: str | None = None) -> None:
        """Print the only result of a command; JSON of it is laid out for reading."""
        if self.as_json:
            encoded = msgspec.json.encode(result)
            click.echo(msgspec.json.format(encoded, indent=2).decode())
        else:
            self.tell(result, text, brief=brief)


def output_options(*, json: str, quiet: str) -> Callable[[F], F]:
    """Add `--json` and `--quiet` to a command; *json* and *quiet* explain them."""
    as_json = click.option("--json", "as_json", is_flag=True, help=json)
    briefly = click.option("-q", "--quiet", is_flag=True, help=quiet)

    def add(command: F) -> F:
        return as_json(briefly(command))

    return add
