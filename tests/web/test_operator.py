"""What an operator sees and does, on a real server."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import Answer, ServerProcess
from tests.web.live import code_of, create, healthy_server, metric, rows, until

WORK = Path(__file__).parent.parent / "tasks" / "work_to_do.py"


@contextmanager
def at_work(folder: Path) -> Iterator[ServerProcess]:
    shutil.copy(WORK, folder)
    settings = {"processors": "work_to_do", "workers": "1", "attempts": "1"}
    with healthy_server(folder, **settings) as found:
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with at_work(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Give a server that refuses everything it is asked for, and so stays as it is."""
    with at_work(tmp_path_factory.mktemp("idle")) as found:
        yield found


def ask(server: ServerProcess, method: str, path: str, said: object = None) -> Answer:
    body = None if said is None else json.dumps(said).encode()
    return server.request(
        method, f"/admin/{path}", body, Authorization=f"Bearer {server.token}"
    )


def get(server: ServerProcess, path: str) -> Any:
    answer = ask(server, "GET", path)
    assert answer.status == 200, answer.body
    return answer.json


def act(server: ServerProcess, path: str, said: object = None) -> Any:
    answer = ask(server, "POST", path, said)
    assert answer.status in {200, 202}, answer.body
    return answer.json


def submit(server: ServerProcess, name: str, payload: object = None) -> str:
    body = json.dumps({"name": name, "payload": payload, "tenant": "acme"}).encode()
    return str(server.request("POST", "/tasks", body).json["taskId"])


def consumer(server: ServerProcess, name: str) -> Any:
    (found,) = [
        one for one in get(server, "consumers")["consumers"] if one["name"] == name
    ]
    return found


PATHS = [
    ("GET", "consumers"),
    ("GET", "consumers/add/dead"),
    ("POST", "consumers/add/pause"),
    ("POST", "consumers/add/resume"),
    ("POST", "consumers/add/retry"),
    ("POST", "consumers/add/replay"),
    ("GET", "tenants"),
    ("POST", "tenants/acme/pause"),
    ("POST", "tenants/acme/resume"),
    ("GET", "steps"),
    ("POST", "steps/1/retry"),
    ("POST", "steps/1/cancel"),
    ("GET", "uploads"),
    ("GET", "audit"),
    ("POST", "jobs/019a0000-0000-7000-8000-000000000000/cancel"),
    ("DELETE", "jobs/019a0000-0000-7000-8000-000000000000"),
    ("POST", "drain"),
    ("POST", "resume"),
]


def test_nothing_of_it_goes_without_the_token(idle: ServerProcess) -> None:
    for method, path in PATHS:
        answer = idle.request(method, f"/admin/{path}")
        assert (answer.status, code_of(answer)) == (401, "unauthorized"), path


def test_a_consumer_tells_how_it_does(server: ServerProcess) -> None:
    server.finished(submit(server, "add", [1]))
    server.finished(submit(server, "refuse"))

    found = consumer(server, "add")
    assert (found["on"], found["runs"], found["paused"]) == (
        "task.submitted",
        "pool",
        False,
    )
    assert (found["steps"], found["lag"], found["oldestS"]) == ({"done": 1}, 0, None)
    assert (found["attempts"], found["failures"]) == (1, 0)
    assert 0 < found["p50S"] <= found["p95S"]
    assert found["perMinute"] > 0
    bad = consumer(server, "refuse")
    assert (bad["steps"], bad["failures"]) == ({"dead": 1}, 1)
    assert consumer(server, "one-at-a-time")["concurrency"] == 1


def test_a_paused_consumer_waits_also_over_a_restart(server: ServerProcess) -> None:
    act(server, "consumers/add/pause")
    job = submit(server, "add", [1])
    server.finished(submit(server, "echo-later"))
    server.stop()
    server.start()

    assert consumer(server, "add")["paused"]
    assert consumer(server, "add")["steps"] == {"ready": 1}
    assert consumer(server, "add")["lag"] >= 1
    server.finished(submit(server, "echo-later"))
    assert server.status(job)["status"] == "PENDING"

    act(server, "consumers/add/resume")

    assert server.finished(job)["status"] == "COMPLETED"


