"""Tasks and application events on a real server, with functions of one's own."""

import json
import shutil
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.faults import watch
from tests.server_process import ServerProcess, serving
from tests.tasks.asking import ended, post, submit, task
from tests.web.live import code_of, healthy_server, until

WORK = Path(__file__).with_name("work_to_do.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tasks")
    shutil.copy(WORK, folder)
    settings = {"processors": "work_to_do", "workers": "2", "attempts": "2"}
    with healthy_server(folder, **settings) as found:
        yield found


# ----- what a task gives


@pytest.mark.parametrize(
    ("name", "payload", "result"),
    [
        ("add", [1, 2, 3], 6),
        ("echo-later", {"été": [None, 1.5]}, {"été": [None, 1.5]}),
        ("echo-later", None, None),
    ],
    ids=["pool", "loop", "nothing"],
)
def test_a_task_gives_its_result(
    server: ServerProcess, name: str, payload: object, result: object
) -> None:
    found = ended(server, submit(server, name, payload))

    assert (found["status"], found["result"]) == ("COMPLETED", result)
    assert (found["name"], found["attempts"], found["progress"]) == (name, 1, 100.0)
    assert found["createdAt"] <= found["startedAt"] <= found["finishedAt"]


def test_a_file_of_a_task_can_be_downloaded(server: ServerProcess) -> None:
    job = submit(server, "report", {"title": "Autumn"}, tenant="acme")
    ended(server, job)

    status = server.status(job)
    assert (status["kind"], status["fileName"]) == ("task", "report")
    assert list(status["downloadUrls"]) == ["report"]
    found = server.request("GET", status["downloadUrls"]["report"])
    assert found.body == b"Autumn for acme"
    assert server.request("GET", f"/jobs/{job}/files/original").status == 404


def test_the_sample_task_works_as_curl_posts_it(server: ServerProcess) -> None:
    answer = server.request(
        "POST",
        "/tasks",
        b'{"name": "sample-task"}',
        Content_Type="application/x-www-form-urlencoded",
    )

    assert answer.status == 202
    job = answer.json["taskId"]
    until(lambda: 0 < task(server, job)["progress"] < 100)
    found = ended(server, job)
    assert found["status"] == "COMPLETED"
    assert found["result"]["echo"] is None


def test_a_task_that_must_wait_is_tried_again(server: ServerProcess) -> None:
    found = ended(server, submit(server, "wait-first", "once"))

    # waiting is no failure
    assert (found["status"], found["result"]) == ("COMPLETED", 2)


def test_a_function_on_the_loop_is_not_charged_for_what_the_server_lacks(
    server: ServerProcess,
) -> None:
    found = ended(server, submit(server, "find-no-descriptor"))

    assert (found["status"], found["result"]) == ("COMPLETED", 2)


@pytest.mark.parametrize(
    ("name", "code", "attempts"),
    [
        ("refuse", "error", 1),
        ("fail-always", "error", 2),
        ("unanswerable", "bad_output", 1),
        ("unanswerable-here", "bad_output", 1),
    ],
)
def test_a_task_that_fails_says_why_and_can_be_retried(
    server: ServerProcess, name: str, code: str, attempts: int
) -> None:
    job = submit(server, name, 7)
    found = ended(server, job)
    assert (found["status"], found["attempts"]) == ("FAILED", attempts)
    assert found["error"]["code"] == code

    assert server.request("POST", f"/jobs/{job}/retry").status == 202

    assert ended(server, job)["run"] == 2


def past(server: ServerProcess, job: str) -> Any:
    path = f"/admin/jobs/{job}/attempts"
    answer = server.request("GET", path, Authorization=f"Bearer {server.token}")
    assert answer.status == 200, answer.body
    return answer.json["attempts"]


@pytest.mark.parametrize("name", ["explode", "explode-later"])
def test_only_the_operator_hears_what_an_exception_says(
    server: ServerProcess, name: str
) -> None:
    address = "https://me:hush-hush@example.org/"
    job = submit(server, name, f"{address} {server.token}")
    found = ended(server, job)
    # whoever may see the task learns what kind of failure it was
    short = "the processor failed (ValueError)"
    assert found["error"]["detail"] == short
    assert "reason why" not in json.dumps([found, server.status(job)])

    (attempt,) = past(server, job)

    assert attempt["detail"] == short
    assert attempt["cause"].startswith("ValueError: the reason why is https://")
    assert attempt["traceback"].startswith("Traceback")
    assert "raise ValueError" in attempt["traceback"]
    for secret in ("hush-hush", server.token):
        assert secret not in json.dumps(attempt)
    dead = server.request(
        "GET",
        f"/admin/consumers/{name}/dead",
        Authorization=f"Bearer {server.token}",
    ).json["steps"]
    assert [one["cause"] for one in dead if one["jobId"] == job] == [attempt["cause"]]


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        ("unanswerable", "bad_output", "TypeError: Object of type object is not JSON"),
        ("unanswerable-here", "bad_output", "TypeError: Object of type object is not"),
        ("give-up", "error", "TimeoutError: the mail server is silent"),
    ],
)
def test_a_failure_has_its_own_cause(
    server: ServerProcess, name: str, code: str, cause: str
) -> None:
    job = submit(server, name)
    assert ended(server, job)["error"]["code"] == code

    (attempt,) = past(server, job)

    assert attempt["cause"].startswith(cause)


