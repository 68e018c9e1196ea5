"""What a server says when an operator should look at it."""

import shutil
from pathlib import Path
from typing import Any

from tests.server_process import ServerProcess
from tests.web.live import healthy_server, metric, until

LISTENER = '''"""Hears of alerts."""

from asyncflow import Task, consumer


@consumer("pager", on="alert.raised")
def pager(work: Task) -> str:
    """Tell somebody."""
    return f"{work.payload['alert']}: {work.payload['says']}"


@consumer("relief", on="alert.cleared")
async def relief(work: Task) -> str:
    """Tell them that it is over."""
    return str(work.payload["alert"])
'''
WORK = Path(__file__).parent.parent / "tasks" / "work_to_do.py"


def alert_list(server: ServerProcess) -> Any:
    bearer = f"Bearer {server.token}"
    return server.request("GET", "/admin/alerts", Authorization=bearer).json


def alerts(server: ServerProcess) -> list[str]:
    return [one["alert"] for one in alert_list(server)["alerts"]]


def test_an_alert_is_shown_counted_logged_and_told(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    (tmp_path / "listener.py").write_text(LISTENER)
    settings = {
        "processors": "listener,work_to_do",
        "workers": "1",
        # two waiting steps are four fifths of it and more
        "backlog_limit": "2",
        "log_level": "info",
    }
    with healthy_server(tmp_path, **settings) as server:
        assert alerts(server) == []
        operate(server, "consumers/add/pause")
        jobs = [
            server.request("POST", "/tasks", b'{"name": "add", "payload": [1]}').json
            for _ in range(2)
        ]
        until(lambda: alerts(server) == ["backlog"])
        assert metric(server, 'asyncflow_alert{alert="backlog"}') == 1.0
        assert metric(server, 'asyncflow_paused{consumer="add"}') == 1.0
        events = [one for one in server.log_events() if one["event"] == "alert.raised"]
        assert [one["alert"] for one in events] == ["backlog"]

        until(lambda: told(server, "alert.raised"))
        found = server.finished(told(server, "alert.raised"))
        assert found["facts"]["pager"]["result"].startswith("backlog: waiting steps")

        operate(server, "consumers/add/resume")
        for job in jobs:
            server.finished(job["taskId"])
        until(lambda: alerts(server) == [])
        until(lambda: told(server, "alert.cleared"))
        (over,) = alert_list(server)["past"]
        assert (over["alert"], over["since"] < over["until"]) == ("backlog", True)
        assert over["says"].startswith("waiting steps")
        assert metric(server, 'asyncflow_alert{alert="backlog"}') == 0.0

        # a restart knows of it, and it is nothing that anybody has done by hand
        server.stop()
        server.start()
        (again,) = alert_list(server)["past"]
        assert (again["alert"], again["says"]) == (over["alert"], over["says"])
        bearer = f"Bearer {server.token}"
        noted = server.request("GET", "/admin/audit", Authorization=bearer).json
        assert {one["actor"] for one in noted["entries"]} == {"local"}


def operate(server: ServerProcess, path: str) -> None:
    bearer = f"Bearer {server.token}"
    answer = server.request("POST", f"/admin/{path}", Authorization=bearer)
    assert answer.status == 200, answer.body


def told(server: ServerProcess, kind: str) -> str:
    """Return the job of the newest event of *kind*; empty: there is none."""
    answer = server.request(
        "GET", f"/jobs?search={kind}", Authorization=f"Bearer {server.token}"
    )
    found = answer.json["jobs"]
    return str(found[0]["jobId"]) if found else ""
