"""`asyncflow jobs`, `retry` and `cancel`: the list of jobs, another try, an end."""

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
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line per job.")
@server_options
def jobs(
    *, state: str | None, limit: int, as_json: bool, url: str, token: str | None
) -> int:
    """List jobs, newest first."""
    server = server_at(url, token)
    found = converse(lambda: _collect(server, state, limit))
    for job in found:
        click.echo(msgspec.json.encode(job).decode() if as_json else _line(job))
    if not found and not as_json:
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


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line per job.")
@server_options
def retry(
    job_ids: tuple[str, ...], *, as_json: bool, url: str, token: str | None
) -> int:
    """Run the failed steps of jobs again."""
    server = server_at(url, token)
    return converse(lambda: _each(server, job_ids, Client.retry, as_json=as_json))


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line per job.")
@server_options
def cancel(
    job_ids: tuple[str, ...], *, as_json: bool, url: str, token: str | None
) -> int:
    """Close jobs; what succeeded stays, and what is over stays over."""
    server = server_at(url, token)
    return converse(lambda: _each(server, job_ids, Client.cancel, as_json=as_json))


async def _each(
    server: Server,
    job_ids: tuple[str, ...],
    ask: Callable[[Client, str], Awaitable[Job]],
    *,
    as_json: bool,
) -> int:
    failed = 0
    async with server.client() as client:
        for job_id in job_ids:
            try:
                job = await ask(client, job_id)
            except ServerUnreachable:
                raise
            except RequestFailed as error:
                failed += 1
                click.echo(f"{name_of(job_id)}: {clean(in_words(error))}", err=True)
                continue
            text = f"{job.job_id}  {job.status}"
            click.echo(msgspec.json.encode(job).decode() if as_json else text)
    return 1 if failed else 0
