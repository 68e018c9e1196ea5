"""`asyncflow jobs`, `retry`, `cancel` and `delete`: a list, another try, an end."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing

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
from asyncflow.cli.terminal import clean, columns, name_of, shorten, size_text
from asyncflow.cli.values import WholeNumber
from asyncflow.client import Client, Job, RequestFailed, ServerUnreachable

_WIDTH_FOR_DATES = 100
STATES = (
    "UPLOADING",
    "PENDING",
    "PROCESSING",
    "COMPLETED",
    "FAILED",
    "REJECTED",
    "CANCELLED",
)


@click.command()
@click.option(
    "--state",
    type=click.Choice(STATES, case_sensitive=False),
    help="Only jobs in this state.",
)
@click.option(
    "--limit",
    type=WholeNumber(min=1),
    default=20,
    show_default=True,
    help="At most so many.",
)
@output_options(json="Print a JSON line per job.", quiet="Print only the jobs' ids.")
@server_options
def jobs(
    *,
    state: str | None,
    limit: int,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """List jobs, newest first."""
    server = server_at(url, token)
    output = Output(as_json=as_json, quiet=quiet)
    found = converse(lambda: _collect(server, state, limit))
    for job in found:
        output.tell(job, _line(job), brief=name_of(job.job_id))
    if not found and not as_json and not quiet:
        click.echo("No jobs." if state is None else f"No jobs are {state}.", err=True)
    return 0


async def _collect(server: Server, state: str | None, limit: int) -> list[Job]:
    found: list[Job] = []
    page = min(limit, 100)
    async with (
        server.client() as client,
        aclosing(client.jobs(state=state, page=page)) as every,
    ):
        async for job in every:
            found.append(job)
            if len(found) == limit:
                break
    return found


def _line(job: Job) -> str:
    size = "" if job.file_size is None else size_text(job.file_size)
    when = clean((job.created_at or "")[:19].replace("T", " "))
    name = name_of(job.file_name)
    start = f"{job.job_id}  {job.status:10}  "
    if not sys.stdout.isatty():
        return f"{start}{when:19}  {size:>10}  {name}"
    if columns() >= _WIDTH_FOR_DATES:
        start += f"{when:19}  "
    start += f"{size:>10}  "
    return start + shorten(name, max(12, columns() - len(start)))


_ids = click.argument("job_ids", nargs=-1, required=True, metavar="ID…")
_output = output_options(
    json="Print a JSON line per job.", quiet="Print nothing but errors."
)


class Deleted(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A job that is no more."""

    job_id: str
    deleted: bool = True


@click.command()
@_ids
@_output
@server_options
def retry(
    job_ids: tuple[str, ...], *, as_json: bool, quiet: bool, url: str, token: str | None
) -> int:
    """Run the failed steps of jobs again."""
    output = Output(as_json=as_json, quiet=quiet)
    return _each(server_at(url, token), job_ids, Client.retry, output)


@click.command()
@_ids
@_output
@server_options
def cancel(
    job_ids: tuple[str, ...], *, as_json: bool, quiet: bool, url: str, token: str | None
) -> int:
    """Close jobs; what succeeded stays, and what is over stays over."""
    output = Output(as_json=as_json, quiet=quiet)
    return _each(server_at(url, token), job_ids, Client.cancel, output)


@click.command()
@_ids
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether you are sure.")
@_output
@server_options
def delete(
    job_ids: tuple[str, ...],
    *,
    yes: bool,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Remove jobs with all their files, for ever."""
    if not yes:
        _make_sure(len(job_ids))
    output = Output(as_json=as_json, quiet=quiet)
    return _each(server_at(url, token), job_ids, _delete, output)


def _make_sure(count: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes to delete")
    what = "this job and all its" if count == 1 else f"{count} jobs and all their"
    click.confirm(f"Delete {what} files?", abort=True, err=True)


async def _delete(client: Client, job_id: str) -> Deleted:
    await client.delete(job_id)
    return Deleted(job_id=job_id)


def _each(
    server: Server,
    job_ids: tuple[str, ...],
    ask: Callable[[Client, str], Awaitable[Job | Deleted]],
    output: Output,
) -> int:
    """Do something to each job; one that is refused does not stop the others."""

    async def all_of_them() -> int:
        failed = 0
        async with server.client() as client:
            for job_id in job_ids:
                try:
                    found = await ask(client, job_id)
                except ServerUnreachable:
                    raise
                except RequestFailed as error:
                    failed += 1
                    click.echo(f"{name_of(job_id)}: {clean(in_words(error))}", err=True)
                    continue
                state = found.status if isinstance(found, Job) else "deleted"
                output.tell(found, f"{name_of(found.job_id)}  {clean(state)}")
        return 1 if failed else 0

    return converse(all_of_them)
