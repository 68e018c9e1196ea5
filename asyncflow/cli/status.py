"""`asyncflow status`: one job, once or until it ends."""

from datetime import UTC, datetime

import click
import msgspec

from asyncflow.cli.app import INTERRUPTED
from asyncflow.cli.connection import Server, converse, server_at, server_options
from asyncflow.cli.gaps import gaps
from asyncflow.cli.output import Output, output_options
from asyncflow.cli.progress import reporter
from asyncflow.cli.terminal import clean, name_of, size_text, time_text
from asyncflow.client import Client, Job, Step


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Follow the job until it ends.")
@output_options(
    json="Print one JSON document; with --watch, a JSON line per change.",
    quiet="Print only the job's state; with --watch, once it has ended.",
)
@server_options
def status(
    job_id: str, *, watch: bool, as_json: bool, quiet: bool, url: str, token: str | None
) -> int:
    """Show one job.

    With --watch, ends with 0 if the job ended as COMPLETED.
    """
    server = server_at(url, token)
    output = Output(as_json=as_json, quiet=quiet)
    try:
        if watch:
            return converse(lambda: _watch(server, job_id, output))
        return converse(lambda: _show(server, job_id, output))
    except KeyboardInterrupt:
        again = f"asyncflow status {name_of(job_id)} --watch"
        click.echo(f"Interrupted; the job goes on. Watch it again: {again}", err=True)
        return INTERRUPTED


async def _show(server: Server, job_id: str, output: Output) -> int:
    async with server.client() as client:
        job = await client.status(job_id)
        output.document(job, job_text(client, job), brief=clean(job.status))
    return 0


async def _watch(server: Server, job_id: str, output: Output) -> int:
    async with server.client(patient=True) as client:
        await client.reach()
        with reporter(quiet=output.as_json or output.quiet) as report:
            job: Job | None = None
            async for update in client.watch(job_id):
                job = update.job
                report.working(job.file_name or job_id, job)
                if output.as_json:
                    report.result(msgspec.json.encode(update).decode())
            if job is not None:
                report.done(job.file_name or job_id)
                if output.quiet and not output.as_json:
                    report.result(clean(job.status))
                elif not output.as_json:
                    report.result(job_text(client, job))
    return 0 if job is not None and job.status == "COMPLETED" else 1


def job_text(client: Client, job: Job, *, inline: bool = False) -> str:
    """Say all that a person wants to know of *job*.

    With *inline*, the addresses are those that a browser shows instead of saving.
    """
    size = "" if job.file_size is None else f"  {size_text(job.file_size)}"
    kind = f"  {clean(job.media_type)}" if job.media_type else ""
    lines = [f"{name_of(job.file_name or job.job_id)}{size}{kind}", _state_line(job)]
    if job.error is not None:
        lines.append(f"  {clean(job.error.detail)} ({clean(job.error.code)})")
    width = max((len(step.name) for step in job.steps), default=0)
    lines += [_step_line(step, width) for step in job.steps]
    lines += [f"  {gap}" for gap in gaps(job)]
    width = max((len(name) for name in job.download_urls), default=0)
    end = "?inline=1" if inline else ""
    lines += [
        f"  {clean(name):{width}}  {clean(client.address_of(reference))}{end}"
        for name, reference in job.download_urls.items()
    ]
    return "\n".join(lines)


def _state_line(job: Job) -> str:
    text = f"{job.status}"
    if job.status == "UPLOADING" and job.file_size:
        return f"{text}  {100 * (job.uploaded_bytes or 0) / job.file_size:.0f} %"
    if not job.is_final:
        text += f"  {job.progress:.0f} %"
        if job.estimated_time_remaining:
            text += f"  about {time_text(job.estimated_time_remaining)} left"
    return text


def _step_line(step: Step, width: int) -> str:
    line = f"  {clean(step.name):{width}}  {clean(step.status)}"
    if step.status == "running":
        line += f"  {step.progress:.0f} %"
    took = _seconds_between(step.started_at, step.finished_at)
    if took is not None:
        line += f"  {time_text(took)}"
    if step.attempts > 1:
        line += f"  {step.attempts} attempts"
    if step.error is not None:
        line += f"  {clean(step.error.detail)} ({clean(step.error.code)})"
    return line


def _seconds_between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    try:
        took = _moment(end) - _moment(start)
    except ValueError:
        return None
    return max(0.0, took.total_seconds())


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
