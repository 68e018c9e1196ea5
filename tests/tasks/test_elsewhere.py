"""A consumer whose code is on another node counts: its steps are made, and wait."""

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


def test_what_another_node_has_is_taken_and_waits_for_whoever_has_it(
    tmp_path: Path,
) -> None:
    module, data = tmp_path / "some_work.py", tmp_path / "data"
    settings = {"processors": "some_work", "workers": "1"}
    module.write_text(BOTH)
    with serving(data, **settings, node="big-one"):
        pass

    module.write_text(HERE)
    with serving(data, **settings, node="small-one") as server:
        job = submit(server, "rolled-out")
        assert ended(server, submit(server, "here"))["status"] == "COMPLETED"
        found = consumers(server)
        assert task(server, job)["status"] == "PENDING"
    assert (found["here"]["runs"], found["here"]["nodes"]) == (
        "pool",
        ["small-one", "big-one"],
    )
    there = found["rolled-out"]
    assert (there["runs"], there["nodes"]) == ("elsewhere", ["big-one"])
    assert (there["steps"], there["lag"]) == ({"ready": 1}, 4)

    module.write_text(BOTH)
    with serving(data, **settings, node="big-one") as server:
        assert ended(server, job)["status"] == "COMPLETED"

    # what one of them has no longer the other one still has
    with serving(data, **settings, node="small-one"):
        pass
    module.write_text(HERE)
    with serving(data, **settings, node="small-one") as server:
        assert consumers(server)["rolled-out"]["runs"] == "elsewhere"


def test_nobody_waits_for_a_node_that_an_operator_has_given_up(tmp_path: Path) -> None:
    module, data = tmp_path / "some_work.py", tmp_path / "data"
    settings = {"processors": "some_work", "workers": "1"}
    module.write_text(BOTH)
    with serving(data, **settings, node="gone"):
        pass

    module.write_text(HERE)
    with serving(data, **settings) as server:
        job = submit(server, "rolled-out")
        bearer = f"Bearer {server.token}"
        for name in ("rolled-out", "here"):
            path = f"/admin/consumers/{name}/forget"
            answer = server.request("POST", path, b"", Authorization=bearer)
            assert answer.status == 200
        found = consumers(server)
        assert "rolled-out" not in found
        assert found["here"]["nodes"] == ["local"]
        over = ended(server, job)
        assert (over["status"], over["error"]["code"]) == ("FAILED", "missing_tool")
        refused = server.request("POST", "/tasks", b'{"name": "rolled-out"}')
        assert code_of(refused) == "unknown_task"
        (note,) = server.request(
            "GET", "/admin/audit?limit=1", Authorization=bearer
        ).json["entries"]
        assert (note["action"], note["target"]) == ("forget", "here")


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
