import hashlib
import itertools
import random
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.chunks import (
    DATA,
    LAST,
    PIECES,
    SIZE,
    chunk_form,
    encoded,
    original,
    send,
    send_json,
)
from tests.web.live import (
    TUS,
    Line,
    blobs,
    code_of,
    create,
    healthy_server,
    kept,
    metadata,
    rows,
    until,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("chunked")
    with healthy_server(folder, max_upload_bytes="50000") as found:
        yield found


@pytest.fixture
def job() -> str:
    return str(uuid.uuid4())


def test_members_of_a_chunk_in_json_that_nobody_knows_are_refused_by_name(
    server: ServerProcess,
) -> None:
    said = {"chunkIndex": 0, "totalChunks": 1, "chunk": "QQ=="}
    refused = send_json(server, **said, fileSize=1)
    assert (refused.status, code_of(refused)) == (400, "invalid_parameter")
    assert "fileSize" in refused.json["detail"]


def test_base64_may_be_escaped_as_any_json(server: ServerProcess, job: str) -> None:
    data = random.Random(7).randbytes(30_001)
    text = encoded(data).replace("+", "\\u002b").replace("/", "\\/")
    text = text.replace("=", "\\u003D")
    body = f'{{"jobId": "{job}", "chunk" : "{text}", "totalChunks":1,"chunkIndex":0}}'
    with Line(server) as line:
        kind = ("Content-Type", "application/json")
        answer = line.ask("POST", "/upload/chunked", kind, body=body.encode())
    assert answer.status == 202
    assert original(server, job) == data


@pytest.mark.parametrize(
    "chunk",
    [
        "QQ",
        "Q Q=",
        "QQ==QQ==",
        "-_==",
        "Q\u00fc==",
        "A" * 20_000 + "-" + "A" * 19_999,
        "A" * 20_002 + "==" + "A" * 20_000,
    ],
    ids=range(7),
)
def test_what_is_no_base64_is_refused_and_leaves_nothing(
    server: ServerProcess, chunk: str
) -> None:
    before = kept(server)
    answer = send_json(server, chunkIndex=0, totalChunks=1, chunk=chunk)
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    assert "base64" in answer.json["detail"]
    until(lambda: kept(server) <= before)


def test_two_chunks_in_one_body_are_refused(server: ServerProcess) -> None:
    body = b'{"chunkIndex":0,"totalChunks":1,"chunk":"QQ==","chunk":"Qg=="}'
    kind = ("Content-Type", "application/json")
    with Line(server) as line:
        answer = line.ask("POST", "/upload/chunked", kind, body=body)
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")


def test_chunks_in_any_order_become_the_file(server: ServerProcess, job: str) -> None:
    order = list(range(LAST + 1))
    random.Random(4).shuffle(order)
    missing = set(order)
    for index in order:
        answer = send(server, index, jobId=job, fileName="text.txt")
        missing.discard(index)
        assert answer.status == (200 if missing else 202)
        assert answer.json == {
            "jobId": job,
            "received": LAST + 1 - len(missing),
            "missing": sorted(missing),
            "statusUrl": f"/status/{job}",
        }
    assert original(server, job) == DATA
    assert server.status(job)["fileName"] == "text.txt"


def test_the_id_comes_back_from_the_first_chunk(server: ServerProcess) -> None:
    job = send(server, 0).json["jobId"]
    for index in range(1, LAST + 1):
        assert send(server, index, jobId=job).json["jobId"] == job
    assert original(server, job) == DATA


def test_chunks_may_be_json(server: ServerProcess, job: str) -> None:
    for index, piece in enumerate(PIECES):
        send_json(
            server,
            chunkIndex=index,
            totalChunks=LAST + 1,
            jobId=job.upper() if index % 2 else job,
            chunk=encoded(piece),
            sha256=hashlib.sha256(DATA).hexdigest(),
        )
    last = send(server, LAST, jobId=job)
    assert (last.status, last.json["missing"]) == (202, [])
    assert original(server, job) == DATA


@pytest.mark.parametrize("first", ["chunk", "jobId", "fileName"])
def test_the_fields_may_come_before_or_after_the_bytes(
    server: ServerProcess, job: str, first: str
) -> None:
    answer = send(server, 0, b"all", total=1, jobId=job, fileName="x.txt", first=first)
    assert answer.status == 202
    assert original(server, job) == b"all"
    assert server.status(job)["fileName"] == "x.txt"


def test_a_repeated_chunk_does_no_harm(server: ServerProcess, job: str) -> None:
    received = [send(server, n, jobId=job).json["received"] for n in (1, 1, 0, 1)]
    assert received == [1, 1, 2, 2]
    for index in range(2, LAST + 1):
        send(server, index, jobId=job)
    again = send(server, 0, jobId=job)
    assert (again.status, again.json["missing"]) == (202, [])
    assert original(server, job) == DATA
    places = "SELECT part FROM place JOIN job ON job.id=final WHERE pid=?"
    parts = {part for (part,) in rows(server, places, job)}
    assert len(parts) == LAST + 1
    until(lambda: not parts & {Path(blob).name for blob in blobs(server)})


def test_a_chunk_with_other_bytes_is_refused(server: ServerProcess, job: str) -> None:
    send(server, 0, jobId=job)
    answer = send(server, 0, b"x" * SIZE, jobId=job)
    assert (answer.status, code_of(answer)) == (409, "chunk_conflict")
    for index in range(1, LAST + 1):
        send(server, index, jobId=job)
    assert original(server, job) == DATA


def test_another_total_is_refused(server: ServerProcess, job: str) -> None:
    send(server, 0, jobId=job)
    answer = send(server, 1, jobId=job, total=LAST + 2)
    assert (answer.status, code_of(answer)) == (409, "chunk_conflict")
    assert str(LAST + 1) in answer.json["detail"]


def test_all_chunks_at_once(server: ServerProcess) -> None:
    everything = [*range(LAST + 1), *range(LAST + 1)]
    for _ in range(10):
        job = str(uuid.uuid4())
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(lambda n, job=job: send(server, n, jobId=job), everything)
            )
        assert {answer.status for answer in answers} <= {200, 202}
        assert original(server, job) == DATA


