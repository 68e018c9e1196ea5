"""No run fills the disk: what it holds is bounded in sum, with and without names."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncflow import holdings
from asyncflow.jobs import Verdict
from asyncflow.prints import Prints
from asyncflow.store import kernel
from tests.pool.conftest import Crew, started
from tests.pool.test_walls import needs_linux

MIB = 1 << 20


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """Workers whose runs may hold 24 MiB each."""
    async with started(
        tmp_path, "tests.pool.hostile", max_file_bytes=24 * MIB
    ) as found:
        yield found


@pytest.mark.parametrize(
    "how",
    [
        "files",
        pytest.param("nameless files", marks=needs_linux),
        pytest.param("mapped files", marks=needs_linux),
        "too many files",
        "where no path leads",
    ],
)
async def test_a_run_that_holds_too_much_of_the_disk_is_ended(
    crew: Crew, how: str
) -> None:
    outcome = await crew.run("fills", how=how, wall_s=60)

    assert (outcome.verdict, outcome.code) == (Verdict.ERROR, "too_much_output")
    assert (await crew.run("echo")).verdict is Verdict.DONE


async def test_a_run_may_write_and_remove_as_much_as_it_likes(crew: Crew) -> None:
    assert (await crew.run("churns")).verdict is Verdict.DONE


def test_a_run_may_hold_what_is_left_and_never_more_than_the_bound() -> None:
    gib = 1 << 30
    assert holdings.may_hold(100 * gib, 16 * gib) == 16 * gib
    assert holdings.may_hold(3 * gib, 16 * gib) == 3 * gib
    # what is small fills no disk, and is not to be blamed for one that is full
    assert holdings.may_hold(0, 16 * gib) == 64 * MIB


def held(slot: Path) -> int:
    found = holdings.held_by(slot, ())
    assert found is not None
    assert found.is_certain
    return found.count


def test_what_has_two_names_counts_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "one").write_bytes(os.urandom(MIB))
    before = held(tmp_path)
    (out / "folder" / "two").hardlink_to(out / "one")
    (out / "away").symlink_to("/usr")

    assert before >= MIB
    assert held(tmp_path) == before


@needs_linux
def test_room_that_a_worker_took_by_printing_counts_and_is_given_back(
    tmp_path: Path,
) -> None:
    (tmp_path / "out").mkdir()
    prints = Prints(tmp_path)
    before = held(tmp_path)
    with (tmp_path / "printed").open("ab") as file:
        assert kernel.reserve(file.fileno(), 0, 4 * MIB)
        assert file.tell() == 0
        during = held(tmp_path)
    prints.bound()
    after = held(tmp_path)
    prints.close()

    assert before == after == 0
    assert during >= 4 * MIB
