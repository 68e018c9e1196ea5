"""Whatever a function does, its attempt ends, says so, and harms nobody else."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ServerProcess, serving
from tests.tasks.asking import ended, submit, task
from tests.web.live import failures, healthy_server, metric, until

WORK = Path(__file__).with_name("hostile_work.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("endings")
    shutil.copy(WORK, folder)
    with healthy_server(folder, processors="hostile_work", workers="1") as found:
        yield found


def admin(server: ServerProcess, path: str) -> Any:
    bearer = f"Bearer {server.token}"
    return server.request("GET", path, Authorization=bearer).json


PLACES = ["end-in-pool", "end-on-loop"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ("interrupt", "the processor failed (KeyboardInterrupt)"),
        ("exit", "the processor failed (SystemExit)"),
        ("base", "the processor failed (BaseException)"),
        ("generator", "the processor failed (GeneratorExit)"),
        ("group", "the processor failed (BaseExceptionGroup)"),
        ("cancelled", "the processor failed (CancelledError)"),
        ("timeout", "the processor failed (TimeoutError)"),
        ("unspeakable", "the processor failed (Unspeakable)"),
        ("odd words", "the processor failed (ValueError)"),
        ("later never", "the processor failed (ValueError)"),
        ("later nan", "the processor failed (ValueError)"),
    ],
)
def test_whatever_is_raised_ends_the_attempt(
    server: ServerProcess, place: str, how: str, detail: str
) -> None:
    found = ended(server, submit(server, place, how))

    assert (found["status"], found["attempts"]) == ("FAILED", 1)
    assert (found["error"]["code"], found["error"]["detail"]) == ("error", detail)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ("surrogate", "the result is not JSON"),
        ("object", "the result is not JSON"),
        ("not a number", "the result is not JSON"),
        ("keys", "the result is not JSON"),
        ("huge", "the result is larger than 1048576 B"),
        ("facts", "the facts are a list, not a mapping"),
        ("no reason", "the reason of a BadFile is a NoneType, not a string"),
        ("bytes", "the reason of a BadFile is a bytes, not a string"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_the_same_words_everywhere(
    server: ServerProcess, place: str, how: str, detail: str
) -> None:
    found = ended(server, submit(server, place, how))

    assert (found["status"], found["attempts"]) == ("FAILED", 1)
    assert found["error"]["code"] == "bad_output"
    assert found["error"]["detail"] == detail


@pytest.mark.parametrize("place", PLACES)
def test_what_a_function_says_of_a_file_is_kept_short_and_printable(
    server: ServerProcess, place: str
) -> None:
    odd = ended(server, submit(server, place, "odd fault"))["error"]
    long = ended(server, submit(server, place, "long fault"))["error"]

    assert (odd["code"], odd["detail"]) == ("x", r"it is \ud800")
    assert (long["code"], long["detail"]) == ("error", "y" * 500)


@pytest.mark.parametrize("place", PLACES)
def test_keys_become_strings_as_json_has_them(
    server: ServerProcess, place: str
) -> None:
    found = ended(server, submit(server, place, "mixed keys"))

    assert found["result"] == {"1": 2, "null": 3}


def test_what_cannot_be_stored_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "three_times.py").write_text(
        "from asyncflow import task\n"
        "@task('pool', attempts=3)\n"
        "def pool(work): return object()\n"
        "@task('loop', attempts=3)\n"
        "async def loop(work): return object()\n"
    )
    with healthy_server(tmp_path, processors="three_times", workers="1") as server:
        for name in ("pool", "loop"):
            found = ended(server, submit(server, name))
            assert (found["status"], found["attempts"]) == ("FAILED", 1)


def test_a_function_that_cancels_its_own_task_has_failed(
    server: ServerProcess,
) -> None:
    found = ended(server, submit(server, "cancel-itself"))

    assert found["error"]["detail"] == "the processor failed (CancelledError)"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_task_of_a_function_cannot_end_the_server(tmp_path: Path, loop: str) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "hostile_work", "workers": "1", "loop": loop}
    with serving(tmp_path / "data", **settings) as server:
        found = ended(server, submit(server, "leave-a-bomb"))

        assert found["result"] == "still here"
        refused = [e for e in server.log_events() if "exit_refused" in e["event"]]
        assert [one["error"] for one in refused] == ["SystemExit"]


@pytest.mark.parametrize("way", ["return", "publish"])
def test_a_file_from_the_loop_is_refused_and_not_lost(
    server: ServerProcess, way: str
) -> None:
    found = ended(server, submit(server, "hand-over", way))

    assert (found["status"], found["error"]["code"]) == ("FAILED", "bad_output")
    assert "an async function makes no files" in found["error"]["detail"]


@pytest.mark.timeout(120)
def test_who_hands_over_files_without_end_has_failed(server: ServerProcess) -> None:
    found = ended(server, submit(server, "hand-over-many", 1001))

    assert (found["status"], found["error"]["code"]) == ("FAILED", "bad_output")
    assert found["error"]["detail"] == "the step made more than 1000 files"


#: a decoder that was taken over says what it likes of the file that it reads
TAKEN_OVER = """
from asyncflow import worker

