"""Other users of the machine read nothing of the database."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.db.queries import migrations
from asyncflow.db.schema import migrate
from asyncflow.db.sqlite import SqliteDatabase


@pytest.fixture(autouse=True)
def _generous_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


async def test_every_file_of_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    scripts = migrations()
    migrate(tmp_path / "asyncflow.db", scripts[:1])
    migrate(tmp_path / "asyncflow.db", [*scripts, "CREATE TABLE later(x)"])
    database = SqliteDatabase(tmp_path / "fresh.db")
    await database.start()
    await database.probe(1)

    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
    await database.close()

    assert {"asyncflow.db", "asyncflow.db.before-2", "fresh.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}
