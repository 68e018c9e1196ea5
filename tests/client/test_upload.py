import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from io import FileIO
from pathlib import Path

import pytest
from aiohttp import web

from asyncflow.client import (
    BadAddress,
    BadToken,
    Client,
    Patience,
    Progress,
    ServerRefused,
    ServerUnreachable,
    SourceChanged,
)
from tests.client.conftest import QUICK
from tests.client.small_server import SmallServer, problem

ONE_TRY = Patience(attempts=1)


async def test_a_file_arrives_whole_with_its_name_and_type(
    server: SmallServer, client: Client, photo: Path
) -> None:
    job_id = await client.upload(photo, media_type="image/jpeg")

    stored = server.uploads[job_id]
    assert bytes(stored.data) == photo.read_bytes()
    assert (stored.name, stored.media_type) == ("photo.jpg", "image/jpeg")


async def test_a_name_may_hold_anything(server: SmallServer, client: Client) -> None:
    name = 'été 🏔 "a",b\n.jpg'

    job_id = await client.upload(b"x", name=name)

    assert server.uploads[job_id].name == name


async def test_progress_ends_with_everything(client: Client, photo: Path) -> None:
    seen: list[Progress] = []

    await client.upload(photo, on_progress=seen.append)

    sent = [progress.sent_bytes for progress in seen]
    assert sent == sorted(sent)
    assert (sent[0], sent[-1]) == (0, 1_000_000)


async def test_what_the_server_holds_is_never_sent_again(
    server: SmallServer, client: Client, photo: Path
) -> None:
    server.cut_after = [100_000, 50_000, 1]

    job_id = await client.upload(photo)

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()
    assert server.received == 1_000_000


async def test_breaks_with_progress_do_not_use_up_the_patience(
    server: SmallServer, client: Client, photo: Path
) -> None:
    server.cut_after = [20_000] * (3 * QUICK.attempts)

    job_id = await client.upload(photo)

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()


async def test_a_lost_last_answer_is_no_second_upload(
    server: SmallServer, client: Client
) -> None:
    server.lose_answers = 1

    job_id = await client.upload(b"small")

    assert bytes(server.uploads[job_id].data) == b"small"
    assert len(server.uploads) == 1
    assert server.received == len(b"small")


# late in a run of all tests it has been seen to wait for most of a minute
@pytest.mark.timeout(180)
async def test_a_file_that_changes_within_its_last_chunk_is_not_finished(
    server: SmallServer, tmp_path: Path
) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes(os.urandom(3 << 20))

    def change(progress: Progress) -> None:
        if progress.sent_bytes == 1 << 20:
            film.write_bytes(os.urandom(3 << 20))

    # one try: a network that breaks has nothing to do with it
    state = tmp_path / "state"
    async with Client(server.url, patience=ONE_TRY, state_dir=state) as client:
        with pytest.raises(SourceChanged):
            await client.upload(film, on_progress=change)

    assert server.jobs == {}
    assert server.uploads == {}


async def test_a_creation_whose_answer_is_lost_is_no_second_upload(
    server: SmallServer, client: Client, photo: Path
) -> None:
    server.lose_creations = 2

    for source in (photo, b"small", b""):
        job_id = await client.upload(source)
        wanted = source.read_bytes() if isinstance(source, Path) else source
        assert bytes(server.uploads.pop(job_id).data) == wanted

    assert server.uploads == {}


async def test_nothing_stays_of_what_is_cancelled_before_its_creation_is_answered(
    server: SmallServer, client: Client
) -> None:
    server.hold_creations = 1
    uploading = asyncio.create_task(client.upload(b"small"))
    await server.created.wait()
    assert server.uploads

    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading

    assert server.uploads == {}


async def test_a_busy_server_is_asked_again(
    server: SmallServer, client: Client
) -> None:
    now = {"Retry-After": "0"}
    server.refusals = [
        problem(web.HTTPServiceUnavailable, "busy", "later", **now) for _ in range(2)
    ]

    job_id = await client.upload(b"small")

    assert bytes(server.uploads[job_id].data) == b"small"


async def test_a_file_that_changes_on_the_way_is_not_finished(
    server: SmallServer, client: Client, photo: Path
) -> None:
    def change(progress: Progress) -> None:
        if progress.sent_bytes >= 300_000:
            photo.write_bytes(b"another")

    with pytest.raises(SourceChanged):
        await client.upload(photo, on_progress=change)

    assert server.received
    assert server.jobs == {}


