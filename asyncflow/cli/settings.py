"""`asyncflow settings`: every setting, its value, and who says so."""

import json
import os
from pathlib import Path

import click

from asyncflow.cli.flags import SettingsRefused
from asyncflow.cli.terminal import clean
from asyncflow.config import load
from asyncflow.errors import BadSettings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def settings(*, as_json: bool) -> int:
    """Show every setting, its value and where that comes from.

    Secrets are not shown.
    """
    try:
        shown = load({}, env=os.environ, cwd=Path.cwd()).show()
    except BadSettings as error:
        raise SettingsRefused(error.detail) from error
    if as_json:
        document = {
            one.name: {"value": one.value, "origin": one.origin} for one in shown
        }
        click.echo(json.dumps(document, indent=2))
        return 0
    names = max(len(one.name) for one in shown)
    values = max(len(one.value) for one in shown)
    for one in shown:
        line = f"{one.name:{names}}  {clean(one.value):{min(values, 30)}}  {one.origin}"
        click.echo(line)
    return 0
