"""Whatever happens to uploads, in whatever order: at the end nothing is held."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, sampled_from, tuples

from asyncflow.admission import ROOM_EVERY_BYTES, Admission, Rules
from asyncflow.errors import LengthMismatch, ServerBusy, UploadGone
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
        admission.found(name, name, 0)

    async def fill(self, units: int, *, says: bool) -> None:
        """Send so much in one request; *says*: and tell before how much."""
        admission, name, end = self._admission, self.name, self.at + units * UNIT
        more = units * UNIT if says else None
        try:
            await admission.grow(name, self.at, more=more)
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
        async with self._admission.measured(self.name, length=length, at=self.at):
            await asyncio.sleep(0)
            if fails:
                raise LengthMismatch
        self.begin()

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
        self.begin()

    async def break_off(self, step: Coroutine[None, None, None], turns: int) -> None:
        """End it while it does something, and so many turns of the loop later."""
        doing = asyncio.ensure_future(step)
        for _ in range(turns):
            await asyncio.sleep(0)
        self._admission.forget(self.name)
        try:
            await doing
        finally:
            self.begin()

    def begin(self) -> None:
        """Let another one take its place."""
        self.at = 0
        self._admission.found(self.name, self.name, 0)


async def nothing_is_counted() -> Mapping[str, int]:
    await asyncio.sleep(0)
    return {}


async def nothing_is_stored() -> Space:
    await asyncio.sleep(0)
    return Space(total_bytes=MOST, free_bytes=MOST)


STEPS = tuples(
    sampled_from(
        ["say", "fill", "measure", "refuse", "announce", "fail", "end", "break", "cut"]
    ),
    integers(0, 12),
)


async def live(upload: Bytes, steps: list[tuple[str, int]]) -> None:
    for step, units in steps:
        with suppress(ServerBusy, LengthMismatch, UploadGone):
            match step:
                case "say" | "fill":
                    await upload.fill(units, says=step == "say")
                case "measure" | "refuse":
                    await upload.measure(units, fails=step == "refuse")
                case "announce" | "fail":
                    await upload.announce(units, fails=step == "fail")
                case "break":
                    step_of = upload.fill(units, says=True)
                    await upload.break_off(step_of, units)
                case "cut":
                    await upload.break_off(upload.measure(units, fails=False), units)
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
            fill_level=100,
            quota_bytes=MOST,
            tenant_quota_bytes=MOST,
        )
        admission = Admission(rules, space=nothing_is_stored, usage=nothing_is_counted)
        uploads = [Bytes(name, admission) for name in NAMES]
        await asyncio.gather(*map(live, uploads, lives))
        for name in NAMES:
            async with admission.admitted(
                length=MOST, declared_type="text/plain", tenant=name
            ):
                pass

    asyncio.run(run())


async def test_what_ends_while_the_database_is_asked_holds_nothing_afterwards() -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def usage() -> Mapping[str, int]:
        is_asked.set()
        await may_answer.wait()
        return {}

    rules = Rules(
        max_bytes=100,
        allowed_types=(),
        fill_level=100,
        quota_bytes=100,
    )
    admission = Admission(rules, space=None, usage=usage)
    for name in NAMES:
        admission.found(name, "", 0)

    async def measure() -> None:
        async with admission.measured("b", length=50, at=0):
            pass

    async with admission.admitted(length=60, declared_type="text/plain"):
        waiting = [
            asyncio.ensure_future(admission.grow("a", 0, more=50)),
            asyncio.ensure_future(measure()),
            asyncio.ensure_future(admission.take("c", 50)),
        ]
        await is_asked.wait()
    for name in NAMES:
        admission.forget(name)
    may_answer.set()
    for one in waiting:
        with pytest.raises(UploadGone):
            await one
    # who comes too late is told so, too
    with pytest.raises(UploadGone):
        await admission.grow("a", 0, more=1)
    async with admission.admitted(length=100, declared_type="text/plain"):
        pass
