"""The server is killed at each point that matters, and goes on where it was.

What a client was promised before and after is held against the data folder.
`ASYNCFLOW_TIMES` says up to which time of each point it is killed (2).
"""

import hashlib
import http.client
import io
import json
import os
import random
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.crash.at_point import POINTS
from tests.crash.evidence import Evidence
from tests.server_process import FINAL, Answer, ServerProcess

AT_POINT = Path(__file__).with_name("at_point.py")
ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "tests" / "tasks" / "work_to_do.py"
LOST = (OSError, http.client.HTTPException)
CHUNK = "application/offset+octet-stream"
GIVE_UP_S = 120.0
TIMES = int(os.environ.get("ASYNCFLOW_TIMES", "2"))
#: what happens once in the life of the server under test
ONCE = {"retry during replay", "shutdown"}
TUS: dict[str, Any] = {"Tus_Resumable": "1.0.0"}


def _times(point: str) -> int:
    return 1 if point in ONCE else TIMES


def photo() -> bytes:
    made = io.BytesIO()
    Image.effect_noise((320, 240), 60).convert("RGB").save(made, "JPEG", quality=95)
    return made.getvalue()


class Client:
    """Does what clients do, and when the server is gone, starts it and goes on."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.kills = 0

    def insist(self, ask: Callable[[], Answer]) -> Answer:
        end = time.monotonic() + GIVE_UP_S
        while time.monotonic() < end:
            try:
                return ask()
            except LOST:
                self.revive()
        raise AssertionError("the server does not answer")

    def revive(self) -> None:
        """Start the server again if it is gone, this time to stay."""
        process = self.server.process
        assert process is not None
        try:
            code = process.wait(0.5)
        except TimeoutError:
            return
        except Exception:  # noqa: BLE001 -- subprocess.TimeoutExpired: it lives
            return
        assert code == -9, self.server.log()[-3000:]
        self.kills += 1
        if process.stdout is not None:
            process.stdout.close()
        self.server.wrap = ()
        self.server.start()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **h: Any
    ) -> Answer:
        return self.insist(lambda: self.server.request(method, path, body, **h))

    def upload(self, data: bytes) -> str:
        """Upload in three parts; after a crash, from where the server is."""
        headers = {**TUS, "Idempotency_Key": hashlib.sha256(data).hexdigest()}
        headers["Upload_Length"] = str(len(data))
        headers["Upload_Metadata"] = "filename YS5qcGc="
        made = self.ask("POST", "/files/", **headers)
        assert made.status == 201, made.body
        job = made.headers["asyncflow-job-id"]
        told = 0
        while told < len(data):
            looked = self.ask("HEAD", f"/files/{job}", **TUS)
            offset = int(looked.headers["upload-offset"])
            # what was acknowledged is never taken back
            assert offset >= told
            part = data[offset : offset + len(data) // 3 + 1]
            try:
                more = {**TUS, "Content_Type": CHUNK, "Upload_Offset": str(offset)}
                answer = self.server.request("PATCH", f"/files/{job}", part, **more)
            except LOST:
                self.revive()
                looked = self.ask("HEAD", f"/files/{job}", **TUS)
                told = int(looked.headers["upload-offset"])
                continue
            assert answer.status == 204, answer.body
            told = int(answer.headers["upload-offset"])
        return job

    def upload_as_drafted(self, data: bytes) -> str:
        """Upload in two requests of the IETF draft, the second of which is the last."""
        key = hashlib.sha256(data).hexdigest()
        headers: dict[str, Any] = {"Idempotency_Key": key, "Upload_Complete": "?0"}
        headers["Upload_Length"] = str(len(data))
        made = self.ask("POST", "/files/", **headers)
        assert made.status == 201, made.body
        path = f"/files/{made.headers['asyncflow-job-id']}"
        for end, is_last in ((len(data) // 2, "?0"), (len(data), "?1")):
            while True:
                looked = self.ask("HEAD", path, Upload_Complete="?0")
                offset = int(looked.headers["upload-offset"])
                if offset == len(data):
                    # all of the last request has come, and it has said that it is that
                    assert looked.headers["upload-complete"] == "?1"
                if offset >= end:
                    break
                said: dict[str, Any] = {"Content_Type": "application/partial-upload"}
                said |= {"Upload_Complete": is_last, "Upload_Offset": str(offset)}
                part = data[offset:end]
                try:
                    answer = self.server.request("PATCH", path, part, **said)
                except LOST:
                    self.revive()
                else:
                    assert answer.status in {200, 204}, answer.body
        return made.headers["asyncflow-job-id"]

    def upload_in_chunks(self, data: bytes) -> str:
        """Upload in three chunks."""
        job, size = str(uuid.uuid4()), len(data) // 3 + 1
        form = {"Content_Type": "multipart/form-data; boundary=edge"}
        for n in range(3):
            fields = {"chunkIndex": n, "totalChunks": 3, "jobId": job}
            head = "".join(
                f'--edge\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'
                for k, v in {**fields, "fileName": "a.jpg"}.items()
            )
            head += '--edge\r\nContent-Disposition: form-data; name="chunk"\r\n\r\n'
            piece = data[n * size : (n + 1) * size]
            body = head.encode() + piece + b"\r\n--edge--\r\n"
            answer = self.ask("POST", "/upload/chunked", body, **form)
            assert answer.status == (200 if n < 2 else 202), answer.body
        return job

    def ways(self, count: int, *, turned: bool) -> list[Callable[[bytes], str]]:
        """Return how files go up, *count* by tus; *turned*, others meet the point."""
        ways: list[Callable[[bytes], str]] = [self.upload] * count
        others: list[Callable[[bytes], str]] = [
            *[self.upload_as_drafted] * 2,
            *[self.upload_in_chunks] * 2,
        ]
        return others + ways if turned else ways + others

    def submit(self, path: str, **said: object) -> str:
        said["idempotencyKey"] = f"{random.random()}"
        body = json.dumps(said).encode()
        answer = self.ask("POST", path, body)
        assert answer.status == 202, answer.body
        return str(answer.json.get("taskId") or answer.json["jobId"])

    def finished(self, job: str) -> Any:
        end = time.monotonic() + GIVE_UP_S
        while (found := self.ask("GET", f"/status/{job}").json)["status"] not in FINAL:
            assert time.monotonic() < end, f"{found}\n{self.server.log()[-3000:]}"
            time.sleep(0.02)
        return found

    def operate(self, path: str, said: object = None) -> Answer:
        body = None if said is None else json.dumps(said).encode()
        bearer = f"Bearer {self.server.token}"
        return self.ask("POST", f"/admin/{path}", body, Authorization=bearer)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("point", "nth"),
    [(point, n) for point in POINTS for n in range(1, _times(point) + 1)],
)
def test_a_server_killed_at(point: str, nth: int, tmp_path: Path) -> None:
    shutil.copy(WORK, tmp_path)
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={
            "processors": "work_to_do",
            "workers": "2",
            "log_level": "warning",
        },
        wrap=(
            *("env", f"PYTHONPATH={ROOT}:{tmp_path}"),
            *(sys.executable, str(AT_POINT), point, str(nth)),
        ),
    )
    client = Client(server)
    try:
        try:
            server.start()
        except AssertionError:
            # it met the point while it started
            client.revive()
        count = max(3, nth)
        ways = client.ways(count, turned=nth % 2 == 0)
        files = [photo() for _ in ways]
        sent = {send(data): data for send, data in zip(ways, files, strict=True)}
        tasks = [client.submit("/tasks", name="add", payload=[n]) for n in range(count)]
        dead = [client.submit("/tasks", name="refuse", payload=n) for n in range(count)]
        paid = {"type": "order.paid", "data": {"order": 7}}
        events = [client.submit("/events", **paid) for _ in range(count)]
        for job in (*sent, *tasks, *dead, *events):
            client.finished(job)
        since = {"since": "2020-01-01T00:00:00Z"}
        assert client.operate("consumers/bill/replay", since).status == 202
        come_to_rest(client)
        ended_well = server.process is not None and server.stop() == 0
        if not ended_well:
            client.kills += 1
            server.wrap = ()
            server.start()
            come_to_rest(client)
            assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()

    assert client.kills == 1, "the server never came to this point"
    evidence = Evidence(server.data_dir)
    evidence.check()
    assert evidence.ask("SELECT 1 FROM job WHERE is_part") == []
    evidence.check_originals(
        {job: hashlib.sha256(data).hexdigest() for job, data in sent.items()}
    )
    usual = {"COMPLETED"} | ({"CANCELLED"} if point.startswith("cancel") else set())
    states = evidence.states([*sent, *tasks, *events])
    assert {state for state, _ in states.values()} <= usual
    assert {s for s, _ in evidence.states(dead).values()} <= {"FAILED", "CANCELLED"}
    check_once(evidence)


def come_to_rest(client: Client) -> None:
    """Wait until nothing waits or runs, and the trash is empty."""
    evidence, end = Evidence(client.server.data_dir), time.monotonic() + GIVE_UP_S
    busy = "SELECT 1 FROM step WHERE state IN('waiting','ready','running','retrying')"
    given_up = "SELECT 1 FROM upload WHERE state = 'ended' AND expires = 0"
    while any(map(evidence.ask, (busy, given_up, "SELECT 1 FROM trash"))):
        assert time.monotonic() < end, "it does not come to rest"
        client.revive()
        time.sleep(0.05)


def check_once(evidence: Evidence) -> None:
    """Each step that is done has said so once, and what it caused is there once."""
    doubled = evidence.ask(
        "SELECT job_id, run, consumer, count(*) FROM step WHERE detached = 0"
        " GROUP BY 1, 2, 3 HAVING count(*) > 1"
    )
    assert doubled == []
    said = evidence.ask(
        "SELECT job_id, run, type, count(*) FROM event WHERE type LIKE '%.completed'"
        " GROUP BY 1, 2, 3 HAVING count(*) > 1"
    )
    assert said == []