@pytest.mark.parametrize("resume", [False, True])
async def test_of_a_file_that_changes_on_the_way_nothing_stays_anywhere(
    server: SmallServer, client: Client, photo: Path, tmp_path: Path, *, resume: bool
) -> None:
    def change(progress: Progress) -> None:
        if progress.sent_bytes >= 300_000:
            photo.write_bytes(b"another")

    with pytest.raises(SourceChanged):
        await client.upload(photo, on_progress=change, resume=resume)

    assert server.uploads == {}
    assert [p for p in tmp_path.glob("state/*") if p.is_file()] == []


async def test_a_refusal_says_what_the_server_said(
    server: SmallServer, client: Client, photo: Path
) -> None:
    server.refusals = [
        problem(web.HTTPUnsupportedMediaType, "type_not_allowed", "no photos here")
    ]

    with pytest.raises(ServerRefused) as caught:
        await client.upload(photo)

    refusal = caught.value
    assert (refusal.code, refusal.status) == ("type_not_allowed", 415)
    assert refusal.detail == "no photos here"


async def test_nobody_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    async with SmallServer() as gone:
        url = gone.url
    async with Client(url, patience=QUICK, state_dir=tmp_path) as client:
        with pytest.raises(ServerUnreachable, match="Connection refused"):
            await client.upload(b"x")


@pytest.mark.parametrize("url", ["", "localhost", "ftp://x/", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadAddress):
        Client(url)


async def test_a_stream_arrives_whole(server: SmallServer, client: Client) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    server.cut_after = [2]

    job_id = await client.upload(stream(), name="notes.txt")

    assert bytes(server.uploads[job_id].data) == b"one two"


async def test_an_empty_file_is_created_and_nothing_sent(
    server: SmallServer, client: Client
) -> None:
    job_id = await client.upload(b"", name="empty")

    assert server.uploads[job_id].length == 0
    assert [method for method, _ in server.requests] == ["POST"]


async def test_the_token_goes_to_its_server(tmp_path: Path) -> None:
    async with (
        SmallServer(token="secret") as server,
        Client(server.url, "secret", state_dir=tmp_path) as client,
    ):
        job_id = await client.upload(b"x")

        assert bytes(server.uploads[job_id].data) == b"x"


async def test_the_token_goes_to_no_other_server(
    server: SmallServer, tmp_path: Path
) -> None:
    async with (
        SmallServer(token="secret") as other,
        Client(server.url, "secret", state_dir=tmp_path, patience=ONE_TRY) as client,
    ):
        server.refusals = [web.HTTPFound(other.url + "/status/x")]
        other.jobs["x"] = {"jobId": "x", "status": "COMPLETED"}

        with pytest.raises(Exception, match="does not answer like"):
            await client.status("x")

        assert other.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:1/",
        "http://:secret@127.0.0.1/",
        "http://secret@127.0.0.1/",
        "ftp://user:secret@127.0.0.1/",
        "http://user:secret@127.0.0.1:port/",
        "http://user:sec@ret@127.0.0.1/",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadAddress, match="user name or password") as caught:
        Client(url, "token")

    assert "sec" not in f"{caught.value} {caught.value.url}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("end", ["\r", "\n", "\nX-Evil: 1", "\x00", "\udcff"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_repeated(end: str) -> None:
    with pytest.raises(BadToken, match="line break") as caught:
        Client("http://127.0.0.1:1", f"a-long-secret{end}")

    assert "secret" not in str(caught.value)


async def test_a_path_may_be_text(
    server: SmallServer, client: Client, photo: Path
) -> None:
    job_id = await client.upload(str(photo))

    stored = server.uploads[job_id]
    assert (bytes(stored.data), stored.name) == (photo.read_bytes(), "photo.jpg")


async def test_an_open_file_is_sent_from_where_it_stands_and_stays_open(
    server: SmallServer, client: Client, photo: Path
) -> None:
    with photo.open("rb") as file:
        file.seek(7)
        job_id = await client.upload(file)
        assert not file.closed

    assert bytes(server.uploads[job_id].data) == photo.read_bytes()[7:]


@pytest.mark.parametrize("kind", [io.BytesIO, bytearray])
async def test_bytes_may_come_in_other_clothes(
    server: SmallServer, client: Client, kind: Callable[[bytes], io.BytesIO | bytearray]
) -> None:
    data = os.urandom(2_500_000)

    job_id = await client.upload(kind(data), name="a.bin")

    assert bytes(server.uploads[job_id].data) == data


