"""What the operator's limits refuse: with the same words whatever the protocol."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    create,
    form,
    healthy_server,
    jobs,
    kept,
    metadata,
    metric,
    patch,
    until,
)

EXPECT = ("Expect", "100-continue")
Send = Callable[[ServerProcess, str, bytes], Answer]


def by_put(server: ServerProcess, name: str, data: bytes) -> Answer:
    with Line(server) as line:
        line.head("PUT", f"/upload/{name}", EXPECT, length=len(data))
        return answer_to(line, data)


def by_form(server: ServerProcess, name: str, data: bytes) -> Answer:
    kind, body = form((name, data))
    with Line(server) as line:
        return line.ask("POST", "/upload", kind, body=body)


def by_tus(server: ServerProcess, name: str, data: bytes) -> Answer:
    with Line(server) as line:
        length = ("Upload-Length", str(len(data)))
        said = (TUS, CHUNK, length, metadata(filename=name), EXPECT)
        line.head("POST", "/files", *said, length=len(data))
        return answer_to(line, data)


def answer_to(line: Line, data: bytes) -> Answer:
    """Send the body once the server wants it, as a client with manners does."""
    answer = line.answer()
    if answer.status == 100:
        line.send(data)
        answer = line.answer()
    return answer


every_protocol = pytest.mark.parametrize("send", [by_put, by_form, by_tus])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("full"), fill_level="1") as found:
        yield found


@every_protocol
def test_a_full_disk_is_answered_507_before_a_row_is_written(
    full: ServerProcess, send: Send
) -> None:
    answer = send(full, "a.txt", b"hello")
    assert (answer.status, code_of(answer)) == (507, "disk_full")
    assert int(answer.headers["retry-after"]) > 0
    assert not kept(full)
    assert jobs(full) == 0
    # who only looks is served
    assert full.request("GET", "/").status == 200


@pytest.mark.parametrize("target", ["/upload", "/upload/chunked"])
def test_a_form_larger_than_any_file_is_refused_before_its_body(
    tmp_path: Path, target: str
) -> None:
    kind, _body = form(("large.bin", b""))
    with healthy_server(tmp_path, max_upload_bytes="1MiB") as server:
        with Line(server) as line:
            line.head("POST", target, EXPECT, kind, length=2 << 20)
            answer = line.answer()
        assert (answer.status, code_of(answer)) == (413, "upload_too_large")
        assert "a form of 2097152 bytes" in answer.json["detail"]
        assert jobs(server) == 0


def test_a_form_that_cannot_fit_is_refused_before_its_body(full: ServerProcess) -> None:
    kind, _body = form(("large.bin", b""))
    with Line(full) as line:
        line.head("POST", "/upload", EXPECT, kind, length=2 << 20)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (507, "disk_full")
    assert "above 1 %" in answer.json["detail"]
    assert jobs(full) == 0


JSON = ("Content-Type", "application/json")
FORM, _ = form(("large.bin", b""))
in_full = pytest.mark.parametrize(
    ("target", "kind"),
    [("/upload", FORM), ("/upload/chunked", FORM), ("/upload/chunked", JSON)],
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("small"), quota_bytes="1MiB") as found:
        yield found


def refused_before_its_body(
    server: ServerProcess, target: str, kind: Header, *more: Header
) -> tuple[int, str]:
    """Announce a body of 2 MiB and wait to be asked for it; return what comes."""
    with Line(server) as line:
        line.head("POST", target, EXPECT, kind, *more, length=2 << 20)
        answer = line.answer()
    assert int(answer.headers["retry-after"]) > 0
    return answer.status, code_of(answer)


@in_full
def test_what_exceeds_the_quota_is_refused_before_its_body(
    small: ServerProcess, target: str, kind: tuple[str, str]
) -> None:
    for more in ((), (("Idempotency-Key", "nobody-has-seen-it"),)):
        refused = refused_before_its_body(small, target, kind, *more)
        assert refused == (507, "quota_exceeded")
    assert not kept(small)


def test_a_body_that_is_never_taken_is_told_so_and_not_to_come_later(
    small: ServerProcess,
) -> None:
    with Line(small) as line:
        line.head("POST", "/upload/chunked", EXPECT, JSON, length=17 << 20)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (413, "body_too_large")


def test_a_form_is_not_read_on_when_there_is_no_room_for_a_file_of_it(
    small: ServerProcess,
) -> None:
    kind, body = form(("small.txt", b"hello"), ("large.bin", bytes(2 << 20)))
    with Line(small) as line:
        line.head("POST", "/upload", kind, ("Transfer-Encoding", "chunked"))
        # all but its end, for which the server does not wait
        line.chunk(body[:-1000])
        answer = line.answer()
    assert answer.status == 202
    assert answer.headers["connection"] == "close"
    taken, refused = answer.json["jobs"]
    assert (taken["fileName"], taken["status"]) == ("small.txt", "PENDING")
    assert (refused["fileName"], refused["error"]["code"]) == (
        "large.bin",
        "quota_exceeded",
    )
    assert small.request("DELETE", f"/jobs/{taken['jobId']}").status == 204


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("picky")
    with healthy_server(folder, allowed_types="text/*") as found:
        yield found


@every_protocol
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("unnamed", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("unnamed", b"%PDF-1.7\n"),
    ],
)
def test_a_type_that_is_not_taken_is_refused_by_name_or_by_first_bytes(
    picky: ServerProcess, send: Send, name: str, data: bytes
) -> None:
    before = kept(picky)
    answer = send(picky, name, data)
    assert (answer.status, code_of(answer)) == (415, "type_not_allowed")
    assert "text/*" in answer.json["detail"]
    until(lambda: kept(picky) <= before)


@every_protocol
def test_a_type_that_is_taken_is_taken(picky: ServerProcess, send: Send) -> None:
    answer = send(picky, "a.txt", b"hello")
    assert answer.status in {201, 202}
    job = picky.finished(answer.headers["asyncflow-job-id"])
    assert job["status"] == "COMPLETED"
    assert picky.request("DELETE", f"/jobs/{job['jobId']}").status == 204


STUCK = """
import time
from asyncflow.processors.base import Result, Work, processor

