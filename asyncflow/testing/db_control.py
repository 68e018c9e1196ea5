"""What every database must do with turns, tenants, tasks, replays and operators.

Part of `asyncflow.testing.db_suite.DbSuite`, which says how it is used.
"""

from dataclasses import replace

import pytest

from asyncflow import uploads
from asyncflow.db.oversight import ALERTS_KEPT, Note, Paused
from asyncflow.db.records import Demand, Once
from asyncflow.errors import (
    JobNotFound,
    JobNotRetryable,
    KeyReused,
    StepNotFound,
    StepNotOpen,
    StepNotRetryable,
)
from asyncflow.jobs import SUBMITTED, JobKind, JobState, PlanEntry, StepState, Verdict
from asyncflow.queues import LaneWaits
from asyncflow.testing.db_world import (
    GATE,
    HOUR_MS,
    IMAGE,
    INDEX,
    SCAN,
    TEXT,
    World,
)

REPORT = PlanEntry(consumer="report", on=SUBMITTED)
BILL = PlanEntry(consumer="bill", on="order.paid")
MAIL = PlanEntry(consumer="mail", on="bill.completed")


class ControlObligations:
    """The obligations that concern order, tasks and operators, one test each."""

    async def test_no_consumer_gets_more_than_it_asked_for(self, world: World) -> None:
        for _ in range(3):
            await world.past_gate(IMAGE, TEXT)

        demand = Demand(
            wants={"image": 1, "text": 2},
            limit=10,
            worker="w",
            lease_until=world.mono + 1000,
            now=world.now,
        )
        found = [c.consumer for c in await world.db.claim(demand)]

        assert sorted(found) == ["image", "text", "text"]

    async def test_long_steps_are_counted_together(self, world: World) -> None:
        for _ in range(3):
            await world.past_gate(IMAGE, TEXT)

        long = frozenset({"text"})
        found = [one.consumer for one in await world.claim(long=long, most_long=2)]
        assert sorted(found) == ["image", "image", "image", "text", "text"]
        assert await world.claim(long=long, most_long=0) == []
        assert [one.consumer for one in await world.claim()] == ["text"]

    # ----- tenants

    async def test_a_paused_tenant_gets_nothing(self, world: World) -> None:
        await world.accepted(tenant="paused")
        going = await world.accepted(tenant="going")

        claimed = await world.claim("identify", paused=frozenset({"paused"}))

        assert [(c.job_id, c.tenant) for c in claimed] == [(going, "going")]

    async def test_no_tenant_has_more_running_than_its_limit(
        self, world: World
    ) -> None:
        for tenant in ("a", "a", "a", "b"):
            await world.accepted(tenant=tenant)

        first = await world.claim("identify", tenant_limit=2)
        again = await world.claim("identify", tenant_limit=2)
        await world.done(next(c for c in first if c.tenant == "a"), plan=(GATE,))
        after = await world.claim("identify", tenant_limit=2)

        assert sorted(c.tenant for c in first) == ["a", "a", "b"]
        assert [c.tenant for c in again] == []
        assert [c.tenant for c in after] == ["a"]

    async def test_steps_are_counted_by_tenant_too(self, world: World) -> None:
        await world.accepted(tenant="a")
        await world.accepted(tenant="b")
        await world.claim("identify", paused=frozenset({"b"}))

        assert await world.db.tenant_tallies() == {
            ("a", "running"): 1,
            ("b", "ready"): 1,
        }

    # ----- tasks and events

    async def test_a_task_is_a_job_with_one_step(self, world: World) -> None:
        job = await world.submit(REPORT, payload='{"pages": 3}')

        one = await world.take("report")
        assert (one.job_id, one.kind, one.payload) == (job, "task", '{"pages": 3}')
        assert (one.key, one.attempt, one.file_name) == (None, 1, "report")
        await world.done(one)

        view = await world.db.job(job)
        assert (view.status, view.kind) == (JobState.COMPLETED, JobKind.TASK)
        assert view.facts == {"report": {"by": "report"}}
        assert [e.type for e in await world.db.events(job)] == [
            "task.submitted",
            "report.completed",
            "job.completed",
        ]

    async def test_a_task_of_later_waits_for_its_time(self, world: World) -> None:
        job = await world.submit(REPORT, run_at=world.now + HOUR_MS)

        assert await world.steps(job) == {"report": StepState.WAITING}
        assert world.last(job).due == (("report", HOUR_MS / 1000),)
        world.now += HOUR_MS - 1
        assert await world.claim("report") == []
        world.now += 1
        assert (await world.take("report")).job_id == job

    async def test_a_waiting_task_can_be_cancelled(self, world: World) -> None:
        job = await world.submit(REPORT, run_at=world.now + HOUR_MS)

        assert await world.db.cancel(job, world.now)

        world.now += HOUR_MS
        assert await world.claim("report") == []
        assert world.terminals(job) == ["job.cancelled"]

    async def test_the_same_key_submits_once(self, world: World) -> None:
        once = Once(key="k", fingerprint="f")
        first = await world.submit(REPORT, once=once)

        assert await world.submit(REPORT, once=once) == first
        with pytest.raises(KeyReused):
            await world.submit(REPORT, once=Once(key="k", fingerprint="other"))
        assert len(await world.claim("report")) == 1

    async def test_another_tenant_may_have_the_same_key(self, world: World) -> None:
        once = Once(key="k", fingerprint="f")
        first = await world.submit(REPORT, once=once)

        assert await world.submit(REPORT, once=once, tenant="theirs") != first
        assert len(await world.claim("report", "report")) == 2

    async def test_an_event_reaches_every_subscriber_and_who_follows_them(
        self, world: World
    ) -> None:
        job = await world.submit(BILL, MAIL, kind=JobKind.EVENT, name="order.paid")

        await world.done(await world.take("bill"))
        assert await world.state(job) is JobState.PROCESSING
        mail = await world.take("mail")
        assert (mail.payload, mail.file_name) == ("null", "order.paid")
        await world.done(mail)

        assert world.terminals(job) == ["job.completed"]

    async def test_an_event_that_nobody_hears_is_over_at_once(
        self, world: World
    ) -> None:
        job = await world.submit(kind=JobKind.EVENT, name="order.paid")

        assert await world.state(job) is JobState.COMPLETED
        assert world.terminals(job) == ["job.completed"]

    async def test_a_dead_task_can_be_retried(self, world: World) -> None:
        job = await world.submit(REPORT)
        await world.end(await world.take("report"), Verdict.BAD_FILE)
        assert await world.state(job) is JobState.FAILED

        await world.db.retry(job, world.now)
        await world.done(await world.take("report"))

        assert world.terminals(job) == ["job.failed", "job.completed"]

    async def test_a_task_whose_code_is_gone_fails_and_waits_for_it(
        self, world: World
    ) -> None:
        job = await world.submit(REPORT)

        await world.register(IMAGE)

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.code) == (JobState.FAILED, "missing_tool")
        await world.register(REPORT)
        await world.db.retry(job, world.now)
        assert (await world.take("report")).job_id == job

    # ----- by hand

    async def test_a_dead_letter_is_listed_and_retried_alone(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, replace(TEXT, required=True))
        image, text = await world.claim("image", "text")
        await world.end(image, Verdict.BAD_FILE, "damaged")
        await world.end(text, Verdict.BAD_FILE, "damaged")
        (letter,) = await world.db.dead_letters(
            "image", before=None, limit=10, refused=True
        )
        assert (letter.step, letter.job_id, letter.failures) == ("image", job, 1)
        assert letter.error is not None
        assert letter.error.code == "damaged"

        await world.db.retry_step(letter.step_id, world.now)

        assert await world.steps(job) == {
            "identify": StepState.DONE,
            "image": StepState.READY,
            "text": StepState.DEAD,
        }
        await world.done(await world.take("image"))
        # the other required step is as dead as before
        assert world.terminals(job) == ["job.failed", "job.failed"]
        assert await world.db.dead_steps("image", 0, 10, refused=True) == []

    async def test_files_that_are_refused_are_told_apart_from_dead_letters(
        self, world: World
    ) -> None:
        await world.register(IMAGE, REPORT)
        for verdict in (Verdict.BAD_FILE, Verdict.BAD_OUTPUT):
            await world.past_gate(IMAGE)
            await world.end(await world.take("image"), verdict)
        await world.submit(REPORT)
        await world.end(await world.take("report"), Verdict.BAD_FILE)

        async def dead(consumer: str, *, refused: bool) -> list[int]:
            found = await world.db.dead_steps(consumer, 0, 10, refused=refused)
            letters = await world.db.dead_letters(
                consumer, before=None, limit=10, refused=refused
            )
            assert [one.step_id for one in letters] == list(found)[::-1]
            return list(found)

        (refused,) = await dead("image", refused=True)
        (died,) = await dead("image", refused=False)
        assert refused < died
        # an application has given what a function refuses: somebody has to look at it
        assert len(await dead("report", refused=False)) == 1
        assert await dead("report", refused=True) == []
        assert await world.db.refusals() == {"image": 1}

        await world.db.retry_step(refused, world.now)
        assert await world.db.refusals() == {}
        await world.end(await world.take("image"), Verdict.BAD_OUTPUT)
        assert await dead("image", refused=False) == [refused, died]

    async def test_a_step_that_died_in_a_running_job_joins_it_again(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")
        await world.end(text, Verdict.BAD_FILE)
        (dead,) = await world.db.dead_steps("text", 0, 10, refused=True)

        await world.db.retry_step(dead, world.now)
        await world.done(image)
        assert await world.state(job) is JobState.PROCESSING
        await world.done(await world.take("text"))

        assert world.terminals(job) == ["job.completed"]
        assert (await world.db.job(job)).run == 1

    async def test_a_retried_gate_takes_the_gates_with_it_that_were_cancelled(
        self, world: World
    ) -> None:
        job = await world.accepted(GATE, SCAN)
        identify, _scan = await world.claim("identify", "scan")
        await world.end(identify, Verdict.BAD_FILE, "damaged")
        (dead,) = await world.db.dead_steps("identify", 0, 10, refused=True)

        await world.db.retry_step(dead, world.now)

        assert await world.steps(job) == {
            "identify": StepState.READY,
            "scan": StepState.READY,
        }

    async def test_only_dead_steps_are_retried(self, world: World) -> None:
        await world.past_gate(IMAGE)
        image = await world.take("image")

        with pytest.raises(StepNotRetryable):
            await world.db.retry_step(image.step_id, world.now)
        with pytest.raises(StepNotFound):
            await world.db.retry_step(10**9, world.now)

    async def test_a_job_goes_on_without_a_cancelled_step(self, world: World) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.claim("image", "text")

        await world.db.cancel_step(text.step_id, world.now)

        assert world.last(job).stop == ((text.step_id, text.token),)
        assert await world.done(text) is None
        await world.done(image)
        assert world.terminals(job) == ["job.completed"]
        with pytest.raises(StepNotOpen):
            await world.db.cancel_step(text.step_id, world.now)

    async def test_who_follows_an_optional_step_runs_though_that_is_cancelled(
        self, world: World
    ) -> None:
        job = await world.past_gate(TEXT, INDEX)
        text = await world.take("text")

        await world.db.cancel_step(text.step_id, world.now)

        assert world.last(job).ring == {"search"}
        await world.done(await world.take("search"))
        assert world.terminals(job) == ["job.completed"]

    async def test_a_job_whose_required_step_was_cancelled_has_not_succeeded(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, replace(TEXT, required=True), INDEX)
        image, text = await world.claim("image", "text")

        await world.db.cancel_step(text.step_id, world.now)
        await world.done(image)

        view = await world.db.job(job)
        assert view.error is not None
        assert (view.status, view.error.step) == (JobState.CANCELLED, "text")
        assert await world.claim() == []
        await world.db.retry(job, world.now)
        await world.done(await world.take("text"))
        await world.done(await world.take("search"))
        assert world.terminals(job) == ["job.cancelled", "job.completed"]

    async def test_a_cancelled_gate_takes_its_job_with_it(self, world: World) -> None:
        job = await world.accepted()
        gate = await world.take("identify")

        await world.db.cancel_step(gate.step_id, world.now)

        assert world.terminals(job) == ["job.cancelled"]

    async def test_a_cancelled_step_takes_its_files_with_it(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)

        await world.db.cancel_step(image.step_id, world.now)

        assert (await world.db.job(job)).files == ()
        prefix = uploads.attempt_prefix(job, image.step_id, image.token)
        assert (await world.trash())[prefix]

    async def test_the_only_step_of_a_task_takes_it_with_it(self, world: World) -> None:
        job = await world.submit(REPORT)
        one = await world.take("report")

        await world.db.cancel_step(one.step_id, world.now)

        assert await world.state(job) is JobState.CANCELLED

    async def test_what_waits_is_counted_by_lane(self, world: World) -> None:
        await world.submit(REPORT, lane="a")
        await world.submit(REPORT, lane="a")
        one, _two = await world.claim("report", limit=2)
        await world.end(one, Verdict.TRY_LATER)
        await world.submit(REPORT, lane="b")
        await world.submit(REPORT, lane="b", run_at=world.now + 7000)
        await world.submit(REPORT, lane="b", run_at=world.now + 5000)

        assert await world.db.waiting_lanes() == {
            "a": LaneWaits(ready=1, delayed=0, due=None),
            "b": LaneWaits(ready=1, delayed=2, due=world.now + 5000),
        }

    async def test_pauses_are_kept(self, world: World) -> None:
        await world.db.pause("consumer", "image", on=True, now=world.now)
        await world.db.pause("consumer", "image", on=True, now=world.now)
        await world.db.pause("tenant", "image", on=True, now=world.now)
        await world.db.close()
        await world.start()

        assert await world.db.pauses() == Paused(
            consumers=frozenset({"image"}), tenants=frozenset({"image"})
        )
        await world.db.pause("consumer", "image", on=False, now=world.now)
        assert (await world.db.pauses()).consumers == frozenset()

    async def test_alerts_are_noted_apart_from_what_people_do(
        self, world: World
    ) -> None:
        await world.note("ann", "pause", "image")
        for n in range(ALERTS_KEPT + 1):
            await world.note("server", "alert.raised", f"a{n}")

        (by_ann,) = await world.db.audits(before=None, limit=10)
        alerts = await world.db.audits(before=None, limit=999, of_alerts=True)
        assert by_ann.actor == "ann"
        assert len(alerts) == ALERTS_KEPT
        assert (alerts[0].target, alerts[-1].target) == (f"a{ALERTS_KEPT}", "a1")

    async def test_the_audit_is_read_backwards(self, world: World) -> None:
        entry = await world.note("ann", "pause", "image")
        await world.note("bob", "retry", "text")
        await world.db.amend(entry, {"why": "été"})

        second, first = await world.db.audits(before=None, limit=10)
        assert (first.actor, first.action, first.target) == ("ann", "pause", "image")
        assert (first.detail, second.actor) == ({"why": "été"}, "bob")
        assert await world.db.audits(before=second.id, limit=10) == [first]

    async def test_what_is_done_is_noted_with_it_and_not_without(
        self, world: World
    ) -> None:
        job = await world.failed()
        note = Note(actor="ann", action="retry-job", target=job, at=world.now)
        await world.db.retry(job, world.now, note)
        for refused in (
            world.db.retry(job, world.now, note),
            world.db.retry_step(10**9, world.now, note),
            world.db.cancel_step(10**9, world.now, note),
            world.db.delete("nobody", world.now, note),
        ):
            with pytest.raises((JobNotFound, JobNotRetryable, StepNotFound)):
                await refused

        (found,) = await world.db.audits(before=None, limit=10)
        assert (found.action, found.target) == ("retry-job", job)

    async def test_running_steps_are_listed(self, world: World) -> None:
        await world.past_gate(IMAGE)
        image = await world.take("image")

        (one,) = await world.db.running_steps(10)
        assert (one.step_id, one.step, one.worker) == (image.step_id, "image", "w1")
