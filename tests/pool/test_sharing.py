"""What the processes of a run share counts once, and what each has counts for each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncflow.jobs import Verdict
from tests.pool.conftest import Crew, started
from tests.pool.test_walls import needs_linux

pytestmark = needs_linux


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """A worker whose runs may have one gigabyte."""
    async with started(
        tmp_path, "tests.pool.hostile", slot_memory_bytes=1 << 30
    ) as found:
        yield found


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