def test_a_running_task_can_be_cancelled(server: ServerProcess) -> None:
    job = submit(server, "hold", 30)
    until(lambda: task(server, job)["status"] == "PROCESSING")

    assert server.request("POST", f"/jobs/{job}/cancel").json["cancelled"]

    assert task(server, job)["status"] == "CANCELLED"
    # its worker is free again
    assert ended(server, submit(server, "add", [1]))["result"] == 1


def test_a_task_of_later_waits(server: ServerProcess) -> None:
    later = submit(server, "add", [2], delay=3600)

    found = task(server, later)
    assert (found["status"], found["attempts"]) == ("PENDING", 0)
    assert found["notBefore"] > found["createdAt"]
    assert ended(server, submit(server, "add", [3], delay=0.2))["result"] == 3
    server.request("POST", f"/jobs/{later}/cancel")


def test_a_repeated_key_is_one_task(server: ServerProcess) -> None:
    said = {"name": "add", "payload": [1], "idempotencyKey": "once"}
    first = post(server, "/tasks", said).json["taskId"]

    assert post(server, "/tasks", said).json["taskId"] == first
    other = post(server, "/tasks", {**said, "payload": [2]})
    assert (other.status, code_of(other)) == (422, "idempotency_key_reused")
    bare = {"name": "add", "payload": [1]}
    by_header = [
        post(server, "/tasks", bare, Idempotency_Key="again").json["taskId"]
        for _ in range(2)
    ]
    assert len(set(by_header)) == 1
    assert by_header[0] != first


def test_two_keys_that_differ_are_refused(server: ServerProcess) -> None:
    said = {"name": "add", "payload": [1], "idempotencyKey": "here"}

    both = post(server, "/tasks", said, Idempotency_Key="there")
    assert (both.status, code_of(both)) == (400, "invalid_parameter")
    assert post(server, "/tasks", said, Idempotency_Key="here").status == 202


def test_a_consumer_with_one_place_runs_one_at_a_time(server: ServerProcess) -> None:
    jobs = [submit(server, "one-at-a-time") for _ in range(5)]

    spans = sorted(ended(server, job)["result"] for job in jobs)

    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_urgent_tasks_go_first(server: ServerProcess) -> None:
    # steps that are not short are not claimed before their time
    ended(server, submit(server, "hold", 0.3))
    holds = [submit(server, "hold", 0.3) for _ in range(3)]
    late = submit(server, "add", [1], priority=100)
    urgent = submit(server, "add", [1], priority=-100)

    for job in (*holds, late, urgent):
        ended(server, job)

    assert task(server, urgent)["startedAt"] <= task(server, late)["startedAt"]


def test_who_comes_with_one_task_does_not_wait_for_the_many_of_another(
    tmp_path: Path,
) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {
        "processors": "work_to_do",
        "workers": "1",
        "trusted_proxies": "127.0.0.1",
        "backlog_limit": "100000",
    }
    with healthy_server(tmp_path, **settings) as server:

        def give(client: str, payload: float) -> str:
            said = {"name": "hold", "payload": payload}
            answer = post(server, "/tasks", said, X_Forwarded_For=client)
            return str(answer.json["taskId"])

        many = [give("192.0.2.1", 0.02) for _ in range(200)]
        one = give("192.0.2.2", 0.0)
        found = ended(server, one)

        # those that were claimed before it came, and one or two that were before it
        starts = [task(server, job)["startedAt"] for job in many]
        between = [
            at for at in starts if at and found["createdAt"] < at < found["startedAt"]
        ]
        assert len(between) <= 4


# ----- what is refused