def test_what_arrived_is_there_after_a_crash(tmp_path: Path, job: str) -> None:
    with healthy_server(tmp_path) as server:
        for index in range(0, LAST + 1, 2):
            send(server, index, jobId=job)
        server.kill()
        server.log_path.unlink()
        server.start()
        assert send(server, 0, jobId=job).json["missing"] == list(range(1, LAST + 1, 2))
        rest = range(1, LAST + 1, 2)
        statuses = [send(server, index, jobId=job).status for index in rest]
        assert statuses == [200] * (len(rest) - 1) + [202]
        assert original(server, job) == DATA


def test_a_chunk_that_breaks_off_leaves_nothing(
    server: ServerProcess, job: str
) -> None:
    send(server, 0, jobId=job)
    before = kept(server)
    kind, body = chunk_form(
        PIECES[1], {"chunkIndex": 1, "totalChunks": LAST + 1, "jobId": job}
    )
    with Line(server) as line:
        line.head("POST", "/upload/chunked", kind, length=len(body))
        line.send(body[: len(body) // 2])
        until(lambda: kept(server) - before)
    until(lambda: kept(server) <= before)


def test_a_wrong_digest_refuses_the_whole(server: ServerProcess, job: str) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    assert send(server, 0, b"one", total=2, jobId=job, sha256=wrong).status == 200
    answer = send(server, 1, b"two", total=2, jobId=job, sha256=wrong)
    assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
    assert server.status(job)["status"] == "REJECTED"


BAD_FIELDS: list[dict[str, object]] = [
    {"chunkIndex": -1},
    {"chunkIndex": LAST + 1},
    {"chunkIndex": "0x1"},
    {"chunkIndex": "1_0"},
    {"totalChunks": 0},
    {"totalChunks": 10_001},
    {"jobId": "7"},
    {"jobId": "../../etc/passwd"},
    {"jobId": "010ded24-e674-11f1-9560-02fc00000001"},
    {"sha256": "abc"},
]


@pytest.mark.parametrize("bad", BAD_FIELDS, ids=str)
def test_bad_fields_are_refused_and_leave_nothing(
    server: ServerProcess, bad: dict[str, object]
) -> None:
    before = kept(server)
    fields = {"chunkIndex": 0, "totalChunks": LAST + 1, **bad}
    kind, body = chunk_form(b"x", fields)
    with Line(server) as line:
        answer = line.ask("POST", "/upload/chunked", kind, body=body)
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    answer = send_json(server, chunk=encoded(b"x"), **fields)
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    until(lambda: kept(server) <= before)


def test_json_that_is_not_what_it_should_be_is_refused(server: ServerProcess) -> None:
    for members in (
        {},
        {"chunkIndex": 0, "totalChunks": 1},
        {"chunkIndex": 0, "totalChunks": 1, "chunk": "not base64!"},
        {"chunkIndex": 0.5, "totalChunks": 1, "chunk": ""},
    ):
        answer = send_json(server, **members)
        assert (answer.status, code_of(answer)) == (400, "invalid_parameter")


def test_an_empty_file_is_a_job_that_says_why_it_was_rejected(
    server: ServerProcess,
) -> None:
    empty = send_json(server, chunkIndex=0, totalChunks=1, chunk="")
    assert empty.status == 202
    found = server.finished(empty.json["jobId"])
    assert (found["status"], found["error"]["code"]) == ("REJECTED", "empty_file")


def test_a_form_must_have_its_chunk_once(server: ServerProcess) -> None:
    kind, body = chunk_form(b"x", {"chunkIndex": 0, "totalChunks": 1})
    without = body.replace(b'name="chunk"', b'name="other"')
    parts = body.removesuffix(b"--edge--\r\n")
    for wrong, code in ((without, "missing_file"), (parts + body, "invalid_multipart")):
        with Line(server) as line:
            answer = line.ask("POST", "/upload/chunked", kind, body=wrong)
        assert (answer.status, code_of(answer)) == (400, code)
    with Line(server) as line:
        answer = line.ask("POST", "/upload/chunked", body=b"raw bytes")
    assert (answer.status, code_of(answer)) == (415, "unsupported_content_type")


def test_an_upload_of_another_kind_takes_no_chunks(server: ServerProcess) -> None:
    with Line(server) as line:
        concat = ("Upload-Concat", "partial")
        part = line.ask("POST", "/files", TUS, ("Upload-Length", "3"), concat)
        address = part.headers["location"]
        joined = line.ask(
            "POST",
            "/files",
            TUS,
            ("Upload-Concat", f"final;{address}"),
            metadata(a="b"),
        )
    ids = [create(server, 5), *(a.headers["location"][6:] for a in (part, joined))]
    for upload in ids:
        answer = send(server, 0, jobId=upload)
        assert (answer.status, code_of(answer)) == (400, "part_not_usable")


def test_chunks_for_an_ended_upload_are_refused(
    server: ServerProcess, job: str
) -> None:
    send(server, 0, jobId=job)
    assert server.request("POST", f"/jobs/{job}/cancel").status == 200
    answer = send(server, 1, jobId=job)
    assert (answer.status, code_of(answer)) == (410, "upload_gone")
    until(lambda: not [name for name in blobs(server) if job in name])


def test_a_lost_first_answer_is_given_again(server: ServerProcess) -> None:
    key = ("Idempotency-Key", str(uuid.uuid4()))
    first = send(server, 0, None, key)
    again = send(server, 0, None, key)
    assert again.json == first.json
    assert all(
        send(server, n, jobId=first.json["jobId"]).status in {200, 202}
        for n in itertools.islice(range(LAST + 1), 1, None)
    )
    assert original(server, first.json["jobId"]) == DATA


# ----- what is said of the file, with any chunk


def test_the_name_may_come_with_any_chunk(server: ServerProcess, job: str) -> None:
    send(server, 1, b"two", total=3, jobId=job)
    assert server.status(job)["fileName"] == "blob"
    send(server, 0, b"one", total=3, jobId=job, fileName="a/words.csv")
    assert server.status(job)["fileName"] == "words.csv"
    for again in ({}, {"fileName": "words.csv"}, {"fileName": "b/words.csv"}):
        assert send(server, 0, b"one", total=3, jobId=job, **again).status == 200
    refused = send(server, 2, b"three", total=3, jobId=job, fileName="other.csv")
    assert (refused.status, code_of(refused)) == (400, "invalid_parameter")
    assert "'words.csv'" in refused.json["detail"]
    last = {"fileType": "text/plain", "fileName": "words.csv"}
    assert send(server, 2, b"three", total=3, jobId=job, **last).status == 202
    assert original(server, job) == b"onetwothree"
    assert server.status(job)["fileName"] == "words.csv"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_digest_may_come_with_any_chunk(
    server: ServerProcess, job: str, place: int
) -> None:
    pieces = (b"one", b"two", b"three")
    for found, data, status in (
        (str(uuid.uuid4()), b"other", 400),
        (job, b"".join(pieces), 202),
    ):
        digest = hashlib.sha256(data).hexdigest()
        answers = [
            send(
                server,
                n,
                piece,
                total=3,
                jobId=found,
                **({"sha256": digest} if n == place else {}),
            )
            for n, piece in enumerate(pieces)
        ]
        assert [answer.status for answer in answers] == [200, 200, status]
    assert original(server, job) == b"".join(pieces)


def test_two_digests_are_one_too_many(server: ServerProcess, job: str) -> None:
    right, wrong = (hashlib.sha256(data).hexdigest() for data in (b"onetwo", b"x"))
    assert send(server, 0, b"one", total=2, jobId=job, sha256=right).status == 200
    refused = send(server, 1, b"two", total=2, jobId=job, sha256=wrong)
    assert (refused.status, code_of(refused)) == (400, "invalid_parameter")
    assert send(server, 1, b"two", total=2, jobId=job).status == 202
    assert original(server, job) == b"onetwo"


def test_a_refused_chunk_says_nothing_of_the_file(
    server: ServerProcess, job: str
) -> None:
    assert send(server, 0, b"one", total=2, jobId=job).status == 200
    wrong = hashlib.sha256(b"other").hexdigest()
    answer = send(server, 0, b"two", total=2, jobId=job, sha256=wrong, fileName="x.y")
    assert (answer.status, code_of(answer)) == (409, "chunk_conflict")
    assert server.status(job)["fileName"] == "blob"
    assert send(server, 1, b"two", total=2, jobId=job).status == 202


def test_a_chunk_of_a_complete_file_must_have_its_bytes(
    server: ServerProcess, job: str
) -> None:
    for index in range(LAST + 1):
        send(server, index, jobId=job)
    assert original(server, job) == DATA
    for index in (0, 1, LAST):
        assert send(server, index, jobId=job).status == 202
        other = bytes(len(PIECES[index]))
        refused = send(server, index, other, jobId=job)
        assert (refused.status, code_of(refused)) == (409, "chunk_conflict")
    wrong = hashlib.sha256(b"other").hexdigest()
    refused = send(server, 0, jobId=job, sha256=wrong)
    assert (refused.status, code_of(refused)) == (400, "digest_mismatch")
    assert original(server, job) == DATA


def test_a_complete_file_of_one_chunk_must_have_its_bytes(
    server: ServerProcess, job: str
) -> None:
    assert send(server, 0, b"all of it", total=1, jobId=job).status == 202
    assert send(server, 0, b"all of it", total=1, jobId=job).status == 202
    for other in (b"of it", b"all", b"all of xx", b"more than all of it"):
        assert send(server, 0, other, total=1, jobId=job).status == 409


@pytest.mark.parametrize(
    "sizes", [(50, 1, 70, 9), (10, 8, 10, 5), (0, 9, 0, 9), (9, 0, 0, 0)]
)
def test_chunks_of_any_size_are_compared_with_what_came_first(
    server: ServerProcess, job: str, sizes: Sequence[int]
) -> None:
    pieces = [bytes([65 + n]) * size for n, size in enumerate(sizes)]
    for n, piece in [*enumerate(pieces)] * 3:
        answer = send(server, n, piece, total=4, jobId=job)
        assert answer.status in {200, 202}
    for n, piece in enumerate(pieces):
        for other in (piece + b"x", piece[1:] + b"x"):
            answer = send(server, n, other, total=4, jobId=job)
            assert (answer.status, code_of(answer)) == (409, "chunk_conflict")
    assert original(server, job) == b"".join(pieces)


def test_a_chunk_may_count_as_json_schema_does(server: ServerProcess) -> None:
    said = {"chunkIndex": 0.0, "totalChunks": 1.0, "chunk": encoded(b"hello")}
    answer = send_json(server, **said)
    assert (answer.status, answer.json["missing"]) == (202, [])
    assert original(server, answer.json["jobId"]) == b"hello"
