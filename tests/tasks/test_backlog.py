"""How much may wait, and that nobody's work keeps out that of the others."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.faults import watch
from tests.server_process import Answer, ServerProcess
from tests.tasks.asking import post
from tests.web.live import code_of, healthy_server, until

WORK = Path(__file__).with_name("work_to_do.py")


def test_no_more_is_taken_than_may_wait(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1", "backlog_limit": "20"}
    with healthy_server(tmp_path, **settings) as server:
        bearer = f"Bearer {server.token}"
        server.request("POST", "/admin/drain", Authorization=bearer)
        said = {"name": "add", "payload": [2]}
        first = post(server, "/tasks", said, Idempotency_Key="once").json

        def give(number: int) -> int:
            one = {"name": "add", "payload": [1], "tenant": f"tenant {number}"}
            return post(server, "/tasks", one).status

        with ThreadPoolExecutor(16) as crowd:
            answers = Counter(crowd.map(give, range(60)))

        assert answers == {202: 19, 503: 41}
        # whoever has lost the answer may ask again, whatever waits
        assert post(server, "/tasks", said, Idempotency_Key="once").json == first
        assert post(server, "/events", {"type": "order.paid"}).status == 503
        assert server.request("PUT", "/upload/a.txt", b"hello").status == 503

        # what is done makes room at once
        server.request("POST", "/admin/resume", Authorization=bearer)
        until(lambda: give(0) == 202)


def give_until_refused(server: ServerProcess, **more: Any) -> Answer:
    """Submit tasks of one lane until it may have no more; return the refusal."""
    said = {"name": "add", "payload": [1], **more}
    answers = (post(server, "/tasks", said) for _ in range(25))
    refused = next(answer for answer in answers if answer.status != 202)
    assert (refused.status, code_of(refused)) == (503, "backlog_full")
    return refused


def test_who_has_much_waiting_shuts_out_nobody_else(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1", "backlog_limit": "20"}
    with healthy_server(tmp_path, **settings) as server:
        bearer = f"Bearer {server.token}"
        server.request("POST", "/admin/drain", Authorization=bearer)

        refused = give_until_refused(server, tenant="a")

        assert "of them are yours, and the rest is for others" in refused.json["detail"]
        other = {"name": "add", "payload": [1], "tenant": "b"}
        assert post(server, "/tasks", other).status == 202
        assert server.request("PUT", "/upload/a.txt", b"hello").status == 202


def test_no_more_may_wait_for_a_time_of_their_own(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1", "backlog_limit": "20"}
    with healthy_server(tmp_path, **settings) as server:

        def give(number: int, delay: int = 3600) -> int:
            said = {"name": "add", "payload": [1], "delay": delay}
            return post(server, "/tasks", {**said, "tenant": f"{number}"}).status

        with ThreadPoolExecutor(16) as crowd:
            answers = Counter(crowd.map(give, range(40)))
        assert answers == {202: 20, 503: 20}
        # also when they have been counted
        watch.pause(1.5)
        assert give(41) == 503

        # they hold up nobody
        assert give(0, delay=0) == 202
        assert server.finished(server.upload("a.txt", b"hi"))["status"] == "COMPLETED"


def test_who_has_many_tasks_of_later_shuts_out_nobody_else(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1", "backlog_limit": "20"}
    with healthy_server(tmp_path, **settings) as server:
        give_until_refused(server, tenant="a", delay=3600)
        soon = {"name": "add", "payload": [1], "delay": 30}
        assert post(server, "/tasks", {**soon, "tenant": "b"}).status == 202

        def told() -> Answer:
            return give_until_refused(server, tenant="a", delay=7200)

        # when the first of its own is due, once they have been counted
        until(lambda: 3500 < int(told().headers["retry-after"]) <= 3600)
        bearer = f"Bearer {server.token}"

        def alerts() -> list[str]:
            answer = server.request("GET", "/admin/alerts", Authorization=bearer)
            return [one["alert"] for one in answer.json["alerts"]]

        until(lambda: alerts() == ["delayed"])
        assert server.finished(server.upload("a.txt", b"hi"))["status"] == "COMPLETED"
