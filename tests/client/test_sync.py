"""The client without asyncio, against a real server."""

import asyncio
import fcntl
import gc
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow import Job, Progress, ServerRefused, ServerUnreachable, SyncClient
from asyncflow.client import Patience
from tests.server_process import ServerProcess, serving

UNKNOWN = "01a20323-0000-7000-8000-000000000000"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path / "data", workers="1") as running:
        yield running


@pytest.fixture
def client(server: ServerProcess, tmp_path: Path) -> Iterator[SyncClient]:
    with SyncClient(server.url, server.token, state_dir=tmp_path / "state") as opened:
        yield opened


def threads() -> set[str]:
    return {one.name for one in threading.enumerate()}


def test_a_file_goes_up_is_watched_and_comes_back(
    client: SyncClient, tmp_path: Path
) -> None:
    told: list[Progress] = []
    (tmp_path / "notes.txt").write_text("some notes")
    job = client.upload(tmp_path / "notes.txt", on_progress=told.append)
    types = [update.type for update in client.watch(job)]
    assert types[0] == "snapshot" or types == ["job.completed"]
    assert client.wait(job).status == "COMPLETED"
    assert told
    got = client.download(job, "original", tmp_path / "back.txt")
    assert got.read_text() == "some notes"
    assert [one.job_id for one in client.jobs()] == [job]
    assert client.cancel(job).status == "COMPLETED"
    client.delete(job)
    with pytest.raises(ServerRefused, match="job_not_found"):
        client.status(job)


def test_an_open_file_and_a_path_of_text_go_up(
    client: SyncClient, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes")
    with notes.open("rb") as file:
        jobs = [client.upload(file, name="notes.txt"), client.upload(str(notes))]
    for number, job in enumerate(jobs):
        got = client.download(job, "original", tmp_path / f"{number}.txt")
        assert got.read_text() == "some notes"


def test_a_watch_that_is_left_early_leaves_nothing_open(client: SyncClient) -> None:
    job = client.upload(b"text", name="a.txt")
    for _update in client.watch(job):
        break
    assert client.is_ready()


def test_it_works_beside_a_loop_that_runs(client: SyncClient) -> None:
    async def main() -> str:
        return client.upload(b"text", name="a.txt")

    assert client.wait(asyncio.run(main())).status == "COMPLETED"


def test_leaving_the_block_ends_its_thread(server: ServerProcess) -> None:
    before = threads()
    with SyncClient(server.url) as client:
        assert client.is_ready()
        assert threads() - before >= {"asyncflow-client"}
    assert "asyncflow-client" not in threads() - before
    with pytest.raises(RuntimeError, match="inside `with`"):
        client.status(UNKNOWN)


def test_errors_are_those_of_the_client() -> None:
    haste = Patience(attempts=1)
    with (
        SyncClient("http://127.0.0.1:1", patience=haste) as client,
        pytest.raises(ServerUnreachable),
    ):
        client.status(UNKNOWN)


def test_a_callback_that_calls_the_client_is_told_that_it_cannot(
    client: SyncClient,
) -> None:
    seen: list[Job] = []
    job = client.upload(b"text", name="a.txt")
    with pytest.raises(RuntimeError, match="cannot call the client"):
        client.wait(job, on_update=lambda _update: seen.append(client.status(job)))
    with pytest.raises(RuntimeError, match="cannot call the client"):
        client.upload(b"text", on_progress=lambda _: seen.extend(client.jobs()))
    assert client.wait(job).status == "COMPLETED"


def test_entering_the_block_twice_is_an_error_and_harms_nobody(
    client: SyncClient,
) -> None:
    before = threads()
    with pytest.raises(RuntimeError, match="in use"), client:
        raise AssertionError("it was entered")
    assert client.is_ready()
    assert threads() == before


def test_the_block_can_be_entered_again_when_it_was_left(
    server: ServerProcess,
) -> None:
    client = SyncClient(server.url)
    for _ in range(2):
        with client:
            assert client.is_ready()


def test_an_iterator_that_outlives_the_block_says_so_and_ends_in_silence(
    server: ServerProcess,
) -> None:
    with SyncClient(server.url, server.token) as client:
        for number in range(3):
            client.upload(b"text", name=f"{number}.txt")
        asked, left = client.jobs(), client.jobs()
        assert next(asked).job_id == next(left).job_id
    with pytest.raises(RuntimeError, match="inside `with`"):
        next(asked)
    with client, pytest.raises(RuntimeError, match="inside `with`"):
        next(left)
    # what an iterator raises when it is thrown away would be a warning, and those fail
    with client:
        thrown_away = client.jobs()
        next(thrown_away)
    del thrown_away
    gc.collect()


UPLOADING = """
import signal, sys
from asyncflow.client import SyncClient
signal.signal(signal.SIGINT, signal.default_int_handler)
with SyncClient("http://127.0.0.1:1") as client:
    client.upload(sys.stdin.buffer)
"""


def test_one_ctrl_c_ends_an_upload_from_a_pipe_that_is_silent() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", UPLOADING],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    try:
        assert program.stdin is not None
        program.stdin.write(b"the first words")
        program.stdin.flush()
        left = array("i", [1])
        while program.poll() is None and left[0]:
            time.sleep(0.01)
            fcntl.ioctl(program.stdin, termios.FIONREAD, left)
        # it has read them, and waits for more
        program.send_signal(signal.SIGINT)
        # the pipe stays open and silent meanwhile
        assert program.wait(20) == -signal.SIGINT
        assert program.stderr is not None
        said = program.stderr.read().decode()
    finally:
        program.kill()
        program.communicate()
    assert said.rstrip().endswith("KeyboardInterrupt")
