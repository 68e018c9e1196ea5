"""Modules of one's own, as the installed command `asyncflow` finds and loads them."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import until

COMMAND = str(Path(sys.executable).with_name("asyncflow"))
TASKS = """
import json, msgspec
from asyncflow import task

@task("where")
def where(work):
    return [__file__, json.__file__, msgspec.__file__]

@task("where-later")
async def where_later(work):
    return where(work)
"""


@contextmanager
def started(
    folder: Path, files: Mapping[str, str], **settings: str
) -> Iterator[ServerProcess]:
    for name, text in files.items():
        (folder / name).write_text(text)
    server = ServerProcess(
        data_dir=folder / "data",
        settings={"processors": "my_tasks", "workers": "1", **settings},
        program=(COMMAND,),
    ).start()
    try:
        yield server
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def test_modules_lie_where_the_server_starts_and_replace_no_library(
    tmp_path: Path,
) -> None:
    bad = "raise RuntimeError('not the library')"
    files = {"my_tasks.py": TASKS, "json.py": bad, "msgspec.py": bad}

    with started(tmp_path, files) as server:
        for name in ("where", "where-later"):
            body = json.dumps({"name": name}).encode()
            job = server.request("POST", "/tasks", body).json["taskId"]
            done = server.finished(job)
            own, *libraries = done["facts"][name]["result"]
            assert own == str(tmp_path / "my_tasks.py")
            assert not any(one.startswith(str(tmp_path)) for one in libraries)


#: a worker ignores the signal, the server does not
HANGS_HERE = """
import signal, time
from asyncflow import task

@task("x")
async def x(work): ...

if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
    time.sleep(600)
"""
TWICE = """
from asyncflow import task

@task("dup")
def a(work): ...

@task("dup")
def b(work): ...
"""
BAD = {
    "raises": (
        "import json\n\njson.loads('{')\n",
        "my_tasks cannot be loaded: JSONDecodeError: Expecting property name",
    ),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: 3 (my_tasks.py, line 2)"),
    "syntax": ("def (:\n", "SyntaxError: invalid syntax (my_tasks.py, line 1)"),
    "needs": (
        "import surely_not_there\n",
        "No module named 'surely_not_there' (my_tasks.py, line 1)",
    ),
    "dies": ("import os\nos._exit(4)\n", "the worker process died (exit code 4)"),
    "kills itself": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        "the worker process died (SIGSEGV)",
    ),
    "twice": (
        TWICE,
        "'dup' is the name of my_tasks.a and my_tasks.b (my_tasks.py, line 7)",
    ),
    "limits": (
        "from asyncflow import task\n@task('ok', attempts=0)\ndef a(work): ...\n",
        "'ok' of my_tasks.a: attempts is 0; accepted: 1 to 100 (my_tasks.py, line 2)",
    ),
    "hangs": (
        "import time\ntime.sleep(600)\n",
        "it was still being loaded after 2 s (the setting load_timeout)",
    ),
    "hangs here": (
        HANGS_HERE,
        "it was still being loaded after 2 s (the setting load_timeout)",
    ),
}


def spawned(folder: Path, text: str, **settings: str) -> ServerProcess:
    (folder / "my_tasks.py").write_text(text)
    server = ServerProcess(
        data_dir=folder / "data",
        settings={"processors": "my_tasks", "workers": "1", **settings},
        program=(COMMAND,),
    )
    server.spawn()
    return server


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD.keys())
def test_a_module_that_cannot_be_loaded_is_explained_in_one_line(
    tmp_path: Path, text: str, why: str
) -> None:
    server = spawned(tmp_path, text, load_timeout="2s")

    assert server.wait() == 1

    (line,) = server.log().splitlines()
    assert line.startswith("Error: processors: the module my_tasks cannot be loaded: ")
    assert why in line


def test_the_traceback_of_a_bad_module_is_there_for_who_debugs(tmp_path: Path) -> None:
    server = spawned(tmp_path, "1 / 0\n", log_level="debug")

    assert server.wait() == 1

    assert "Traceback" in server.log()
    assert server.log().splitlines()[-1].endswith("(my_tasks.py, line 1)")


@pytest.mark.parametrize("text", [BAD["hangs"][0], BAD["hangs here"][0]])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_whose_module_hangs_ends_at_once_by_a_signal(
    tmp_path: Path, text: str, loop: str
) -> None:
    mark = tmp_path / "mark"
    text = text.replace("time.sleep", f"open({str(mark)!r}, 'w'), time.sleep")
    server = spawned(tmp_path, text, loop=loop)
    until(mark.exists)

    assert server.stop() == 0

    assert "Traceback" not in server.log()
    assert "server.stopped" in server.log()


FOLLOWERS = """
from asyncflow import consumer, processor

@consumer("c2", on="c3.completed")
def two(work): ...

@consumer("c3", on="c2.completed")
def three(work): ...

@processor("after-nobody", accepts=("*",), on="imagge.completed")
def four(work): ...
"""


def test_functions_that_wait_for_what_cannot_be_are_named(tmp_path: Path) -> None:
    server = spawned(tmp_path, FOLLOWERS)

    assert server.wait() == 1

    first, second = server.log().splitlines()
    assert first.startswith("Error: 'after-nobody' of my_tasks.four: on is 'imagge.")
    assert first.endswith("there is no consumer called 'imagge'; did you mean image?")
    assert second == (
        "c2 after c3 after c2 goes in a circle: my_tasks.three, my_tasks.two"
    )


DECLARING = """
from asyncflow import Options, Result, processor, consumer

class Look(Options):
    frame_width: int = 5

@processor("frame", accepts=("text/*",), outputs=(), options=Look)
def frame(work):
    return Result(facts={"width": work.options.frame_width})

@processor("frame-here", accepts=("text/*",), outputs=(), options=Look)
async def frame_here(work):
    return Result(facts={"width": work.options.frame_width})

@consumer("far", on="parcel.completed")
def far(work): ...
"""
PIPELINES = """
[pipelines.default.types."text/*".steps.frame]
options = { frameWidth = 7 }
[pipelines.default.types."text/*".steps.frame-here]
options = { frameWidth = %s }
"""


def test_a_processor_gets_the_options_that_it_declares(tmp_path: Path) -> None:
    pipelines = tmp_path / "p.toml"
    pipelines.write_text(PIPELINES % "8")
    with started(tmp_path, {"my_tasks.py": DECLARING}, pipelines="p.toml") as server:
        done = server.finished(server.upload("a.txt", b"some words"))
        assert done["status"] == "COMPLETED"
        assert done["facts"]["frame"] == {"width": 7}
        assert done["facts"]["frame-here"] == {"width": 8}
        # it may come from an application, or be a slip
        (heard,) = [e for e in server.log_events() if e["event"].startswith("consumer")]
        assert (heard["consumer"], heard["on"]) == ("far", "parcel.completed")
    pipelines.write_text(PIPELINES % "'wide'")
    server = spawned(tmp_path, DECLARING, pipelines="p.toml")
    assert server.wait() != 0
    key = 'pipelines.default.types."text/*".steps.frame-here.options.frameWidth'
    assert f"p.toml: {key} is 'wide'; accepted: a whole number" in server.log()
