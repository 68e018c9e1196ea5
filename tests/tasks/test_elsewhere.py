"""A consumer whose code is on another host counts: its steps are made, and wait."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.server_process import ServerProcess, serving
from tests.tasks.asking import ended, submit, task
from tests.web.live import code_of

HERE = """
from asyncflow import Task, task

@task("here")
def here(work: Task) -> str:
    return "done"
"""
BOTH = f"""{HERE}

@task("rolled-out")
def there(work: Task) -> str:
    return "done"
"""


def consumers(server: ServerProcess) -> dict[str, Any]:
    bearer = f"Bearer {server.token}"
    answer = server.request("GET", "/admin/consumers", Authorization=bearer)
    return {one["name"]: one for one in answer.json["consumers"]}


def register_elsewhere(folder: Path) -> None:
    """Do what another host does that has a task of the same kind."""
    with closing(sqlite3.connect(folder / "asyncflow.db")) as db, db:
        db.execute(
            "INSERT INTO consumer(name, host, definition, seen) SELECT 'rolled-out',"
            " 'other-host', replace(definition, '\"here\"', '\"rolled-out\"'), 1"
            " FROM consumer WHERE name = 'here'"
        )


def test_what_another_host_has_is_taken_and_waits_for_whoever_has_it(
    tmp_path: Path,
) -> None:
    module, data = tmp_path / "some_work.py", tmp_path / "data"
    module.write_text(HERE)
    with serving(data, processors="some_work", workers="1"):
        pass
    register_elsewhere(data)

    with serving(data, processors="some_work", workers="1") as server:
        job = submit(server, "rolled-out")
        assert ended(server, submit(server, "here"))["status"] == "COMPLETED"
        found = consumers(server)
        assert task(server, job)["status"] == "PENDING"
    assert (found["here"]["runs"], len(found["here"]["hosts"])) == ("pool", 1)
    there = found["rolled-out"]
    assert (there["runs"], there["hosts"]) == ("elsewhere", ["other-host"])
    assert (there["steps"], there["lag"]) == ({"ready": 1}, 4)

    module.write_text(BOTH)
    with serving(data, processors="some_work", workers="1") as server:
        assert ended(server, job)["status"] == "COMPLETED"
        assert len(consumers(server)["rolled-out"]["hosts"]) == 2

    # what this host has no longer the other one still has
    module.write_text(HERE)
    with serving(data, processors="some_work", workers="1") as server:
        assert consumers(server)["rolled-out"]["runs"] == "elsewhere"


def test_what_nobody_has_any_more_is_forgotten(tmp_path: Path) -> None:
    module, data = tmp_path / "some_work.py", tmp_path / "data"
    module.write_text(BOTH)
    with serving(data, processors="some_work", workers="1") as server:
        assert "rolled-out" in consumers(server)

    module.write_text(HERE)
    with serving(data, processors="some_work", workers="1") as server:
        assert "rolled-out" not in consumers(server)
        answer = server.request("POST", "/tasks", b'{"name": "rolled-out"}')
        assert code_of(answer) == "unknown_task"
