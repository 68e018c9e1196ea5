"""The wall clock is set forward and back while a server works."""

import json
import shutil
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import create, failures, patch, until

pytestmark = pytest.mark.needs("faketime")

WORK = Path(__file__).parent.parent / "tasks" / "work_to_do.py"
LIBRARY = "libfaketimeMT.so.1"


class Clock:
    """What the server takes for the time of day; its monotonic clock is real."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.set("+0")
        (library,) = Path("/usr/lib").glob(f"*/faketime/{LIBRARY}")
        self.wrap = (
            "env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_NO_CACHE=1",
        )

    def set(self, offset: str) -> None:
        """Set the clock, such as `+1d` from the real time."""
        self.file.write_text(f"{offset}\n")


def submit(server: ServerProcess, name: str, payload: object, **more: object) -> str:
    said = {"name": name, "payload": payload, **more}
    answer = server.request("POST", "/tasks", json.dumps(said).encode())
    assert answer.status == 202, answer.body
    return str(answer.json["taskId"])


@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_nothing_is_lost_or_done_twice_when_the_clock_jumps(
    tmp_path: Path, jump: str
) -> None:
    shutil.copy(WORK, tmp_path)
    clock = Clock(tmp_path)
    settings = {"processors": "work_to_do", "workers": "2", "lease": "2s"}
    server = ServerProcess(
        data_dir=tmp_path / "data", settings=settings, wrap=clock.wrap
    ).start()
    try:
        upload = create(server, 6)
        assert patch(server, upload, 0, b"abc").status == 204
        running = submit(server, "hold", 4)
        later = submit(server, "add", [1], delay=20)
        until(lambda: server.status(running)["status"] == "PROCESSING")

        clock.set(jump)

        # a step that ran over the jump, longer than its lease, was never taken away
        held = server.finished(running)
        assert (held["status"], held["steps"][0]["attempts"]) == ("COMPLETED", 1)
        assert server.finished(submit(server, "add", [2]))["status"] == "COMPLETED"
        # what had to wait for a time of day waits as that clock says
        due = {"+30d": "COMPLETED", "-30d": "PENDING"}[jump]
        until(lambda: server.status(later)["status"] == due)
        # an unfinished upload has expired if its day is over, and else goes on
        answer = patch(server, upload, 3, b"def")
        assert answer.status in ({404, 410} if jump == "+30d" else {204})

        clock.set("+0")

        assert server.finished(submit(server, "add", [3]))["status"] == "COMPLETED"
        assert failures(server) == []
    finally:
        assert server.stop() == 0
