"""The contract of `/ws`, with frames as a client sends them."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess, serving
from tests.web.frames import BINARY, TEXT, Frames
from tests.web.live import (
    TUS,
    Line,
    create,
    half_open,
    healthy_server,
    metadata,
    metric,
    patch,
    rss_bytes,
    until,
)

MIB = 1024 * 1024
NOBODY = "01a20327-a3a3-7460-ad93-e9a93f525ab8"
FINAL = ("job.completed", "job.failed", "job.rejected", "job.cancelled", "job.deleted")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("socket")) as found:
        yield found


def test_a_snapshot_comes_first_then_steps_then_the_end(server: ServerProcess) -> None:
    job = create(server, 5)
    with Frames.open(server, f"/ws?job={job}") as socket:
        first = socket.hear()
        assert first["type"] == "snapshot"
        assert first["jobId"] == first["job"]["jobId"] == job
        assert first["job"]["status"] == "UPLOADING"
        assert first["seq"] == first["job"]["version"]
        patch(server, job, 0, b"hello")
        heard = socket.hear_until(*FINAL)
    last = heard.pop()
    assert last["type"] == "job.completed"
    assert last["job"] == server.status(job)
    assert last["job"]["downloadUrls"]["original"]
    numbers = [one["seq"] for one in heard if one["type"] == "step"]
    assert numbers == sorted(numbers)
    assert first["seq"] < numbers[0]
    assert last["seq"] >= numbers[-1]
    assert {one["type"] for one in heard} <= {"step", "progress"}
    assert {one["step"]["name"] for one in heard if one["type"] == "step"} >= {
        "identify"
    }
    assert all("seq" not in one for one in heard if one["type"] == "progress")


def test_a_rejection_is_told_as_one(server: ServerProcess) -> None:
    job = create(server, 6, metadata(filename="drawing.svg"))
    with Frames.open(server, f"/ws?job={job}") as socket:
        patch(server, job, 0, b"<svg/>")
        last = socket.hear_until(*FINAL)[-1]
    assert last["type"] == "job.rejected"
    assert last["job"]["error"]["code"]


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("POST", "/jobs/{}/cancel", "job.cancelled"),
        ("DELETE", "/jobs/{}", "job.deleted"),
    ],
)
def test_the_end_that_somebody_else_made_is_told(
    server: ServerProcess, method: str, path: str, told: str
) -> None:
    job = create(server, 5)
    with Frames.open(server, f"/ws?job={job}") as socket:
        assert socket.hear()["type"] == "snapshot"
        server.request(method, path.format(job))
        assert socket.hear_until(*FINAL)[-1]["type"] == told


def test_jobs_can_be_watched_and_left_later(server: ServerProcess) -> None:
    left, watched = create(server, 5), create(server, 5)
    with Frames.open(server) as socket:
        socket.say(subscribe=[left, watched])
        assert [socket.hear()["jobId"] for _ in range(2)] == [left, watched]
        socket.say(unsubscribe=[left])
        # a snapshot in answer says that the wish before it was heard
        socket.say(subscribe=[left], unsubscribe=[left])
        assert socket.hear()["type"] == "snapshot"
        socket.say(unsubscribe=[left], subscribe=[NOBODY])
        assert socket.hear()["type"] == "error"
        for job in (left, watched):
            patch(server, job, 0, b"hello")
        server.finished(left)
        heard = socket.hear_until(*FINAL)
    assert {one["jobId"] for one in heard} == {watched}


def test_one_socket_watches_several_jobs(server: ServerProcess) -> None:
    jobs = [create(server, 5) for _ in range(3)]
    with Frames.open(server, "/ws?" + "&".join(f"job={job}" for job in jobs)) as socket:
        assert [socket.hear()["jobId"] for _ in jobs] == jobs
        for job in jobs:
            patch(server, job, 0, b"hello")
        ended: set[str] = set()
        while len(ended) < len(jobs):
            ended.add(socket.hear_until(*FINAL)[-1]["jobId"])
    assert ended == set(jobs)


@pytest.mark.parametrize("unknown", [NOBODY, "nothing", "", "../etc/passwd"])
def test_an_unknown_job_is_told_and_the_socket_stays(
    server: ServerProcess, unknown: str
) -> None:
    with Frames.open(server) as socket:
        socket.say(subscribe=[unknown])
        told = socket.hear()
        assert (told["type"], told["jobId"]) == ("error", unknown)
        assert told["code"] == "job_not_found"
        assert told["detail"]
        socket.say(subscribe=[create(server, 5)])
        assert socket.hear()["type"] == "snapshot"


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello",
        b"",
        b"[]",
        b'{"subscribe": "x"}',
        b'{"subscribe": [1]}',
        b'{"else": []}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_garbage_closes_the_socket_with_1007(
    server: ServerProcess, garbage: bytes
) -> None:
    with Frames.open(server) as socket:
        socket.frame(TEXT, garbage)
        assert socket.close_code() == 1007


def test_binary_closes_the_socket_with_1003(server: ServerProcess) -> None:
    with Frames.open(server) as socket:
        socket.frame(BINARY, b"{}")
        assert socket.close_code() == 1003


def test_a_big_frame_closes_the_socket_with_1009(server: ServerProcess) -> None:
    with Frames.open(server) as socket:
        socket.frame(TEXT, b" " * (64 * 1024 + 1))
        assert socket.close_code() == 1009


def test_a_job_that_is_over_is_told_whole_to_who_comes_late(
    server: ServerProcess,
) -> None:
    job = server.upload("a.txt", b"hello")
    found = server.finished(job)
    for _ in range(2):
        with Frames.open(server, f"/ws?job={job}") as socket:
            assert socket.hear()["job"] == found


def test_a_reconnect_gets_what_it_missed_in_a_snapshot(server: ServerProcess) -> None:
    job = create(server, 5)
    with Frames.open(server, f"/ws?job={job}") as socket:
        before = socket.hear()
    patch(server, job, 0, b"hello")
    server.finished(job)
    with Frames.open(server, f"/ws?job={job}") as socket:
        after = socket.hear()
    assert after["seq"] > before["seq"]
    assert after["job"]["status"] == "COMPLETED"


def test_a_job_watched_twice_on_one_socket_is_told_once(server: ServerProcess) -> None:
    job = create(server, 5)
    with Frames.open(server, f"/ws?job={job}&job={job}") as socket:
        socket.say(subscribe=[job, job])
        patch(server, job, 0, b"hello")
        heard = socket.hear_until(*FINAL)
    assert [one["type"] for one in heard].count("snapshot") == 1


def test_progress_is_told_while_a_slow_upload_runs(server: ServerProcess) -> None:
    size = 1000
    job = create(server, size)
    with Frames.open(server, f"/ws?job={job}") as socket:
        assert socket.hear()["type"] == "snapshot"
        with half_open(server, job, 0, b"x" * 100, length=size) as line:
            first = socket.hear()
            line.send(b"x" * 200)
            second = socket.hear()
            line.send(b"x" * 700)
            assert line.answer().status == 204
        assert socket.hear_until(*FINAL)[-1]["type"] == "job.completed"
    assert [first["type"], second["type"]] == ["progress", "progress"]
    assert [first["uploadedBytes"], second["uploadedBytes"]] == [100, 300]


def test_a_socket_watches_a_thousand_jobs_and_no_more(server: ServerProcess) -> None:
    jobs = ended_uploads(server, 1001)
    with Frames.open(server) as socket:
        socket.say(subscribe=jobs[:600])
        socket.say(subscribe=jobs[600:])
        heard = [socket.hear() for _ in jobs]
        assert [one["type"] for one in heard[:1000]] == ["snapshot"] * 1000
        assert (heard[1000]["type"], heard[1000]["code"]) == ("error", "too_many_jobs")
        socket.say(unsubscribe=jobs[:1], subscribe=jobs[1000:])
        assert socket.hear()["type"] == "snapshot"


def ended_uploads(server: ServerProcess, count: int) -> list[str]:
    """Return ids of jobs: their uploads are over, so that they take nobody's place."""
    found = []
    with Line(server) as line:
        for _ in range(count):
            answer = line.ask("POST", "/files", TUS, ("Upload-Length", "5"))
            found.append(answer.headers["asyncflow-job-id"])
            assert line.ask("DELETE", f"/files/{found[-1]}", TUS).status == 204
    return found


