"""The client against the real server: the whole way, and a server that is killed."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image
from yarl import URL

from asyncflow.cli.child import Child, free_port
from asyncflow.client import Client, Progress, ServerRefused, Update


@asynccontextmanager
async def serving(data_dir: Path, port: int = 0) -> AsyncIterator[Child]:
    child = await Child.start(port=free_port(port), data_dir=data_dir)
    try:
        async with Client(child.url) as client:
            await child.ready(client)
        yield child
    finally:
        assert await child.stop()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.jpg"
    Image.effect_noise((2400, 1600), 60).convert("RGB").save(path, quality=95)
    return path


async def test_a_picture_goes_all_the_way(tmp_path: Path, picture: Path) -> None:
    seen: list[Update] = []
    async with (
        serving(tmp_path / "data") as child,
        Client(child.url, state_dir=tmp_path / "state", chunk_bytes=500_000) as client,
    ):
        job_id = await client.upload(picture)
        job = await client.wait(job_id, seen.append)
        await client.download(job_id, "original", tmp_path / "copy.jpg")
        await client.download(job_id, "thumbnail", tmp_path / "thumbnail.jpg")

    assert job.status == "COMPLETED"
    assert seen[0].type == "snapshot"
    assert seen[-1].job.download_urls.keys() >= {"original", "thumbnail"}
    assert (tmp_path / "copy.jpg").read_bytes() == picture.read_bytes()
    with Image.open(tmp_path / "thumbnail.jpg") as thumbnail:
        assert thumbnail.size == (200, 200)


async def test_an_upload_survives_a_killed_server(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(24 << 20))
    killed = asyncio.Event()
    data = tmp_path / "data"
    first = await Child.start(port=free_port(0), data_dir=data)

    def kill_half_way(progress: Progress) -> None:
        if progress.sent_bytes > progress.total_bytes // 2 and not killed.is_set():
            first.process.kill()
            killed.set()

    async with Client(first.url, state_dir=tmp_path / "state") as client:
        await first.ready(client)
        uploading = asyncio.create_task(client.upload(big, on_progress=kill_half_way))
        await asyncio.wait_for(killed.wait(), 30)
        await first.gone()
        port = int(first.url.rpartition(":")[2])
        async with serving(data, port):
            job_id = await uploading
            assert (await client.wait(job_id)).status == "COMPLETED"
            await client.download(job_id, "original", tmp_path / "copy.bin")

    assert (tmp_path / "copy.bin").read_bytes() == big.read_bytes()


@asynccontextmanager
async def losing_first_answer(target: str) -> AsyncIterator[str]:
    """Yield the address of a way to *target* on which the first answer is lost."""
    there, ways = URL(target), itertools.count()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(ways)
        back, on = await asyncio.open_connection(there.host, there.port)

        async def forth() -> None:
            while data := await reader.read(1 << 16):
                on.write(data)
            on.close()

        sending = asyncio.create_task(forth())
        while data := await back.read(1 << 16):
            if number == 0:
                break
            writer.write(data)
        sending.cancel()
        writer.close()
        on.close()

    way = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with way:
        yield f"http://127.0.0.1:{way.sockets[0].getsockname()[1]}"


async def test_a_lost_answer_leaves_no_second_upload(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as child:
        token = (tmp_path / "data" / "token").read_text().strip()
        async with (
            losing_first_answer(child.url) as url,
            Client(url, state_dir=tmp_path / "state") as client,
            Client(child.url, token) as operator,
        ):
            job_id = await client.upload(b"some bytes", name="lost.bin")

            assert (await client.wait(job_id)).status == "COMPLETED"
            assert [job.job_id async for job in operator.jobs()] == [job_id]


async def test_a_refusal_of_the_real_server_has_its_code(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as child, Client(child.url) as client:
        with pytest.raises(ServerRefused) as caught:
            await client.status("nobody")
        with pytest.raises(ServerRefused) as unknown:
            async for _ in client.jobs():
                pass

    assert (caught.value.status, caught.value.code) == (404, "job_not_found")
    assert unknown.value.code in {"unauthorized", "forbidden"}


async def test_the_token_of_the_data_folder_opens_the_list(
    tmp_path: Path, picture: Path
) -> None:
    async with serving(tmp_path / "data") as child:
        token = (tmp_path / "data" / "token").read_text().strip()
        async with Client(child.url, token, state_dir=tmp_path / "state") as client:
            ids = [await client.upload(picture, resume=False) for _ in range(3)]
            listed = [job.job_id async for job in client.jobs(page=2)]

    assert listed == ids[::-1]


async def test_a_task_is_submitted_and_gives_its_result(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as child, Client(child.url) as client:
        job = await client.submit("sample-task", {"for": "you"}, key="once")
        assert await client.submit("sample-task", {"for": "you"}, key="once") == job

        done = await client.wait(job)

        assert done.status == "COMPLETED"
        result = await client.result(job)
        assert isinstance(result, dict)
        assert result["echo"] == {"for": "you"}
        event = await client.publish("order.paid", {"order": 7})
        assert (await client.wait(event)).status == "COMPLETED"


@pytest.mark.needs("strace")
async def test_a_file_system_without_locks_gets_whole_files_and_nothing_beside_them(
    tmp_path: Path,
) -> None:
    data = os.urandom(300_000)
    async with serving(tmp_path / "data") as child, Client(child.url) as client:
        job = await client.upload(data, name="some.bin")
        await client.wait(job)
        command = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=flock"]
        command += ["-e", "inject=flock:error=ENOLCK", sys.executable, "-m"]
        command += ["asyncflow", "download", job, "--url", child.url]
        command += ["--only", "original", "--to", str(tmp_path / "out")]
        # two at once: the later one may find the file
        both = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
        assert 0 in [await one.wait() for one in both]
    (found,) = (tmp_path / "out").iterdir()
    assert (found.name, found.read_bytes()) == ("some.bin", data)
