"""`asyncflow completion`: the script that teaches a shell our commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "asyncflow"
VARIABLE = "_ASYNCFLOW_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that completes asyncflow's commands in SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this click knows no {shell}")
    root = context.find_root().command
    click.echo(kind(root, {}, PROGRAM, VARIABLE).source())
    return 0
