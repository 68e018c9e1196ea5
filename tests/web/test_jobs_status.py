"""`GET /status/{id}`, `GET /jobs`, retry, cancel, delete."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server_process import ServerProcess
from tests.web.live import (
    Line,
    blobs,
    code_of,
    create,
    healthy_server,
    metric,
    rows,
    until,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("jobs"), attempts="1") as found:
        yield found


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a picture full of noise, so that a half of it is really missing."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    noise = random.Random(1).randbytes(600 * 400 * 3)
    Image.frombytes("RGB", (600, 400), noise).save(path)
    return path.read_bytes()


def bearer(server: ServerProcess) -> tuple[str, str]:
    return "Authorization", f"Bearer {server.token}"


def page_of(server: ServerProcess, query: str) -> Any:
    with Line(server) as line:
        answer = line.ask("GET", f"/jobs?{query}", bearer(server))
    assert answer.status == 200
    return answer.json


def test_a_finished_job_tells_everything(server: ServerProcess, photo: bytes) -> None:
    job = server.upload("photo.jpg", photo)
    found = server.finished(job)
    assert found["status"] == "COMPLETED"
    assert found["jobId"] == job
    assert found["mediaType"] == "image/jpeg"
    assert found["fileSize"] == len(photo)
    assert found["progress"] == 100
    steps = {step["name"]: step for step in found["steps"]}
    assert steps.keys() >= {"identify", "image"}
    for step in (steps["identify"], steps["image"]):
        assert step["status"] == "done"
        assert step["startedAt"] <= step["finishedAt"]
    assert set(found["downloadUrls"]) >= {"original", "thumbnail", "medium", "large"}
    for url in found["downloadUrls"].values():
        assert server.request("GET", url).status == 200
    assert found["facts"]["identify"]["width"] == 600
    assert found["createdAt"] <= found["startedAt"] <= found["completedAt"]
    assert found["error"] is None
    assert server.request("GET", f"/jobs/{job}").json == found


def test_an_unchanged_status_is_answered_304(server: ServerProcess) -> None:
    job = server.upload("a.txt", b"hello")
    server.finished(job)
    with Line(server) as line:
        first = line.ask("GET", f"/status/{job}")
        etag = first.headers["etag"]
        for known in (etag, f'W/{etag}, "other"', f'"other", {etag}'):
            again = line.ask("GET", f"/status/{job}", ("If-None-Match", known))
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == etag
        changed = line.ask("GET", f"/status/{job}", ("If-None-Match", '"other"'))
    assert changed.status == 200
    assert "no-cache" in first.headers["cache-control"]


def test_an_etag_changes_with_what_it_stands_for(server: ServerProcess) -> None:
    upload = create(server, 10)
    before = server.request("GET", f"/status/{upload}").headers["etag"]
    server.request("POST", f"/jobs/{upload}/cancel")
    after = server.request("GET", f"/status/{upload}", If_None_Match=before)
    assert after.status == 200


# ----- lists


def test_the_list_needs_the_token(server: ServerProcess) -> None:
    for headers in ((), (("Authorization", "Bearer wrong-token"),)):
        with Line(server) as line:
            answer = line.ask("GET", "/jobs", *headers)
        assert (answer.status, code_of(answer)) == (401, "unauthorized")
        assert "www-authenticate" in answer.headers


def test_pages_are_stable_while_jobs_are_added(server: ServerProcess) -> None:
    before = [create(server, 10) for _ in range(7)]
    seen: list[str] = []
    page = page_of(server, "limit=2")
    while len(seen) < len(before):
        seen += [job["jobId"] for job in page["jobs"]]
        create(server, 10)
        if page["next"] is None:
            break
        page = page_of(server, f"limit=2&after={page['next']}")
    assert seen[: len(before)] == before[::-1]


def test_the_last_page_says_so(server: ServerProcess) -> None:
    create(server, 10)
    page = page_of(server, "limit=500")
    assert page["next"] is None
    assert len(page["jobs"]) == len({job["jobId"] for job in page["jobs"]})


def test_the_list_can_be_narrowed_to_a_state(server: ServerProcess) -> None:
    done, open_ = server.upload("a.txt", b"hello"), create(server, 10)
    server.finished(done)
    completed = [job["jobId"] for job in page_of(server, "state=COMPLETED")["jobs"]]
    uploading = [job["jobId"] for job in page_of(server, "state=UPLOADING")["jobs"]]
    assert done in completed
    assert done not in uploading
    assert open_ in uploading
    assert open_ not in completed


# ----- retry


def test_a_retry_of_a_broken_file_is_a_second_run_that_fails_with_its_history(
    server: ServerProcess, photo: bytes
) -> None:
    job = server.upload("torn.jpg", photo[: len(photo) // 2])
    first = server.finished(job)
    assert first["status"] == "FAILED"
    assert first["error"]["code"] in {"truncated", "damaged"}
    assert first["failedAt"]
    assert first["downloadUrls"].keys() == {"original"}
    answer = server.request("POST", f"/jobs/{job}/retry")
    assert answer.status == 202
    assert answer.json == {"jobId": job, "run": 2, "statusUrl": f"/status/{job}"}
    second = until(lambda: over(server, job, run=2))
    assert second["status"] == "FAILED"
    assert second["retryCount"] == 1
    tried = rows(
        server,
        "SELECT attempt.run, attempt.code FROM attempt JOIN step ON step.id=step_id "
        "JOIN job ON job.id=job_id WHERE pid=? ORDER BY attempt.id",
        job,
    )
    assert [run for run, _code in tried] == sorted(run for run, _code in tried)
    code = first["error"]["code"]
    assert {(1, code), (2, code)} <= set(tried)


def over(server: ServerProcess, job: str, *, run: int) -> Any:
    found = server.finished(job)
    return found if found["run"] == run else None


def test_what_succeeded_cannot_be_retried(server: ServerProcess) -> None:
    job = server.upload("a.txt", b"hello")
    server.finished(job)
    answer = server.request("POST", f"/jobs/{job}/retry")
    assert (answer.status, code_of(answer)) == (409, "job_not_retryable")
    assert server.status(job)["run"] == 1


def test_an_upload_that_is_not_over_cannot_be_retried(server: ServerProcess) -> None:
    upload = create(server, 10)
    answer = server.request("POST", f"/jobs/{upload}/retry")
    assert (answer.status, code_of(answer)) == (409, "job_not_retryable")
    server.request("POST", f"/jobs/{upload}/cancel")
    answer = server.request("POST", f"/jobs/{upload}/retry")
    assert (answer.status, code_of(answer)) == (409, "job_not_retryable")
    assert server.status(upload)["status"] == "CANCELLED"


# ----- delete


def test_a_deleted_job_leaves_no_bytes(server: ServerProcess, photo: bytes) -> None:
    job = server.upload("photo.jpg", photo)
    server.finished(job)
    assert len([name for name in blobs(server) if job in name]) >= 4
    assert server.request("DELETE", f"/jobs/{job}").status == 204
    for path in (f"/status/{job}", f"/jobs/{job}/files/original"):
        assert server.request("GET", path).status == 404
    assert server.request("DELETE", f"/jobs/{job}").status == 404
    until(lambda: not [name for name in blobs(server) if job in name])


# ----- gates


def test_a_rejected_file_is_for_the_operator_alone(server: ServerProcess) -> None:
    job = server.upload("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    found = server.finished(job)
    assert (found["status"], found["accepted"]) == ("REJECTED", False)
    assert found["downloadUrls"] == {}
    with Line(server) as line:
        path = f"/jobs/{job}/files/original"
        answer = line.ask("GET", path)
        assert (answer.status, code_of(answer)) == (404, "file_not_available")
        shown = line.ask("GET", path, bearer(server))
    assert shown.status == 200
    assert shown.headers["content-disposition"].startswith("attachment")
    assert shown.headers["x-content-type-options"] == "nosniff"


def test_an_unfinished_upload_cannot_be_downloaded(server: ServerProcess) -> None:
    upload = create(server, 10)
    with Line(server) as line:
        for headers in ((), (bearer(server),)):
            answer = line.ask("GET", f"/jobs/{upload}/files/original", *headers)
            assert answer.status == 404


SLOW = """
import time
from asyncflow.processors.base import Derivative, Result, Work, processor

