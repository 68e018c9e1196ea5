"""SQLite keeps the database contract, and what only a file can be asked."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from asyncflow import uploads
from asyncflow.db.queries import load, migrations
from asyncflow.db.records import Change, Once
from asyncflow.db.schema import migrate
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.errors import DatabaseTooNew, UploadGone
from asyncflow.jobs import JobState, StepState, Verdict
from asyncflow.testing.db_suite import DbSuite
from asyncflow.testing.db_world import GATE, HOUR_MS, IMAGE, TEXT, World

FILE = "asyncflow.db"
STATEMENTS = load("uploads.sql", "steps.sql", "jobs.sql")

#: what runs often -> the index that keeps it flat, however much history there is
HOT = {
    "behind": "step_ready",
    "running_tenants": "step_lease",
    "due_steps": "step_due",
    "lost_leases": "step_lease",
    "running_steps": "step_lease",
    "expired_uploads": "upload_timed",
    "jobs_page_of_state": "job_state",
    "cancel_steps": "step_job",
    "running_of_job": "step_job",
    "step_of_consumer": "step_job",
    "reopen_steps": "step_job",
    "missing_step": "step_job",
    "drop_derivatives": "derivative_step",
}


class TestSqlite(DbSuite):
    async def make_database(
        self, folder: Path, on_change: Callable[[Change], None]
    ) -> SqliteDatabase:
        return SqliteDatabase(folder / FILE, on_change=on_change)

    async def test_steps_of_a_processor_that_was_removed_are_skipped(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)

        await world.register(GATE)

        found = await world.db.job(job)
        assert found.status is JobState.COMPLETED
        skipped = found.steps[-1]
        assert (skipped.name, skipped.status) == ("image", StepState.SKIPPED)
        assert skipped.error is not None
        assert skipped.error.code == "missing_tool"

    async def test_why_a_step_is_dead_is_kept_attempt_by_attempt(
        self, world: World, tmp_path: Path
    ) -> None:
        job = await world.past_gate(IMAGE)
        for verdict in (Verdict.LOST, Verdict.ERROR, Verdict.BAD_FILE):
            await world.end(await world.take("image"), verdict, f"was_{verdict}")
            world.now += HOUR_MS
        await world.db.retry(job, world.now)
        await world.end(await world.take("image"), Verdict.BAD_FILE, "damaged")

        found = read(
            tmp_path, "SELECT run, verdict, code, worker FROM attempt ORDER BY id"
        )
        assert found == [
            (1, "lost", "was_lost", "w1"),
            (1, "error", "was_error", "w1"),
            (1, "bad_file", "was_bad_file", "w1"),
            (2, "bad_file", "damaged", "w1"),
        ]

    async def test_each_run_ends_with_one_event_in_the_log(
        self, world: World, tmp_path: Path
    ) -> None:
        job = await world.failed()
        await world.db.retry(job, world.now)
        await world.done(await world.take("image"))

        assert read(tmp_path, "SELECT run, type FROM event ORDER BY seq") == [
            (1, "file.uploaded"),
            (1, "identify.completed"),
            (1, "file.accepted"),
            (1, "image.dead"),
            (1, "job.failed"),
            (2, "job.retried"),
            (2, "image.completed"),
            (2, "job.completed"),
        ]

    async def test_the_file_itself_lets_a_run_end_only_once(
        self, world: World, tmp_path: Path
    ) -> None:
        await world.failed()

        with (
            closing(sqlite3.connect(tmp_path / FILE)) as db,
            pytest.raises(sqlite3.IntegrityError),
        ):
            db.execute(
                "INSERT INTO event(job_id, run, type, data, at)"
                " VALUES(1, 1, 'job.completed', '{}', 0)"
            )

    async def test_the_counters_are_what_grouping_gives(
        self, world: World, tmp_path: Path
    ) -> None:
        failed = await world.failed()
        for _ in range(3):
            await world.past_gate(IMAGE, TEXT)
        await world.end((await world.claim("text"))[0], Verdict.BAD_FILE)
        await world.db.delete(failed, world.now)

        for kept, counted in (
            (
                "SELECT * FROM tally WHERE n <> 0 ORDER BY 1, 2",
                "SELECT consumer, state, count(*) FROM step GROUP BY 1, 2",
            ),
            (
                "SELECT * FROM tenant_tally WHERE n <> 0 ORDER BY 1, 2",
                "SELECT tenant, state, count(*) FROM step GROUP BY 1, 2",
            ),
        ):
            assert read(tmp_path, kept) == read(tmp_path, counted)


def read(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the file itself."""
    with closing(sqlite3.connect(folder / FILE)) as db:
        return db.execute(query).fetchall()


