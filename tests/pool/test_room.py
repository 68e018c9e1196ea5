"""A file is not blamed for the memory that its worker lacks."""

from collections.abc import AsyncIterator
from pathlib import Path

import PIL.Image
import pytest

from asyncflow.jobs import Verdict
from tests.pool.conftest import Crew, started
from tests.pool.test_walls import needs_linux

ROOMS = (0, 6, 11, 13, 16, 20, 26, 32, 48, 70)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """One worker, and a picture."""
    source = tmp_path / "picture.jpg"
    PIL.Image.effect_noise((1600, 1200), 60).save(source)
    async with started(tmp_path, "tests.pool.stingy", source=source) as found:
        yield found


@needs_linux
@pytest.mark.parametrize("run", ["identify", "image"])
async def test_no_picture_is_refused_for_want_of_memory(crew: Crew, run: str) -> None:
    ends = {mib: await crew.run("stingy", run=run, mib=mib) for mib in ROOMS}

    said = {mib: (end.verdict, end.code, end.cause) for mib, end in ends.items()}
    assert {end.verdict for end in ends.values()} <= {Verdict.DONE, Verdict.LOST}, said
    assert ends[0].verdict is Verdict.LOST
    assert ends[70].verdict is Verdict.DONE
