from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    TUS,
    Header,
    Line,
    blobs,
    code_of,
    create,
    healthy_server,
    look,
    metadata,
    patch,
    rows,
    until,
)

PARTIAL: Header = ("Upload-Concat", "partial")
PIECES = (b"first " * 1000, b"second " * 999, b"third")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tus-concat")
    with healthy_server(folder, max_upload_bytes="50000") as found:
        yield found


def part(server: ServerProcess, data: bytes, *, sent: int | None = None) -> str:
    upload = create(server, len(data), PARTIAL)
    if data:
        assert patch(server, upload, 0, data[:sent]).status == 204
    return upload


def join(server: ServerProcess, *addresses: str, name: str = "words.txt") -> Answer:
    concat = ("Upload-Concat", "final;" + " ".join(addresses))
    with Line(server) as line:
        return line.ask("POST", "/files/", TUS, concat, metadata(filename=name))


def has_no_blob(server: ServerProcess, upload: str) -> bool:
    return not [name for name in blobs(server) if upload in name]


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body


def test_parts_become_one_job(server: ServerProcess) -> None:
    parts = [part(server, data) for data in PIECES]
    address = [f"/files/{parts[0]}", f"{server.url}/files/{parts[1]}", parts[2]]
    answer = join(server, *address)
    assert answer.status == 201
    job = answer.headers["asyncflow-job-id"]
    assert original(server, job) == b"".join(PIECES)
    assert server.status(job)["fileName"] == "words.txt"
    found = look(server, job)
    assert found.headers["upload-concat"] == "final;" + " ".join(address)
    size = str(sum(map(len, PIECES)))
    assert found.headers["upload-length"] == found.headers["upload-offset"] == size


def test_a_part_may_be_used_twice_and_is_still_there(server: ServerProcess) -> None:
    one = part(server, b"again ")
    job = join(server, one, one).headers["asyncflow-job-id"]
    assert original(server, job) == b"again again "
    job = join(server, one).headers["asyncflow-job-id"]
    assert original(server, job) == b"again "
    found = look(server, one)
    assert found.headers["upload-concat"] == "partial"
    assert "upload-expires" in found.headers


def test_a_part_is_never_a_job(server: ServerProcess) -> None:
    one = part(server, b"not a file")
    assert server.request("GET", f"/status/{one}").status == 404
    assert server.request("GET", f"/jobs/{one}/files/original").status == 404
    assert server.request("DELETE", f"/jobs/{one}").status == 404
    assert server.request("POST", f"/jobs/{one}/cancel").status == 404
    bearer = f"Bearer {server.token}"
    for query in ("", "?state=UPLOADING", f"?search={one}"):
        listed = server.request("GET", f"/jobs{query}", Authorization=bearer).json
        assert one not in {found["jobId"] for found in listed["jobs"]}
    events = (
        "SELECT count(*) FROM event JOIN job ON job.id=event.job_id WHERE job.pid=?"
    )
    assert rows(server, events, one) == [(0,)]


def test_parts_may_be_joined_before_they_are_complete(server: ServerProcess) -> None:
    parts = [part(server, data, sent=3) for data in PIECES]
    answer = join(server, *parts)
    assert answer.status == 201
    assert "upload-offset" not in answer.headers
    job = answer.headers["asyncflow-job-id"]
    assert server.status(job)["status"] == "UPLOADING"
    found = look(server, job)
    assert found.status == 200
    assert "upload-offset" not in found.headers
    assert found.headers["upload-length"] == str(sum(map(len, PIECES)))
    for upload, data in reversed(list(zip(parts, PIECES, strict=True))):
        assert server.status(job)["status"] == "UPLOADING"
        assert patch(server, upload, 3, data[3:]).status == 204
    assert original(server, job) == b"".join(PIECES)


def test_a_joined_upload_takes_no_bytes(server: ServerProcess) -> None:
    waiting = join(server, part(server, b"abcdef", sent=3)).headers["asyncflow-job-id"]
    answer = patch(server, waiting, 0, b"x")
    assert (answer.status, code_of(answer)) == (403, "final_upload")
    done = join(server, part(server, b"abc")).headers["asyncflow-job-id"]
    assert patch(server, done, 3, b"x").status == 403


@pytest.mark.parametrize(
    "address", ["//[bad", "http://[::1/files/x", "http://[x]/files/1", "%", "/files/.."]
)
def test_what_is_no_address_names_no_part(server: ServerProcess, address: str) -> None:
    answer = join(server, part(server, b"x"), address)
    assert (answer.status, code_of(answer)) == (400, "part_not_usable")


def test_empty_parts_are_joined_too(server: ServerProcess) -> None:
    job = join(server, part(server, b""), part(server, b"full"), part(server, b""))
    assert original(server, job.headers["asyncflow-job-id"]) == b"full"


def test_only_parts_can_be_joined(server: ServerProcess) -> None:
    whole = create(server, 5)
    patch(server, whole, 0, b"whole")
    nobody = whole[:-4] + "0000"
    for other in (whole, nobody, "nonsense", "../../etc/passwd"):
        answer = join(server, part(server, b"x"), f"/files/{other}")
        assert (answer.status, code_of(answer)) == (400, "part_not_usable")


@pytest.mark.parametrize("concat", ["final;", "final", "final; ", "parts", "Partial"])
def test_what_cannot_be_understood_is_refused(
    server: ServerProcess, concat: str
) -> None:
    with Line(server) as line:
        answer = line.ask(
            "POST", "/files", TUS, ("Upload-Concat", concat), ("Upload-Length", "3")
        )
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


def test_a_sum_above_the_largest_size_is_refused(server: ServerProcess) -> None:
    one = part(server, b"x" * 20_000)
    answer = join(server, one, one, one)
    assert (answer.status, code_of(answer)) == (413, "upload_too_large")


