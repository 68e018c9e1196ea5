"""What every database must do with steps: claims, tokens, leases, failures, gates.

Part of `asyncflow.testing.db_suite.DbSuite`, which says how it is used.
"""

import asyncio

from asyncflow import uploads
from asyncflow.db.records import Ended
from asyncflow.jobs import JobState, Limits, PlanEntry, StepState, Verdict
from asyncflow.testing.db_world import (
    GATE,
    HOUR_MS,
    IMAGE,
    LEASE_MS,
    SCAN,
    TEXT,
    World,
)


class StepObligations:
    """The obligations that concern steps, one test each."""

    async def test_the_most_urgent_step_is_claimed_first(self, world: World) -> None:
        first, second = [await world.accepted() for _ in range(2)]
        for gate in await world.claim():
            await world.done(gate, plan=(GATE, IMAGE))
        urgent = await world.accepted()

        claimed = await world.claim(limit=3)

        assert [one.job_id for one in claimed] == [urgent, first, second]
        assert [one.consumer for one in claimed] == ["identify", "image", "image"]

    async def test_equally_urgent_steps_are_claimed_in_their_order(
        self, world: World
    ) -> None:
        ids = [await world.accepted() for _ in range(6)]

        claimed = [*await world.claim(limit=4), *await world.claim(limit=4)]

        assert [one.job_id for one in claimed] == ids

    async def test_a_claim_takes_only_what_was_asked_for(self, world: World) -> None:
        await world.past_gate(IMAGE, TEXT)

        assert [one.consumer for one in await world.claim("text")] == ["text"]
        assert await world.claim("text", "scan") == []

    async def test_a_claim_brings_all_that_running_needs(self, world: World) -> None:
        job = await world.accepted()
        gate = await world.take("identify")
        options = {"sizes": [1, 2]}
        image = PlanEntry(consumer="image", on=IMAGE.on, options=options)
        ended = Ended(
            verdict=Verdict.DONE,
            facts={"width": 4000},
            media_type="image/png",
            plan=(GATE, image),
        )
        await world.settle(gate, ended)

        one = await world.take("image")

        assert (one.job_id, one.key, one.size) == (job, uploads.raw_key(job), 10)
        assert (one.declared_type, one.media_type) == ("image/jpeg", "image/png")
        assert (one.options, one.metadata) == (options, {"album": "été"})
        assert one.facts == {"identify": {"width": 4000}}
        assert (gate.gate, one.gate, gate.media_type) == (True, False, None)

    async def test_claims_at_once_never_share_a_step(self, world: World) -> None:
        for _ in range(20):
            await world.accepted()

        rounds = await asyncio.gather(*(world.claim(limit=3) for _ in range(10)))

        steps = [one.step_id for claimed in rounds for one in claimed]
        assert len(steps) == len(set(steps)) == 20

    async def test_a_job_is_processing_from_its_first_claim(self, world: World) -> None:
        job = await world.accepted()
        before = await world.state(job)
        await world.take("identify")

        assert (before, await world.state(job)) == ("PENDING", "PROCESSING")
        assert world.last(job).steps[0].status is StepState.RUNNING

    async def test_a_late_owner_changes_nothing(self, world: World) -> None:
        await world.past_gate(IMAGE)
        late = await world.take("image")
        world.mono += LEASE_MS + 1
        await world.beat()
        world.now += HOUR_MS
        owner = await world.take("image")
        told = len(world.changes)

        assert owner.token > late.token
        assert not await world.publish(late)
        assert await world.done(late) is None
        assert await world.beat(late) == [(late.step_id, late.token)]
        assert len(world.changes) == told
        assert await world.done(owner) is StepState.DONE

    async def test_an_attempt_settles_once(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")

        states = await asyncio.gather(*(world.done(image) for _ in range(5)))

        assert sorted(states, key=str) == [None, None, None, None, StepState.DONE]
        assert world.terminals(job) == ["job.completed"]

    async def test_a_renewed_lease_does_not_run_out(self, world: World) -> None:
        await world.past_gate(IMAGE)
        image = await world.take("image")
        for _ in range(4):
            world.mono += LEASE_MS - 1
            assert await world.beat(image) == []

        assert await world.done(image) is StepState.DONE

    async def test_a_beat_renews_before_it_frees(self, world: World) -> None:
        """An owner that was frozen past its lease, and nobody noticed, goes on."""
        await world.past_gate(IMAGE)
        image = await world.take("image")
        world.mono += 10 * LEASE_MS

        assert await world.beat(image) == []
        assert await world.done(image) is StepState.DONE

    async def test_a_lease_that_ran_out_is_a_loss_not_an_attempt(
        self, world: World
    ) -> None:
        world.limits = Limits(attempts=3, lost=2)
        job = await world.past_gate(IMAGE)
        for _ in range(2):
            await world.take("image")
            world.mono += LEASE_MS + 1
            await world.beat()
            world.now += HOUR_MS

        view = await world.db.job(job)
        assert view.status is JobState.FAILED
        assert view.error is not None
        assert (view.error.code, view.error.step) == ("crashed", "image")

    # ----- failures

    async def test_failures_of_different_kinds_are_counted_apart(
        self, world: World
    ) -> None:
        world.limits = Limits(attempts=3, lost=2, interrupted=2)
        await world.past_gate(IMAGE)
        kinds = (Verdict.ERROR, Verdict.LOST, Verdict.INTERRUPTED, Verdict.ERROR)
        for verdict in (*kinds, Verdict.RELEASED, Verdict.TRY_LATER):
            state = await world.end(await world.take("image"), verdict)
            assert state is not StepState.DEAD
            world.now += HOUR_MS

        state = await world.end(await world.take("image"), Verdict.ERROR)
        assert state is StepState.DEAD

    async def test_interruptions_have_their_own_limit(self, world: World) -> None:
        world.limits = Limits(interrupted=2)
        await world.past_gate(IMAGE)

        first = await world.end(await world.take("image"), Verdict.INTERRUPTED)
        second = await world.end(await world.take("image"), Verdict.INTERRUPTED)

        assert (first, second) == (StepState.READY, StepState.DEAD)

    async def test_a_failed_step_waits_for_its_back_off(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        failed = Ended(verdict=Verdict.ERROR, code="error", spread=0.5)

        assert await world.settle(image, failed) is StepState.RETRYING

        assert world.last(job).due == (("image", 1.0),)
        world.now += 999
        assert await world.claim("image") == []
        world.now += 1
        assert (await world.take("image")).token == image.token + 1

    async def test_try_later_waits_as_long_as_it_says(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        later = Ended(verdict=Verdict.TRY_LATER, code="try_later", after_s=7.0)
        await world.settle(await world.take("image"), later)

        assert world.last(job).due == (("image", 7.0),)
        world.now += 6_999
        assert await world.claim("image") == []
        world.now += 1
        assert len(await world.claim("image")) == 1

    async def test_who_asks_for_no_pause_waits_longer_each_time(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        later = Ended(verdict=Verdict.TRY_LATER, code="try_later", after_s=0.0)

        for count in (1.0, 2.0, 3.0):
            await world.settle(await world.take("image"), later)
            assert world.last(job).due == (("image", count),)
            world.now += 3_000

    async def test_a_bad_file_is_never_tried_again(self, world: World) -> None:
        job = await world.failed()

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.code) == (JobState.FAILED, "damaged")
        assert world.terminals(job) == ["job.failed"]
        world.now += HOUR_MS
        assert await world.claim() == []

    async def test_a_released_step_is_ready_at_once_and_charged_nothing(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)

        state = await world.end(await world.take("image"), Verdict.RELEASED, "")

        assert state is StepState.READY
        assert world.last(job).ring == {"image"}
        assert (await world.db.job(job)).steps[1].attempts == 0

    # ----- gates

    async def test_no_step_starts_before_every_gate_said_yes(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        await world.done(await world.take("identify"), plan=(GATE, SCAN, IMAGE))
        between = await world.db.job(job)
        await world.done(await world.take("scan"))

        assert not between.accepted
        assert await world.steps(job) == {
            "identify": StepState.DONE,
            "scan": StepState.DONE,
            "image": StepState.READY,
        }
        assert (await world.db.job(job)).accepted
        assert world.last(job).ring == {"image"}

    async def test_steps_to_come_are_shown_as_waiting(self, world: World) -> None:
        job = await world.accepted(GATE, SCAN)
        await world.done(await world.take("identify"), plan=(GATE, SCAN, IMAGE))

        assert (await world.steps(job))["image"] is StepState.WAITING

    async def test_a_gate_that_says_no_rejects_the_job_and_stops_the_others(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        identify, scan = await world.claim()
        await world.end(scan, Verdict.BAD_FILE, "encrypted")

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.accepted) == (JobState.REJECTED, False)
        assert (view.error.code, view.error.step) == ("encrypted", "scan")
        assert (await world.steps(job))["identify"] is StepState.CANCELLED
        assert (identify.step_id, identify.token) in world.last(job).stop
        assert await world.done(identify) is None
        assert world.terminals(job) == ["job.rejected"]

    async def test_a_gate_that_gives_back_what_it_may_not_fails_the_job(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        identify, _scan = await world.claim()

        # the file may be as good as any
        await world.end(identify, Verdict.BAD_OUTPUT, "bad_output")

        assert await world.state(job) is JobState.FAILED

    async def test_a_gate_that_keeps_crashing_fails_the_job(self, world: World) -> None:
        world.limits = Limits(lost=1)
        job = await world.accepted(GATE, SCAN)
        identify, _scan = await world.claim()

        await world.end(identify, Verdict.LOST, "crashed")

        assert await world.state(job) is JobState.FAILED
        assert world.terminals(job) == ["job.failed"]

    async def test_a_job_without_gates_is_accepted_at_once(self, world: World) -> None:
        job = await world.upload()
        await world.accept(job, IMAGE)

        assert (await world.db.job(job)).accepted
        await world.done(await world.take("image"))
        assert world.terminals(job) == ["job.completed"]

    async def test_a_job_with_nothing_to_do_is_complete_at_once(
        self, world: World
    ) -> None:
        job = await world.upload()
        await world.db.accept(job, size=10, gates=(), now=world.now)

        assert await world.state(job) is JobState.COMPLETED
        assert world.terminals(job) == ["job.completed"]
