"""What a server writes into its log, and what it never does."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ServerProcess, serving
from tests.web.live import healthy_server, until

TOKEN = "correct-horse-battery-staple"
PROCESSOR = '''"""Fails aloud, and warns."""

import logging

from asyncflow import Task, task


@task("complain")
async def complain(work: Task) -> None:
    """Log as a library would, then fail."""
    logging.getLogger("some.library").error(
        "GET https://me:s3cr3t-word@example.org/?token=%s", work.payload["token"]
    )
    raise ValueError("Authorization: Bearer " + work.payload["token"])
'''


def lines(server: ServerProcess, **facts: object) -> list[dict[str, Any]]:
    wanted = facts.items()
    return [one for one in server.log_events() if wanted <= one.items()]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"trusted_proxies": "127.0.0.1", "workers": "1"}
    with healthy_server(tmp_path_factory.mktemp("log"), **settings) as server:
        yield server


def test_the_name_that_a_trusted_proxy_gives_is_in_the_answer_and_in_every_line(
    proxied: ServerProcess,
) -> None:
    answer = proxied.request("PUT", "/upload/a.txt", b"text", X_Request_Id="edge-7")
    assert answer.headers["x-request-id"] == "edge-7"
    job = answer.json["jobId"]
    (line,) = until(lambda: lines(proxied, event="http.request", job=job))
    assert (line["request_id"], line["status"]) == ("edge-7", 202)


def test_a_task_can_be_followed_from_its_request_to_its_step(
    proxied: ServerProcess,
) -> None:
    body = b'{"name": "sample-task"}'
    task = proxied.request("POST", "/tasks", body, X_Request_Id="edge-8").json["taskId"]
    (line,) = until(lambda: lines(proxied, event="http.request", job=task))
    assert (line["request_id"], line["status"]) == ("edge-8", 202)
    (line,) = until(lambda: lines(proxied, event="step.ended", job=task))
    assert line["request_id"] == "edge-8"


@pytest.mark.parametrize("name", ["x" * 65, "a b", "<script>", "a\tb", ""])
def test_a_name_that_is_no_short_word_is_replaced(
    proxied: ServerProcess, name: str
) -> None:
    answer = proxied.request("GET", "/status/nothing", X_Request_Id=name)
    named = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", named)
    assert answer.json["requestId"] == named


def test_a_stranger_cannot_name_its_requests(tmp_path: Path) -> None:
    with healthy_server(tmp_path, workers="1") as server:
        answer = server.request("GET", "/nothing", X_Request_Id="somebody-elses")
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
        (line,) = until(lambda: lines(server, event="http.request", status=404))
        assert line["request_id"] == answer.headers["x-request-id"]
        assert "somebody-elses" not in server.log()


def test_every_line_of_an_attempt_names_job_step_attempt_and_the_first_request(
    proxied: ServerProcess,
) -> None:
    answer = proxied.request("PUT", "/upload/a.txt", b"text", X_Request_Id="edge-9")
    job = answer.json["jobId"]
    proxied.finished(job)
    found = until(lambda: lines(proxied, event="step.ended", job=job))
    assert {(one["step"], one["attempt"]) for one in found} >= {("identify", 1)}
    assert {one["request_id"] for one in found} == {"edge-9"}


def test_secrets_and_file_names_are_never_written(tmp_path: Path) -> None:
    (tmp_path / "complaining.py").write_text(PROCESSOR)
    settings = {
        "token": TOKEN,
        "processors": "complaining",
        "workers": "1",
        "attempts": "1",
    }
    bearer = f"Bearer {TOKEN}"
    with serving(tmp_path / "data", **settings) as server:
        for path in (f"/?token={TOKEN}", f"/nothing?token={TOKEN}"):
            server.request("GET", path, Authorization=bearer)
        server.request("GET", "/jobs", Authorization="Bearer not-the-token-at-all")
        named = "/upload/the-merger-with-acme.png"
        server.request("PUT", named, b"\x89PNG\r\n\x1a\nno", Authorization=bearer)
        body = {"name": "complain", "payload": {"token": TOKEN}}
        server.request(
            "POST", "/tasks", json.dumps(body).encode(), Authorization=bearer
        )
        until(lambda: lines(server, event="step.ended", step="complain"))
        until(lambda: lines(server, event="step.ended", step="identify"))
        text = server.log()
    assert lines(server, event="library.log", library="some.library")
    assert lines(server, event="step.trace", step="complain")
    for word in (TOKEN, "s3cr3t-word", "not-the-token-at-all", "the-merger-with-acme"):
        assert word not in text


def test_at_debug_a_log_holds_no_secret_either(tmp_path: Path) -> None:
    settings = {"token": TOKEN, "workers": "1", "log_level": "debug"}
    with serving(tmp_path / "data", **settings) as server:
        server.request("GET", f"/?token={TOKEN}", Cookie=f"token={TOKEN}")
        server.request("GET", "/jobs", Authorization=f"Bearer {TOKEN}")
        assert len(lines(server, event="http.request")) == 2
        with socket.create_connection(server.url[7:].split(":")) as line:  # type: ignore[arg-type]
            line.sendall(f"GET /{TOKEN} HTTP/1.1\r\nHost {TOKEN}\r\n\r\n".encode())
            assert line.recv(100)
    assert TOKEN not in server.log()


def test_a_log_that_goes_into_a_file_is_json_unless_somebody_wants_it_otherwise(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "one", log_format="auto", workers="1") as server:
        pass
    assert [one["event"] for one in server.log_events()][-1] == "server.stopped"
    with serving(tmp_path / "two", log_format="console", workers="1") as server:
        pass
    assert "server.stopped" in server.log()
    assert not server.log().startswith("{")
