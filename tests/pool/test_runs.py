"""What a run hands back when file and processor behave, or say that they cannot."""

import asyncio
import os
from pathlib import Path

import pytest

from asyncflow.errors import ShuttingDown, StartError
from asyncflow.jobs import REASONS, Verdict
from asyncflow.pool import Made, Order, Pool, default_size
from tests.pool.conftest import MODULES, Crew


async def test_a_processor_reads_the_file_and_returns_facts(crew: Crew) -> None:
    outcome = await crew.run("echo")
    assert outcome.verdict is Verdict.DONE
    assert outcome.facts == {"text": "the file", "type": "text/plain"}


async def test_derivatives_arrive_once_and_in_order_before_done(crew: Crew) -> None:
    outcome = await crew.run("publishes")
    assert outcome.facts == {"done": True}
    assert [name for name, _ in crew.made] == ["first", "second", "third"]
    assert {data for _, data in crew.made} == {b"hello"}
    assert crew.facts == {"n": 1}


async def test_a_published_derivative_arrives_while_the_worker_still_runs(
    crew: Crew,
) -> None:
    arrived = asyncio.Event()

    async def take(made: Made) -> None:
        assert made.name == "pids"
        arrived.set()

    run = asyncio.create_task(crew.run("forks", then="wait", on_derivative=take))
    await asyncio.wait_for(arrived.wait(), 10)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.mark.parametrize(("said", "heard"), [(50, 50.0), (400, 100.0), (-3, 0.0)])
async def test_progress_is_kept_within_0_and_100(
    crew: Crew, said: float, heard: float
) -> None:
    await crew.run("publishes", percent=said)
    assert crew.percents == [heard]


async def test_a_failed_run_publishes_nothing_more(crew: Crew) -> None:
    outcome = await crew.run("publishes", then="fail")
    assert outcome.verdict is Verdict.BAD_FILE
    assert "third" not in [name for name, _ in crew.made]


@pytest.mark.parametrize(
    ("kind", "verdict", "code"),
    [
        ("bad", Verdict.BAD_FILE, "damaged"),
        ("later", Verdict.TRY_LATER, "try_later"),
        ("skip", Verdict.SKIPPED, "missing_tool"),
        ("value", Verdict.ERROR, "error"),
        ("exit", Verdict.ERROR, "error"),
        ("interrupt", Verdict.ERROR, "error"),
        ("memory", Verdict.LOST, "out_of_memory"),
        ("odd", Verdict.BAD_FILE, "error"),
    ],
)
async def test_what_a_processor_raises_becomes_a_verdict(
    crew: Crew, kind: str, verdict: Verdict, code: str
) -> None:
    outcome = await crew.run("raises", kind=kind)
    assert (outcome.verdict, outcome.code) == (verdict, code)
    assert outcome.detail
    assert (await crew.run("echo")).verdict is Verdict.DONE


async def test_try_later_says_when(crew: Crew) -> None:
    assert (await crew.run("raises", kind="later")).after_s == 7.5


async def test_people_never_read_a_path_of_the_server(crew: Crew) -> None:
    for kind in ("bad", "value"):
        outcome = await crew.run("raises", kind=kind)
        assert outcome.detail
        assert str(crew.source.parent) not in outcome.detail


async def test_a_detail_is_one_short_printable_line(crew: Crew) -> None:
    assert len((await crew.run("raises", kind="long")).detail) <= 500
    assert (await crew.run("raises", kind="odd")).detail == "a[31mb c"


@pytest.mark.parametrize("kind", ["not json", "nan", "huge"])
async def test_facts_that_cannot_be_stored_are_the_processors_failure(
    crew: Crew, kind: str
) -> None:
    outcome = await crew.run("facts", kind=kind)
    assert (outcome.verdict, outcome.code) == (Verdict.BAD_OUTPUT, "bad_output")
    assert outcome.detail.startswith("the result is ")


async def test_a_missing_tool_or_processor_skips_the_step(crew: Crew) -> None:
    unready, unknown = await crew.run("unready"), await crew.run("unheard-of")
    assert unready.detail == "the tool is not installed"
    assert unready.code == unknown.code == "missing_tool"
    assert unready.verdict is unknown.verdict is Verdict.SKIPPED


async def test_a_source_that_is_gone_is_an_error_and_not_an_exception(
    crew: Crew,
) -> None:
    crew.source, kept = crew.source.with_name("gone"), crew.source
    outcome = await crew.run("echo")
    crew.source = kept
    assert (outcome.verdict, outcome.code) == (Verdict.ERROR, "error")
    assert (await crew.run("echo")).verdict is Verdict.DONE


async def test_what_on_derivative_raises_reaches_the_caller(crew: Crew) -> None:
    async def refuse(_made: Made) -> None:
        raise OSError("the store is full")

    before = {info.pid for info in crew.pool.workers()}
    with pytest.raises(OSError, match="store is full"):
        await crew.run("publishes", on_derivative=refuse)
    after = {info.pid for info in crew.pool.workers()}
    assert len(before - after) == 1
    assert crew.pool.free == 2


async def test_more_runs_than_slots_wait_their_turn(crew: Crew) -> None:
    outcomes = await asyncio.gather(*(crew.run("echo") for _ in range(20)))
    assert {o.verdict for o in outcomes} == {Verdict.DONE}
    assert crew.pool.free == 2


