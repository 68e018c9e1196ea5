"""The operator's routes, and what people without the token are shown."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server_process import Answer, ServerProcess
from tests.web.live import code_of, create, healthy_server

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
#: what a page, a script or a style sheet loads
NAMED = re.compile(r"(?:assets|\.)/([a-z-]+\.(?:js|css|svg))\"")
ROUTES = [
    ("GET", "/admin"),
    ("GET", "/admin/overview"),
    ("GET", "/admin/jobs/01a20323-0000-7000-8000-000000000000/attempts"),
    ("POST", "/admin/retry/01a20323-0000-7000-8000-000000000000"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("admin"), workers="1") as server:
        yield server


@pytest.fixture(scope="module")
def photo() -> bytes:
    data = BytesIO()
    Image.effect_noise((400, 300), 50).convert("RGB").save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def failed(server: ServerProcess, photo: bytes) -> str:
    job = server.upload("torn <b>.jpg", photo[: len(photo) // 3])
    assert server.finished(job)["status"] == "FAILED"
    return job


def ask(server: ServerProcess, method: str, path: str) -> Answer:
    return server.request(method, path, Authorization=f"Bearer {server.token}")


def overview(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = ask(server, "GET", "/admin/overview").json
    return found


def test_the_overview_tells_queues_workers_and_the_last_hour(
    server: ServerProcess, photo: bytes, failed: str
) -> None:
    server.finished(server.upload("fine.jpg", photo))
    found = overview(server)
    assert {one["name"]: one["reason"] for one in found["checks"]} == {
        "accepting": None,
        "database": None,
        "recovery": None,
        "disk": None,
        "workers": None,
    }
    assert (found["waiting"], found["oldestS"], found["sockets"]) == (0, None, 0)
    assert found["storedBytes"] > len(photo)
    assert found["walBytes"] > 0
    assert found["loopLagS"] >= 0
    names = {one["name"]: one for one in found["consumers"]}
    assert {"identify", "image"} <= set(names)
    assert names["image"]["steps"]["refused"] >= 1
    (worker,) = found["workers"]
    assert (worker["slot"], worker["state"], worker["jobId"]) == (0, "idle", None)
    assert 1 <= len(found["minutes"]) <= 60
    assert sum(one["completed"] for one in found["minutes"]) >= 1
    assert sum(one["failed"] for one in found["minutes"]) >= 1


def test_an_unfinished_upload_is_counted(server: ServerProcess) -> None:
    before = overview(server)["openUploads"]
    create(server, 10)
    assert overview(server)["openUploads"] == before + 1


def test_the_history_of_a_job_holds_every_attempt_that_failed(
    server: ServerProcess, failed: str
) -> None:
    found = ask(server, "GET", f"/admin/jobs/{failed}/attempts").json
    kinds = [one["type"] for one in found["events"]]
    assert kinds[:3] == ["file.uploaded", "identify.completed", "file.accepted"]
    assert "image.dead" in kinds
    attempt = next(one for one in found["attempts"] if one["step"] == "image")
    assert (attempt["verdict"], attempt["code"]) == ("bad_file", "truncated")
    assert attempt["detail"]
    assert attempt["startedAt"] <= attempt["finishedAt"]


def test_the_operator_retries_a_job(server: ServerProcess, photo: bytes) -> None:
    job = server.upload("again.jpg", photo[: len(photo) // 3])
    assert server.finished(job)["run"] == 1
    answer = ask(server, "POST", f"/admin/retry/{job}")
    assert (answer.status, answer.json["run"]) == (202, 2)
    assert server.finished(job)["run"] == 2
    found = ask(server, "GET", f"/admin/jobs/{job}/attempts").json
    runs = {one["run"] for one in found["attempts"] if one["step"] == "image"}
    assert runs == {1, 2}


def test_jobs_are_found_by_a_part_of_their_name(
    server: ServerProcess, failed: str
) -> None:
    found = ask(server, "GET", "/jobs?search=TORN%20%3C&state=FAILED").json
    assert [one["jobId"] for one in found["jobs"]] == [failed]
    assert ask(server, "GET", "/jobs?search=%25").json["jobs"] == []


@pytest.mark.parametrize("job", ["nonsense", "01a20323-0000-7000-8000-000000000000"])
def test_an_unknown_job_has_no_history(server: ServerProcess, job: str) -> None:
    answer = ask(server, "GET", f"/admin/jobs/{job}/attempts")
    assert (answer.status, code_of(answer)) == (404, "job_not_found")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_programs_without_the_token_get_a_problem_document(
    server: ServerProcess, method: str, path: str
) -> None:
    answer = server.request(method, path, Accept="*/*")
    assert (answer.status, code_of(answer)) == (401, "unauthorized")


def test_people_without_the_token_get_a_page(server: ServerProcess) -> None:
    answer = server.request("GET", "/admin", Accept=BROWSER)
    assert answer.status == 401
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert b'name="token"' in answer.body
    assert b"{" not in answer.body, "a place was left unfilled"
    assert server.token.encode() not in answer.body


def test_a_form_post_is_never_answered_with_a_page(server: ServerProcess) -> None:
    path = "/admin/retry/01a20323-0000-7000-8000-000000000000"
    answer = server.request("POST", path, Accept=BROWSER)
    assert (answer.status, code_of(answer)) == (401, "unauthorized")


def test_the_token_in_the_address_opens_the_admin_page(server: ServerProcess) -> None:
    path = f"/admin?token={server.token}"
    answer = server.request("GET", path, Accept=BROWSER)
    assert (answer.status, answer.headers["location"]) == (303, "/admin")
    cookie = answer.headers["set-cookie"].split(";")[0]
    page = server.request("GET", "/admin", Accept=BROWSER, Cookie=cookie)
    assert page.status == 200
    assert b"admin.js" in page.body


def test_every_asset_that_a_page_names_is_there(server: ServerProcess) -> None:
    seen: set[str] = set()
    found = [ask(server, "GET", path).body for path in ("/", "/admin")]
    while found:
        text = found.pop().decode()
        for name in NAMED.findall(text):
            if name not in seen:
                seen.add(name)
                answer = server.request("GET", f"/assets/{name}")
                assert answer.status == 200, name
                found.append(answer.body)
    assert {"uploader.js", "card.js", "watch.js", "admin.js", "page.css"} <= seen
    for foreign in (b"http://", b"https://"):
        assert foreign not in ask(server, "GET", "/").body


def test_the_last_hour_outlives_a_restart(tmp_path: Path) -> None:
    with healthy_server(tmp_path, workers="1") as server:
        server.finished(server.upload("a.bin", b"kept in mind"))
    with healthy_server(tmp_path, workers="1") as server:
        minutes = overview(server)["minutes"]
        assert sum(one["uploaded"] for one in minutes) == 1
        assert sum(one["completed"] for one in minutes) == 1
