"""`asyncflow download`: the files of a job into a folder."""

import asyncio
import re
from pathlib import Path

import click

from asyncflow.cli.connection import (
    Server,
    converse,
    in_words,
    server_at,
    server_options,
)
from asyncflow.cli.terminal import clean, name_of
from asyncflow.client import Client, RequestFailed, ServerUnreachable

# the server says the names: none of them may lead out of the folder, or hide in it
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", re.ASCII)


@click.command()
@click.argument("job_id", metavar="ID")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder to put them in.  [default: this one]",
)
@server_options
def download(
    *, job_id: str, names: tuple[str, ...], to: Path, url: str, token: str | None
) -> int:
    """Fetch the files of a job.

    Without a NAME, all of them. Each is called as the server calls it: `original`,
    `thumbnail`, … An interrupted download continues; a file that is there already is
    left alone. Ends with 1 if a file did not arrive.
    """
    server = server_at(url, token)
    return converse(lambda: _fetch_all(server, job_id, names, to))


async def _fetch_all(
    server: Server, job_id: str, names: tuple[str, ...], folder: Path
) -> int:
    failed = 0
    async with server.client(patient=True) as client:
        # says at once that nobody is there, instead of after all the patience
        await client.reach()
        # each once, in the order given
        wanted = tuple(dict.fromkeys(names))
        wanted = wanted or tuple((await client.status(job_id)).download_urls)
        if not wanted:
            raise click.ClickException("this job has no files (yet)")
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        for name in wanted:
            why = await _fetch(client, job_id, name, folder)
            if why is None:
                click.echo(clean(str(folder / name), keep_lines=False))
            else:
                failed += 1
                click.echo(f"{name_of(name)}: {clean(why)}", err=True)
    return 1 if failed else 0


async def _fetch(client: Client, job_id: str, name: str, folder: Path) -> str | None:
    """Fetch one file; return why that did not work, or None."""
    if _NAME.fullmatch(name) is None:
        return "this is no name of a file of a job"
    target = folder / name
    if await asyncio.to_thread(target.exists):
        return f"{target} exists already"
    try:
        await client.download(job_id, name, target)
    except ServerUnreachable:
        raise  # the other files would not fare better
    except (RequestFailed, OSError) as error:
        return in_words(error)
    return None
