"""What one run leaves in a worker does not reach the next one, or goes with it."""

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from asyncflow.jobs import Verdict
from asyncflow.pool import Pool
from tests.pool.conftest import Crew, started
from tests.pool.messy import LIMITS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """One worker, so that each run meets what the one before has left."""
    async with started(tmp_path, "tests.pool.messy") as found:
        yield found


async def surroundings(crew: Crew) -> tuple[object, dict[str, object]]:
    """Return the worker's process id and what a function finds around it."""
    outcome = await crew.run("looks-around")
    assert outcome.verdict is Verdict.DONE, outcome.detail
    facts = dict(outcome.facts)
    environ = facts["environ"]
    assert isinstance(environ, dict)
    del environ["TMPDIR"]  # every worker has its own
    return facts.pop("pid"), facts


@pytest.mark.parametrize(
    "what",
    [
        "nothing",
        "a thread that ends",
        "an open file that nobody holds",
        "an alarm",
        "a handler",
        "a umask",
        "a folder",
        "a variable",
        "a time zone",
        "a time zone without its variable",
        "a limit",
        "a limit of memory",
        "a stream",
        "a closed stream",
    ],
)
async def test_what_can_be_taken_back_does_not_cost_the_worker(
    crew: Crew, what: str
) -> None:
    before = await surroundings(crew)

    assert (await crew.run("leaves-behind", what=what)).verdict is Verdict.DONE

    assert await surroundings(crew) == before


@pytest.mark.parametrize(
    "what",
    [
        "a thread",
        "an open file",
        "all files",
        "a timer",
        "a rare handler",
        "a handler of the C library",
        "a blocked signal",
        "a hard limit",
        "a lower priority",
        "a gigabyte of addresses",
    ],
)
async def test_a_worker_in_which_something_stays_is_replaced(
    crew: Crew, what: str
) -> None:
    pid, before = await surroundings(crew)

    assert (await crew.run("leaves-behind", what=what)).verdict is Verdict.DONE

    new, after = await surroundings(crew)
    assert new != pid
    assert after == before
    assert crew.losses == []


@pytest.mark.parametrize("limit", sorted(LIMITS))
async def test_a_worker_with_a_lower_limit_is_replaced(crew: Crew, limit: str) -> None:
    lowered = await crew.run("lowers", limit=limit)
    assert lowered.verdict is Verdict.DONE

    assert (await surroundings(crew))[0] != lowered.facts["pid"]


async def test_what_was_mapped_before_takes_nothing_from_a_run(crew: Crew) -> None:
    left = await crew.run("leaves-behind", what="some addresses")

    run = await crew.run("maps", bytes=390 << 20)

    assert run.facts == {"pid": left.facts["pid"], "mapped": True}


async def test_a_run_maps_no_more_than_its_function_may(crew: Crew) -> None:
    assert (await crew.run("maps", bytes=401 << 20)).facts["mapped"] is False


async def test_who_raises_the_limit_gets_no_more_than_some_function_may(
    crew: Crew,
) -> None:
    run = await crew.run("maps", bytes=4 << 30, is_raised=True)

    assert run.facts["mapped"] is False


async def test_libraries_that_keep_threads_may_not_keep_a_gigabyte_mapped(
    crew: Crew,
) -> None:
    kept = await crew.run("resident", what="a gigabyte of addresses")

    assert (await surroundings(crew))[0] != kept.facts["pid"]


async def test_an_alarm_does_not_ring_in_the_next_run(crew: Crew) -> None:
    await crew.run("leaves-behind", what="an alarm")

    assert (await crew.run("waits", seconds=0.6)).verdict is Verdict.DONE


async def test_a_worker_that_stands_still_is_replaced(crew: Crew) -> None:
    pid, _ = await surroundings(crew)

    def until_it_stands(_percent: float) -> None:
        """Keep the server from hearing the report before the worker stands still."""
        give_up_at = time.monotonic() + 10
        while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < give_up_at

    outcome = await crew.run("stops", wall_s=20, on_progress=until_it_stands)
    assert outcome.verdict is Verdict.DONE

    assert (await surroundings(crew))[0] != pid


