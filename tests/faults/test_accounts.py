"""Whatever happens to uploads, in whatever order: at the end nothing is held."""

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, sampled_from, tuples

from asyncflow.admission import ROOM_EVERY_BYTES, Admission, Rules
from asyncflow.db.records import Usage
from asyncflow.errors import LengthMismatch, QuotaExceeded, ServerBusy, UploadGone
from asyncflow.prospects import Prospect
from asyncflow.quotas import Quotas
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


async def nothing_is_counted(_tenants: Collection[str]) -> Usage:
    await asyncio.sleep(0)
    return Usage(total=0, by_tenant={})


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

    async def usage(tenants: Collection[str]) -> Usage:
        is_asked.set()
        await may_answer.wait()
        return await nothing_is_counted(tenants)

    rules = Rules(
        max_bytes=100,
        allowed_types=(),
        fill_level=100,
        quota_bytes=100,
    )
    admission = Admission(rules, space=None, usage=usage)
    may_answer.set()
    await admission.quotas.refresh()
    may_answer.clear()
    is_asked.clear()
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


class Counted:
    """A database that counts for tenants, and notes who is asked about."""

    def __init__(self, **by_tenant: int) -> None:
        self.by_tenant = by_tenant
        self.asked: list[set[str]] = []

    async def usage(self, tenants: Collection[str]) -> Usage:
        """Tell of some tenants, and of all."""
        self.asked.append(set(tenants))
        await asyncio.sleep(0)
        return Usage(
            total=sum(self.by_tenant.values()),
            by_tenant={name: self.by_tenant.get(name, 0) for name in tenants},
        )


async def test_a_regular_look_asks_about_no_tenant_however_many_there_are() -> None:
    counted = Counted(**{f"t{n}": 1 for n in range(1000)})
    quotas = Quotas(counted.usage, tenant_bytes=5)
    for name in ("t1", "t2", "t1"):
        await quotas.know(1, name)
        quotas.check(1, name)
    await quotas.refresh()
    assert counted.asked == [{"t1"}, {"t2"}, set()]
    # nobody is taken for one who has nothing
    counted.by_tenant["t1"] = 5
    await quotas.know(1, "t1")
    with pytest.raises(QuotaExceeded):
        quotas.check(1, "t1")


async def test_what_was_granted_before_a_look_counts_once_after_it() -> None:
    counted = Counted(a=0, b=0)
    quotas = Quotas(counted.usage, all_bytes=20, tenant_bytes=10)
    for name in "ab":
        await quotas.know(8, name)
        quotas.hold(name, 8)
        quotas.pass_on(name, 8)
        counted.by_tenant[name] = 8
    quotas.hold("a", 1)
    for look in (quotas.refresh, quotas.refresh):
        await look()
        await quotas.know(1, "a")
        quotas.check(1, "a")
        with pytest.raises(QuotaExceeded, match="tenant"):
            quotas.check(2, "a")
        await quotas.know(2, "b")
        quotas.check(2, "b")
        with pytest.raises(QuotaExceeded, match="quota of 20"):
            quotas.check(4, "b")


async def test_the_first_upload_meets_a_quota_that_was_used_up_before() -> None:
    counted = Counted(a=20)
    quotas = Quotas(counted.usage, all_bytes=20)
    await quotas.know(1, "b")
    with pytest.raises(QuotaExceeded):
        quotas.check(1, "b")


async def test_who_asks_while_others_are_looked_at_is_told_by_the_next_look() -> None:
    counted = Counted(a=9, b=9)
    quotas = Quotas(counted.usage, tenant_bytes=10)
    await asyncio.gather(*(quotas.know(2, name) for name in "aabb"))
    for name in "ab":
        with pytest.raises(QuotaExceeded):
            quotas.check(2, name)
    assert [sorted(one) for one in counted.asked] == [["a"], ["a", "b"]]


CHUNK_STEPS = tuples(
    sampled_from(["begin", "leave", "break", "keep", "end"]),
    integers(min_value=1, max_value=12),
)


class Chunked:
    """What one file has got of which chunks come."""

    def __init__(self, name: str, admission: Admission, counted: Counted) -> None:
        self.name = name
        self.parts = 0
        self.requests: list[Prospect] = []
        self._admission = admission
        self._counted = counted.by_tenant

    async def begin(self, units: int) -> None:
        """Begin a request that foresees so much."""
        with suppress(ServerBusy, QuotaExceeded):
            self.requests.append(await self._foresee(units * UNIT))
            self._admission.prospects.bind(self.requests[-1], self.name)

    async def _foresee(self, size: int) -> Prospect:
        most = 2 * size
        return await self._admission.foresee(
            self.name, self.name, least=size, most=most
        )

    def leave(self) -> None:
        """End a request."""
        if self.requests:
            self._admission.prospects.leave(self.requests.pop())

    async def chunk(self, units: int, *, is_kept: bool) -> None:
        """Fill a part, as far as there is room."""
        self.parts += 1
        part, at = f"{self.name}/{self.parts}", 0
        within = self.requests[-1].held if self.requests else None
        self._admission.found(part, self.name, 0, within)
        with suppress(ServerBusy, QuotaExceeded):
            await self._admission.grow(part, 0, more=None)
            for _ in range(units):
                await self._admission.take(part, at + UNIT)
                at += UNIT
                await self._admission.go_on(part, at)
        self._admission.rest(part, at)
        if is_kept:
            self._counted[self.name] += at
            self._admission.counted(part, self.name, at)
        else:
            self._admission.forget(part)
        assert sum(self._counted.values()) <= MOST

    async def live(self, steps: list[tuple[str, int]]) -> None:
        """Do one step after the other, and end."""
        for step, units in steps:
            match step:
                case "begin":
                    await self.begin(units)
                case "leave":
                    self.leave()
                case "end":
                    self._admission.forget(self.name)
                case _:
                    await self.chunk(units, is_kept=step == "keep")
        while self.requests:
            self.leave()
        self._admission.forget(self.name)


@settings(max_examples=100, deadline=None)
@given(lists(lists(CHUNK_STEPS, max_size=12), min_size=2, max_size=2))
def test_files_of_chunks_never_hold_more_than_there_is_and_nothing_at_the_end(
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
        counted = Counted(a=0, b=0)
        admission = Admission(rules, space=nothing_is_stored, usage=counted.usage)
        files = [Chunked(name, admission, counted) for name in "ab"]
        await asyncio.gather(
            *(one.live(steps) for one, steps in zip(files, lives, strict=True))
        )
        left = MOST - sum(counted.by_tenant.values())
        async with admission.admitted(length=left, declared_type="text/plain"):
            pass

    asyncio.run(run())


async def test_what_a_broken_chunk_had_goes_back_to_its_file() -> None:
    rules = Rules(max_bytes=MOST, allowed_types=(), fill_level=100, quota_bytes=MOST)
    admission = Admission(rules, space=nothing_is_stored)
    one = await admission.foresee("a", "", least=MOST, most=MOST)
    admission.prospects.bind(one, "a")
    for _ in range(2):
        admission.found("part", "", 0, one.held)
        await admission.grow("part", 0, more=None)
        await admission.take("part", UNIT)
        await admission.go_on("part", UNIT)
        admission.rest("part", UNIT)
        admission.forget("part")
        with pytest.raises(QuotaExceeded):
            await admission.foresee("b", "", least=UNIT, most=UNIT)
    admission.prospects.leave(one)
    admission.forget("a")
    async with admission.admitted(length=MOST, declared_type="text/plain"):
        pass
