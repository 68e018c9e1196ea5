"""What files of chunks take when they begin, and when others begin beside them."""

import random
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.server_process import ServerProcess
from tests.web.chunks import chunk_form, encoded, original, send, send_json
from tests.web.live import TUS, Line, blobs, code_of, create, healthy_server, until

PIECE = random.Random(1).randbytes(1 << 20)
QUOTA = 10


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("prospects")
    with healthy_server(folder, quota_bytes=f"{QUOTA}MiB") as found:
        yield found


@pytest.fixture
def job() -> str:
    return str(uuid.uuid4())


def begin(server: ServerProcess, line: Line, job: str, index: int, total: int) -> bytes:
    """Send half of a chunk; return the other half."""
    said = {"jobId": job, "chunkIndex": index, "totalChunks": total}
    kind, body = chunk_form(PIECE, said)
    line.head("POST", "/upload/chunked", kind, length=len(body))
    half = len(body) // 2
    before = len(blobs(server))
    line.send(body[:half])
    until(lambda: len(blobs(server)) == before + 1)
    return body[half:]


def test_first_chunks_that_come_at_once_ask_for_their_file_once(
    server: ServerProcess, job: str
) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(server)) for _ in range(6)]
        rests = [begin(server, line, job, n, 9) for n, line in enumerate(lines)]
        for line, rest in zip(lines, rests, strict=True):
            line.send(rest)
        assert [line.answer().status for line in lines] == [200] * 6
    for index in (6, 7):
        assert send(server, index, PIECE, total=9, jobId=job).status == 200
    assert send(server, 8, PIECE, total=9, jobId=job).status == 202
    assert original(server, job) == PIECE * 9


def test_a_file_that_has_begun_has_its_room_and_who_comes_later_is_refused_at_once(
    server: ServerProcess, job: str
) -> None:
    other = str(uuid.uuid4())
    assert send(server, 0, PIECE, total=6, jobId=job).status == 200
    late = send(server, 0, PIECE, total=6, jobId=other)
    assert (late.status, code_of(late)) == (507, "quota_exceeded")
    with Line(server) as line:
        length = ("Upload-Length", str(5 << 20))
        assert line.ask("POST", "/files", TUS, length).status == 507
    # what fits beside it is taken
    assert send(server, 0, PIECE, total=2, jobId=other).status == 200
    assert send(server, 1, PIECE, total=2, jobId=other).status == 202
    for index in range(1, 6):
        assert send(server, index, PIECE, total=6, jobId=job).status in {200, 202}
    assert original(server, job) == PIECE * 6


@pytest.mark.parametrize("how", ["deleted", "complete", "broken off"])
def test_a_file_holds_nothing_once_it_is_over(
    server: ServerProcess, job: str, how: str
) -> None:
    if how == "deleted":
        assert send(server, 0, PIECE, total=9, jobId=job).status == 200
        with Line(server) as line:
            assert line.ask("DELETE", f"/jobs/{job}").status == 204
        left = QUOTA << 20
    elif how == "complete":
        # the size of a chunk was a guess
        assert send(server, 0, PIECE, total=2, jobId=job).status == 200
        assert send(server, 1, b"end", total=2, jobId=job).status == 202
        original(server, job)
        left = (QUOTA - 1 << 20) - 3
    else:
        with Line(server) as line:
            begin(server, line, job, 0, 9)
        until(lambda: not blobs(server))
        left = QUOTA << 20
    assert create(server, left)


def test_a_chunk_that_is_sent_again_after_it_broke_off_finds_its_room(
    server: ServerProcess, job: str
) -> None:
    assert send(server, 0, PIECE, total=10, jobId=job).status == 200
    for _ in range(3):
        with Line(server) as line:
            begin(server, line, job, 1, 10)
        until(lambda: len(blobs(server)) == 2)
    for index in range(1, 10):
        assert send(server, index, PIECE, total=10, jobId=job).status in {200, 202}
    assert original(server, job) == PIECE * 10


def test_a_chunk_that_is_sent_again_finds_its_room_in_what_its_file_holds(
    server: ServerProcess, job: str
) -> None:
    # the answer to the first request was lost, perhaps
    for index in range(8):
        for _ in range(2):
            answer = send(server, index, PIECE, total=9, jobId=job)
            assert answer.status == 200, answer.body
    assert send(server, 8, PIECE, total=9, jobId=job).status == 202
    assert original(server, job) == PIECE * 9


def test_small_chunks_hold_room_for_their_file_too(
    server: ServerProcess, job: str
) -> None:
    # such a form is there as a whole before it is looked at
    small, other = PIECE[:100_000], str(uuid.uuid4())
    assert send(server, 0, small, total=90, jobId=job).status == 200
    late = send(server, 0, PIECE, total=6, jobId=other)
    assert (late.status, code_of(late)) == (507, "quota_exceeded")
    for index in range(1, 90):
        status = send(server, index, small, total=90, jobId=job).status
        assert status == (200 if index < 89 else 202)
    assert original(server, job) == small * 90


def test_a_restart_forgets_what_was_foreseen_and_the_next_chunk_foresees_it_again(
    server: ServerProcess, job: str
) -> None:
    assert send(server, 0, PIECE, total=9, jobId=job).status == 200
    server.stop()
    server.start()
    assert send(server, 1, PIECE, total=9, jobId=job).status == 200
    late = send(server, 0, PIECE, total=3, jobId=str(uuid.uuid4()))
    assert (late.status, code_of(late)) == (507, "quota_exceeded")
    for index in range(2, 9):
        assert send(server, index, PIECE, total=9, jobId=job).status in {200, 202}
    assert original(server, job) == PIECE * 9


def test_chunks_in_json_hold_room_for_their_file_too(
    server: ServerProcess, job: str
) -> None:
    chunk = encoded(PIECE)
    said = {"jobId": job, "totalChunks": 6, "chunk": chunk}
    assert send_json(server, chunkIndex=0, **said).status == 200
    late = send(server, 0, PIECE, total=6, jobId=str(uuid.uuid4()))
    assert (late.status, code_of(late)) == (507, "quota_exceeded")
    for index in range(1, 6):
        assert send_json(server, chunkIndex=index, **said).status in {200, 202}
    assert original(server, job) == PIECE * 6