async def test_what_cannot_be_uploaded_is_said_plainly(client: Client) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        await client.upload(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not int"):
        await client.upload(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("resumable", [False, True])
async def test_what_nobody_can_continue_is_taken_back_when_the_caller_fails(
    server: SmallServer, client: Client, photo: Path, *, resumable: bool
) -> None:
    def fail_half_way(progress: Progress) -> None:
        if progress.sent_bytes:
            raise LookupError("the caller's own")

    source = photo if resumable else photo.read_bytes()
    with pytest.raises(LookupError):
        await client.upload(source, on_progress=fail_half_way)

    assert bool(server.uploads) == resumable


async def test_trying_again_says_nothing_anywhere(
    server: SmallServer,
    client: Client,
    photo: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.cut_after = [100_000, 0]

    await client.upload(photo)

    assert len(server.requests) > 5
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_pauses_double_up_to_the_longest_and_never_march() -> None:
    patience = Patience(first_pause_s=1, longest_pause_s=10)

    pauses = [[patience.pause_after(n) for _ in range(50)] for n in (1, 3, 9, 5000)]

    assert all(1 <= pause <= 2 for pause in pauses[0])
    assert all(4 <= pause <= 5 for pause in pauses[1])
    assert len(set(pauses[1])) > 1
    assert {*pauses[2], *pauses[3]} == {10}


async def test_a_pipe_that_blocks_nobody_is_not_cut_short(
    server: SmallServer, client: Client
) -> None:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.write(writes, b"the first half, ")
    with (
        FileIO(reads, "rb") as file,
        FileIO(writes, "wb"),
        pytest.raises(BlockingIOError, match="let it block"),
    ):
        await client.upload(file)
    assert not server.uploads


async def test_what_was_read_ahead_of_a_pipe_is_not_lost(
    server: SmallServer, client: Client
) -> None:
    reads, writes = os.pipe()
    with open(reads, "rb") as file:  # noqa: PTH123 -- a descriptor has no path
        with FileIO(writes, "wb") as end:
            end.write(b"read, and the rest")
            # that takes all of it into the buffer
            assert file.read(6) == b"read, "
        await client.upload(file)

    assert bytes(server.uploads["job-1"].data) == b"and the rest"


async def test_a_pipe_that_is_watched_already_can_be_uploaded(
    server: SmallServer, client: Client
) -> None:
    reads, writes = os.pipe()
    loop = asyncio.get_running_loop()
    loop.add_reader(reads, lambda: None)
    try:
        with FileIO(reads, "rb", closefd=False) as file:
            with FileIO(writes, "wb") as end:
                end.write(b"some words")
            await client.upload(file)
    finally:
        loop.remove_reader(reads)
        os.close(reads)

    assert bytes(server.uploads["job-1"].data) == b"some words"


async def test_a_path_of_a_pipe_holds_nobody_up(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="no regular file"):
            await client.upload(path)
    with pytest.raises(IsADirectoryError):
        await client.upload(tmp_path)


async def test_a_file_that_says_it_is_empty_and_is_not_arrives_whole(
    server: SmallServer, client: Client
) -> None:
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0

    job_id = await client.upload(path)

    stored = server.uploads[job_id]
    assert stored.name == "status"
    assert bytes(stored.data).startswith(b"Name:")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_bytes_of_any_kind_arrive(
    server: SmallServer, client: Client, kind: type[bytearray | memoryview]
) -> None:
    class Odd:
        def __init__(self) -> None:
            self.left = [b"some ", b"bytes"]

        def read(self, _count: int) -> object:
            return kind(self.left.pop(0)) if self.left else kind(b"")

    jobs = [
        await client.upload(kind(b"some bytes")),
        await client.upload(Odd()),  # type: ignore[arg-type]
    ]
    assert [bytes(server.uploads[job].data) for job in jobs] == [b"some bytes"] * 2


async def test_a_file_that_gives_no_bytes_is_named(client: Client) -> None:
    class Odd:
        def read(self, _count: int) -> object:
            return [1, 2]

    with pytest.raises(TypeError, match="gives list, no bytes"):
        await client.upload(Odd())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_would_lead_elsewhere_names_nothing(
    server: SmallServer, client: Client, name: str
) -> None:
    job_id = await client.upload(b"x")
    asked = [
        client.status(name),
        client.delete(name),
        client.wait(name),
        client.file_name(job_id, name),
        client.pause(name),
    ]
    before = len(server.requests)
    for work in asked:
        with pytest.raises(ServerRefused, match="name of nothing") as caught:
            await work
        assert caught.value.is_absence
    assert len(server.requests) == before


async def test_a_client_is_entered_once_at_a_time(client: Client) -> None:
    with pytest.raises(RuntimeError, match="in use"):
        async with client:
            raise AssertionError("it was entered")
    await client.upload(b"x")