@processor("slow_gate", accepts=("*",), on="file.uploaded", gate=True)
def slow_gate(work: Work) -> Result:
    while work.file_name == "held.txt":
        time.sleep(0.01)
    return Result()

@processor("slow", accepts=("text/*",))
def slow(work: Work) -> Result:
    copy = work.out / "copy.txt"
    copy.write_bytes(work.source.read_bytes())
    work.publish(Derivative(name="copy", path=copy, media_type="text/plain"))
    while work.file_name == "slow.txt":
        time.sleep(0.01)
    return Result()
"""


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("jobs-slow")
    (folder / "slow_processors.py").write_text(SLOW)
    with healthy_server(
        folder, processors="slow_processors", workers="2", workers_min="2"
    ) as found:
        yield found


def step_state(server: ServerProcess, job: str, name: str) -> str:
    steps = server.status(job)["steps"]
    return next((str(s["status"]) for s in steps if s["name"] == name), "none")


def test_while_a_gate_is_open_nothing_can_be_downloaded_but_by_the_operator(
    slow_server: ServerProcess,
) -> None:
    job = slow_server.upload("held.txt", b"hello")
    until(lambda: step_state(slow_server, job, "slow_gate") == "running")
    until(lambda: step_state(slow_server, job, "identify") == "done")
    found = slow_server.status(job)
    assert (found["accepted"], found["downloadUrls"]) == (False, {})
    assert found["status"] == "PROCESSING"
    assert step_state(slow_server, job, "slow") == "waiting"
    path = f"/jobs/{job}/files/original"
    with Line(slow_server) as line:
        assert line.ask("GET", path).status == 404
        assert line.ask("GET", path, bearer(slow_server)).body == b"hello"
    assert slow_server.request("POST", f"/jobs/{job}/cancel").status == 200


def test_a_cancelled_step_is_killed_and_its_files_are_gone(
    slow_server: ServerProcess,
) -> None:
    job = slow_server.upload("slow.txt", b"hello")
    until(lambda: "copy" in slow_server.status(job)["downloadUrls"])
    assert slow_server.request("GET", f"/jobs/{job}/files/copy").body == b"hello"
    answer = slow_server.request("POST", f"/jobs/{job}/cancel")
    assert answer.json == {"jobId": job, "cancelled": True}
    found = slow_server.status(job)
    assert found["status"] == "CANCELLED"
    assert step_state(slow_server, job, "slow") == "cancelled"
    assert step_state(slow_server, job, "identify") == "done"
    assert slow_server.request("GET", f"/jobs/{job}/files/copy").status == 404
    until(lambda: not [name for name in blobs(slow_server) if f"{job}/" in name])
    # all workers are free again: the one that was busy was killed and replaced
    until(lambda: metric(slow_server, 'asyncflow_workers{state="idle"}') == 2)
    again = slow_server.request("POST", f"/jobs/{job}/cancel")
    assert again.json["cancelled"] is False
    assert slow_server.finished(slow_server.upload("b.txt", b"b"))["status"] == (
        "COMPLETED"
    )


def test_a_cancelled_job_can_be_retried(
    slow_server: ServerProcess, tmp_path: Path
) -> None:
    job = slow_server.upload("slow.txt", b"hello")
    until(lambda: step_state(slow_server, job, "slow") == "running")
    slow_server.request("POST", f"/jobs/{job}/cancel")
    assert slow_server.request("POST", f"/jobs/{job}/retry").json["run"] == 2
    until(lambda: step_state(slow_server, job, "slow") == "running")
    assert slow_server.status(job)["status"] == "PROCESSING"
    assert slow_server.request("DELETE", f"/jobs/{job}").status == 204
    until(lambda: metric(slow_server, 'asyncflow_workers{state="idle"}') == 2)
    until(lambda: not [name for name in blobs(slow_server) if job in name])
