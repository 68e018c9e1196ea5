"""The client where something in between takes what it asks and says nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.client import SyncClient, Update
from tests.between import between
from tests.server_process import ServerProcess, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("silent") / "data"
    with serving(folder, workers="1", token="one-of-our-own") as server:
        yield server


def command(server: ServerProcess, action: str) -> None:
    path = f"/admin/consumers/identify/{action}"
    answer = server.request("POST", path, Authorization="Bearer one-of-our-own")
    assert answer.status == 200


@pytest.mark.parametrize("how", ["swallow", "mute"])
def test_a_socket_that_says_nothing_holds_nobody_up(
    server: ServerProcess, tmp_path: Path, how: str
) -> None:
    seen: list[Update] = []

    def resume(update: Update) -> None:
        if not seen:
            command(server, "resume")
        seen.append(update)

    command(server, "pause")
    port = int(server.url.rpartition(":")[2])
    with (
        between(port, **{how: "^/ws"}) as silent,
        SyncClient(silent.url, "one-of-our-own", state_dir=tmp_path) as client,
    ):
        job = client.wait(client.upload(b"some words", name="a.txt"), resume)

    assert job.status == "COMPLETED"
    # what the status said was told before any socket had spoken
    assert seen[0].type == "snapshot"
    # one was enough
    assert len(silent.met) == 1