def test_what_is_joined_must_be_what_it_is_called(server: ServerProcess) -> None:
    answer = join(server, part(server, b"no pic"), part(server, b"ture"), name="a.png")
    assert (answer.status, code_of(answer)) == (422, "type_mismatch")


def test_an_ended_part_is_forgotten_with_its_bytes(server: ServerProcess) -> None:
    done, begun = part(server, b"abc"), part(server, b"abc", sent=1)
    for one in (done, begun):
        with Line(server) as line:
            assert line.ask("DELETE", f"/files/{one}", TUS).status == 204
        assert look(server, one).status == 404
    until(lambda: has_no_blob(server, done) and has_no_blob(server, begun))


def test_what_waits_for_a_part_that_is_ended_ends_too(server: ServerProcess) -> None:
    done, begun = part(server, b"abc"), part(server, b"abc", sent=1)
    job = join(server, done, begun).headers["asyncflow-job-id"]
    assert look(server, job).status == 200

    with Line(server) as line:
        assert line.ask("DELETE", f"/files/{done}", TUS).status == 204

    assert look(server, job).status == 410
    status = server.status(job)
    assert (status["status"], status["error"]["code"]) == ("CANCELLED", "part_gone")


def test_a_part_that_has_served_may_be_ended(server: ServerProcess) -> None:
    done = part(server, b"abc")
    job = join(server, done).headers["asyncflow-job-id"]

    with Line(server) as line:
        assert line.ask("DELETE", f"/files/{done}", TUS).status == 204

    assert original(server, job) == b"abc"


def test_a_join_that_a_crash_cut_off_is_made_up_for(tmp_path: Path) -> None:
    with healthy_server(tmp_path) as server:
        parts = [part(server, data) for data in PIECES]
        waiting = [*parts, part(server, b"late", sent=2)]
        job = join(server, *waiting).headers["asyncflow-job-id"]
        server.kill()
        # as if it had died in the middle: half of the bytes, and the last part there
        (blob,) = (server.data_dir / "store").rglob(job)
        blob.write_bytes(b"half of so")
        (late,) = (server.data_dir / "store").rglob(waiting[-1])
        late.write_bytes(b"late")
        server.log_path.unlink()
        server.start()
        assert original(server, job) == b"".join(PIECES) + b"late"


def test_parts_expire(tmp_path: Path) -> None:
    with healthy_server(tmp_path, upload_expiry="1s") as server:
        done, begun = part(server, b"abc"), part(server, b"abc", sent=1)
        until(lambda: look(server, done).status in {404, 410})
        until(lambda: look(server, begun).status in {404, 410})
        until(lambda: has_no_blob(server, done) and has_no_blob(server, begun))


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("picky-concat")
    with healthy_server(folder, allowed_types="image/*") as found:
        yield found


PDF = b"%PDF-1.7\n".ljust(2000, b"x")


def test_parts_of_a_forbidden_kind_are_never_joined(picky: ServerProcess) -> None:
    parts = [part(picky, PDF), part(picky, PDF, sent=10)]
    before = rows(picky, "SELECT count(*) FROM upload")
    for name, code in (("x.png", "type_mismatch"), ("x", "type_not_allowed")):
        assert code_of(join(picky, *parts, name=name)) == code
    assert rows(picky, "SELECT count(*) FROM upload") == before


def test_a_forbidden_kind_is_seen_when_the_first_part_has_come(
    picky: ServerProcess,
) -> None:
    parts = [create(picky, len(PDF), PARTIAL) for _ in range(2)]
    answer = join(picky, *parts, name="x")
    assert answer.status == 201
    job = answer.headers["asyncflow-job-id"]
    assert patch(picky, parts[0], 0, PDF).status == 204
    assert picky.finished(job)["error"]["code"] == "type_not_allowed"


def test_the_status_tells_how_much_of_all_parts_has_come(
    server: ServerProcess,
) -> None:
    parts = [part(server, PIECES[0]), part(server, PIECES[1], sent=1000)]
    job = join(server, *parts).headers["asyncflow-job-id"]
    found = server.status(job)
    assert found["uploadedBytes"] == len(PIECES[0]) + 1000
    size = len(PIECES[0]) + len(PIECES[1])
    assert found["progress"] == round(100 * found["uploadedBytes"] / size, 1)


def test_a_file_counts_once_in_the_place_of_its_parts(tmp_path: Path) -> None:
    with healthy_server(tmp_path, quota_bytes="7kB") as server:
        parts = [part(server, bytes([97 + n]) * 3000) for n in range(2)]
        job = join(server, *parts).headers["asyncflow-job-id"]
        assert len(original(server, job)) == 6000
        # one more of the same parts is another file
        full = join(server, *parts)
        assert (full.status, code_of(full)) == (507, "quota_exceeded")
        server.finished(job)
        with Line(server) as line:
            assert line.ask("DELETE", f"/jobs/{job}").status == 204
        # the parts are still there, and may be joined again
        job = join(server, *parts).headers["asyncflow-job-id"]
        assert len(original(server, job)) == 6000
        for address in parts:
            with Line(server) as line:
                assert line.ask("DELETE", f"/files/{address}", TUS).status == 204
        assert create(server, 1000)
        with pytest.raises(AssertionError):
            create(server, 1000)


def test_of_two_files_that_take_the_same_parts_at_once_one_is_refused(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path, quota_bytes="7kB") as server:
        parts = [part(server, bytes([97 + n]) * 3000) for n in range(2)]
        with ThreadPoolExecutor(4) as threads:
            ends = list(threads.map(lambda _: join(server, *parts).status, range(4)))
        assert sorted(ends) == [201, 507, 507, 507]
