"""Copies the database while a server writes to it, and lists the blobs it names.

Theory of operation
-------------------
The source is opened read-only, by another process than the server's: such a connection
neither writes nor checkpoints, so it cannot meet the bug in old versions of SQLite that
two writers can trigger. A read transaction is held from the first page to the last;
without it SQLite would begin again after every commit of the server, and under load
never end. The copy is one file in the old journal mode: it can be read anywhere.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asyncflow.db.queries import load, migrations
from asyncflow.errors import BackupError

SQL = load("backup.sql")
#: copied at once: small enough to leave the disk to the server in between
PAGES = 1024
PAUSE_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBlob:
    """A blob that a row promises: *sha256* in hex where `identify` has found it."""

    job_id: str
    name: str
    key: str
    size: int
    sha256: str | None


class Unjoined(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file whose bytes have all come, and that is not put together yet."""

    job_id: str
    name: str


def copy_database(source: Path, target: Path) -> tuple[Unjoined, ...]:
    """Copy *source*, as it is at one moment, to the new file *target*.

    Unfinished uploads and the list of removed bytes are left out. Return those of them
    whose bytes have all come.

    Raises:
        BackupError: there is no database to copy, or it cannot be read.
    """
    with _told(source), contextlib.closing(_reader(source)) as reader:
        reader.execute("BEGIN")
        reader.execute(SQL["hold_snapshot"]).fetchall()
        with contextlib.closing(_writer(target)) as writer:
            reader.backup(writer, pages=PAGES, sleep=PAUSE_S)
    with _told(target), contextlib.closing(_writer(target)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        unjoined = tuple(
            Unjoined(job_id=job, name=name)
            for job, name in writer.execute(SQL["unjoined"])
        )
        writer.execute(SQL["forget_unfinished"])
        writer.execute(SQL["forget_trash"])
        writer.execute("COMMIT")
        writer.execute("PRAGMA journal_mode=DELETE")
    return unjoined


def check_schema(path: Path) -> None:
    """Raise BackupError unless this asyncflow can work with the database at *path*."""
    with _told(path), contextlib.closing(_reader(path)) as reader:
        (found,) = reader.execute("PRAGMA user_version").fetchone()
        (health,) = reader.execute("PRAGMA quick_check(1)").fetchone()
    if found > len(migrations()):
        raise BackupError(
            f"{path} has schema {found}, this asyncflow knows {len(migrations())}: "
            "use the version that wrote it, or a newer one"
        )
    if health != "ok":
        raise BackupError(f"{path} is damaged: {health}")


def named_blobs(path: Path) -> Iterator[NamedBlob]:
    """Yield every blob that the database at *path* names, as of one moment."""
    with _told(path), contextlib.closing(_reader(path)) as reader:
        for row in reader.execute(SQL["named_blobs"]):
            yield NamedBlob(
                job_id=row["job"],
                name=row["name"],
                key=row["key"],
                size=row["size"],
                sha256=row["sha256"],
            )


def _reader(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    reader = sqlite3.connect(uri, uri=True, isolation_level=None)
    reader.row_factory = sqlite3.Row
    return reader


def _writer(path: Path) -> sqlite3.Connection:
    writer = sqlite3.connect(path, isolation_level=None)
    # what hangs on a job goes with it
    writer.execute("PRAGMA foreign_keys=ON")
    return writer


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{path} cannot be used: {error}") from error
