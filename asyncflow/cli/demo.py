"""`asyncflow demo`: a server, a picture, a scan, and what becomes of them."""

import asyncio
import mimetypes
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from asyncflow.cli.app import INTERRUPTED
from asyncflow.cli.child import Child, NotReady, ServerDied, as_typed, free_port
from asyncflow.cli.connection import Server, in_words, server_at
from asyncflow.cli.picture import paint
from asyncflow.cli.progress import STEP_OVER, reporter
from asyncflow.cli.scan import type_letter
from asyncflow.cli.status import job_text
from asyncflow.cli.terminal import name_of, size_text, time_text
from asyncflow.cli.values import WholeNumber
from asyncflow.client import Client, Job, RequestFailed, Update

_PICTURE = "valley-at-dawn.jpg"
_SCAN = "spring-report.pdf"
_LINES = 6  # of the text that was read, as a taste of it
_STARTS = 3  # a free port may be taken by somebody else before the server has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the person asked for."""

    port: int
    data_dir: Path
    file: Path | None
    leave: bool


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Stop the server at the end.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    help="Upload this file instead of the picture and the scan.",
)
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    default=8080,
    show_default=True,
    help="The server's port; another one is taken if it is in use.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo"),
    show_default=True,
    help="Where the server keeps everything.",
)
def demo(*, leave: bool, file: Path | None, port: int, data_dir: Path) -> int:
    """Start a server, upload a picture and a scan, watch them being processed.

    The server runs until Ctrl-C, so that you can try more.
    """
    wishes = Wishes(port=port, data_dir=data_dir, file=file, leave=leave)
    try:
        return asyncio.run(_run(wishes))
    except BrokenPipeError:
        raise  # whoever reads what we say has gone, and all is stopped
    except (ServerDied, NotReady, RequestFailed, OSError) as error:
        raise click.ClickException(in_words(error)) from None


async def _run(wishes: Wishes) -> int:
    finished = asyncio.Event()
    with _cancelled_once_by_signals():
        try:
            return await _perform(wishes, finished)
        except asyncio.CancelledError:
            # only a signal cancels: after the end of the play that is a plain goodbye
            return 0 if finished.is_set() else INTERRUPTED


@contextmanager
def _cancelled_once_by_signals() -> Iterator[None]:
    """Cancel this task at the first signal; later ones must not hinder the clean-up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    told = False

    def cancel() -> None:
        nonlocal told
        if not told and task is not None:
            told = True
            task.cancel()

    for number in signals:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _perform(wishes: Wishes, finished: asyncio.Event) -> int:
    async with _server(wishes) as child:
        server = server_at(child.url, None, data_dir=wishes.data_dir)
        async with server.client(patient=True) as client:
            path = await _picture(wishes)
            jobs = [await _process(client, path)]
            if wishes.file is None:
                scan = await _scan(wishes)
                jobs.append(await _process(client, scan))
                await _taste(client, jobs[-1], wishes.data_dir)
        finished.set()
        if not wishes.leave:
            click.echo(await _what_next(server, path))
            await child.gone()
            raise child.died()
    return 0 if all(job.status == "COMPLETED" for job in jobs) else 1


@asynccontextmanager
async def _server(wishes: Wishes) -> AsyncIterator[Child]:
    """Run a server on the wanted port, or on another if that one is taken."""
    child = await _start(wishes)
    try:
        yield child
    finally:
        await _stop(child)


async def _start(wishes: Wishes) -> Child:
    wanted = wishes.port
    for _ in range(_STARTS):
        port = free_port(wanted)
        if wanted not in {0, port}:
            click.echo(f"Port {wanted} is in use; taking {port}.")
        try:
            return await _start_on(port, wishes.data_dir)
        except ServerDied as error:
            if not error.port_was_taken:
                raise
            wanted = 0
    raise OSError("no port stayed free long enough")


async def _start_on(port: int, data_dir: Path) -> Child:
    child = await Child.start(port=port, data_dir=data_dir)
    click.echo(f"Starting a server on {child.url} …")
    try:
        async with server_at(child.url, None).client() as client:
            await child.ready(client)
    except BaseException:
        await _stop(child)
        raise
    return child


async def _stop(child: Child) -> None:
    if child.process.returncode is not None:
        return
    try:
        click.echo("\nStopping the server …")
    finally:
        # also when nobody reads any more what we say
        in_time = await child.stop()
    if not in_time:
        click.echo("It did not stop in time and was killed.", err=True)


async def _picture(wishes: Wishes) -> Path:
    if wishes.file is not None:
        return wishes.file
    path = wishes.data_dir / _PICTURE
    if not path.exists():
        click.echo("Painting a picture …")
        draft = path.with_suffix(".part")
        await asyncio.to_thread(paint, draft)
        await asyncio.to_thread(draft.replace, path)
    shown = f"{size_text(path.stat().st_size)}, 12 megapixels, on its side, with GPS"
    click.echo(f"The picture: {name_of(str(path))} ({shown})")
    return path


async def _scan(wishes: Wishes) -> Path:
    path = wishes.data_dir / _SCAN
    if not path.exists():
        draft = path.with_suffix(".part")
        await asyncio.to_thread(type_letter, draft)
        await asyncio.to_thread(draft.replace, path)
    shown = f"{size_text(path.stat().st_size)}, two pages, one upside down, no text"
    click.echo(f"\nThe scan: {name_of(str(path))} ({shown})")
    return path


async def _taste(client: Client, job: Job, folder: Path) -> None:
    """Show how the text that was read begins."""
    if "text" not in job.download_urls:
        return
    path = folder / "spring-report.txt"
    await client.download(job.job_id, "text", path)
    text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()][:_LINES]
    click.echo("\nIts text begins:")
    for line in lines:
        click.echo(f"  {name_of(line)}")


async def _process(client: Client, path: Path) -> Job:
    """Upload *path* and follow its job to the end; a bar for each part stays."""
    clock = asyncio.get_running_loop().time
    began = clock()
    with reporter() as report:

        def follow(update: Update) -> None:
            for step in update.job.steps:
                share = 100.0 if step.status in STEP_OVER else step.progress
                report.share(step.name, share, step.status)

        job_id = await client.upload(
            path,
            media_type=mimetypes.guess_type(path.name)[0],
            on_progress=lambda progress: report.sending("upload", progress),
        )
        job = await client.wait(job_id, follow)
    took = time_text(clock() - began)
    click.echo(f"\n{job_text(client, job, inline=True)}\n\nAll of it took {took}.")
    return job


async def _what_next(server: Server, path: Path) -> str:
    url, page, head = server.url, f"{server.url}/", ""
    async with Client(url) as stranger:
        is_open = await stranger.is_known()
    if not is_open:
        # a token that somebody set is theirs to know, and not to stand on a screen
        head = '-H "Authorization: Bearer $ASYNCFLOW_TOKEN" '
    elif server.token:
        page += f"?token={server.token}"
    file = shlex.quote(name_of(str(path)))
    return "\n".join(
        (
            f"\nThe server goes on: {page}",
            "Try in another terminal:",
            f"  curl {head}-T {file} {url}/upload/",
            f"  {as_typed()} upload --url {url} --wait YOUR-FILES",
            "Ctrl-C stops it.",
        )
    )
