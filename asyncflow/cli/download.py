"""`asyncflow download`: the files of jobs into a folder."""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

from asyncflow.cli.connection import (
    Server,
    converse,
    in_words,
    server_at,
    server_options,
)
from asyncflow.cli.output import Output, output_options
from asyncflow.cli.terminal import clean, name_of
from asyncflow.client import Client, RequestFailed, ServerUnreachable
from asyncflow.naming import fitted, longest_in, parted


class Fetched(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file that arrived; a line of `--json`."""

    job_id: str
    name: str
    path: str


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="ID…")
@click.option(
    "--only",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this file of each job, such as original or text; may be repeated.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder to put them in.  [default: this one]",
)
@output_options(json="Print a JSON line per file.", quiet="Print nothing but errors.")
@server_options
def download(
    *,
    job_ids: tuple[str, ...],
    names: tuple[str, ...],
    to: Path,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Fetch the files of jobs.

    They are called as in a browser, after the file that was uploaded: `photo.jpg`,
    `photo-thumbnail.webp`, … An interrupted download continues; a file that is there
    already is left alone. Ends with 1 if a file did not arrive.
    """
    server = server_at(url, token)
    output = Output(as_json=as_json, quiet=quiet)
    # each once, in the order given
    wanted = tuple(dict.fromkeys(names))
    return converse(
        lambda: _fetch_all(server, dict.fromkeys(job_ids), wanted, to, output)
    )


async def _fetch_all(
    server: Server,
    job_ids: dict[str, None],
    names: tuple[str, ...],
    folder: Path,
    output: Output,
) -> int:
    async with server.client(patient=True) as client:
        # says at once that nobody is there, instead of after all the patience
        await client.reach()
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        most = await asyncio.to_thread(longest_in, folder)
        fetching = _Fetching(client=client, folder=folder, output=output, most=most)
        for job_id in job_ids:
            await fetching.job(job_id, names)
    return 1 if fetching.failed else 0


@dataclass(slots=True, kw_only=True)
class _Fetching:
    """The files of one command on their way."""

    client: Client
    folder: Path
    output: Output
    #: the bytes of a name that the folder takes
    most: int
    failed: int = 0
    _taken: set[str] = field(default_factory=set)

    async def job(self, job_id: str, names: tuple[str, ...]) -> None:
        """Fetch the files of one job: those named, or all."""
        try:
            wanted = names or tuple((await self.client.status(job_id)).download_urls)
        except ServerUnreachable:
            raise  # the other jobs would not fare better
        except RequestFailed as error:
            self._complain(job_id, in_words(error))
            return
        if not wanted:
            self._complain(job_id, "this job has no files (yet)")
        for name in wanted:
            try:
                await self._file(job_id, name)
            except ServerUnreachable:
                raise
            except (RequestFailed, OSError) as error:
                self._complain(f"{job_id} {name}", in_words(error))

    async def _file(self, job_id: str, name: str) -> None:
        told = await self.client.file_name(job_id, name)
        target = self.folder / self._free(_harmless(told or name))
        # a link that leads nowhere is there, too
        if await asyncio.to_thread(os.path.lexists, target):
            self._complain(f"{job_id} {name}", f"{target} exists already")
            return
        await self.client.download(job_id, name, target)
        shown = str(target).encode("utf-8", "backslashreplace").decode()
        self.output.tell(
            Fetched(job_id=job_id, name=name, path=shown),
            clean(str(target), keep_lines=False),
        )

    def _free(self, name: str) -> str:
        """Return *name*, or one like it if another file of this command has it."""
        (stem, suffix), number = parted(name), 1
        free = fitted(stem, suffix, most=self.most)
        while free in self._taken:
            number += 1
            free = fitted(stem, f"-{number}{suffix}", most=self.most)
        self._taken.add(free)
        return free

    def _complain(self, what: str, why: str) -> None:
        self.failed += 1
        click.echo(f"{name_of(what)}: {clean(why)}", err=True)


def _harmless(name: str) -> str:
    """Return *name* so that it neither leads out of the folder nor hides in it."""
    shown = "".join("_" if char in "/\\:\0" else char for char in name)
    bare = shown.lstrip(".")
    return "_" * (len(shown) - len(bare)) + bare if bare else "file"