LIES = {"number": 5, "none": None, "lines": "a/b\\r\\nX: y", "long": "a/" + "b" * 200}
attend = worker._attend

def lie(desk, surroundings, token, processor, about):
    if processor != "identify":
        return attend(desk, surroundings, token, processor, about)
    facts = {"mediaType": LIES[about["file_name"]]}
    desk.report(token, {"verdict": "done", "facts": facts, "made": []})

worker._attend = lie
"""


def test_what_is_no_media_type_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "taken_over.py").write_text(TAKEN_OVER)
    with healthy_server(tmp_path, processors="taken_over", attempts="1") as server:
        for lie in ("number", "none", "lines", "long"):
            found = server.finished(server.upload(lie, b"text"))
            assert found["status"] == "FAILED"
            assert found["error"]["code"] == "bad_output"


def test_a_function_on_the_loop_that_lacks_its_tool_is_not_called(
    server: ServerProcess,
) -> None:
    found = server.finished(server.upload("a.txt", b"hello"))

    (step,) = [one for one in found["steps"] if one["name"] == "moonlit"]
    assert (found["status"], step["status"]) == ("COMPLETED", "skipped")
    assert step["error"]["detail"] == "the moon is not installed"


# ----- what does not stop


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_function_that_does_not_stop_loses_its_step_and_is_shown(
    tmp_path: Path, loop: str
) -> None:
    shutil.copy(WORK, tmp_path)
    settings = {"processors": "hostile_work", "workers": "1", "grace": "1"}
    with serving(tmp_path / "data", loop=loop, **settings) as server:
        late, cancelled = submit(server, "stay"), submit(server, "stay-long")
        until(lambda: task(server, cancelled)["status"] == "PROCESSING")
        server.request("POST", f"/jobs/{cancelled}/cancel")

        error = ended(server, late)["error"]
        assert error["code"] == "timeout"
        assert "goes on all the same" in error["detail"]
        assert ended(server, cancelled)["status"] == "CANCELLED"
        until(lambda: len(admin(server, "/admin/steps")["strays"]) == 2)
        strays = admin(server, "/admin/steps")["strays"]
        assert {one["jobId"] for one in strays} == {late, cancelled}
        assert all(one["toldToStopAt"] for one in strays)
        assert metric(server, "asyncflow_strays") == 2
        running = submit(server, "stay-long")
        until(lambda: task(server, running)["status"] == "PROCESSING")
        submit(server, "block-a-thread")

        # and it holds up nobody who wants the server to stop
        assert server.stop() == 0
        assert failures(server) == []


# ----- later


@pytest.mark.parametrize("name", ["later", "later-on-loop"])
@pytest.mark.parametrize("after", [0, -5, 0.001])
def test_who_asks_for_no_pause_waits_all_the_same(
    server: ServerProcess, name: str, after: float
) -> None:
    job = submit(server, name, {"times": 1, "after": after})
    until(lambda: task(server, job)["nextRetry"])

    found = ended(server, job)

    assert (found["status"], found["result"]) == ("COMPLETED", 2)
    path = f"/admin/jobs/{job}/attempts"
    (attempt,) = admin(server, path)["attempts"]
    assert attempt["verdict"] == "try_later"


@pytest.mark.parametrize("name", ["later", "later-on-loop"])
def test_nobody_waits_longer_than_a_day(server: ServerProcess, name: str) -> None:
    job = submit(server, name, {"times": 1, "after": 1e12})
    until(lambda: task(server, job)["nextRetry"])

    found = task(server, job)
    created, again = (
        datetime.fromisoformat(found[name]) for name in ("createdAt", "nextRetry")
    )
    assert timedelta(hours=23) < again - created < timedelta(hours=25)
    server.request("POST", f"/jobs/{job}/cancel")
