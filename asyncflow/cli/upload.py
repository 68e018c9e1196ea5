"""`asyncflow upload`: files to a server, with bars, resumed after an interruption."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

from asyncflow.cli.app import INTERRUPTED
from asyncflow.cli.connection import (
    Server,
    converse,
    in_words,
    server_at,
    server_options,
)
from asyncflow.cli.gaps import gaps
from asyncflow.cli.output import output_options
from asyncflow.cli.pipe import standard_input
from asyncflow.cli.progress import Reporter, percent_of, reporter
from asyncflow.cli.terminal import clean, name_of, size_text
from asyncflow.client import (
    Client,
    Job,
    Progress,
    RequestFailed,
    ServerRefused,
    ServerUnreachable,
)

# three uploads fill any line; more only take it from each other
_UPLOADS_AT_ONCE = 3
# files being uploaded or waited for: each waits on a socket of its own
_FILES_AT_ONCE = 16
_UNAUTHORIZED = 401
# more are no list that anybody reads
_MOST_NAMED = 10
#: as a FILE: what comes from the standard input
STDIN = "-"


class Outcome(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """What became of one file; a line of `--json`."""

    file: str
    job_id: str | None = None
    status: str | None = None
    status_url: str | None = None
    error: str | None = None
    #: why nothing was sent for it, although nothing is wrong
    note: str | None = None
    job: Job | None = None

    @property
    def is_good(self) -> bool:
        """Tell whether the file arrived and nothing went wrong with it since."""
        return self.error is None


@dataclass(slots=True)
class Whole:
    """Which files the server holds, and whose jobs are still waited for."""

    #: files, as they were called
    files: set[str] = field(default_factory=set)
    #: by its file, the id of a job that nobody has told of yet
    jobs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the person asked for."""

    server: Server
    name: str | None
    wait: bool
    as_json: bool
    quiet: bool


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE…",
    type=click.Path(allow_dash=True),
)
@click.option("--wait", is_flag=True, help="Wait until the files are processed.")
@click.option("-r", "--recursive", is_flag=True, help="Upload the files of folders.")
@click.option("--name", help="The name to give the file, if it is only one.")
@output_options(json="Print a JSON line per file.", quiet="Print only the jobs' ids.")
@server_options
def upload(
    files: tuple[str, ...],
    *,
    wait: bool,
    recursive: bool,
    name: str | None,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Upload files; an interrupted upload continues.

    The FILE - is what comes from the standard input; it is kept in a temporary file
    first, cannot be continued, and is called as --name says.

    Of a file and links to it, the file alone is uploaded.

    Ends with 0 if the server took every file; with --wait, if every job ended as
    COMPLETED. What a folder holds besides files (pipes, links to folders), and what
    cannot be read there, is left out and named, and then it ends with 1.
    """
    found = list(_found(files, recursive=recursive))
    paths, doubles = _each_once([one for one in found if isinstance(one, Path)])
    left_out = [*(one for one in found if isinstance(one, Outcome)), *doubles]
    if name is not None and len(paths) != 1:
        raise click.UsageError(f"--name names one file, and these are {len(paths)}")
    order = Order(
        server=server_at(url, token),
        name=name,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
    whole = Whole()
    try:
        outcomes = converse(lambda: _upload_all(order, paths, left_out, whole))
    except KeyboardInterrupt:
        for line in _interrupted(paths, whole):
            click.echo(line, err=True)
        return INTERRUPTED
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _found(files: tuple[str, ...], *, recursive: bool) -> Iterator[Path | Outcome]:
    for file in files:
        if not file:
            # what a shell makes of an unset variable; as a path it is this folder
            raise click.UsageError("an empty name is no file")
        path = Path(file)
        if file == STDIN:
            yield path
        elif _is_stdin(path):
            yield path.absolute()  # a file of that name, written as ./-
        elif path.is_dir():
            if not recursive:
                raise click.UsageError(
                    f"{file} is a folder: add -r to upload its files"
                )
            below = list(_below(path))
            yield from below or [Outcome(file=_text(file), note="no files in it")]
        elif path.is_file():
            yield path
        elif path.exists():
            raise click.UsageError(
                f"{file} is no regular file: try asyncflow upload - < {file}"
            )
        else:
            raise click.UsageError(f"{file} does not exist")


def _below(folder: Path) -> Iterator[Path | Outcome]:
    """Yield the files of a folder and of those in it, and what has to be left out."""
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders.sort()
        for name in sorted(names + folders):
            path = Path(place, name)
            if os.path.isfile(path):  # noqa: PTH113 -- a Path's own raises when a folder is closed
                yield path
            elif not os.path.lexists(path):
                continue  # it has gone meanwhile
            elif name in names or path.is_symlink():
                yield Outcome(file=_text(str(path)), error=_why_left_out(path))
    for error in closed:
        why = error.strerror or "it cannot be read"
        yield Outcome(file=_text(str(error.filename)), error=f"left out: {why}")


def _why_left_out(path: Path) -> str:
    if os.path.isdir(path):  # noqa: PTH112 -- as above
        return "left out: a link to a folder, which is not followed"
    if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 -- as above
        return "left out: a link that leads nowhere"
    return "left out: no regular file"


def _each_once(paths: list[Path]) -> tuple[list[Path], list[Outcome]]:
    """Return each file once, by its own name rather than a link's; and the others.

    The same file twice would fight with itself over one upload.
    """
    names: dict[Path, list[Path]] = {}
    for path in paths:
        names.setdefault(path if _is_stdin(path) else path.resolve(), []).append(path)
    chosen, doubles = [], []
    for called in names.values():
        kept = next((path for path in called if not path.is_symlink()), called[0])
        chosen.append(kept)
        note = f"the same file as {_text(str(kept))}"
        others = {_place(path): path for path in called if _place(path) != _place(kept)}
        doubles += [Outcome(file=_text(str(o)), note=note) for o in others.values()]
    return chosen, doubles


def _place(path: Path) -> Path:
    """Return where *path* is; what it leads to if it is a link is another place."""
    return path if _is_stdin(path) else Path(os.path.abspath(path))  # noqa: PTH100 -- Path.resolve() would follow it


def _interrupted(paths: list[Path], whole: Whole) -> Iterator[str]:
    """Say what goes on by itself, and how the rest does."""
    yield "Interrupted."
    for label, job_id in whole.jobs.items():
        again = f"asyncflow status {name_of(job_id)} --watch"
        yield f"{name_of(label)}: its job goes on. Watch it again: {again}"
    rest = [str(p) for p in paths if not _is_stdin(p) and str(p) not in whole.files]
    if rest and not whole.files:
        yield "Run the same command again: it continues where it stopped."
    elif rest:
        shown = [name_of(one) for one in rest[:_MOST_NAMED]]
        more = len(rest) - len(shown)
        named = ", ".join([*shown, f"{more} more"] if more else shown)
        yield f"Not whole yet: {named}. Upload these again: they continue."


async def _upload_all(
    order: Order, paths: list[Path], left_out: list[Outcome], whole: Whole
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    queue = iter(paths)
    with reporter(quiet=order.quiet) as report:
        async with order.server.client(patient=True) as client:
            # says at once that nobody is there, instead of after all the patience
            await client.reach()
            batch = _Batch(order=order, client=client, report=report, whole=whole)
            for outcome in left_out:
                batch.tell(outcome)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_FILES_AT_ONCE, len(paths))):
                    group.create_task(batch.work(queue, outcomes))
    return left_out + outcomes


class _Batch:
    """The files of one command on their way."""

    def __init__(
        self, *, order: Order, client: Client, report: Reporter, whole: Whole
    ) -> None:
        self._order, self._client, self._report = order, client, report
        self._whole = whole
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        self._resumed: set[str] = set()

    async def work(self, queue: Iterator[Path], outcomes: list[Outcome]) -> None:
        """Take files until there are no more."""
        for path in queue:
            async with self._shown(str(path)):
                outcome = await self._carry(path)
            self.tell(outcome)
            self._whole.jobs.pop(str(path), None)
            outcomes.append(outcome)

    @asynccontextmanager
    async def _shown(self, label: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._report.done(label)

    async def _carry(self, path: Path) -> Outcome:
        label = str(path)
        try:
            async with self._uploads:
                job_id = await self._client.upload(
                    standard_input() if _is_stdin(path) else path,
                    name=self._order.name or _name_of(path),
                    on_progress=lambda progress: self._sending(label, progress),
                )
            self._whole.files.add(label)
            self._whole.jobs[label] = job_id
            if not self._order.wait:
                return self._accepted(label, job_id)
            job = await self._client.wait(
                job_id, lambda update: self._report.working(label, update.job)
            )
        except ServerUnreachable:
            raise  # the other files would not fare better
        except (RequestFailed, OSError) as error:
            if isinstance(error, ServerRefused) and error.status == _UNAUTHORIZED:
                raise
            why = error.strerror if isinstance(error, OSError) else None
            return Outcome(file=_text(label), error=why or in_words(error))
        return self._ended(label, job)

    def _sending(self, label: str, progress: Progress) -> None:
        if progress.resumed_at and label not in self._resumed:
            self._resumed.add(label)
            done = percent_of(progress)
            self._report.note(f"{name_of(label)}: continues at {done:.0f} %")
        self._report.sending(label, progress)

    def _accepted(self, label: str, job_id: str) -> Outcome:
        url = self._client.address_of(f"status/{job_id}")
        return Outcome(file=_text(label), job_id=job_id, status_url=url)

    def _ended(self, label: str, job: Job) -> Outcome:
        error = None
        if job.status != "COMPLETED":
            error = job.status
            if job.error is not None:
                error = f"{job.error.detail} ({job.error.code})"
        return Outcome(
            file=_text(label),
            job_id=job.job_id,
            status=job.status,
            status_url=self._client.address_of(f"status/{job.job_id}"),
            error=error,
            job=job,
        )

    def tell(self, outcome: Outcome) -> None:
        """Say what became of a file."""
        if self._order.as_json:
            self._report.result(msgspec.json.encode(outcome).decode())
        elif self._order.quiet:
            if outcome.job_id is not None:
                self._report.result(name_of(outcome.job_id))
            if outcome.error is not None:
                click.echo(f"{name_of(outcome.file)}: {clean(outcome.error)}", err=True)
            if outcome.note is not None:
                click.echo(f"{name_of(outcome.file)}: {clean(outcome.note)}", err=True)
            for gap in gaps(outcome.job):
                click.echo(f"{name_of(outcome.file)}: {gap}", err=True)
        else:
            self._report.result(_sentence(outcome))


def _is_stdin(path: Path) -> bool:
    return str(path) == STDIN


def _name_of(path: Path) -> str:
    return "stdin" if _is_stdin(path) else path.name


def _text(path: str) -> str:
    """Return *path* as text that can be sent: its odd bytes as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _sentence(outcome: Outcome) -> str:
    name = name_of(outcome.file)
    if outcome.note is not None:
        return f"= {name}: {clean(outcome.note)}"
    if outcome.job_id is None:
        return f"✗ {name}: {clean(outcome.error or '')}"
    if outcome.error is not None:
        why = clean(outcome.error)
        return f"✗ {name}: {outcome.status}, {why}\n  {outcome.status_url}"
    size = outcome.job.file_size if outcome.job is not None else None
    # without --wait nobody has asked how far its job is
    state = outcome.status or "accepted"
    shown = f"{state}, {size_text(size)}" if size else state
    return f"✓ {name}: {shown}{_left_out(outcome.job)}\n  {outcome.status_url}"


def _left_out(job: Job | None) -> str:
    """Say what is missing, and why: a job that is well may have steps that left out."""
    skipped = (
        f"{clean(step.name)} skipped: {clean(step.error.detail)}"
        for step in (job.steps if job is not None else ())
        if step.status == "skipped" and step.error is not None
    )
    return "".join(f"\n  {one}" for one in (*skipped, *gaps(job)))