@processor("stuck", accepts=("text/*",), wall_s=100.0)
def stuck(work: Work) -> Result:
    time.sleep(100)
    return Result()
"""


FULL = (503, "backlog_full")
UPLOADING = "UPLOADING"


def chunk_form(data: bytes, job: str, n: int) -> tuple[Header, bytes]:
    said = {"jobId": job, "chunkIndex": n, "totalChunks": 3}
    fields = "".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in said.items()
    )
    chunk = '--edge\r\nContent-Disposition: form-data; name="chunk"\r\n\r\n'
    body = f"{fields}{chunk}".encode() + data + b"\r\n--edge--\r\n"
    return ("Content-Type", "multipart/form-data; boundary=edge"), body


def send_chunk(server: ServerProcess, job: str, n: int) -> Answer:
    kind, body = chunk_form(b"hello", job, n)
    with Line(server) as line:
        return line.ask("POST", "/upload/chunked", kind, body=body)


def parts_of(server: ServerProcess, count: int) -> list[str]:
    partial = ("Upload-Concat", "partial")
    return [create(server, 5, partial) for _ in range(count)]


def server_joins(server: ServerProcess, parts: list[str]) -> str:
    concat = "final;" + " ".join(f"/files/{part}" for part in parts)
    with Line(server) as line:
        made = line.ask("POST", "/files", TUS, ("Upload-Concat", concat))
    assert made.status == 201, made.body
    return made.headers["asyncflow-job-id"]


def test_a_full_backlog_is_answered_503_until_there_is_room_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "stuck_processors.py").write_text(STUCK)
    with healthy_server(
        tmp_path,
        processors="stuck_processors",
        workers="1",
        backlog_limit="1",
        grace="100ms",
    ) as server:
        begun = str(uuid.uuid4())
        parts = [parts_of(server, 2), parts_of(server, 2)]
        final = server_joins(server, parts[0])
        assert send_chunk(server, begun, 0).status == 200
        taken = [server.upload("a.txt", b"hello")]

        def is_stuck() -> bool:
            steps = server.status(taken[0])["steps"]
            return ("stuck", "running") in {(s["name"], s["status"]) for s in steps}

        until(is_stuck)

        def is_full() -> bool:
            answer = server.request("PUT", "/upload/a.txt", b"hello")
            if answer.status == 202:
                taken.append(answer.json["jobId"])
                return False
            assert (answer.status, code_of(answer)) == (503, "backlog_full")
            assert int(answer.headers["retry-after"]) > 0
            return True

        until(is_full)
        for send in (by_form, by_tus):
            assert code_of(send(server, "a.txt", b"hello")) == "backlog_full"
        assert refused_before_its_body(server, "/upload", FORM) == FULL
        # the first chunk begins an upload, whichever one it is
        for n in (0, 1):
            early = send_chunk(server, str(uuid.uuid4()), n)
            assert (early.status, code_of(early)) == FULL
        # before its bytes, if what stands before them says which it is
        with Line(server) as line:
            kind, body = chunk_form(bytes(100), str(uuid.uuid4()), 0)
            line.head("POST", "/upload/chunked", kind, length=len(body))
            line.send(body.partition(bytes(50))[0] + bytes(50))
            early = line.answer()
            assert (early.status, code_of(early)) == FULL
        # what had begun goes on, and becomes a job
        assert send_chunk(server, begun, 1).status == 200
        assert send_chunk(server, begun, 2).status == 202
        for part in (*parts[0], *parts[1]):
            assert patch(server, part, 0, b"hello").status == 204
        late = server_joins(server, parts[1])
        taken += [begun, final, late]
        until(lambda: all(server.status(one)["status"] != UPLOADING for one in taken))
        refused = metric(server, 'asyncflow_uploads_refused_total{code="backlog_full"}')
        assert refused >= 3
        for job in taken:
            assert server.request("POST", f"/jobs/{job}/cancel").status == 200
        until(lambda: server.request("PUT", "/upload/b.txt", b"hello").status == 202)
