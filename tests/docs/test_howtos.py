"""The how-tos, done step by step as they say."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from asyncflow.processors.base import REGISTRY, options_of
from asyncflow.testing.processor import run_processor
from tests.docs.pages import blocks, page
from tests.server_process import ServerProcess, serving


def install(package: Path) -> None:
    """Do what pip would do with the package of the page."""
    text = page("howto/add-a-processor.md")
    (package / "my_package").mkdir(parents=True)
    (package / "my_package" / "negative.py").write_text(blocks(text, "python")[0])
    (declared,) = blocks(text, "toml")
    found = re.search(r'"(asyncflow\.\w+)"\]\n(\w+) = "([\w.]+)"', declared)
    assert found is not None
    group, name, module = found.groups()
    facts = package / "my_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


def test_the_processor_of_the_page_becomes_a_step(tmp_path: Path) -> None:
    install(tmp_path / "package")
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "black").save(made, "PNG")
    server = ServerProcess(
        data_dir=tmp_path / "data",
        wrap=("env", f"PYTHONPATH={tmp_path / 'package'}{os.pathsep}"),
    ).start()
    try:
        shown = server.request("GET", "/capabilities").json["processors"]
        assert "negative" in {one["name"] for one in shown}
        job = server.finished(server.upload("black.png", made.getvalue()))
        assert job["status"] == "COMPLETED", job
        got = server.request("GET", job["downloadUrls"]["negative"])
        with Image.open(io.BytesIO(got.body)) as negative:
            assert negative.getpixel((0, 0)) == (255, 255, 255)
    finally:
        assert server.stop() == 0


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    code, _options = blocks(page("howto/add-a-processor.md"), "python")
    REGISTRY.pop("negative", None)  # an example of the same name may have been loaded
    exec(compile(code, "negative.py", "exec"), {"__name__": "my_package.negative"})  # noqa: S102 -- our own page
    (lines,) = blocks(page("howto/add-a-processor.md"), "py")
    names: dict[str, object] = {"negative": REGISTRY.pop("negative").run}
    code = lines.replace("from my_package.negative import negative\n", "")
    exec(compile(code, "test_negative.py", "exec"), names)  # noqa: S102 -- our own page
    test = names["test_black_becomes_white"]
    assert callable(test)
    test(tmp_path)
    assert "run_processor" in lines
    assert run_processor is names["run_processor"]


def test_the_options_of_the_page_are_what_it_says(tmp_path: Path) -> None:
    _whole, code = blocks(page("howto/add-a-processor.md"), "python")
    REGISTRY.pop("frame", None)  # the page may have been tried as a whole
    exec(compile(code, "frame.py", "exec"), {"__name__": "my_package.frame"})  # noqa: S102 -- our own page
    known = REGISTRY.pop("frame")
    path = tmp_path / "a.png"
    path.touch()

    ran = run_processor(known.run, path, options=options_of(known, {"frameWidth": 7}))

    assert ran.facts == {"frame": "7 px of black"}
    with pytest.raises(ValueError, match="frameWidth is 0; accepted"):
        options_of(known, {"frameWidth": 0})


def nightly(folder: Path, asyncflow: str) -> int:
    """Run the line for cron as cron would, with *asyncflow* as the program."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{asyncflow}\n")
    program.chmod(0o755)
    (line,) = re.findall(r"(?m)^0 3 \* \* \* asyncflow (.*)$", page("howto/back-up.md"))
    assert "$(date +\\%a)" in line
    # one day for every run, also around midnight
    line = line.replace("$(date +\\%a)", "Mon")
    line = line.replace("/backups", str(folder / "backups"))
    assert "/opt/asyncflow/bin/asyncflow" in line
    line = line.replace("/opt/asyncflow/bin/asyncflow", str(program))
    return subprocess.run(
        ["/bin/sh", "-c", line],
        env={"PATH": "/usr/bin:/bin"},
        check=False,
        timeout=30,
    ).returncode


def test_the_nightly_backup_replaces_the_old_one_only_when_it_is_whole(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "backups" / "Mon" / "backup.json"
    kept.parent.parent.mkdir()
    for text in ("first", "second"):
        assert nightly(tmp_path, f'mkdir "$2" && echo {text} > "$2/backup.json"') == 0
        assert [p.name for p in (tmp_path / "backups").iterdir()] == ["Mon"]
        assert kept.read_text() == f"{text}\n"
    assert nightly(tmp_path, 'mkdir "$2"; exit 1') == 1
    assert kept.read_text() == "second\n"


def test_the_tasks_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    (code,) = blocks(page("howto/run-tasks.md"), "python")
    (tmp_path / "company_tasks.py").write_text(code)
    # the installed command, as the page says: Python itself adds no folder to its path
    command = str(Path(sys.executable).with_name("asyncflow"))
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={"processors": "company_tasks"},
        program=(command,),
    ).start()
    try:

        def result(path: str, **said: object) -> dict[str, dict[str, object]]:
            answer = server.request("POST", path, json.dumps(said).encode())
            assert answer.status == 202, answer.body
            found = server.finished(answer.json.get("taskId") or answer.json["jobId"])
            assert found["status"] == "COMPLETED"
            return dict(found["facts"])

        added = result("/tasks", name="add-up", payload={"numbers": [1, 2]})
        assert added["add-up"] == {"result": 3}
        greeted = result("/tasks", name="greet", payload={"name": "Ada"})
        assert greeted["greet"] == {"result": "hello Ada"}
        billed = result("/events", type="order.paid", data={"order": 7})
        assert billed == {"bill": {"result": "bill for order 7"}, "post": {}}
    finally:
        assert server.stop() == 0


@dataclass
class Row:
    """A row of the model of the page, and the model."""

    job_id: str
    status: str = ""
    files: dict[str, str] = field(default_factory=dict)
    saved: bool = False

    def save(self) -> None:
        self.saved = True


def test_the_recipe_for_django_goes_on_after_a_job_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _view, code, *_rest = blocks(page("howto/sidecar.md"), "py")
    assert "class Command" in code
    with serving(tmp_path / "data", workers="1") as server:
        jobs = [server.upload(f"{number}.txt", b"text") for number in range(2)]
        for job in jobs:
            server.finished(job)
        bearer = f"Bearer {server.token}"
        server.request("DELETE", f"/jobs/{jobs[0]}", Authorization=bearer)
        rows = [Row(job) for job in jobs]
        settings = SimpleNamespace(
            ASYNCFLOW_URL=server.url, ASYNCFLOW_TOKEN=server.token
        )
        model = SimpleNamespace(objects=SimpleNamespace(filter=lambda **_: rows))
        modules: dict[str, dict[str, object]] = {
            "django.conf": {"settings": settings},
            "django.core.management.base": {"BaseCommand": object},
            "photos.models": {"Upload": model},
        }
        for name, held in modules.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**held))
        names: dict[str, Any] = {}
        exec(compile(code, "ask_for_uploads.py", "exec"), names)  # noqa: S102 -- our own page
        names["Command"]().handle()
    assert [row.status for row in rows] == ["DELETED", "COMPLETED"]
    assert [row.saved for row in rows] == [True, True]
    assert "original" in rows[1].files
