import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncflow.pool import Made, Order, Outcome, Pool

MODULES = ("tests.pool.hostile", "tests.pool.probes")
BUDGET = 400 << 20


@dataclass
class Crew:
    """A started pool with one file, and what its runs have said."""

    pool: Pool
    source: Path
    made: list[tuple[str, bytes]] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    percents: list[float] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool.on_loss = self.losses.append

    async def take(self, made: Made) -> None:
        self.made.append((made.name, os.read(made.fd, 1 << 20)))
        self.facts = dict(made.facts)

    async def run(
        self,
        processor: str,
        *,
        wall_s: float | None = 20.0,
        on_derivative: Callable[[Made], Awaitable[None]] | None = None,
        on_progress: Callable[[float], None] | None = None,
        **options: object,
    ) -> Outcome:
        return await self.pool.run(
            Order(
                label=processor,
                processor=processor,
                source=self.source,
                file_name="file.txt",
                media_type="text/plain",
                options=options,
                wall_s=wall_s,
            ),
            on_progress=on_progress or self.percents.append,
            on_derivative=on_derivative or self.take,
        )


@contextlib.asynccontextmanager
async def started(
    folder: Path, *modules: str, source: Path | None = None, **options: Any
) -> AsyncIterator[Crew]:
    """Start a pool of *modules* in *folder*, one worker unless *options* say more.

    Neither does it change the file nor leave anything.
    """
    if source is None:
        source = folder / "blob"
        source.write_text("the file")
    before, slots = source.read_bytes(), folder / "slots"
    pool = Pool(**{"size": 1, "folder": slots, "modules": modules, **options})
    await pool.start()
    try:
        yield Crew(pool=pool, source=source)
    finally:
        await pool.close()
        assert source.read_bytes() == before
        assert list(slots.iterdir()) == []


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    async with started(tmp_path, *MODULES, size=2, slot_memory_bytes=BUDGET) as found:
        yield found


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]
