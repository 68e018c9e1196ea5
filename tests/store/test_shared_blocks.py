"""Joining on file systems whose files can share blocks: nothing is copied there."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncflow.store.base import Piece
from asyncflow.store.local import LocalStore
from asyncflow.testing.store_suite import StoreSuite
from tests.server_process import ServerProcess
from tests.web.live import TUS, Line, create, metadata, patch

MIB = 1 << 20
SIZE = 24 * MIB

#: how such a file system is made in a file, and how large that must be
MAKES = {
    "xfs": (("mkfs.xfs", "-q", "-m", "reflink=1"), 300 * MIB),
    "btrfs": (("mkfs.btrfs", "-q"), 160 * MIB),
}


@contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if not Path("/dev/loop-control").exists():
        pytest.skip("this machine mounts no file as a disk")
    make, size = MAKES[kind]
    image, place = folder / f"{kind}.img", folder / kind
    place.mkdir()
    with image.open("wb") as disk:
        disk.truncate(size)
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(
    params=[
        pytest.param("xfs", marks=pytest.mark.needs("mkfs.xfs")),
        pytest.param("btrfs", marks=pytest.mark.needs("mkfs.btrfs")),
    ]
)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, request.param) as place:
        yield place


def free_on(place: Path) -> int:
    os.sync()
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


@pytest.mark.needs("mkfs.xfs")
class TestStoreOnXfs(StoreSuite):
    @pytest.fixture(autouse=True)
    def _disk(self, tmp_path: Path) -> Iterator[None]:
        with mounted(tmp_path, "xfs") as self.place:
            yield

    async def make_store(self, folder: Path) -> LocalStore:
        return LocalStore(self.place / folder.name / "store")


@pytest.mark.needs("mkfs.btrfs")
class TestStoreOnBtrfs(StoreSuite):
    @pytest.fixture(autouse=True)
    def _disk(self, tmp_path: Path) -> Iterator[None]:
        with mounted(tmp_path, "btrfs") as self.place:
            yield

    async def make_store(self, folder: Path) -> LocalStore:
        return LocalStore(self.place / folder.name / "store")


async def test_parts_that_are_shared_take_no_room(disk: Path) -> None:
    store = LocalStore(disk / "store")
    parts = [os.urandom(SIZE), os.urandom(SIZE), os.urandom(1000)]
    for n, data in enumerate(parts):
        await store.create(f"parts/{n}", length=None)
        writer = await store.append(f"parts/{n}", 0)
        await writer.write(data)
        await writer.finish()
    await store.create("raw/whole", length=None)
    before = free_on(disk)
    wholes = [
        Piece(key=f"parts/{n}", start=0, end=len(one)) for n, one in enumerate(parts)
    ]

    # the last one ends off the border of a block, where a file may end
    assert await store.share("raw/whole", wholes) == sum(map(len, parts))

    assert before - free_on(disk) < MIB
    whole = b"".join([data async for data in store.read("raw/whole")])
    assert whole == b"".join(parts)
    # they are two files all the same
    await store.cut({"parts/0": 10})
    await store.delete("parts/1")
    whole = b"".join([data async for data in store.read("raw/whole")])
    assert whole == b"".join(parts)
    await store.close()


def test_a_final_takes_hardly_any_room_beside_its_parts(disk: Path) -> None:
    server = ServerProcess(data_dir=disk / "data", settings={"workers": "1"}).start()
    try:
        partial = ("Upload-Concat", "partial")
        pieces = [os.urandom(SIZE), os.urandom(SIZE)]
        parts = []
        for piece in pieces:
            parts.append(create(server, len(piece), partial))
            assert patch(server, parts[-1], 0, piece).status == 204
        before = free_on(disk)
        concat = ("Upload-Concat", "final;" + " ".join(parts))
        with Line(server) as line:
            made = line.ask("POST", "/files", TUS, concat, metadata(filename="a.bin"))
        assert made.status == 201
        job = made.headers["asyncflow-job-id"]
        assert server.finished(job)["status"] == "COMPLETED"
        # what else it writes is its database
        assert before - free_on(disk) < SIZE // 2
        kept = server.request("GET", f"/jobs/{job}/files/original").body
        assert kept == b"".join(pieces)
    finally:
        assert server.stop() == 0