def test_an_unknown_task_is_told_which_there_are(server: ServerProcess) -> None:
    slip = post(server, "/tasks", {"name": "sample-tsk"})
    other = post(server, "/tasks", {"name": "nobody"})

    assert "called 'sample-tsk'; did you mean sample-task? " in slip.json["detail"]
    assert "there are add, " in slip.json["detail"]
    assert "there are add, " in other.json["detail"]
    # a consumer of events or of files is none
    assert "bill" not in other.json["detail"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"name": "nobody"}, "unknown_task"),
        ({"name": "image"}, "unknown_task"),
        ({"name": "bill"}, "unknown_task"),
        ({}, "invalid_parameter"),
        ([], "invalid_parameter"),
        ({"name": ""}, "invalid_parameter"),
        ({"name": "add", "priority": 101}, "invalid_parameter"),
        ({"name": "add", "priority": "high"}, "invalid_parameter"),
        ({"name": "add", "priority": "1.0"}, "invalid_parameter"),
        ({"name": "add", "priority": 1.5}, "invalid_parameter"),
        ({"name": "add", "priority": 101.0}, "invalid_parameter"),
        ({"name": "add", "priority": 1e300}, "invalid_parameter"),
        ({"name": "add", "runAt": "tomorrow"}, "invalid_parameter"),
        ({"name": "add", "runAt": "2026-01-01T00:00:00"}, "invalid_parameter"),
        ({"name": "add", "runAt": "2999-01-01T00:00:00Z"}, "invalid_parameter"),
        ({"name": "add", "delay": -1}, "invalid_parameter"),
        ({"name": "add", "runAt": "9999-12-31T23:59:59-23:59"}, "invalid_parameter"),
        ({"name": "add", "idempotencyKey": ""}, "invalid_parameter"),
        ({"name": "add", "tenant": "a\0b"}, "invalid_parameter"),
        ({"name": "add", "tenant": "line\n"}, "invalid_parameter"),
        ({"name": "add", "tenant": "x" * 201}, "invalid_parameter"),
    ],
    ids=str,
)
def test_a_bad_task_is_refused(server: ServerProcess, said: object, code: str) -> None:
    answer = post(server, "/tasks", said)

    assert (answer.status in {400, 422}, code_of(answer)) == (True, code)


@pytest.mark.parametrize(
    ("path", "said", "member"),
    [
        ("/tasks", {"name": "add", "extra": 1}, "extra"),
        ("/tasks", {"name": "add", "run_at": None}, "run_at"),
        *(
            ("/events", {"type": "order.paid", member: None}, member)
            for member in ("payload", "delay", "runAt", "name")
        ),
    ],
)
def test_a_member_that_nobody_knows_is_refused_by_its_name(
    server: ServerProcess, path: str, said: object, member: str
) -> None:
    answer = post(server, path, said)

    assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    assert f"unknown field `{member}`" in answer.json["detail"]


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("levels", [101, 985, 100_000])
def test_a_payload_too_deep_is_refused(server: ServerProcess, levels: int) -> None:
    for path, head in (
        ("/tasks", b'{"name": "echo-later", "payload": '),
        ("/events", b'{"type": "order.seen", "data": '),
    ):
        answer = server.request("POST", path, head + nested(levels) + b"}")
        assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
        assert "100 levels" in answer.json["detail"]


@pytest.mark.parametrize("name", ["echo-later", "echo"])
def test_a_payload_that_is_deep_comes_back(server: ServerProcess, name: str) -> None:
    body = b'{"name": "%s", "payload": %s}' % (name.encode(), nested(100))
    answer = server.request("POST", "/tasks", body)
    assert answer.status == 202

    found = ended(server, answer.json["taskId"])

    assert found["result"] == json.loads(nested(100))


@pytest.mark.parametrize("name", ["dig-later", "dig"])
def test_a_result_too_deep_is_refused(server: ServerProcess, name: str) -> None:
    assert ended(server, submit(server, name, 100))["status"] == "COMPLETED"

    error = ended(server, submit(server, name, 101))["error"]

    assert (error["code"], error["detail"]) == (
        "bad_output",
        "the result has more than 100 levels",
    )


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00Z"])
def test_a_time_that_is_over_means_at_once(server: ServerProcess, at: str) -> None:
    assert ended(server, submit(server, "add", [1], runAt=at))["result"] == 1


@pytest.mark.parametrize("name", ["no-tool", "no-tool-later"])
def test_a_task_that_skips_has_failed_and_says_why(
    server: ServerProcess, name: str
) -> None:
    found = ended(server, submit(server, name))

    assert (found["status"], found["attempts"]) == ("FAILED", 1)
    assert found["error"] == {
        "code": "missing_tool",
        "detail": "the printer is not here",
        "step": name,
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"name": "add"} x', b'{"name":"add","payload":"\xff"}'],
)
def test_what_is_not_json_is_refused(server: ServerProcess, body: bytes) -> None:
    for path in ("/tasks", "/events"):
        answer = server.request("POST", path, body)
        assert code_of(answer) == "invalid_parameter"
        assert answer.json["detail"].startswith("The body is not accepted: ")
        assert "body is missing" not in answer.json["detail"]


