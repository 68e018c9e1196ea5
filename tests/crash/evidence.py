"""What is left in a data folder once its server has stopped: is it right?"""

import hashlib
import io
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from asyncflow import uploads
from asyncflow.jobs import FINAL_JOB, TERMINAL_EVENTS
from asyncflow.store.local import LocalStore

ENDS = frozenset(TERMINAL_EVENTS.values())


class Evidence:
    """A data folder that nobody is using."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database file, without changing it."""
        uri = f"{(self.folder / 'asyncflow.db').absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            return db.execute(query, values).fetchall()

    def bytes_of(self, key: str) -> bytes:
        """Return the bytes under *key*."""
        return self._path(key).read_bytes()

    def _path(self, key: str) -> Path:
        return LocalStore(self.folder / "store").path(key)

    def check(self) -> None:
        """Check all that holds for any folder whose server has come to rest."""
        self.check_file()
        self.check_ends()
        self.check_counters()
        self.check_blobs()

    def check_file(self) -> None:
        """The file is sound, and no row refers to one that is not there."""
        assert self.ask("PRAGMA quick_check") == [("ok",)]
        assert self.ask("PRAGMA foreign_key_check") == []

    def check_ends(self) -> None:
        """A run that is over has one terminal event; one that is not has none."""
        rows = self.ask("SELECT job_id, run, type FROM event")
        ends = Counter((job, run) for job, run, kind in rows if kind in ENDS)
        for job, state, run in self.ask("SELECT id, state, run FROM job"):
            expected = {
                (job, number): 1 for number in range(1, run + (state in FINAL_JOB))
            }
            found = {key: count for key, count in ends.items() if key[0] == job}
            assert found == expected, (job, state)

    def check_counters(self) -> None:
        """The counters are what counting gives."""
        assert self.ask("SELECT * FROM tally WHERE n <> 0 ORDER BY 1, 2") == self.ask(
            "SELECT consumer, state, count(*) FROM step GROUP BY 1, 2"
        )
        assert self.ask(
            "SELECT * FROM tenant_tally WHERE n <> 0 ORDER BY 1, 2"
        ) == self.ask("SELECT tenant, state, count(*) FROM step GROUP BY 1, 2")
        assert self.ask(
            "SELECT consumer, lane, step FROM front ORDER BY 1, 2"
        ) == self.ask(
            "SELECT consumer, lane, id FROM (SELECT *, row_number() OVER"
            " (PARTITION BY consumer, lane ORDER BY priority, turn, id) AS place"
            " FROM step WHERE state = 'ready') WHERE place = 1 ORDER BY 1, 2"
        )
        assert self.ask("SELECT id FROM job WHERE open < gates") == []
        counted = (
            "SELECT id FROM job WHERE open <> (SELECT count(*) FROM step"
            " WHERE job_id = job.id AND detached = 0"
            " AND state IN('waiting', 'ready', 'running', 'retrying'))"
        )
        assert self.ask(counted) == []
        announced = (
            "SELECT u.job_id, u.length AS n FROM upload u JOIN job j ON j.id = u.job_id"
            " WHERE u.state <> 'ended' AND NOT (u.concat <> '' AND EXISTS("
            " SELECT 1 FROM place p JOIN upload f ON f.job_id = p.final"
            " WHERE p.part = j.pid AND f.state <> 'ended' AND f.length IS NOT NULL))"
        )
        made = "SELECT job_id, size AS n FROM derivative"
        assert self.ask(
            "SELECT tenant, bytes FROM usage WHERE bytes <> 0 ORDER BY 1"
        ) == self.ask(
            f"SELECT tenant, sum(n) FROM ({announced} UNION ALL {made})"  # noqa: S608 -- both are above
            " JOIN job ON job.id = job_id GROUP BY 1 HAVING sum(n) <> 0 ORDER BY 1"
        )
        assert self.ask("SELECT bytes FROM used") == self.ask(
            "SELECT coalesce(sum(bytes), 0) FROM usage"
        )
        stored = "SELECT job_id, length AS n FROM upload WHERE state = 'complete'"
        assert self.ask("SELECT bytes FROM stored") == self.ask(
            f"SELECT coalesce(sum(n), 0) FROM ({stored} UNION ALL {made})"  # noqa: S608 -- both are above
        )

    def check_blobs(self) -> None:
        """Every row has its bytes, and no bytes are there without a row."""
        assert self.ask("SELECT key FROM trash") == []
        complete = self._keys("SELECT key FROM upload WHERE state = 'complete'")
        begun = self._keys("SELECT key FROM upload WHERE state = 'receiving'")
        made = self._keys("SELECT key FROM derivative")
        found = {path for path in (self.folder / "store").rglob("*") if path.is_file()}
        assert not (complete | made) - found, "bytes are missing"
        assert not found - complete - begun - made, "bytes belong to nobody"
        for key, size in self.ask("SELECT key, size FROM derivative"):
            assert self._path(key).stat().st_size == size
        for pid, step, token, key in self.ask(
            "SELECT j.pid, s.id, s.token, d.key FROM derivative d"
            " JOIN step s ON s.id = d.step_id JOIN job j ON j.id = d.job_id"
        ):
            assert key.startswith(f"{uploads.attempt_prefix(pid, step, token)}/")

    def _keys(self, query: str) -> set[Path]:
        store = LocalStore(self.folder / "store")
        return {store.path(key) for (key,) in self.ask(query)}

    def check_originals(self, sha256: Mapping[str, str]) -> None:
        """What was sent is what is kept: job to its SHA-256."""
        for job, digest in sha256.items():
            kept = hashlib.sha256(self.bytes_of(uploads.raw_key(job))).hexdigest()
            assert kept == digest, job

    def states(self, jobs: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        """Return the state and the error of *jobs*."""
        rows = self.ask("SELECT pid, state, error FROM job")
        found = {pid: (state, error) for pid, state, error in rows}
        return {job: found[job] for job in jobs}

    def files(self, job: str) -> dict[str, bytes]:
        """Return a job's derivatives by name."""
        rows = self.ask(
            "SELECT d.name, d.key FROM derivative d JOIN job j ON j.id = d.job_id"
            " WHERE j.pid = ?",
            job,
        )
        return {name: self.bytes_of(key) for name, key in rows}


def check_picture(data: bytes) -> None:
    """Decode a picture to its last byte."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
