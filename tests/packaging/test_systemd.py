"""The unit for systemd, and what the server tells a service manager."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.server_process import ServerProcess

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "asyncflow.service"


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.needs("systemd-analyze")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "asyncflow"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/asyncflow/bin/asyncflow", str(program))
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", tmp_path / UNIT.name],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def allowed(words: list[str]) -> set[str]:
    """Return the system calls that a SystemCallFilter lets through."""
    found: set[str] = set()
    groups = [word for word in words if word.startswith("@")]
    found |= set(words) - set(groups)
    while groups:
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", groups.pop()],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        inside = [line.strip() for line in listed.splitlines()[1:]]
        groups += [one for one in inside if one.startswith("@")]
        found |= {one for one in inside if one and one[0].isalpha()}
    return found


@pytest.mark.needs("strace")
@pytest.mark.needs("systemd-analyze")
def test_the_unit_lets_through_every_system_call_of_a_working_server(
    tmp_path: Path, picture: bytes
) -> None:
    trace = tmp_path / "trace"
    server = ServerProcess(
        data_dir=tmp_path / "data",
        wrap=("strace", "-f", "-c", "-U", "name", "-o", str(trace)),
    ).start()
    job = server.finished(server.upload("a.png", picture))
    assert job["status"] == "COMPLETED"
    child = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    subprocess.run(["kill", child.split()[0]], check=True)
    assert server.wait() == 0, server.log()[-2000:]
    used = set(re.findall(r"^(\w+)$", trace.read_text(), re.MULTILINE))
    assert {"openat", "landlock_restrict_self", "fdatasync"} <= used
    words = " ".join(settings()["SystemCallFilter"]).split()
    assert used - allowed(words) - {"syscall", "total"} == set()


def test_a_service_manager_hears_when_it_is_ready_and_when_it_stops(
    tmp_path: Path,
) -> None:
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(30)
        server = ServerProcess(
            data_dir=tmp_path / "data", wrap=("env", f"NOTIFY_SOCKET={place}")
        ).start()
        try:
            assert manager.recv(100) == b"READY=1"
            assert server.request("GET", "/readyz").status == 200
        finally:
            assert server.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_a_service_manager_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    server = ServerProcess(
        data_dir=tmp_path / "data",
        wrap=("env", f"NOTIFY_SOCKET={tmp_path / 'nobody'}"),
    ).start()
    assert server.request("GET", "/readyz").status == 200
    assert server.stop() == 0
