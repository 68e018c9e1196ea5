import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    source = tmp_path / "blob"
    source.write_text("the file")
    pool = Pool(
        size=2,
        folder=tmp_path / "slots",
        modules=MODULES,
        slot_memory_bytes=BUDGET,
    )
    await pool.start()
    try:
        yield Crew(pool=pool, source=source)
    finally:
        await pool.close()
        assert source.read_text() == "the file"
        assert list((tmp_path / "slots").iterdir()) == []


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]
