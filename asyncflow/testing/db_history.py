"""What every database owes to replays, to the log, and to what has had its time."""

import pytest

from asyncflow import uploads
from asyncflow.db.records import Ended, Published, Usage
from asyncflow.errors import FileNotAvailable, JobNotRetryable
from asyncflow.jobs import JobState, Verdict
from asyncflow.testing.db_world import GATE, HOUR_MS, IMAGE, TEXT, World


class HistoryObligations:
    """The obligations that concern what is over, one test each."""

    # ----- replays

    async def replayed(self, world: World) -> int:
        """Give `image` everything once more; return how many steps that made."""
        causes = await world.db.causes(IMAGE.on, since=0, after=0, limit=100)
        return await world.db.replay(causes, IMAGE, world.now)

    async def test_a_replay_never_changes_its_jobs_state(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        await world.done(await world.take("image"))
        before = await world.db.job(job)

        assert await self.replayed(world) == 1
        assert await self.replayed(world) == 0
        again = await world.take("image")
        assert again.detached
        await world.end(again, Verdict.BAD_FILE)

        after = await world.db.job(job)
        assert (after.status, after.steps) == (before.status, before.steps)
        assert world.terminals(job) == ["job.completed"]
        (letter,) = await world.db.dead_letters(
            "image", before=None, limit=10, refused=True
        )
        assert letter.detached

    async def test_a_replay_replaces_files_only_when_it_succeeds(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)
        await world.done(image)
        old = (await world.db.file(job, "thumbnail")).key
        await self.replayed(world)
        again = await world.take("image")
        made = Published(
            name="thumbnail", key="new", media_type="image/webp", size=9, facts={}
        )

        ended = Ended(verdict=Verdict.DONE, facts={"by": "replay"}, made=(made,))
        assert (await world.db.file(job, "thumbnail")).key == old
        await world.settle(again, ended)

        found = await world.db.file(job, "thumbnail")
        assert (found.key, found.size) == ("new", 9)
        assert (await world.db.job(job)).facts["image"] == {"by": "replay"}
        assert old in await world.trash()

    async def test_a_replay_that_makes_anothers_file_replaces_none_of_its_own(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE, TEXT)
        image, text = await world.take("image"), await world.take("text")
        await world.publish(image)
        await world.publish(text, "preview")
        await world.done(image)
        await world.done(text)
        await self.replayed(world)
        made = [
            Published(
                name=name, key=f"new-{name}", media_type="image/webp", size=9, facts={}
            )
            for name in ("thumbnail", "preview")
        ]

        again = await world.take("image")
        await world.settle(again, Ended(verdict=Verdict.DONE, made=tuple(made)))

        for name in ("thumbnail", "preview"):
            assert (await world.db.file(job, name)).size == 3

    async def test_a_step_replaces_what_a_replay_has_made(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        await world.db.cancel(job, world.now)
        await self.replayed(world)
        made = Published(
            name="thumbnail", key="new", media_type="image/webp", size=9, facts={}
        )
        await world.settle(
            await world.take("image"), Ended(verdict=Verdict.DONE, made=(made,))
        )

        await world.db.retry(job, world.now)
        image = await world.take("image")
        assert await world.publish(image)
        await world.done(image)

        assert await world.state(job) is JobState.COMPLETED
        assert (await world.db.file(job, "thumbnail")).size == 3
        assert "new" in await world.trash()

    async def test_a_replay_leaves_out_jobs_without_their_original(
        self, world: World
    ) -> None:
        await world.past_gate(IMAGE)
        await world.done(await world.take("image"))
        world.now += HOUR_MS
        assert await world.db.drop_originals(world.now, 10) == 1

        assert await self.replayed(world) == 0

    async def test_a_dead_replay_can_be_retried(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        await world.done(await world.take("image"))
        await self.replayed(world)
        await world.end(await world.take("image"), Verdict.BAD_FILE)
        (dead,) = await world.db.dead_steps("image", 0, 10, refused=True)

        await world.db.retry_step(dead, world.now)

        assert (await world.take("image")).detached
        assert await world.state(job) is JobState.COMPLETED

    # ----- the log

    async def test_a_consumer_has_come_as_far_as_its_first_open_step(
        self, world: World
    ) -> None:
        await world.register(GATE, IMAGE)
        await world.past_gate(IMAGE)
        image = await world.take("image")

        found = await world.db.log_offsets()
        assert found["identify"].offset == found["identify"].head
        assert found["image"].offset < found["image"].head
        await world.done(image)

        found = await world.db.log_offsets()
        assert found["image"].offset == found["image"].head

    # ----- what has had its time

    async def test_originals_go_after_their_time_and_results_stay(
        self, world: World
    ) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)
        await world.done(image)
        going = await world.past_gate(IMAGE)

        assert await world.db.drop_originals(world.now, 10) == 0
        world.now += HOUR_MS
        assert await world.db.drop_originals(world.now, 10) == 1
        assert await world.db.drop_originals(world.now, 10) == 0

        view = await world.db.job(job)
        assert (view.original_kept, view.status) == (False, JobState.COMPLETED)
        assert (await world.db.file(job, "thumbnail")).size == 3
        with pytest.raises(FileNotAvailable, match="removed"):
            await world.db.file(job, "original")
        with pytest.raises(JobNotRetryable, match="removed"):
            await world.db.retry(job, world.now)
        assert (await world.db.job(going)).original_kept
        assert uploads.raw_key(job) in await world.trash()

    async def test_old_jobs_are_found_oldest_first(self, world: World) -> None:
        first = await world.failed()
        world.now += 1
        second = await world.failed()
        await world.accepted()

        assert await world.db.finished_jobs(world.now, 10) == [first]
        assert await world.db.finished_jobs(world.now + 1, 10) == [first, second]
        assert await world.db.finished_jobs(world.now + 1, 1) == [first]

    async def test_bytes_are_counted_by_tenant_until_they_are_gone(
        self, world: World
    ) -> None:
        kept = await world.past_gate(IMAGE)
        await world.publish(await world.take("image"))
        other = await world.upload(tenant="other")
        # from the moment it is announced
        assert await world.db.usage() == {"local": 13, "other": 10}
        await world.accept(other, GATE)
        assert await world.db.usage() == {"local": 13, "other": 10}

        await world.db.delete(other, world.now)
        await world.db.cancel(kept, world.now)
        assert await world.db.usage() == {"local": 10, "other": 0}
        world.now += 1
        await world.db.drop_originals(world.now, 10)

        assert await world.db.usage() == {"local": 0, "other": 0}
        assert await world.db.stored_bytes() == 0
        await world.db.delete(kept, world.now)
        assert await world.db.usage() == {"local": 0, "other": 0}

    async def test_usage_is_told_of_all_and_of_those_who_are_asked_about(
        self, world: World
    ) -> None:
        mine, _other = await world.upload(), await world.upload(tenant="other")
        await world.upload(tenant="third")
        assert await world.db.usage_of([]) == Usage(total=30, by_tenant={})
        some = await world.db.usage_of(["other", "nobody", "local"])
        assert some == Usage(total=30, by_tenant={"other": 10, "local": 10})
        await world.db.delete(mine, world.now)
        some = await world.db.usage_of(["local"])
        assert some == Usage(total=20, by_tenant={"local": 0})

    async def test_what_happened_lately_is_counted_by_minute(
        self, world: World
    ) -> None:
        await world.failed()
        before = world.now
        world.now += 3 * 60_000
        await world.accepted()
        await world.accepted()

        found = set(await world.db.lately(before))

        minute = before // 60_000
        assert (minute, "job.failed", 1) in found
        assert (minute + 3, "file.uploaded", 2) in found
        assert {at for at, _, _ in await world.db.lately(before + 60_000)} == {
            minute + 3
        }

    async def test_blobs_that_nobody_names_are_known(self, world: World) -> None:
        job = await world.past_gate(IMAGE)
        image = await world.take("image")
        await world.publish(image)
        prefix = uploads.attempt_prefix(job, image.step_id, image.token)
        running, lost = f"{prefix}/soon.webp", f"processed/{job}/999-1/x.webp"
        named = (await world.db.file(job, "thumbnail")).key
        keys = [uploads.raw_key(job), named, running, lost, "raw/nobody"]

        assert await world.db.orphans(keys) == [lost, "raw/nobody"]
        await world.done(image)
        assert await world.db.orphans(keys) == [running, lost, "raw/nobody"]
