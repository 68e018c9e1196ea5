"""What the processes of a run share counts once, and what each has counts for each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncflow.jobs import Verdict
from asyncflow.pool import Pool
from tests.pool.conftest import Crew
from tests.pool.test_walls import needs_linux

pytestmark = needs_linux


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """A worker whose runs may have one gigabyte."""
    source = tmp_path / "blob"
    source.write_text("the file")
    pool = Pool(
        size=1,
        folder=tmp_path / "slots",
        modules=("tests.pool.hostile",),
        slot_memory_bytes=1 << 30,
    )
    await pool.start()
    try:
        yield Crew(pool=pool, source=source)
    finally:
        await pool.close()


async def test_children_may_share_more_than_each_could_have(crew: Crew) -> None:
    outcome = await crew.run("multiplies", children=8, shared=300, own=0, seconds=1.0)

    assert outcome.verdict is Verdict.DONE, outcome


async def test_what_each_child_has_counts_for_each(crew: Crew) -> None:
    outcome = await crew.run("multiplies", children=8, shared=20, own=200, seconds=20)

    assert (outcome.verdict, outcome.code) == (Verdict.LOST, "out_of_memory")


async def test_three_hundred_idle_children_are_too_many_not_too_large(
    crew: Crew,
) -> None:
    outcome = await crew.run("multiplies", children=300, shared=0, own=0, seconds=20)

    assert (outcome.verdict, outcome.code) == (Verdict.ERROR, "too_many_processes")
