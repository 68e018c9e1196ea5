import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncflow.client import (
    Client,
    Patience,
    ServerRefused,
    ServerUnreachable,
    UnexpectedAnswer,
)
from tests.client.small_server import SmallServer


@pytest.fixture
def data(server: SmallServer) -> bytes:
    server.files["thumbnail"] = os.urandom(400_000)
    return server.files["thumbnail"]


async def test_a_file_arrives_whole_and_leaves_nothing_beside_it(
    data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "t.jpg"
    target.parent.mkdir()

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == data
    assert list(target.parent.iterdir()) == [target]


async def test_a_broken_download_continues(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    server.cut_downloads = [100_000, 50_000]

    await client.download("j", "thumbnail", tmp_path / "t.jpg")

    assert (tmp_path / "t.jpg").read_bytes() == data
    assert server.ranges[0] is None
    assert all(one and one.startswith("bytes=") for one in server.ranges[1:])


async def broken_download(server: SmallServer, target: Path) -> None:
    server.cut_downloads = [100_000]
    async with Client(server.url, patience=Patience(attempts=1)) as earlier:
        with pytest.raises(ServerUnreachable):
            await earlier.download("j", "thumbnail", target)
    assert not target.exists()


async def test_a_later_process_continues_a_download(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == data
    assert server.ranges[-1] is not None


@pytest.mark.parametrize("name", ["p" * 251 + ".jpg", "é" * 127, "p" * 245])
async def test_a_file_of_the_longest_name_arrives_and_continues(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    await broken_download(server, target)
    twin = tmp_path / f"{name[:-1]}x"
    twin.touch()
    held = {one.name for one in tmp_path.iterdir()}

    await client.download("j", "thumbnail", target)

    assert len(held) == 3
    assert target.read_bytes() == data
    assert server.ranges[-1] is not None
    assert sorted(tmp_path.iterdir()) == sorted([target, twin])


async def test_parts_of_long_names_that_begin_alike_are_different_files(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    first, second = tmp_path / ("p" * 254 + "1"), tmp_path / ("p" * 254 + "2")
    await broken_download(server, first)

    await client.download("j", "thumbnail", second)

    assert second.read_bytes() == data
    assert server.ranges[-1] is None


async def test_a_file_that_changed_is_fetched_from_its_beginning(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)
    server.etag, server.files["thumbnail"] = '"two"', b"short and other"

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == b"short and other"
    assert data != target.read_bytes()


async def test_a_new_version_is_not_noted_while_the_old_bytes_lie_there(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)
    tag = tmp_path / ".t.jpg.asyncflow-part.note"
    old = tag.read_text()
    part = tmp_path / ".t.jpg.asyncflow-part"
    part.unlink()
    part.mkdir()  # nothing can be cut off here
    server.etag, server.files["thumbnail"] = '"two"', data[::-1]

    with pytest.raises(IsADirectoryError):
        await client.download("j", "thumbnail", target)

    assert old
    assert tag.read_text() == old


async def test_a_part_longer_than_the_file_is_thrown_away(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)
    (tmp_path / ".t.jpg.asyncflow-part").write_bytes(data + b"more")

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == data


async def test_a_weak_etag_promises_nothing(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    server.etag = 'W/"one"'
    server.cut_downloads = [100_000]
    async with Client(server.url, patience=Patience(attempts=1)) as earlier:
        with pytest.raises(ServerUnreachable):
            await earlier.download("j", "thumbnail", tmp_path / "t.jpg")

    await client.download("j", "thumbnail", tmp_path / "t.jpg")

    assert (tmp_path / "t.jpg").read_bytes() == data
    assert server.ranges == [None, None]


async def test_a_refusal_leaves_no_file(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    with pytest.raises(ServerRefused):
        await client.download("j", "nothing", folder / "t.jpg")

    assert list(folder.iterdir()) == []


async def test_a_target_may_be_text(
    client: Client, data: bytes, tmp_path: Path
) -> None:
    target = await client.download("j", "thumbnail", f"{tmp_path}/out.jpg")

    assert target == tmp_path / "out.jpg"
    assert target.read_bytes() == data


async def test_a_second_download_to_the_same_place_is_refused_and_harms_nothing(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)
    server.hold_downloads = asyncio.Event()
    first = asyncio.create_task(client.download("j", "thumbnail", target))
    await server.halfway.wait()

    async with Client(server.url) as other:
        with pytest.raises(BlockingIOError, match="another download"):
            await other.download("j", "thumbnail", target)
    server.hold_downloads.set()
    await first

    assert target.read_bytes() == data
    assert list(tmp_path.iterdir()) == [target]


async def test_however_many_download_to_one_place_it_is_whole(
    data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    for _ in range(10):
        ends = await asyncio.gather(
            *(client.download("j", "thumbnail", target) for _ in range(6)),
            return_exceptions=True,
        )

        assert target in ends
        assert all(end == target or isinstance(end, BlockingIOError) for end in ends)
        assert target.read_bytes() == data
        assert list(tmp_path.iterdir()) == [target]


async def test_a_download_that_is_cancelled_lets_go_of_its_part(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    server.hold_downloads = asyncio.Event()
    first = asyncio.create_task(client.download("j", "thumbnail", target))
    await server.halfway.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.hold_downloads.set()

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == data


OURS = "part of an asyncflow download\n"


@pytest.mark.parametrize("end", ["", ".note"])
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
async def test_a_link_where_the_part_belongs_is_not_followed(
    data: bytes, client: Client, tmp_path: Path, end: str, link: str
) -> None:
    target, victim = tmp_path / "t.jpg", tmp_path / "victim"
    victim.write_text(f'{OURS}"one"')
    (tmp_path / ".t.jpg.asyncflow-part.note").write_text(f'{OURS}"one"')
    trap = tmp_path / f".t.jpg.asyncflow-part{end}"
    trap.unlink(missing_ok=True)
    getattr(trap, link)(victim)

    with pytest.raises(OSError, match=r"move it away.*t\.jpg\.asyncflow-part"):
        await client.download("j", "thumbnail", target)

    assert data
    assert not target.exists()
    assert trap.samefile(victim)
    assert victim.read_text() == f'{OURS}"one"'


async def test_a_pipe_where_the_part_belongs_holds_nobody_up(
    data: bytes, client: Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / ".t.jpg.asyncflow-part")

    with pytest.raises(OSError, match="not of an earlier download"):
        await client.download("j", "thumbnail", tmp_path / "t.jpg")

    assert data
    assert not (tmp_path / "t.jpg").exists()


async def test_a_range_that_ends_too_early_is_no_whole_file(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "t.jpg"
    await broken_download(server, target)
    server.short_ranges = 10

    with pytest.raises(UnexpectedAnswer, match="399990 bytes of a file that has 4000"):
        await client.download("j", "thumbnail", target)

    assert data
    assert not target.exists()


@pytest.mark.parametrize("note", [b"two\r\nX-Evil: 1", b"\xff\xfe", b'W/"one"', b""])
async def test_a_version_that_is_none_is_not_asked_for(
    server: SmallServer, data: bytes, client: Client, tmp_path: Path, note: bytes
) -> None:
    (tmp_path / ".t.jpg.asyncflow-part").write_bytes(b"of something else")
    (tmp_path / ".t.jpg.asyncflow-part.note").write_bytes(OURS.encode() + note)

    await client.download("j", "thumbnail", tmp_path / "t.jpg")

    assert (tmp_path / "t.jpg").read_bytes() == data
    assert server.ranges == [None]


@pytest.mark.parametrize(
    ("part", "note"),
    [
        (b"mine", None),
        (b"mine", b""),
        (b"mine", OURS.encode()[:-1]),
        (b"mine", b'"one"'),
        (b"", b"mine as well"),
    ],
)
async def test_what_is_not_of_a_download_is_left_alone(
    data: bytes, client: Client, tmp_path: Path, part: bytes, note: bytes | None
) -> None:
    paths = [tmp_path / f".t.jpg.asyncflow-part{end}" for end in ("", ".note")]
    paths[0].write_bytes(part)
    if note is not None:
        paths[1].write_bytes(note)

    with pytest.raises(OSError, match="not of an earlier download: move it away"):
        await client.download("j", "thumbnail", tmp_path / "t.jpg")

    assert data
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {paths[0].name: part} | ({paths[1].name: note} if note is not None else {})
    assert found == kept


@pytest.mark.parametrize("note", ["", OURS[:7]])
async def test_a_note_that_broke_off_before_the_first_byte_holds_nobody_up(
    data: bytes, client: Client, tmp_path: Path, note: str
) -> None:
    target = tmp_path / "t.jpg"
    (tmp_path / ".t.jpg.asyncflow-part").touch()
    (tmp_path / ".t.jpg.asyncflow-part.note").write_text(note)

    await client.download("j", "thumbnail", target)

    assert target.read_bytes() == data
    assert list(tmp_path.iterdir()) == [target]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def link_to_a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


@pytest.mark.parametrize("make", [pipe, listener, link_to_a_device, Path.mkdir])
async def test_what_is_no_file_is_never_replaced_by_one(
    server: SmallServer,
    data: bytes,
    client: Client,
    tmp_path: Path,
    make: Callable[[Path], None],
) -> None:
    target = tmp_path / "t.jpg"
    make(target)
    before = target.lstat()

    with pytest.raises(OSError, match=r"is there.*t\.jpg"):
        await client.download("j", "thumbnail", target)

    assert data
    assert os.path.samestat(target.lstat(), before)
    assert list(tmp_path.iterdir()) == [target]
    assert server.ranges == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
async def test_the_umask_says_who_may_read_what_was_downloaded(
    data: bytes, client: Client, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        await client.download("j", "thumbnail", tmp_path / "t.jpg")
    finally:
        os.umask(before)

    assert data
    found = (tmp_path / "t.jpg").stat()
    assert stat.S_IMODE(found.st_mode) == 0o666 & ~mask
