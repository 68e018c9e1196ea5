"""One connection writes for everybody: what that promises when things go wrong."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from asyncflow.db.schema import connect
from asyncflow.db.writer import MAX_QUEUED, Batch, GroupWriter
from asyncflow.errors import DatabaseUnavailable, DiskFull, OutcomeUnknown

CHUNK = "x" * 3000


class Room:
    """A file with a table, a writer on it, and what the writer has told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "some.db"
        self.batches: list[Batch] = []
        self.doubts = 0
        self.pages: int | None = None
        self.broken = False
        self.writer = GroupWriter(
            self.connect, on_batch=self.batches.append, on_doubt=self.doubt
        )
        with closing(connect(self.path)) as db:
            db.execute("CREATE TABLE note(text TEXT UNIQUE) STRICT")
            db.execute("CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT")
            db.execute(
                "CREATE TABLE child(id INTEGER REFERENCES parent(id)"
                " DEFERRABLE INITIALLY DEFERRED) STRICT"
            )

    def connect(self) -> sqlite3.Connection:
        if self.broken:
            raise sqlite3.OperationalError("unable to open database file")
        db = connect(self.path)
        if self.pages is not None:
            db.execute(f"PRAGMA max_page_count={self.pages}")
        return db

    def doubt(self) -> None:
        self.doubts += 1

    def notes(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as db:
            rows = db.execute("SELECT substr(text, 1, 9) FROM note ORDER BY rowid")
            return [text for (text,) in rows]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the writer's thread, so that what is written meanwhile is one batch."""
        gate = threading.Event()

        def hold(_db: sqlite3.Connection) -> None:
            assert gate.wait(30)

        task = asyncio.create_task(self.writer.write(hold))
        task.add_done_callback(lambda done: done.exception())
        try:
            yield
        finally:
            gate.set()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def note(text: str) -> Callable[[sqlite3.Connection], str]:
    def insert(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO note VALUES(?)", (text,))
        return text

    return insert


def orphan(db: sqlite3.Connection) -> None:
    """Break a rule that is looked at only when the transaction is committed."""
    db.execute("INSERT INTO child VALUES(404)")


async def started(*writes: "asyncio.Task[object]") -> None:
    """Let the tasks queue what they write."""
    for _ in writes:
        await asyncio.sleep(0)


async def test_what_is_written_together_is_committed_together(room: Room) -> None:
    await room.writer.write(note("first"))
    with room.busy():
        await asyncio.sleep(0)
        tasks = [
            asyncio.create_task(room.writer.write(note(f"n{n}"))) for n in range(50)
        ]
        await started(*tasks)
    assert await asyncio.gather(*tasks) == [f"n{n}" for n in range(50)]

    assert [batch.items for batch in room.batches] == [1, 1, 50]
    assert len(room.notes()) == 51
    await room.writer.close()


async def test_an_item_that_fails_harms_nobody_else(room: Room) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO note VALUES('half')")
        raise LookupError("a bug")

    with room.busy():
        await asyncio.sleep(0)
        results = asyncio.gather(
            room.writer.write(note("before")),
            room.writer.write(half),
            room.writer.write(note("before")),
            room.writer.write(note("after")),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
    first, second, third, fourth = await results

    assert (first, fourth) == ("before", "after")
    assert isinstance(second, LookupError)
    assert isinstance(third, sqlite3.IntegrityError)
    assert room.notes() == ["before", "after"]
    assert room.writer.trouble is None
    await room.writer.close()


async def test_a_full_disk_takes_the_whole_batch_and_says_so_to_all(
    room: Room,
) -> None:
    room.pages = 20
    with room.busy():
        await asyncio.sleep(0)
        results = asyncio.gather(
            *(room.writer.write(note(f"note {n:04}{CHUNK}")) for n in range(40)),
            return_exceptions=True,
        )
        await asyncio.sleep(0)

    assert all(isinstance(one, DiskFull) for one in await results)
    assert room.notes() == []
    assert room.writer.trouble
    assert not room.batches[-1].committed

    room.pages = None
    await room.writer.write(note("again"))
    assert room.notes() == ["again"]
    assert not room.writer.trouble
    await room.writer.close()


async def test_a_failed_commit_leaves_the_outcome_unknown_then_works_again(
    room: Room,
) -> None:
    after: list[str] = []
    with room.busy():
        await asyncio.sleep(0)
        results = asyncio.gather(
            room.writer.write(note("with it"), after=after.append),
            room.writer.write(orphan),
            return_exceptions=True,
        )
        await asyncio.sleep(0)

    assert all(isinstance(one, OutcomeUnknown) for one in await results)
    assert (after, room.doubts, room.notes()) == ([], 1, [])
    assert room.writer.trouble
    assert await room.writer.write(note("again")) == "again"
    assert room.notes() == ["again"]
    assert not room.writer.trouble
    await room.writer.close()


async def test_a_file_that_cannot_be_opened_is_tried_with_each_batch(
    room: Room,
) -> None:
    room.broken = True
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await room.writer.write(note("lost"))
    room.broken = False

    await room.writer.write(note("kept"))

    assert room.notes() == ["kept"]
    await room.writer.close()


async def test_trouble_is_over_only_when_something_was_written(room: Room) -> None:
    room.broken = True
    with pytest.raises(DatabaseUnavailable):
        await room.writer.write(note("lost"))
    room.broken = False

    await room.writer.write(lambda _db: None)
    assert room.writer.trouble

    await room.writer.write(note("kept"))
    assert not room.writer.trouble
    await room.writer.close()


async def test_a_write_happens_even_if_nobody_waits_for_it_any_more(
    room: Room,
) -> None:
    after: list[str] = []
    with room.busy():
        await asyncio.sleep(0)
        task = asyncio.create_task(room.writer.write(note("left"), after=after.append))
        await started(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await room.writer.close()

    assert (room.notes(), after) == (["left"], ["left"])


async def test_a_loop_that_cancels_all_its_tasks_does_not_stop_the_writer(
    room: Room,
) -> None:
    async def end() -> None:
        try:
            await room.writer.write(note("first"))
        except asyncio.CancelledError:
            await room.writer.write(note("second"))

    task = asyncio.create_task(end())
    await started(task)
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    await task
    await room.writer.close()

    assert room.notes() == ["first", "second"]


async def test_what_follows_commits_runs_in_their_order_before_any_answer(
    room: Room,
) -> None:
    told: list[str] = []

    async def write(text: str) -> None:
        await room.writer.write(note(text), after=lambda t: told.append(f"after {t}"))
        told.append(f"answer {text}")

    with room.busy():
        await asyncio.sleep(0)
        writes = asyncio.gather(*(write(f"n{n}") for n in range(5)))
        await asyncio.sleep(0)
    await writes

    assert told[:5] == [f"after n{n}" for n in range(5)]
    assert sorted(told[5:]) == [f"answer n{n}" for n in range(5)]
    await room.writer.close()


async def test_a_listener_that_raises_stops_nobody(tmp_path: Path) -> None:
    room = Room(tmp_path)

    def raises(_told: object) -> None:
        raise LookupError("a bug")

    writer = GroupWriter(room.connect, on_batch=raises)
    assert await writer.write(note("one"), after=raises) == "one"
    assert await writer.write(note("two")) == "two"
    await writer.close()


async def test_patient_items_go_with_the_next_one_that_is_not(room: Room) -> None:
    tasks = [
        asyncio.create_task(room.writer.write(note(f"n{n}"), patient=True))
        for n in range(3)
    ]
    await started(*tasks)
    await room.writer.write(note("now"))
    assert [task.result() for task in tasks] == ["n0", "n1", "n2"]
    assert [batch.items for batch in room.batches] == [4]
    await room.writer.close()


async def test_patient_items_wait_for_each_other_and_for_nothing_else(
    room: Room,
) -> None:
    for which in "ab":
        await asyncio.gather(
            *(room.writer.write(note(f"{which}{n}"), patient=True) for n in range(3))
        )
    assert [batch.items for batch in room.batches] == [3, 3]
    await room.writer.close()


async def test_the_log_survives_who_looks_in_after_a_commit_has_failed(
    room: Room,
) -> None:
    look = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
    look += "print(db.execute('SELECT count(*) FROM note').fetchone()[0])"

    def others_see() -> int:
        command = [sys.executable, "-c", look, str(room.path)]
        return int(subprocess.check_output(command, timeout=30))

    with closing(sqlite3.connect(room.path)) as reader:
        await room.writer.write(note("before"))
        reader.execute("SELECT * FROM note").fetchall()
        with pytest.raises(OutcomeUnknown):
            await room.writer.write(orphan)
        await room.writer.write(note("after"))
        assert others_see() == 2

        await room.writer.write(note("acknowledged"))
        assert others_see() == 3
    await room.writer.close()


async def test_closing_commits_what_is_patient(room: Room) -> None:
    task = asyncio.create_task(room.writer.write(note("n"), patient=True))
    await started(task)
    await room.writer.close()
    assert await task == "n"
    assert room.notes() == ["n"]


async def test_bulk_work_waits_behind_interactive_work_one_item_a_batch(
    room: Room,
) -> None:
    with room.busy():
        await asyncio.sleep(0)
        writes = asyncio.gather(
            *(room.writer.write(note(f"bulk {n}"), bulk=True) for n in range(3)),
            *(room.writer.write(note(f"user {n}")) for n in range(3)),
        )
        await asyncio.sleep(0)
    await writes

    users = [f"user {n}" for n in range(3)]
    assert room.notes() == [*users, "bulk 0", "bulk 1", "bulk 2"]
    assert [batch.items for batch in room.batches] == [1, 4, 1, 1]
    await room.writer.close()


async def test_a_queue_that_is_full_says_so(room: Room) -> None:
    with room.busy():
        await asyncio.sleep(0)
        tasks = [
            asyncio.create_task(room.writer.write(lambda _db: None))
            for _ in range(MAX_QUEUED)
        ]
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailable, match="too many"):
            await room.writer.write(note("one more"))
    await asyncio.gather(*tasks)
    await room.writer.close()


async def test_closing_commits_what_is_queued_and_takes_no_more(room: Room) -> None:
    with room.busy():
        await asyncio.sleep(0)
        task = asyncio.create_task(room.writer.write(note("last")))
        await started(task)
    await room.writer.close()

    assert room.notes() == ["last"]
    assert task.done()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await room.writer.write(note("too late"))