@pytest.mark.parametrize("number", ["1.0", "-1e1", "10.0e-1", "-0.0"])
def test_an_integer_may_be_written_as_json_schema_has_it(
    server: ServerProcess, number: str
) -> None:
    said = f'{{"name": "echo", "payload": {{"n": 1.0}}, "priority": {number} }}'
    answer = server.request("POST", "/tasks", said.encode())
    assert answer.status == 202
    # what is not ours to read stays as it was written
    result = ended(server, answer.json["taskId"])["result"]
    assert json.dumps(result) == '{"n": 1.0}'
    event = f'{{"type": "nobody.hears", "priority": {number}}}'
    assert server.request("POST", "/events", event.encode()).status == 202


def test_a_number_that_no_function_could_read_is_refused(
    server: ServerProcess,
) -> None:
    large = {b"9" * 4_000: 202, b"9" * 10_000: 400}
    finite = {b"1e308": 202, b"1e309": 400, b"-1E+400": 400, b"9" * 400 + b".0": 400}
    for number, status in {**large, **finite}.items():
        body = b'{"name": "echo-later", "payload": [%s]}' % number
        assert server.request("POST", "/tasks", body).status == status, number


def test_a_payload_too_large_is_refused(server: ServerProcess) -> None:
    answer = post(server, "/tasks", {"name": "echo-later", "payload": "x" * 300_000})

    assert (answer.status, code_of(answer)) == (413, "body_too_large")


def test_what_is_no_task_is_not_found_as_one(server: ServerProcess) -> None:
    photo = server.upload("a.txt", b"hello")

    for found in (photo, "0" * 36, "nobody"):
        answer = server.request("GET", f"/tasks/{found}")
        assert (answer.status, code_of(answer)) == (404, "job_not_found")
    event = post(server, "/events", {"type": "order.seen"}).json["jobId"]
    answer = server.request("GET", f"/tasks/{event}")
    assert answer.status == 404
    assert f"see /status/{event}" in answer.json["detail"]


# ----- application events


def test_an_event_reaches_its_consumers_and_who_follows_them(
    server: ServerProcess,
) -> None:
    answer = post(server, "/events", {"type": "order.paid", "data": {"order": 7}})
    assert answer.status == 202, answer.body

    found = server.finished(answer.json["jobId"])

    assert (found["status"], found["kind"]) == ("COMPLETED", "event")
    assert {one["name"]: one["status"] for one in found["steps"]} == {
        "bill": "done",
        "count": "dead",
        "mail": "done",
    }
    assert found["facts"]["bill"]["result"] == "bill for 7"
    assert found["facts"]["mail"]["result"] == "mailed 7 (order.paid)"


def test_an_event_that_nobody_hears_is_kept_all_the_same(
    server: ServerProcess,
) -> None:
    answer = post(server, "/events", {"type": "weather.changed"})

    found = server.status(answer.json["jobId"])
    assert (found["status"], found["steps"]) == ("COMPLETED", [])


@pytest.mark.parametrize(
    "kind",
    [
        *("", "paid", "file.accepted", "job.done", "task.x", "alert.x"),
        *("bill.completed", "Order.paid", "order paid", "a.b.c.d.e.f", ".a", "a."),
        "order.paid\n",
    ],
)
def test_a_type_that_is_not_the_applications_is_refused(
    server: ServerProcess, kind: str
) -> None:
    answer = post(server, "/events", {"type": kind})

    assert code_of(answer) in {"invalid_event_type", "invalid_parameter"}


# ----- over restarts


def test_no_step_is_lost_to_a_freeze_of_the_whole_family(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1", "lease": "1"}
    with healthy_server(tmp_path, **settings) as server:
        jobs = [submit(server, name, 4.0) for name in ("hold", "linger", "linger")]
        until(lambda: {task(server, one)["status"] for one in jobs} == {"PROCESSING"})

        watch.signal_family(server, signal.SIGSTOP)
        try:
            watch.pause(2.5)
        finally:
            watch.signal_family(server, signal.SIGCONT)

        found = [ended(server, job) for job in jobs]
        assert {(one["status"], one["attempts"]) for one in found} == {("COMPLETED", 1)}


def test_tasks_outlive_a_kill(tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "work_to_do", "workers": "1"}
    with serving(tmp_path / "data", **settings) as server:
        # long enough to be seen at work, however slow the machine is
        jobs = [submit(server, "hold", length) for length in (3.0, 0.2, 0.2)]
        jobs += [submit(server, "echo-later", n) for n in range(3)]
        jobs.append(submit(server, "add", [1], delay=1.0))
        until(lambda: task(server, jobs[0])["status"] == "PROCESSING")
        server.kill()
        server.start()

        assert {ended(server, job)["status"] for job in jobs} == {"COMPLETED"}
