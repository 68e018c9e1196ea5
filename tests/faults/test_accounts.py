"""Whatever happens to uploads, in whatever order: at the end nothing is held."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from hypothesis import given, settings
from hypothesis.strategies import integers, lists, sampled_from, tuples

from asyncflow.admission import ROOM_EVERY_BYTES, Admission, Rules
from asyncflow.errors import LengthMismatch, ServerBusy
from asyncflow.store.base import Space

UNIT = ROOM_EVERY_BYTES // 4
MOST = 40 * UNIT
NAMES = ("a", "b", "c")


class Bytes:
    """What one upload of unknown length has got."""

    def __init__(self, name: str, admission: Admission) -> None:
        self.name = name
        self.at = 0
        self._admission = admission

    async def fill(self, units: int, *, says: bool) -> None:
        """Send so much in one request; *says*: and tell before how much."""
        admission, name, end = self._admission, self.name, self.at + units * UNIT
        more = units * UNIT if says else None
        try:
            await admission.grow(name, name, self.at, more=more)
            while self.at < end:
                await admission.take(name, self.at + UNIT)
                await asyncio.sleep(0)
                self.at += UNIT
                await admission.go_on(name, self.at)
        finally:
            admission.rest(name, self.at)

    async def measure(self, units: int, *, fails: bool) -> None:
        """Say the length, which the database may refuse to store."""
        length = self.at + units * UNIT
        async with self._admission.measured(
            self.name, self.name, length=length, at=self.at
        ):
            await asyncio.sleep(0)
            if fails:
                raise LengthMismatch
        self.at = 0

    async def announce(self, units: int, *, fails: bool) -> None:
        """Create an upload of known length, which may come to nothing."""
        async with self._admission.admitted(
            length=units * UNIT, declared_type="text/plain", tenant=self.name
        ) as held:
            await asyncio.sleep(0)
            if fails:
                raise LengthMismatch
            held.counted()
            held.stored()

    async def end(self) -> None:
        """Give it up, or have it accepted as it is."""
        self._admission.forget(self.name)
        self.at = 0


async def nothing_is_counted() -> Mapping[str, int]:
    await asyncio.sleep(0)
    return {}


async def nothing_is_stored() -> Space:
    await asyncio.sleep(0)
    return Space(total_bytes=MOST, free_bytes=MOST)


STEPS = tuples(
    sampled_from(["say", "fill", "measure", "refuse", "announce", "fail", "end"]),
    integers(0, 12),
)


async def live(upload: Bytes, steps: list[tuple[str, int]]) -> None:
    for step, units in steps:
        with suppress(ServerBusy, LengthMismatch):
            match step:
                case "say" | "fill":
                    await upload.fill(units, says=step == "say")
                case "measure" | "refuse":
                    await upload.measure(units, fails=step == "refuse")
                case "announce" | "fail":
                    await upload.announce(units, fails=step == "fail")
                case _:
                    await upload.end()
    await upload.end()


@settings(max_examples=60, deadline=None)
@given(lists(lists(STEPS, max_size=8), min_size=3, max_size=3))
def test_at_the_end_everything_is_free_again(
    lives: list[list[tuple[str, int]]],
) -> None:
    async def run() -> None:
        rules = Rules(
            max_bytes=10 * MOST,
            allowed_types=(),
            backlog_limit=1,
            fill_level=100,
            quota_bytes=MOST,
            tenant_quota_bytes=MOST,
        )
        admission = Admission(
            rules, space=nothing_is_stored, backlog=lambda: 0, usage=nothing_is_counted
        )
        uploads = [Bytes(name, admission) for name in NAMES]
        await asyncio.gather(*map(live, uploads, lives))
        for name in NAMES:
            async with admission.admitted(
                length=MOST, declared_type="text/plain", tenant=name
            ):
                pass

    asyncio.run(run())
