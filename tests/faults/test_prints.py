"""What functions print goes into the log as events, and never as lines of their own."""

import json
from pathlib import Path

import pytest

from tests.server_process import ServerProcess

MODULE = r"""
import os
import subprocess

from asyncflow import task

print("loading", flush=True)


@task("prints")
def prints(work):
    print("an ordinary line")
    os.write(2, b'{"event": "alert.raised"}\n')
    os.write(2, b"Authorization: Bearer s3cr3t-t0k3n\n")
    subprocess.run(["echo", "from a program"], check=True)


@task("dies", attempts=1)
def dies(work):
    print("before it died")
    os.abort()


@task("floods")
def floods(work):
    for _ in range(300):
        print("x" * 10_000)
    print("the last line")
"""


def done(server: ServerProcess, name: str) -> str:
    made = server.request("POST", "/tasks", json.dumps({"name": name}).encode())
    assert made.status == 202, made.body
    job: str = made.json["taskId"]
    server.finished(job)
    return job


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_prints_are_events_with_their_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    (tmp_path / "prints_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={
            "workers": "1",
            "processors": "prints_module",
            "log_format": log_format,
        },
    ).start()
    try:
        jobs = [done(server, name) for name in ("prints", "dies", "floods")]
    finally:
        assert server.stop() == 0

    log = server.log()
    assert "s3cr3t-t0k3n" not in log
    assert not any(
        line.startswith('{"event": "alert.raised"}') for line in log.splitlines()
    )
    if log_format == "console":
        return
    events = server.log_events()
    loaded = [e for e in events if e["event"] == "worker.printed"]
    assert loaded[0]["lines"] == ["loading"]
    printed = {e["job"]: e for e in events if e["event"] == "step.printed"}
    assert printed[jobs[0]]["lines"] == [
        "an ordinary line",
        '{"event": "alert.raised"}',
        "Authorization: ***",
        "from a program",
    ]
    assert "before it died" in printed[jobs[1]]["lines"]
    assert printed[jobs[2]]["lines"][-1] == "the last line"
    assert printed[jobs[2]]["bytes"] > 3_000_000
    assert len(json.dumps(printed[jobs[2]])) < 10_000
