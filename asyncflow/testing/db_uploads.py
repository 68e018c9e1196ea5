"""What a database owes uploads that are checked, joined, repeated or counted.

Part of `asyncflow.testing.db_suite.DbSuite`, which says how it is used.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asyncflow import uploads
from asyncflow.db.records import Once
from asyncflow.errors import (
    JobNotFound,
    KeyReused,
    ServerBusy,
    TooManyUploads,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import JobState
from asyncflow.testing.db_world import GATE, HOUR_MS, World
from asyncflow.turns import said_of
from asyncflow.uploads import KEEP_PARTS_MS, Said, Saying

CHOSEN = "3f1de8a0-5d1c-4a52-9a6f-0d6a3b1c2e4f"


class UploadObligations:
    """The obligations that concern single uploads and their parts."""

    async def test_a_length_is_stored_once(self, world: World) -> None:
        job = await world.upload(length=None)

        assert await world.db.set_length(job, 12)
        assert await world.db.set_length(job, 12)
        assert not await world.db.set_length(job, 13)

        assert (await world.db.find_upload(job)).length == 12
        assert (await world.db.job(job)).file_size == 12

    async def test_where_a_checked_chunk_begins_is_remembered(
        self, world: World
    ) -> None:
        job = await world.upload()
        await world.db.set_checked_from(job, 5)
        assert (await world.db.find_upload(job)).checked_from == 5
        await world.db.set_checked_from(job, None)
        assert (await world.db.find_upload(job)).checked_from is None
        await world.db.set_checked_from(job, 7)
        await world.accept(job, GATE)
        assert (await world.db.find_upload(job)).checked_from is None

    async def test_from_where_on_a_file_has_its_own_bytes_is_remembered(
        self, world: World
    ) -> None:
        job = await world.upload(parts=1, length=None)
        assert (await world.db.find_upload(job)).joined is None
        for at in (7, 5):
            await world.db.set_joined(job, at)
            assert (await world.db.find_upload(job)).joined == at
        await world.accept(job, GATE)
        for over in (job, CHOSEN):
            with pytest.raises(UploadGone):
                await world.db.set_joined(over, 3)
        # who compares a part with it just now must not take it for untouched
        assert (await world.db.find_upload(job)).joined == 5

    async def test_a_digest_is_stored_until_the_upload_is_complete(
        self, world: World
    ) -> None:
        job = await world.upload(digest="sha256:00")
        await world.db.set_digest(job, "sha256:01")
        assert (await world.db.find_upload(job)).digest == "sha256:01"
        await world.accept(job, GATE)
        await world.db.set_digest(job, "sha256:02")
        assert (await world.db.find_upload(job)).digest == "sha256:01"

    async def test_what_an_upload_is_called_may_change_until_it_is_complete(
        self, world: World
    ) -> None:
        job = await world.upload()
        before = said_of(await world.db.find_upload(job))
        table = Said(
            file_name="a.csv",
            declared_type="text/csv",
            raw_metadata="filename YQ==",
            digest="sha256:00",
        )
        other = replace(table, file_name="b.csv", raw_metadata="filename Yg==")
        assert await world.db.say(job, Saying(before=before, after=table))
        # somebody who knew only of what was said before that
        assert not await world.db.say(job, Saying(before=before, after=other))
        assert said_of(await world.db.find_upload(job)) == table
        await world.accept(job, GATE)
        assert await world.db.say(job, Saying(before=table, after=other))
        assert (await world.db.job(job)).file_name == "a.csv"

    async def test_what_is_said_with_a_part_counts_if_it_gets_its_place(
        self, world: World
    ) -> None:
        final = await world.upload(parts=2, length=None)
        parts = [await world.upload(is_part=True) for _ in range(3)]
        before = said_of(await world.db.find_upload(final))
        one = Saying(before=before, after=replace(before, digest="sha256:01"))
        two = Saying(before=before, after=replace(before, digest="sha256:02"))
        late = Saying(before=one.after, after=replace(before, digest="sha256:03"))
        assert await world.db.take_place(final, 0, parts[0], one) == parts[0]
        assert await world.db.take_place(final, 1, parts[1], two) is None
        assert len(await world.db.places(final)) == 1
        assert await world.db.take_place(final, 0, parts[2], late) == parts[0]
        assert said_of(await world.db.find_upload(final)) == one.after

    # ----- parts

    async def test_a_part_is_an_upload_and_no_job(self, world: World) -> None:
        part = await world.upload(is_part=True)
        for complete in (False, True):
            if complete:
                await world.accept(part, GATE)
            row = await world.db.find_upload(part)
            assert (row.is_part, row.state == "complete") == (True, complete)
            with pytest.raises(JobNotFound):
                await world.db.job(part)
            with pytest.raises(JobNotFound):
                await world.db.cancel(part, world.now)
            with pytest.raises(JobNotFound):
                await world.db.delete(part, world.now)
            for state in (None, JobState.UPLOADING):
                page = await world.db.jobs(state=state, before=None, limit=9)
                assert page.jobs == ()
        assert world.changes == []
        assert await world.claim() == []

    async def test_a_complete_part_expires_too(self, world: World) -> None:
        part = await world.upload(is_part=True)
        await world.accept(part, GATE)
        assert await world.db.expired_uploads(world.now + HOUR_MS, 9) == [part]
        await world.db.extend_upload(part, world.now + 2 * HOUR_MS)
        assert await world.db.expired_uploads(world.now + HOUR_MS, 9) == []

    @pytest.mark.parametrize("complete", [False, True])
    async def test_an_ended_part_is_forgotten(
        self, world: World, *, complete: bool
    ) -> None:
        part = await world.upload(is_part=True)
        if complete:
            await world.accept(part, GATE)
        assert await world.end_upload(part)
        with pytest.raises(UploadNotFound):
            await world.db.find_upload(part)
        assert [one.key for one in await world.db.trash(9)] == [f"raw/{part}"]
        assert [(c.job_id, c.gone) for c in world.changes] == [(part, True)]
        assert await world.db.stored_bytes() == 0

    async def test_the_first_part_in_a_place_stays(self, world: World) -> None:
        final = await world.upload(parts=2, length=None)
        one, two, late = [
            await world.upload(is_part=True, concat="partial") for _ in range(3)
        ]
        assert await world.db.take_place(final, 1, two) == two
        assert await world.db.take_place(final, 0, one) == one
        assert await world.db.take_place(final, 1, late) == two
        await world.accept(one, GATE)

        found = await world.db.places(final)

        assert [(p.n, p.part, p.state, p.length, p.key) for p in found] == [
            (0, one, "complete", 10, f"raw/{one}"),
            (1, two, "receiving", 10, f"raw/{two}"),
        ]
        await world.end_upload(two)
        assert [p.state for p in await world.db.places(final)] == ["complete", None]

    async def test_it_is_known_where_the_bytes_of_a_place_are(
        self, world: World
    ) -> None:
        final = await world.upload(parts=3, length=None)
        for n, length in ((2, 7), (0, 10), (1, 0)):
            assert await world.db.span_of(final, 2) is None
            part = await world.upload(is_part=True, length=length)
            await world.db.accept(part, size=length, gates=(), now=world.now)
            await world.db.take_place(final, n, part)
        await world.db.accept(final, size=17, gates=(GATE,), now=world.now)
        while await world.db.drop_parts(9):
            pass

        found = [await world.db.span_of(final, n) for n in range(4)]

        assert found == [(0, 10), (10, 10), (10, 17), None]

    async def test_where_a_part_of_unknown_length_is_nobody_knows(
        self, world: World
    ) -> None:
        part = await world.upload(is_part=True, length=None, concat="partial")
        final = await world.upload(parts=1, length=None, places=(part,))
        assert await world.db.span_of(final, 0) is None

    async def test_it_is_known_who_waits_for_a_part(self, world: World) -> None:
        part = await world.upload(is_part=True)
        waiting, done = [await world.upload(parts=1) for _ in range(2)]
        for final in (waiting, done):
            await world.db.take_place(final, 0, part)
        await world.accept(done, GATE)
        assert await world.db.finals_of(part) == [waiting]

    async def test_an_upload_is_created_with_its_places(self, world: World) -> None:
        parts = [await world.upload(is_part=True) for _ in range(2)]
        places = (parts[0], parts[1], parts[0])
        final = await world.upload(parts=3, places=places)
        found = await world.db.places(final)
        assert [(p.n, p.part) for p in found] == list(enumerate(places))

    async def test_an_upload_its_parts_and_what_waits_for_them_live_as_long(
        self, world: World
    ) -> None:
        parts = [await world.upload(is_part=True) for _ in range(2)]
        final = await world.upload(parts=2, places=tuple(parts))
        await world.accept(parts[0], GATE)
        alone = await world.upload(is_part=True)
        after = world.now + HOUR_MS
        for moved in (*parts, final):
            await world.db.extend_upload(moved, after + 1)
            assert await world.db.expired_uploads(after, 9) == [alone]
            after += HOUR_MS

    @pytest.mark.parametrize("last", ["part", "place", "final"])
    async def test_an_upload_whose_parts_are_all_complete_does_not_expire_nor_do_they(
        self, world: World, last: str
    ) -> None:
        parts = [await world.upload(is_part=True, concat="partial") for _ in range(2)]
        ever = world.now + 999 * HOUR_MS
        if last == "final":
            await world.accept(parts[0], GATE)
            await world.accept(parts[1], GATE)
            await world.upload(parts=2, places=tuple(parts))
        else:
            final = await world.upload(parts=2, places=tuple(parts[:1]))
            await world.accept(parts[0], GATE)
            assert len(await world.db.expired_uploads(ever, 9)) == 3
            if last == "part":
                await world.db.take_place(final, 1, parts[1])
                await world.accept(parts[1], GATE)
            else:
                await world.accept(parts[1], GATE)
                await world.db.take_place(final, 1, parts[1])
        assert await world.db.expired_uploads(ever, 9) == []
        # nor can their client take them from under it
        with pytest.raises(ServerBusy):
            await world.end_upload(parts[0])

    async def test_parts_that_have_served_end_when_nobody_waits_for_them(
        self, world: World
    ) -> None:
        far = world.now + 9 * HOUR_MS
        served, wanted, needed, other = [
            await world.upload(is_part=True, concat="partial") for _ in range(4)
        ]
        places = (served, wanted, needed)
        final = await world.upload(parts=3, places=places)
        waits = await world.upload(parts=2, places=(wanted, other), expires=far)
        holds = await world.upload(parts=1, places=(needed,))
        for part in places:
            await world.accept(part, GATE)
        await world.db.extend_upload(other, far)
        assert await world.db.expired_uploads(far - 1, 9) == []

        await world.accept(final, GATE)

        soon = world.now + KEEP_PARTS_MS
        assert await world.db.expired_uploads(soon - 1, 9) == []
        assert await world.db.expired_uploads(soon, 9) == [served]
        ends = [(await world.db.find_upload(one)).expires for one in (wanted, needed)]
        assert ends == [far, None]
        # what ends otherwise shortens nobody's time, but gives back what had no end
        for one in (waits, holds):
            await world.end_upload(one)
        ends = [(await world.db.find_upload(one)).expires for one in (wanted, needed)]
        assert ends == [far, soon]

    async def test_a_file_counts_in_place_of_its_named_parts(
        self, world: World
    ) -> None:
        async def used() -> int:
            return (await world.db.usage_of([])).total

        parts = [await world.upload(is_part=True, concat="partial") for _ in "ab"]
        both: dict[str, Any] = {"parts": 2, "places": tuple(parts), "concat": "final"}
        assert await used() == 20
        first = await world.upload(length=20, **both)
        assert await used() == 20
        # a second file has the bytes once more
        second = await world.upload(length=20, **both)
        assert await used() == 40
        await world.end_upload(first)
        assert await used() == 20
        taken = [place.is_taken for place in await world.db.places(second)]
        assert taken == [True, True]
        for part in parts:
            await world.accept(part, GATE)
        await world.db.accept(second, size=20, gates=(GATE,), now=world.now)
        assert await used() == 20
        # what is taken away of the parts takes nothing of the file's
        await world.end_upload(parts[0])
        assert await used() == 20
        await world.db.delete(second, world.now)
        # the part that is there counts itself again
        assert await used() == 10
        assert not (await world.db.find_upload(parts[1])).is_taken
        assert (await world.db.usage())["local"] == 10

    async def test_a_file_of_unknown_length_counts_once_it_is_known(
        self, world: World
    ) -> None:
        parts = [await world.upload(is_part=True, concat="partial") for _ in "ab"]
        final = await world.upload(
            length=None, parts=2, places=tuple(parts), concat="final"
        )
        assert (await world.db.usage_of([])).total == 20
        for part in parts:
            await world.accept(part, GATE)
        await world.db.accept(final, size=20, gates=(GATE,), now=world.now)
        assert (await world.db.usage_of([])).total == 20
        await world.db.cancel(final, world.now)
        world.now += 1
        # with its original the file's bytes are gone, and the parts are still there
        assert await world.db.drop_originals(world.now, 9) == 1
        assert (await world.db.usage_of([])).total == 20
        assert await world.db.stored_bytes() == 20

    @pytest.mark.parametrize("how", ["accept", "end", "cancel", "delete"])
    async def test_parts_without_a_name_are_given_up_with_the_end_of_their_upload(
        self, world: World, how: str
    ) -> None:
        parts = [await world.upload(is_part=True) for _ in range(5)]
        final = await world.upload(parts=5, places=tuple(parts), length=None)
        for one in parts:
            await world.accept(one, GATE)
        world.changes.clear()

        if how == "accept":
            await world.accept(final, GATE)
        elif how == "end":
            await world.end_upload(final)
        elif how == "cancel":
            await world.db.cancel(final, world.now)
        else:
            await world.db.delete(final, world.now)

        # they count no more from this moment on, and whoever removes bytes hears of it
        kept = 10 if how == "accept" else 0
        assert (await world.db.usage()).get("local", 0) == kept
        assert await world.db.stored_bytes() == kept
        assert [change.trash for change in world.changes] == [True]
        assert await world.db.expired_uploads(world.now + 9 * HOUR_MS, 9) == []
        if how != "delete":
            assert [one.state for one in await world.db.places(final)] == [None] * 5

        assert [await world.db.drop_parts(3) for _ in range(3)] == [3, 2, 0]
        thrown = {one.key for one in await world.db.trash(9)}
        assert {f"raw/{part}" for part in parts} <= thrown
        assert (await world.db.usage()).get("local", 0) == kept
        for part in parts:
            with pytest.raises(UploadNotFound):
                await world.db.find_upload(part)

    async def test_a_part_without_a_name_that_has_a_place_ends_with_its_upload_alone(
        self, world: World
    ) -> None:
        final = await world.upload(parts=2, length=None)
        part = await world.upload(is_part=True)
        await world.accept(part, GATE)
        await world.db.take_place(final, 0, part)
        ever = world.now + 999 * HOUR_MS
        assert await world.db.expired_uploads(ever, 9) == [final]
        assert not await world.end_upload(part)
        assert await world.end_upload(final)
        assert await world.db.drop_parts(9) == 1

    async def test_what_has_ended_takes_no_part(self, world: World) -> None:
        final = await world.upload(parts=2, length=None)
        part = await world.upload(is_part=True)
        await world.end_upload(final)
        with pytest.raises(UploadGone):
            await world.db.take_place(final, 0, part)

    async def test_parts_that_a_dead_server_left_without_a_place_are_given_up(
        self, world: World
    ) -> None:
        assert await world.db.latest_upload() == 0
        placed, stray = [await world.upload(is_part=True) for _ in range(2)]
        named = await world.upload(is_part=True, concat="partial")
        final = await world.upload(parts=2, places=(placed,))
        plain = await world.upload()
        begun = await world.upload(is_part=True)
        for one in (placed, stray, named):
            await world.accept(one, GATE)
        last = await world.db.latest_upload()
        young = await world.upload(is_part=True)
        await world.accept(young, GATE)

        await world.db.give_up_strays(last)

        assert await world.db.drop_parts(9) == 1
        assert [one.key for one in await world.db.trash(9)] == [f"raw/{stray}"]
        for one in (placed, named, final, plain, begun, young):
            assert (await world.db.find_upload(one)).state != "ended"

    # ----- repeated and counted

    async def test_a_creation_with_a_known_key_creates_nothing(
        self, world: World
    ) -> None:
        once = Once(key="k", fingerprint="f")
        first = await world.upload(once=once)
        assert await world.upload(once=once) == first
        with pytest.raises(KeyReused):
            await world.upload(once=Once(key="k", fingerprint="other"))
        other = await world.upload(once=Once(key="other", fingerprint="f"))
        assert other != first
        assert await world.upload(once=once, owner="somebody") not in {first, other}
        assert await world.upload(once=once, tenant="theirs") not in {first, other}

    async def test_what_a_key_has_created_can_be_asked(self, world: World) -> None:
        once = Once(key="k", fingerprint="f")
        assert await world.db.created_before("local", "local", once) is None
        first = await world.upload(once=once)
        assert await world.db.created_before("local", "local", once) == first
        assert await world.db.created_before("somebody", "local", once) is None
        assert await world.db.created_before("local", "theirs", once) is None
        with pytest.raises(KeyReused):
            await world.db.created_before(
                "local", "local", Once(key="k", fingerprint="other")
            )
        await world.end_upload(first)
        assert await world.db.created_before("local", "local", once) is None

    async def test_two_creations_with_one_key_at_once_create_one_upload(
        self, world: World
    ) -> None:
        once = Once(key="k", fingerprint="f")
        ids = await asyncio.gather(*(world.upload(once=once) for _ in range(8)))
        assert len(set(ids)) == 1

    async def test_a_key_goes_with_its_upload(self, world: World) -> None:
        once = Once(key="k", fingerprint="f")
        first = await world.upload(once=once)
        await world.end_upload(first)
        second = await world.upload(once=Once(key="k", fingerprint="other"))
        assert second != first
        await world.db.delete(second, world.now)
        assert await world.upload(once=once) not in {first, second}

    async def test_an_id_that_its_client_chose_is_created_once(
        self, world: World
    ) -> None:
        first = await world.upload(parts=2)
        assert await world.upload(id=first, chosen=True) == first
        assert (await world.db.find_upload(first)).parts == 2

    async def test_the_id_of_a_deleted_upload_is_given_to_nobody(
        self, world: World
    ) -> None:
        mine: dict[str, Any] = {"id": CHOSEN, "key": uploads.raw_key(CHOSEN)}
        mine["chosen"] = True
        assert await world.upload(parts=1, **mine) == CHOSEN
        await world.db.delete(CHOSEN, world.now)
        with pytest.raises(UploadGone):
            await world.upload(parts=1, **mine)
        await world.db.drop_trash(list(await world.trash()))
        await world.db.close()
        await world.start()
        with pytest.raises(UploadGone):
            await world.upload(parts=1, **mine)

    async def test_the_id_of_a_deleted_upload_is_given_back_after_a_time(
        self, world: World
    ) -> None:
        mine: dict[str, Any] = {"id": CHOSEN, "key": uploads.raw_key(CHOSEN)}
        mine |= {"chosen": True, "parts": 1}
        await world.upload(**mine)
        await world.db.delete(CHOSEN, world.now)
        await world.db.drop_trash(list(await world.trash()))
        assert await world.db.forget_spent(world.now, 9) == 0
        with pytest.raises(UploadGone):
            await world.upload(**mine)
        assert await world.db.forget_spent(world.now + 1, 9) == 1
        assert await world.upload(**mine) == CHOSEN

    async def test_an_id_is_not_given_back_while_its_bytes_are_on_their_way_out(
        self, world: World
    ) -> None:
        mine: dict[str, Any] = {"id": CHOSEN, "key": uploads.raw_key(CHOSEN)}
        await world.upload(chosen=True, parts=1, **mine)
        await world.db.delete(CHOSEN, world.now)
        assert await world.db.forget_spent(world.now + 1, 9) == 0
        await world.db.drop_trash(list(await world.trash()))
        assert await world.db.forget_spent(world.now + 1, 9) == 1

    async def test_ids_are_given_back_in_portions(self, world: World) -> None:
        for n in range(3):
            one = CHOSEN[:-1] + str(n)
            await world.upload(id=one, key=uploads.raw_key(one), chosen=True, parts=1)
            await world.db.delete(one, world.now)
        await world.db.drop_trash(list(await world.trash()))
        soon = world.now + 1
        assert [await world.db.forget_spent(soon, 2) for _ in range(3)] == [2, 1, 0]

    async def test_an_id_that_nobody_could_choose_is_given_to_nobody(
        self, world: World
    ) -> None:
        gone = await world.upload()
        await world.db.delete(gone, world.now)
        for taken in (gone, await world.submit()):
            with pytest.raises(UploadNotFound):
                await world.upload(
                    id=taken, key=uploads.raw_key(taken), chosen=True, parts=1
                )

    async def test_a_client_may_have_so_many_uploads_open(self, world: World) -> None:
        mine = [await world.upload(client="me", client_limit=2) for _ in range(2)]
        with pytest.raises(TooManyUploads):
            await world.upload(client="me", client_limit=2)
        await world.upload(client="you", client_limit=2)
        # a chunk of a file is nobody's
        parts = [await world.upload(is_part=True, client_limit=1) for _ in range(2)]
        assert len(set(parts)) == 2
        assert [await world.db.open_uploads_of(one) for one in ("me", "you")] == [2, 1]
        await world.accept(mine[0], GATE)
        await world.upload(client="me", client_limit=2)
        with pytest.raises(TooManyUploads):
            await world.upload(client="me", client_limit=2)
        await world.end_upload(mine[1])
        await world.upload(client="me", client_limit=2)
