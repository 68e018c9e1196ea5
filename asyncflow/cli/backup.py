"""`asyncflow backup` and `asyncflow restore`, and the check that `doctor` makes."""

import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from asyncflow import backup as backups
from asyncflow.cli.findings import Finding, ok, stop
from asyncflow.cli.flags import SettingsRefused
from asyncflow.cli.output import Output, output_options
from asyncflow.cli.terminal import clean, size_text
from asyncflow.config import load
from asyncflow.errors import AsyncflowError, BadSettings

#: damaged files named one by one; beyond that their number says it all
SHOWN = 20

_folder = click.Path(path_type=Path, file_okay=False)
data_dir_option = click.option(
    "--data-dir", type=_folder, help="The server's folder.  [default: as it is set]"
)
_output = output_options(
    json="Print one JSON document.", quiet="Print nothing but what went wrong."
)


class Brought(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a restore brought back."""

    data_dir: str
    blobs: int
    damaged: tuple["Damaged", ...]


class Damaged(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file that was damaged in the backup."""

    job_id: str
    name: str
    key: str
    why: str


@click.command()
@click.argument("dest", type=_folder)
@data_dir_option
@_output
def backup(*, dest: Path, data_dir: Path | None, as_json: bool, quiet: bool) -> int:
    """Copy all that a server keeps to the new folder DEST, also while it runs.

    Unfinished uploads are left out: their clients begin again. Files whose bytes have
    all come, but that are not put together yet, are left out and named. Ends with 1 if
    bytes that a row names are missing; the rest is backed up all the same.
    """
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        made = asyncio.run(
            backups.back_up(
                _folder_of(data_dir),
                dest,
                taken_at=taken_at,
                told=_unsaid if quiet else _told,
            )
        )
    except AsyncflowError as error:
        raise click.ClickException(error.detail) from error
    text = f"{made.blobs} files, {size_text(made.bytes)}, in {_shown(dest)}"
    if made.deleted:
        text += f"\n{made.deleted} files were deleted meanwhile and left out"
    Output(as_json=as_json, quiet=quiet).document(made, text)
    for one in made.unjoined[:SHOWN]:
        name = clean(f"job {one.job_id}, {one.name}", keep_lines=False)
        click.echo(f"not put together yet: {name}", err=True)
    if made.unjoined:
        text = f"{len(made.unjoined)} files are not in it, though all their bytes have"
        click.echo(f"{text} come: take a backup again when they are jobs", err=True)
    for key in made.missing[:SHOWN]:
        click.echo(f"missing: {key}", err=True)
    if made.missing:
        click.echo(f"{len(made.missing)} files were not whole already", err=True)
    return 1 if made.missing else 0


@click.command()
@click.argument("source", type=click.Path(path_type=Path, file_okay=False, exists=True))
@data_dir_option
@_output
def restore(*, source: Path, data_dir: Path | None, as_json: bool, quiet: bool) -> int:
    """Make a new data folder from the backup SOURCE.

    The data folder must be absent or empty, and no server may run in it. After an
    interruption remove the folder and begin again. Ends with 1 if files were damaged in
    the backup; the rest is restored all the same.
    """
    folder = _folder_of(data_dir)
    try:
        made = asyncio.run(
            backups.restore(source, folder, told=_unsaid if quiet else _told)
        )
    except AsyncflowError as error:
        raise click.ClickException(error.detail) from error
    Output(as_json=as_json, quiet=quiet).document(
        _brought(folder, made), f"{made.blobs} files are back in {_shown(folder)}"
    )
    for damage in made.damages[:SHOWN]:
        blob = damage.blob
        text = f"job {blob.job_id}, {blob.name}: {damage.why} ({blob.key})"
        click.echo(f"damaged: {clean(text, keep_lines=False)}", err=True)
    if made.damages:
        text = f"{len(made.damages)} files were damaged in the backup: take them from"
        click.echo(f"{text} another one, or `asyncflow delete` their jobs", err=True)
    return 1 if made.damages else 0


def _brought(folder: Path, made: backups.Restored) -> Brought:
    damaged = tuple(
        Damaged(job_id=blob.job_id, name=blob.name, key=blob.key, why=one.why)
        for one in made.damages
        for blob in (one.blob,)
    )
    # odd bytes of a folder's name as escapes: JSON is text
    shown = os.fspath(folder).encode("utf-8", "backslashreplace").decode()
    return Brought(data_dir=shown, blobs=made.blobs, damaged=damaged)


def verify(data_dir: Path) -> Iterator[Finding]:
    """Read every stored file; yield what is wrong, or that nothing is."""
    try:
        damages = asyncio.run(backups.verify(data_dir, told=_told))
    except AsyncflowError as error:
        yield stop("files", error.detail, "name the right one with ASYNCFLOW_DATA_DIR")
        return
    for damage in damages[:SHOWN]:
        blob = damage.blob
        text = f"job {blob.job_id}, {blob.name}: {damage.why}"
        yield stop("files", text, f"take {blob.key} from a backup, or delete the job")
    if len(damages) > SHOWN:
        text = f"and {len(damages) - SHOWN} more"
        yield stop("files", text, "look at the disk's health")
    if not damages:
        yield ok("files", "every stored file is there and whole")


def _folder_of(data_dir: Path | None) -> Path:
    if data_dir is not None:
        return data_dir
    try:
        return load({}, env=os.environ, cwd=Path.cwd()).data_dir
    except BadSettings as error:
        raise SettingsRefused(error.detail) from error


def _shown(folder: Path) -> str:
    return clean(str(folder), keep_lines=False)


def _unsaid(_done: int, _total: int) -> None:
    """Count for nobody."""


def _told(done: int, total: int) -> None:
    """Count on a terminal; a log has no use for it."""
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {total}", nl=done == total, err=True)