def test_a_paused_tenant_waits(server: ServerProcess) -> None:
    act(server, "tenants/acme/pause")
    job = submit(server, "add", [1])
    other = json.dumps({"name": "add", "payload": [2], "tenant": "other"}).encode()
    going = server.request("POST", "/tasks", other).json["taskId"]
    server.finished(going)

    (acme, _other) = get(server, "tenants")["tenants"]
    assert (acme["name"], acme["paused"]) == ("acme", True)
    assert acme["steps"] == {"ready": 1}

    act(server, "tenants/acme/resume")

    assert server.finished(job)["status"] == "COMPLETED"


@pytest.mark.parametrize("name", ["a%00b", "x" * 201, "line%0A"])
def test_a_tenant_that_nobody_could_be_is_refused(
    idle: ServerProcess, name: str
) -> None:
    for action in ("pause", "resume"):
        answer = ask(idle, "POST", f"tenants/{name}/{action}")
        assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    assert get(idle, "tenants")["tenants"] == []
    assert get(idle, "audit")["entries"] == []


def test_what_belongs_to_no_tenant_is_paused_by_a_name_of_its_own(
    server: ServerProcess,
) -> None:
    act(server, "tenants/-/pause")
    job = server.upload("a.txt", b"hello")
    server.finished(submit(server, "add", [1]))

    none, acme = get(server, "tenants")["tenants"]
    assert (none["name"], none["paused"], none["steps"]) == ("-", True, {"ready": 1})
    assert (acme["name"], acme["paused"]) == ("acme", False)
    assert server.status(job)["status"] == "PENDING"

    act(server, "tenants/-/resume")

    assert server.finished(job)["status"] == "COMPLETED"
    # so nobody can be called that
    said = {"name": "add", "payload": [1], "tenant": "-"}
    answer = server.request("POST", "/tasks", json.dumps(said).encode())
    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")


def test_a_tenant_may_be_paused_before_it_comes(server: ServerProcess) -> None:
    (found,) = act(server, "tenants/acme/pause")["tenants"]
    assert (found["paused"], found["known"]) == (True, False)

    submit(server, "add", [1])
    (found,) = get(server, "tenants")["tenants"]
    assert (found["paused"], found["known"]) == (True, True)


@pytest.mark.parametrize(
    "path",
    [
        *("audit?after=abc", "audit?after=-1", "audit?before=abc", "audit?limit=0"),
        *("steps?limit=x", "consumers?x", "tenants?limit=1", "uploads?a=b"),
        *("consumers/add/dead?which=all", "consumers/add/dead?which=dead&which=dead"),
        *("alerts?after=1", "consumers/add/dead?after=99999999999999999999999"),
    ],
)
def test_a_parameter_that_nobody_knows_is_refused(
    idle: ServerProcess, path: str
) -> None:
    answer = ask(idle, "GET", path)

    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    "said",
    [
        {"since": "2020-01-01T00:00:00Z", "after": 10**30},
        {"since": "2020-01-01T00:00:00Z", "before": 1},
        {"since": "2020-01-01T00:00:00"},
    ],
)
def test_a_bad_replay_is_refused(idle: ServerProcess, said: object) -> None:
    answer = ask(idle, "POST", "consumers/bill/replay", said)

    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    "since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-23:59"]
)
def test_a_replay_may_begin_at_any_time(server: ServerProcess, since: str) -> None:
    # an integer is one with a fraction of nothing, too
    for after in (0, 0.0):
        said = {"since": since, "after": after}
        assert act(server, "consumers/bill/replay", said)["steps"] == 0


