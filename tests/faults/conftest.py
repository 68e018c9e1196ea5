"""A server with a processor that does what its file says."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.evidence import Evidence
from tests.faults import probe
from tests.server_process import ServerProcess

#: bytes of the small disk
ROOM = 48 << 20

Make = Callable[..., ServerProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return how to start a server on a folder; none survives the test."""
    made: list[ServerProcess] = []

    def start(
        *,
        data_dir: Path | None = None,
        wall_s: float = 60.0,
        wrap: tuple[str, ...] = (),
        **settings: str,
    ) -> ServerProcess:
        server = ServerProcess(
            data_dir=data_dir or tmp_path / "data",
            settings={"workers": "1", **settings},
            wrap=(
                *wrap,
                *probe.install(tmp_path / f"plugin{len(made)}", wall_s=wall_s),
            ),
        )
        made.append(server)
        return server.start()

    yield start
    for server in made:
        if server.process is None:
            continue
        if server.process.poll() is None:
            server.kill()
        server.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of its own with little room."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "small"]
    subprocess.run([*command, str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """Return the folder that servers leave behind."""
    return Evidence(tmp_path / "data")
