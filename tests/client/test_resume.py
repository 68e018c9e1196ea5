"""Uploads that a later process continues."""

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from asyncflow.client import (
    Client,
    Patience,
    Progress,
    ServerRefused,
    ServerUnreachable,
)
from asyncflow.client.unfinished import Unfinished
from tests.client.small_server import SmallServer, problem

ONE_TRY = Patience(attempts=1)


def impatient(server: SmallServer, tmp_path: Path) -> Client:
    return Client(
        server.url, patience=ONE_TRY, state_dir=tmp_path / "state", chunk_bytes=300_000
    )


async def break_off(
    server: SmallServer, tmp_path: Path, source: Path, **how: Any
) -> None:
    """Upload *source* as an earlier process that lost the server on the way."""
    server.cut_after = [250_000]
    async with impatient(server, tmp_path) as earlier:
        with pytest.raises(ServerUnreachable):
            await earlier.upload(source, **how)


async def test_a_later_process_finds_what_an_earlier_one_has_created_unanswered(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    server.lose_creations = 1
    async with impatient(server, tmp_path) as earlier:
        with pytest.raises(ServerUnreachable):
            await earlier.upload(photo)

    job_id = await client.upload(photo)

    assert list(server.uploads) == [job_id]
    assert bytes(server.uploads[job_id].data) == photo.read_bytes()
    assert list((tmp_path / "state").iterdir()) == []


async def test_what_was_created_unanswered_and_is_gone_begins_anew(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    server.lose_creations = 1
    async with impatient(server, tmp_path) as earlier:
        with pytest.raises(ServerUnreachable):
            await earlier.upload(photo)
    server.uploads.clear()

    job_id = await client.upload(photo)

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()


async def test_a_refused_creation_is_not_remembered(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    server.refusals = [problem(web.HTTPForbidden, "forbidden", "not you")]

    with pytest.raises(ServerRefused):
        await client.upload(photo)

    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("more", [{"name": "b.jpg"}, {"media_type": "image/png"}])
async def test_under_another_name_or_type_it_is_another_upload(
    server: SmallServer,
    client: Client,
    photo: Path,
    tmp_path: Path,
    more: dict[str, str],
) -> None:
    said = {"name": "a.jpg", "media_type": "image/jpeg"}
    await break_off(server, tmp_path, photo, name="a.jpg", media_type="image/jpeg")

    job_id = await client.upload(
        photo, name=(said | more)["name"], media_type=(said | more)["media_type"]
    )

    stored = server.uploads[job_id]
    assert {"name": stored.name, "media_type": stored.media_type} == said | more
    assert bytes(stored.data) == photo.read_bytes()


async def test_a_later_process_continues_where_an_earlier_one_stopped(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo)
    seen: list[Progress] = []

    job_id = await client.upload(photo, on_progress=seen.append)

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()
    assert {progress.resumed_at for progress in seen} == {250_000}
    assert server.received == 1_000_000


async def test_an_upload_that_is_gone_begins_anew(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo)
    server.uploads = {"other": server.uploads.popitem()[1]}

    job_id = await client.upload(photo)

    assert job_id == "job-2"
    assert bytes(server.uploads[job_id].data) == photo.read_bytes()


async def test_a_changed_file_is_another_upload(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo)
    photo.write_bytes(os.urandom(1_000_001))

    job_id = await client.upload(photo)

    assert job_id == "job-2"
    assert bytes(server.uploads[job_id].data) == photo.read_bytes()


async def test_without_resume_nothing_is_remembered(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo, resume=False)

    assert await client.upload(photo) == "job-2"


async def test_what_is_remembered_is_for_its_owner_and_forgotten_at_the_end(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    await break_off(server, tmp_path, photo)
    (left,) = folder.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    await client.upload(photo)

    assert list(folder.iterdir()) == []


async def test_a_damaged_memory_is_ignored(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo)
    (left,) = (tmp_path / "state").iterdir()
    left.write_bytes(b"\xff{")

    assert await client.upload(photo) == "job-2"


async def test_a_state_folder_that_cannot_be_made_costs_only_resuming(
    server: SmallServer, photo: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    async with Client(server.url, state_dir=blocked / "state") as client:
        job_id = await client.upload(photo)

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()


def test_what_nobody_came_back_for_is_forgotten(tmp_path: Path) -> None:
    day = 86400.0
    start = time.time()
    Unfinished(tmp_path).remember(
        "old", Path("a"), once="1", upload_url="http://x/files/1"
    )
    later = Unfinished(tmp_path, now=lambda: start + 31 * day)

    assert later.find("old") is not None
    later.remember("new", Path("b"), once="2", upload_url="http://x/files/2")

    assert later.find("old") is None


async def test_of_two_servers_each_has_its_own_upload(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path
) -> None:
    await break_off(server, tmp_path, photo)

    async with SmallServer() as other, impatient(other, tmp_path) as second:
        await second.upload(photo)
        assert bytes(other.uploads["job-1"].data) == photo.read_bytes()

    assert await client.upload(photo) == "job-1"
    assert server.received == 1_000_000
