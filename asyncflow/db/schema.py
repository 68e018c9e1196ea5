"""Opens the file of the database for writing, and brings its schema up to date.

Rules
-----
- While the database is open, nothing in this process opens its file but SQLite: whoever
  closes any descriptor of a file gives up all locks that the process has on it (POSIX
  says so), and the next program that looks at the database then deletes the log that
  we still write.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from asyncflow.errors import DatabaseTooNew

_WRITER_PRAGMAS = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA foreign_keys=ON;
PRAGMA busy_timeout=5000;
PRAGMA temp_store=MEMORY;
PRAGMA cache_size=-16384;
PRAGMA journal_size_limit=67108864;
PRAGMA wal_autocheckpoint=1000;
PRAGMA mmap_size=0;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Return a writing connection to *path*, created if absent."""
    # SQLite gives its log the mode of the file, and the file that of the umask.
    with contextlib.suppress(FileExistsError):
        os.close(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        )
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.row_factory = sqlite3.Row
    connection.executescript(_WRITER_PRAGMAS)
    return connection


def _copy(source: Path, target: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with source.open("rb") as old, open(fd, "wb") as new:  # noqa: PTH123 -- a descriptor
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(fd)


def migrate(path: Path, scripts: Sequence[str]) -> None:
    """Bring the schema of *path* up to date with *scripts*, after a copy of the file.

    Raises:
        DatabaseTooNew: a newer asyncflow wrote it; nothing is changed.
    """
    at = _schema(path)
    if at > len(scripts):
        raise DatabaseTooNew(
            f"{path} has schema {at}, this asyncflow knows {len(scripts)}: "
            "install the version that wrote it, or a newer one"
        )
    if 0 < at < len(scripts):
        with contextlib.closing(connect(path)) as before:
            before.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _copy(path, path.with_name(f"{path.name}.before-{at + 1}"))
    connection = connect(path)
    try:
        # a table that others refer to may be built anew
        connection.execute("PRAGMA foreign_keys=OFF")
        for number, script in enumerate(scripts[at:], start=at + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;"
            )
    finally:
        connection.close()


def _schema(path: Path) -> int:
    """Return the number of the schema of *path*, 0 for none; change nothing."""
    if not path.exists():
        return 0
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as reader:
        return int(reader.execute("PRAGMA user_version").fetchone()[0])