async def test_a_cancelled_waiter_loses_no_slot(crew: Crew) -> None:
    started = asyncio.Event()
    held = [
        asyncio.create_task(
            crew.run("spins", wall_s=1.0, on_progress=lambda _p: started.set())
        )
        for _ in range(2)
    ]
    await asyncio.wait_for(started.wait(), 10)
    waiter = asyncio.create_task(crew.run("echo"))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert {(await one).code for one in held} == {"timeout"}
    assert crew.pool.free == 2


async def test_the_listing_names_what_runs(crew: Crew) -> None:
    started = asyncio.Event()
    run = asyncio.create_task(
        crew.run("spins", wall_s=0.5, on_progress=lambda _p: started.set())
    )
    await asyncio.wait_for(started.wait(), 10)
    listing = {info.state: info for info in crew.pool.workers()}
    assert listing["running"].label == "spins"
    assert listing["idle"].rss_bytes > 1 << 20
    assert crew.pool.free == 1
    await run


async def test_a_crash_is_counted(crew: Crew) -> None:
    await crew.run("dies", how="abort")
    await crew.run("echo")
    assert crew.losses == ["crashed"]


async def test_closing_interrupts_runs_and_refuses_new_ones(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_text("x")
    pool = Pool(size=1, folder=tmp_path / "slots", modules=MODULES)
    await pool.start()
    crew, started = Crew(pool=pool, source=source), asyncio.Event()
    running = asyncio.create_task(
        crew.run("spins", on_progress=lambda _p: started.set())
    )
    await asyncio.wait_for(started.wait(), 10)
    waiting = asyncio.create_task(crew.run("echo"))
    await asyncio.sleep(0)
    await pool.close()
    outcome = await running
    assert (outcome.verdict, outcome.code) == (Verdict.INTERRUPTED, "interrupted")
    for late in (waiting, asyncio.create_task(crew.run("echo"))):
        with pytest.raises(ShuttingDown):
            await late


async def test_a_closing_pool_lets_runs_finish_within_its_grace(crew: Crew) -> None:
    started = asyncio.Event()
    run = asyncio.create_task(
        crew.run("floods", seconds=0.5, on_progress=lambda _p: started.set())
    )
    await asyncio.sleep(0)
    await crew.pool.close(grace_s=20)
    assert (await run).verdict is Verdict.DONE


async def test_a_run_whose_worker_still_loads_is_interrupted_by_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_the_second_time.py").write_text(
        "import pathlib, time\n"
        f"loads = pathlib.Path({str(tmp_path / 'loads')!r})\n"
        "with loads.open('a') as file: file.write('.')\n"
        "if loads.stat().st_size > 1: time.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "blob"
    source.touch()
    pool = Pool(
        size=1,
        folder=tmp_path / "slots",
        modules=(*MODULES, "slow_the_second_time"),
    )
    await pool.start()
    crew = Crew(pool=pool, source=source)
    assert (await crew.run("dies", how="exit")).verdict is Verdict.LOST
    run = asyncio.create_task(crew.run("echo"))
    await asyncio.sleep(0)
    await pool.close()
    assert (await run).verdict is Verdict.INTERRUPTED


async def test_a_processor_that_cannot_be_loaded_stops_the_start(
    tmp_path: Path,
) -> None:
    pool = Pool(size=1, folder=tmp_path / "slots", modules=("no.such.module",))
    with pytest.raises(StartError, match="there is no module called"):
        await pool.start()


async def test_a_pool_is_started_on_the_main_thread_only(tmp_path: Path) -> None:
    pool = Pool(size=1, folder=tmp_path / "slots", modules=MODULES)
    with pytest.raises(StartError, match="main thread"):
        await asyncio.to_thread(asyncio.run, pool.start())


async def test_stale_slots_are_removed_at_start(tmp_path: Path) -> None:
    stale = tmp_path / "slots" / "slot-0-old" / "out"
    stale.mkdir(parents=True)
    (stale / "left").write_text("x")
    pool = Pool(size=1, folder=tmp_path / "slots", modules=MODULES)
    await pool.start()
    assert not stale.parent.exists()
    await pool.close()


async def test_the_pool_says_what_its_workers_can_do(crew: Crew) -> None:
    card = crew.pool.processors["publishes"]
    assert card.outputs == ("first", "second", "third")
    assert crew.pool.processors["unready"].missing == "the tool"
    assert crew.pool.sandbox


def test_the_default_size_is_within_the_machine() -> None:
    assert 1 <= default_size() <= len(os.sched_getaffinity(0))


def test_every_code_of_the_pool_is_documented() -> None:
    assert {"timeout", "crashed", "out_of_memory", "bad_output"} <= REASONS.keys()


async def test_orders_wait_for_a_worker_in_the_order_of_their_turns(crew: Crew) -> None:
    began: list[tuple[int, int]] = []

    async def wait_at(place: tuple[int, int]) -> None:
        order = Order(
            label="echo",
            processor="echo",
            source=crew.source,
            file_name="file.txt",
            media_type="text/plain",
            place=place,
        )
        await crew.pool.run(
            order,
            on_progress=crew.percents.append,
            on_derivative=crew.take,
            on_begin=lambda: began.append(place),
        )

    both = [asyncio.create_task(crew.run("spins", wall_s=0.5)) for _ in range(2)]
    await asyncio.sleep(0)
    places = [(0, 7), (0, 3), (5, 1), (-1, 9)]
    await asyncio.gather(*both, *(wait_at(place) for place in places))

    assert began == sorted(places)
