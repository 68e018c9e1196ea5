"""How a test asks for tasks and waits for their ends."""

import json
from typing import Any

from tests.server_process import FINAL, Answer, ServerProcess
from tests.web.live import until


def post(server: ServerProcess, path: str, said: object, **headers: Any) -> Answer:
    """Send *said* as JSON."""
    return server.request("POST", path, json.dumps(said).encode(), **headers)


def submit(
    server: ServerProcess, name: str, payload: object = None, **more: Any
) -> str:
    """Ask for a task; return its id. *more* are members of the request."""
    answer = post(server, "/tasks", {"name": name, "payload": payload, **more})
    assert answer.status == 202, answer.body
    assert answer.json["statusUrl"] == f"/tasks/{answer.json['taskId']}"
    return str(answer.json["taskId"])


def task(server: ServerProcess, found: str) -> Any:
    """Return what is known of a task."""
    answer = server.request("GET", f"/tasks/{found}")
    assert answer.status == 200, answer.body
    return answer.json


def ended(server: ServerProcess, found: str) -> Any:
    """Return a task once it has ended."""
    until(lambda: task(server, found)["status"] in FINAL)
    return task(server, found)
