"""What every database must do with turns: whose step is next.

Part of `asyncflow.testing.db_suite.DbSuite`, which says how it is used.
"""

from dataclasses import replace

from asyncflow.jobs import SUBMITTED, JobKind, PlanEntry, Verdict
from asyncflow.testing.db_world import GATE, IMAGE, TEXT, World

REPORT = PlanEntry(consumer="report", on=SUBMITTED)
BILL = PlanEntry(consumer="bill", on="order.paid")


class TurnObligations:
    """The obligations that concern whose turn it is, one test each."""

    async def test_who_comes_with_one_file_stands_near_the_front(
        self, world: World
    ) -> None:
        many = [await world.accepted(client="a") for _ in range(50)]
        await world.claim("identify", limit=2)
        one = await world.accepted(client="b")

        claimed = await world.claim("identify", limit=2)

        assert [c.job_id for c in claimed] == [one, many[2]]

    async def test_who_begins_all_the_time_keeps_nobody_waiting(
        self, world: World
    ) -> None:
        many = [await world.accepted(client="a") for _ in range(5)]
        order = []
        for n in range(5):
            await world.accepted(client=f"new {n}")
            order += [c.job_id for c in await world.claim("identify", limit=2)]

        assert [job for job in order if job in many] == many

    async def test_all_steps_of_a_job_are_one_turn(self, world: World) -> None:
        """Also those that go before, or behind, other jobs of their lane."""
        gate = replace(GATE, priority=-10)
        plan = (gate, IMAGE, replace(TEXT, priority=10))
        for _ in range(30):
            await world.accepted(gate, client="a")
        for claimed in await world.claim("identify", limit=5):
            await world.done(claimed, plan=plan)
        for _ in range(3):
            one = await world.accepted(gate, client="b")
            (claimed,) = await world.claim(limit=1)
            assert claimed.job_id == one
            await world.done(claimed, plan=plan)
            both = await world.claim(limit=2)
            assert [c.job_id for c in both] == [one, one]
            for claimed in both:
                await world.done(claimed)
            # in between the others have theirs
            assert one not in [c.job_id for c in await world.claim(limit=2)]

    async def test_what_is_held_back_keeps_nobody_else_waiting(
        self, world: World
    ) -> None:
        """A consumer with a limit has a queue of its own, and turns in it."""
        for _ in range(10):
            await world.submit(REPORT, lane="a")
        await world.claim("report", limit=1)
        for _ in range(20):
            await world.submit(BILL, lane="a", kind=JobKind.EVENT, name="order.paid")
        await world.claim("bill", limit=20)
        one = await world.submit(REPORT, lane="b")

        assert one in [c.job_id for c in await world.claim("report", limit=2)]

    async def test_what_a_lane_gets_elsewhere_is_no_turn_where_it_is_held_back(
        self, world: World
    ) -> None:
        """Who waits for a consumer with a limit has a turn there, like all others."""
        ours = [await world.submit(REPORT, lane="a") for _ in range(5)]
        for _ in range(5):
            await world.submit(REPORT, lane="b")
        event, order = JobKind.EVENT, []
        for _ in range(4):
            for _ in range(3):
                await world.submit(BILL, lane="a", kind=event, name="order.paid")
            await world.claim("bill")
            order += [c.job_id for c in await world.claim("report", limit=1)]

        assert len({*order} & {*ours}) == 2

    async def test_what_lets_newer_jobs_pass_is_a_turn_each(self, world: World) -> None:
        plan = (GATE, replace(TEXT, priority=10))
        for _ in range(5):
            await world.accepted(client="a")
        for gate in await world.claim("identify"):
            await world.done(gate, plan=plan)
        await world.claim("text", limit=1)
        one = await world.accepted(client="b")
        await world.done(await world.take("identify"), plan=plan)

        assert one in [c.job_id for c in await world.claim("text", limit=2)]

    async def test_a_paused_tenant_holds_up_nobody_elses_replays(
        self, world: World
    ) -> None:
        jobs = [await world.accepted(tenant=name) for name in ("paused", "other")]
        for gate in await world.claim("identify"):
            await world.done(gate, plan=(GATE, IMAGE))
        for image in await world.claim("image"):
            await world.done(image)
        causes = await world.db.causes(IMAGE.on, since=0, after=0, limit=10)
        await world.db.replay(causes, IMAGE, world.now)

        (claimed,) = await world.claim("image", paused=frozenset({"paused"}))
        assert claimed.job_id == jobs[1]

    async def test_what_is_urgent_puts_nobody_else_behind_the_rest_of_its_lane(
        self, world: World
    ) -> None:
        for _ in range(10):
            await world.submit(REPORT, lane="a")
        await world.submit(REPORT, lane="a", priority=-1)
        await world.claim("report", limit=1)
        one = await world.submit(REPORT, lane="b")

        assert [c.job_id for c in await world.claim("report", limit=1)] == [one]

    async def test_what_becomes_due_together_keeps_nobody_else_waiting(
        self, world: World
    ) -> None:
        late = world.now + 60_000
        for _ in range(10):
            await world.submit(REPORT, lane="a", run_at=late)
        for lane in ("c", "d", "e"):
            await world.submit(REPORT, lane=lane)
            await world.claim("report", limit=1)
        world.now = late
        one = await world.submit(REPORT, lane="b")

        assert one in [c.job_id for c in await world.claim("report", limit=2)]

    async def test_what_comes_back_together_keeps_nobody_else_waiting(
        self, world: World
    ) -> None:
        dead = [await world.submit(REPORT, lane="a") for _ in range(10)]
        for claimed in await world.claim("report", limit=10):
            await world.end(claimed, Verdict.BAD_FILE)
        for job in dead:
            await world.db.retry(job, world.now)
        one = await world.submit(REPORT, lane="b")

        assert one in [c.job_id for c in await world.claim("report", limit=2)]

    async def test_the_jobs_of_one_client_go_in_their_order(self, world: World) -> None:
        first = await world.past_gate(IMAGE, TEXT)
        second = await world.past_gate(IMAGE, TEXT)

        claimed = await world.claim(limit=4)

        assert [c.job_id for c in claimed] == [first, first, second, second]

    async def test_a_consumer_of_lower_priority_lets_newer_jobs_pass(
        self, world: World
    ) -> None:
        slow = replace(TEXT, priority=2)
        jobs = [await world.accepted() for _ in range(4)]
        for gate in await world.claim("identify"):
            await world.done(gate, plan=(GATE, IMAGE, slow))

        order = [(c.consumer, jobs.index(c.job_id)) for c in await world.claim(limit=8)]

        assert order == [
            ("image", 0),
            ("image", 1),
            ("text", 0),
            ("image", 2),
            ("text", 1),
            # behind this one there is only one more job to pass
            ("text", 2),
            ("image", 3),
            ("text", 3),
        ]

    async def test_a_lone_job_lets_nobody_elses_pass(self, world: World) -> None:
        slow = replace(TEXT, priority=20)
        for _ in range(30):
            await world.accepted(client="many")
        one = await world.accepted(client="one")
        for gate in await world.claim("identify"):
            await world.done(gate, plan=(GATE, IMAGE, slow))

        order = [(c.job_id, c.consumer) for c in await world.claim(limit=60)]

        assert order.index((one, "text")) <= order.index((one, "image")) + 2

    async def test_priority_goes_before_every_turn(self, world: World) -> None:
        await world.submit(REPORT)
        urgent = await world.submit(REPORT, priority=-1)
        late = await world.submit(REPORT, priority=5)

        order = [c.job_id for c in await world.claim("report")]

        assert (order[0], order[-1]) == (urgent, late)

    async def test_lanes_that_are_not_ahead_are_forgotten_without_harm(
        self, world: World
    ) -> None:
        for lane in ("a", "b", "c"):
            await world.submit(REPORT, lane=lane)
            await world.claim("report")
        await world.db.forget_idle()
        first = await world.submit(REPORT, lane="a")
        second = await world.submit(REPORT, lane="d")

        assert [c.job_id for c in await world.claim("report")] == [first, second]