def test_dead_letters_are_read_and_retried(server: ServerProcess) -> None:
    jobs = [submit(server, "refuse", n) for n in range(3)]
    for job in jobs:
        server.finished(job)

    page = get(server, "consumers/refuse/dead?limit=2")
    assert [one["jobId"] for one in page["steps"]] == jobs[:0:-1]
    rest = get(server, f"consumers/refuse/dead?limit=2&before={page['next']}")
    assert [one["jobId"] for one in rest["steps"]] == jobs[:1]
    assert rest["next"] is None
    letter = rest["steps"][0]
    assert letter["error"]["detail"] == "0 is not what it should be"

    act(server, f"steps/{letter['stepId']}/retry")
    until(lambda: server.status(jobs[0])["run"] == 2)
    server.finished(jobs[0])
    assert act(server, "consumers/refuse/retry")["steps"] == 3
    for job in jobs:
        server.finished(job)


def test_refused_files_are_no_dead_letters_and_retried_when_asked_for(
    server: ServerProcess,
) -> None:
    job = server.upload("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(500))
    assert server.finished(job)["status"] == "REJECTED"

    assert consumer(server, "identify")["steps"] == {"refused": 1}
    assert get(server, "consumers/identify/dead")["steps"] == []
    (refused,) = get(server, "consumers/identify/dead?which=refused")["steps"]
    assert (refused["jobId"], refused["error"]["code"]) == (job, "truncated")

    assert act(server, "consumers/identify/retry")["steps"] == 0
    assert server.status(job)["run"] == 1
    assert act(server, "consumers/identify/retry?which=refused")["steps"] == 1
    until(lambda: server.status(job)["run"] == 2)
    server.finished(job)
    act(server, f"steps/{refused['stepId']}/retry")
    until(lambda: server.status(job)["run"] == 3)
    server.finished(job)
    bad = ask(server, "POST", "consumers/identify/retry?which=none")
    assert (bad.status, code_of(bad)) == (400, "invalid_parameter")
    done = [one["action"] for one in get(server, "audit")["entries"]]
    assert done == ["retry-step", "retry-refused", "retry-all"]


def test_a_running_step_is_seen_and_cancelled(server: ServerProcess) -> None:
    job = submit(server, "hold", 30)
    until(lambda: [s for s in get(server, "steps")["steps"] if s["progress"] == 10])

    (one,) = get(server, "steps")["steps"]
    assert (one["step"], one["jobId"], one["attempt"]) == ("hold", job, 1)
    assert one["tenant"] == "acme"
    act(server, f"steps/{one['stepId']}/cancel")

    assert server.finished(job)["status"] == "CANCELLED"
    late = ask(server, "POST", f"steps/{one['stepId']}/cancel")
    assert (late.status, code_of(late)) == (409, "step_not_open")


def test_drained_nothing_begins_and_uploads_go_on(server: ServerProcess) -> None:
    assert act(server, "drain") == {"draining": True, "running": 0}
    # it takes what comes: its clients have no reason to go elsewhere
    ready = server.request("GET", "/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert ready.json["draining"]
    job = server.upload("a.txt", b"hello")
    assert server.status(job)["status"] == "PENDING"

    act(server, "resume")

    assert server.finished(job)["status"] == "COMPLETED"


def test_a_replay_does_what_was_done_once_more(server: ServerProcess) -> None:
    events = [
        server.request(
            "POST", "/events", b'{"type": "order.paid", "data": {"order": 7}}'
        )
        for _ in range(3)
    ]
    for answer in events:
        server.finished(answer.json["jobId"])
    before = consumer(server, "bill")["steps"]

    done = act(server, "consumers/bill/replay", {"since": "2020-01-01T00:00:00Z"})

    assert done == {"steps": 3, "next": None}
    until(lambda: consumer(server, "bill")["steps"] == {"done": before["done"] + 3})
    job = server.status(events[0].json["jobId"])
    assert (job["status"], job["run"]) == ("COMPLETED", 1)
    none = act(server, "consumers/bill/replay", {"since": "2999-01-01T00:00:00Z"})
    assert none["steps"] == 0


def test_a_step_less_is_no_job_more(server: ServerProcess) -> None:
    name = 'asyncflow_jobs_created_total{kind="event"}'
    act(server, "drain")
    answer = server.request("POST", "/events", b'{"type": "order.paid", "data": {}}')
    assert answer.status == 202
    made = metric(server, name)
    (step,) = rows(
        server, "SELECT id FROM step WHERE consumer = 'count' AND state = 'ready'"
    )
    act(server, f"steps/{step[0]}/cancel")

    assert metric(server, name) == made
    act(server, f"jobs/{answer.json['jobId']}/cancel")
    act(server, "resume")


def test_a_replay_does_not_begin_where_the_one_before_it_ended(
    server: ServerProcess,
) -> None:
    said = json.dumps({"type": "clock.struck", "data": None}).encode()
    server.finished(server.request("POST", "/events", said).json["jobId"])
    seen = []
    for _ in range(2):
        since = {"since": "2020-01-01T00:00:00Z"}
        act(server, "consumers/say-late/replay", since)
        seen.append(
            until(
                lambda: [
                    one["progress"]
                    for one in get(server, "steps")["steps"]
                    if one["step"] == "say-late"
                ]
            )
        )
        until(lambda: not get(server, "steps")["steps"])

    assert seen == [[0], [0]]


@pytest.mark.parametrize(
    ("path", "said", "code"),
    [
        ("consumers/nobody/pause", None, "unknown_consumer"),
        ("consumers/nobody/retry", None, "unknown_consumer"),
        ("consumers/add/replay", {"since": "2020-01-01T00:00:00Z"}, "unknown_consumer"),
        ("consumers/bill/replay", {}, "invalid_parameter"),
        ("consumers/bill/replay", {"since": "yesterday"}, "invalid_parameter"),
        ("steps/999999/retry", None, "step_not_found"),
        ("steps/nine/cancel", None, "step_not_found"),
    ],
)
def test_what_cannot_be_done_is_refused(
    idle: ServerProcess, path: str, said: object, code: str
) -> None:
    assert code_of(ask(idle, "POST", path, said)) == code


def test_uploads_in_progress_are_listed(server: ServerProcess) -> None:
    job = create(server, 10)

    (one,) = get(server, "uploads")["uploads"]

    assert (one["jobId"], one["length"], one["received"]) == (job, 10, 0)
    assert one["dialect"] == "tus"


def test_the_audit_says_who_did_what(server: ServerProcess) -> None:
    act(server, "consumers/add/pause")
    act(server, "consumers/add/resume")
    act(server, "tenants/acme/pause")

    page = get(server, "audit?limit=2")
    assert [(one["action"], one["target"]) for one in page["entries"]] == [
        ("pause-tenant", "acme"),
        ("resume", "add"),
    ]
    (first,) = get(server, f"audit?before={page['next']}")["entries"]
    assert (first["actor"], first["action"]) == ("local", "pause")


def test_what_is_done_to_jobs_is_in_the_audit(server: ServerProcess) -> None:
    job = server.upload("torn.jpg", b"\xff\xd8\xff\xe0 and no more")
    assert server.finished(job)["status"] == "REJECTED"
    assert act(server, f"retry/{job}")["run"] == 2
    server.finished(job)
    assert not act(server, f"jobs/{job}/cancel")["cancelled"]
    assert ask(server, "DELETE", f"jobs/{job}").status == 204
    assert ask(server, "DELETE", f"jobs/{job}").status == 404

    entries = get(server, "audit")["entries"]
    assert [(one["action"], one["target"]) for one in entries] == [
        ("delete-job", job),
        ("cancel-job", job),
        ("retry-job", job),
    ]