def world_in(folder: Path) -> World:
    async def make(on_change: Callable[[Change], None]) -> SqliteDatabase:
        return SqliteDatabase(folder / FILE, on_change=on_change)

    return World(make=make)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Give a folder with a database of the newest schema."""
    migrate(tmp_path / FILE, migrations())
    return tmp_path


def plan(folder: Path, name: str) -> list[str]:
    """Return the steps by which SQLite would run a named statement.

    Newer ones see more often than older ones that an index has all that is asked for.
    """
    names = set(re.findall(r":([a-z0-9_]+)", STATEMENTS[name]))
    with closing(sqlite3.connect(folder / FILE)) as db:
        found = db.execute(
            f"EXPLAIN QUERY PLAN {STATEMENTS[name]}", dict.fromkeys(names, 1)
        )
        return [str(row[3]).replace("COVERING ", "") for row in found]


def test_a_hot_statement_uses_its_index(empty: Path) -> None:
    for name, index in HOT.items():
        lines = plan(empty, name)
        assert any(f"INDEX {index} " in f"{line} " for line in lines), (name, lines)


def test_no_statement_walks_through_history(empty: Path) -> None:
    walks = re.compile(r"SCAN (job|upload|event|step|attempt|derivative|[a-z])\b")
    found = {
        (name, line)
        for name in STATEMENTS
        for line in plan(empty, name)
        if walks.match(line)
    }

    assert found == {
        # indexes that hold the waiting steps alone, once at each start
        ("homeless_steps", "SCAN s USING INDEX step_ready"),
        ("homeless_steps", "SCAN s USING INDEX step_due"),
        # the same, while more than half of what may wait does so
        ("waiting_lanes", "SCAN step USING INDEX step_ready"),
        ("waiting_lanes", "SCAN step USING INDEX step_due"),
        # the newest thousand and no more, once at each start
        ("latest_done", "SCAN s"),
        ("latest_done", "SCAN step"),
        # the few consumers that there are
        ("log_offsets", "SCAN c"),
        # an index that holds the running steps alone
        ("running_steps", "SCAN step USING INDEX step_lease"),
        ("running_tenants", "SCAN step USING INDEX step_lease"),
        ("running_letters", "SCAN s USING INDEX step_lease"),
        # an index that holds the dead steps alone, and the sum is remembered
        ("refusals", "SCAN s USING INDEX step_dead"),
        # an index that holds the unfinished uploads alone
        ("open_uploads", "SCAN upload USING INDEX upload_open"),
        # one job's steps and files, put in order
        ("job_view", "SCAN s"),
        ("job_view", "SCAN d"),
    }


async def test_what_a_row_names_is_no_trash(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    await world.start()
    job = await world.past_gate(IMAGE)
    step = await world.take("image")
    await world.publish(step)
    await world.done(step)
    (made,) = (await world.db.job(job)).files
    named = [(uploads.raw_key(job), 0), (made.key, 0)]
    named += [(uploads.derivative_prefix(job), 1), (made.key.rpartition("/")[0], 1)]
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.executemany("INSERT INTO trash VALUES(?, ?)", [*named, ("raw/x", 0)])
        db.commit()
    assert await world.trash() == {"raw/x": False}
    await world.db.delete(job, world.now)
    assert set(await world.trash()) == {"raw/x", *(key for key, _ in named)}
    await world.db.close()


# ----- migrations


async def test_keys_and_deleted_ids_of_before_count_as_they_did(tmp_path: Path) -> None:
    chosen = "3f1de8a0-5d1c-4a52-9a6f-0d6a3b1c2e4f"
    migrate(tmp_path / FILE, migrations()[:6])
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(
            "INSERT INTO job(id, pid, owner, tenant, state, file_name, declared_type,"
            " created) VALUES(1, 'old', 'anna', 'acme', 'PENDING', 'a', 'b', 0)"
        )
        db.execute("INSERT INTO creation VALUES('anna', 'k', 'f', 1)")
        db.execute("INSERT INTO trash VALUES(?, 0)", (f"raw/{chosen}",))
        db.commit()
    world = world_in(tmp_path)
    await world.start()
    once = Once(key="k", fingerprint="f")
    assert await world.db.created_before("anna", "acme", once) == "old"
    assert await world.db.created_before("anna", "", once) is None
    with pytest.raises(UploadGone):
        await world.upload(id=chosen, chosen=True, parts=1)
    await world.db.close()


async def test_parts_that_are_there_tell_where_their_bytes_are(tmp_path: Path) -> None:
    migrate(tmp_path / FILE, migrations()[:6])
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        for n, name in enumerate(("one", "two", "part"), start=1):
            db.execute(
                "INSERT INTO job(id, pid, owner, tenant, state, file_name,"
                " declared_type, created)"
                " VALUES(?, ?, 'anna', '', 'UPLOADING', 'a', 'b', 0)",
                (n, name),
            )
            db.execute(
                "INSERT INTO upload(job_id, key, length, state)"
                " VALUES(?, ?, 10, 'complete')",
                (n, name),
            )
        db.execute("INSERT INTO place VALUES(1, 0, 'part'), (2, 0, 'lost')")
        db.commit()
    world = world_in(tmp_path)
    await world.start()
    assert await world.db.span_of("one", 0) == (0, 10)
    assert await world.db.span_of("two", 0) is None
    await world.db.close()


def schema(folder: Path) -> int:
    return int(str(read(folder, "PRAGMA user_version")[0][0]))


def test_a_new_file_gets_every_migration(tmp_path: Path) -> None:
    migrate(tmp_path / FILE, ["CREATE TABLE a(x)", "CREATE TABLE b(x)"])

    assert schema(tmp_path) == 2
    assert not list(tmp_path.glob("*before*"))


def test_an_older_file_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    one, two = "CREATE TABLE a(x)", "DROP TABLE a"
    migrate(tmp_path / FILE, [one])
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("INSERT INTO a VALUES('kept')")
        db.commit()

    migrate(tmp_path / FILE, [one, two])

    assert schema(tmp_path) == 2
    copy = tmp_path / f"{FILE}.before-2"
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT x FROM a").fetchall() == [("kept",)]
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    migrate(tmp_path / FILE, ["CREATE TABLE a(x)"])

    with pytest.raises(sqlite3.Error):
        migrate(tmp_path / FILE, ["CREATE TABLE a(x)", "CREATE TABLE b(x); NONSENSE"])

    assert schema(tmp_path) == 1
    assert read(tmp_path, "SELECT name FROM sqlite_schema") == [("a",)]


def test_a_file_up_to_date_is_left_as_it_is(empty: Path) -> None:
    before = (empty / FILE).read_bytes()

    migrate(empty / FILE, migrations())

    assert (empty / FILE).read_bytes() == before
    assert [path.name for path in empty.iterdir()] == [FILE]


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_a_file_of_a_newer_version_is_refused_untouched(
    tmp_path: Path, mode: str
) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute(f"PRAGMA user_version={len(migrations()) + 1}")
        db.execute("CREATE TABLE job(shape_of_the_future TEXT)")
        db.commit()
    before = (tmp_path / FILE).read_bytes()

    with pytest.raises(DatabaseTooNew, match="install"):
        await SqliteDatabase(tmp_path / FILE).start()

    assert (tmp_path / FILE).read_bytes() == before
