"""Modules of one's own, as the installed command `asyncflow` finds and loads them."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.server_process import ServerProcess

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
def started(folder: Path, files: Mapping[str, str]) -> Iterator[ServerProcess]:
    for name, text in files.items():
        (folder / name).write_text(text)
    server = ServerProcess(
        data_dir=folder / "data",
        settings={"processors": "my_tasks", "workers": "1"},
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