@pytest.mark.parametrize(
    "what", ["a broken worker", "a worker that dies", "a worker that hangs"]
)
async def test_a_run_is_not_blamed_for_what_another_did_to_the_worker(
    crew: Crew, what: str
) -> None:
    pid = (await crew.run("leaves-behind", what=what)).facts["pid"]

    after = await crew.run("looks-around", wall_s=1.0)

    assert after.verdict is Verdict.DONE
    assert after.facts["pid"] != pid


@pytest.mark.parametrize("what", ["reports for others", "an empty message"])
async def test_a_worker_that_says_more_than_its_last_word_is_replaced(
    crew: Crew, what: str
) -> None:
    pid, _ = await surroundings(crew)
    assert (await crew.run("leaves-behind", what=what)).verdict is Verdict.DONE

    after = [(await crew.run("looks-around")).facts["pid"] for _ in range(5)]

    # the five have really run, one after the other on the new worker
    assert len(set(after)) == 1
    assert after[0] not in {pid, "forged"}
    assert [one.jobs_done for one in crew.pool.workers()] == [5]


async def test_a_run_is_not_blamed_for_mappings_that_another_has_used_up(
    crew: Crew,
) -> None:
    left = await crew.run("leaves-behind", what="no mappings")
    assert left.verdict is Verdict.DONE

    after = await crew.run("leaves-behind", what="a thread that ends")

    assert after.verdict is Verdict.DONE, after
    assert after.facts["pid"] != left.facts["pid"]


async def test_who_has_given_something_away_is_not_run_again(crew: Crew) -> None:
    await crew.run("leaves-behind", what="nothing")

    assert (await crew.run("gives-and-dies")).code == "crashed"

    assert crew.made == [("it", b"hello")]
    assert crew.losses == ["crashed"]


async def test_who_says_nothing_on_a_new_worker_either_is_at_fault(crew: Crew) -> None:
    assert (await crew.run("mumbles")).code == "bad_output"
    await crew.run("leaves-behind", what="nothing")
    assert (await crew.run("mumbles")).code == "bad_output"
    # one of them twice: the first time on a worker that had been used
    assert crew.losses == ["bad_output"] * 3


async def test_every_run_can_have_a_process_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_text("the file")
    pool = Pool(
        size=1, folder=tmp_path / "slots", modules=("tests.pool.messy",), max_runs=1
    )
    await pool.start()
    try:
        crew = Crew(pool=pool, source=source)
        pids = [(await surroundings(crew))[0] for _ in range(3)]
    finally:
        await pool.close()

    assert len(set(pids)) == 3


async def test_threads_that_a_module_starts_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_a_thread.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = Pool(
        size=1,
        folder=tmp_path / "slots",
        modules=("tests.pool.messy", "with_a_thread"),
    )
    with structlog.testing.capture_logs() as said:
        await pool.start()
    try:
        source = tmp_path / "blob"
        source.write_text("the file")
        crew = Crew(pool=pool, source=source)
        # it was there before the first run: no reason to replace the worker
        assert await surroundings(crew) == await surroundings(crew)
    finally:
        await pool.close()

    assert {"event": "worker.threads", "threads": 2, "log_level": "warning"} in said


async def test_libraries_that_say_so_keep_threads_and_files(crew: Crew) -> None:
    kept = "a thread,an open file,a handler of the C library"
    pids = [
        (await crew.run("resident", what=kept)).facts["pid"],
        (await crew.run("resident", what="a thread")).facts["pid"],
        (await crew.run("leaves-behind", what="nothing")).facts["pid"],
        (await crew.run("resident", what="a hard limit")).facts["pid"],
    ]
    assert len(set(pids)) == 1
    # nobody may keep what limits everybody
    assert (await crew.run("looks-around")).facts["pid"] not in pids


async def test_what_libraries_keep_is_bounded(crew: Crew) -> None:
    pid = (await crew.run("resident", what="all files")).facts["pid"]

    assert (await crew.run("looks-around")).facts["pid"] != pid