def send_all(client: Frames, texts: list[bytes]) -> None:
    for text in texts:
        client.frame(TEXT, text)


def test_a_reader_that_never_reads_costs_little_and_harms_nobody(
    server: ServerProcess,
) -> None:
    job = create(server, 5)
    # no such job: each is answered with an error that repeats the name
    wish = json.dumps({"subscribe": ["n" * 1000]}).encode()
    with Frames.open(server, f"/ws?job={job}") as other:
        assert other.hear()["type"] == "snapshot"
        before = rss_bytes(server.pid)
        sockets = metric(server, "asyncflow_websockets")
        with Frames.open(server, receive_bytes=4096) as lazy:
            lazy.line.sock.settimeout(2)
            # a time comes when nothing is read from it either
            with pytest.raises(TimeoutError):
                send_all(lazy, [wish] * 40_000)
            patch(server, job, 0, b"hello")
            assert other.hear_until(*FINAL)[-1]["type"] == "job.completed"
            assert rss_bytes(server.pid) - before < 24 * MIB
            # it is cut off although it never said goodbye
            until(lambda: metric(server, "asyncflow_websockets") <= sockets)


def test_the_socket_says_that_it_is_one(tmp_path: Path) -> None:
    with healthy_server(tmp_path) as server, Line(server) as line:
        answer = line.ask("GET", "/ws")

    assert (answer.status, answer.json["code"]) == (426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"


def test_the_largest_number_of_sockets_is_kept(tmp_path: Path) -> None:
    with healthy_server(tmp_path, max_sockets="2") as server:
        with Frames.open(server), Frames.open(server), Line(server) as line:
            answer = line.ask("GET", "/ws", ("Upgrade", "websocket"))
            assert answer.status == 503
        until(lambda: metric(server, "asyncflow_websockets") == 0)
        with Frames.open(server):
            pass


def test_a_server_that_stops_says_so_to_all_even_if_one_does_not_listen(
    tmp_path: Path,
) -> None:
    with (
        serving(tmp_path / "data") as server,
        Frames.open(server) as one,
        Frames.open(server, receive_bytes=4096),
        Frames.open(server) as other,
    ):
        server.signal(signal.SIGTERM)
        assert one.close_code() == 1001
        assert other.close_code() == 1001
        began = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - began < 8


def test_a_token_server_wants_it_for_sockets_too(tmp_path: Path) -> None:
    with healthy_server(tmp_path, token="a-token-of-my-own") as server:
        with Line(server) as line:
            assert line.ask("GET", "/ws").status == 401
        with Frames.open(server, "/ws?token=a-token-of-my-own") as socket:
            socket.say(subscribe=[NOBODY])
            assert socket.hear()["type"] == "error"
