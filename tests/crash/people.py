"""People who upload through crashes, and remember what they were promised."""

import hashlib
import http.client
import io
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tests.faults import probe
from tests.server_process import ServerProcess

CHUNK = "application/offset+octet-stream"
#: what a client of a crashed server meets
LOST = (OSError, http.client.HTTPException)
GIVE_UP_S = 120.0


def photo(rng: random.Random, width: int, height: int) -> bytes:
    """Return a JPEG that no other upload has."""
    picture = Image.frombytes("RGB", (64, 48), rng.randbytes(64 * 48 * 3))
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def some_file(rng: random.Random) -> tuple[str, bytes]:
    """Return a name and the bytes of a file: small and larger photos, and text."""
    match rng.randrange(6):
        case 0 | 1:
            return "small.jpg", photo(rng, 320, 240)
        case 2:
            return "large.jpg", photo(rng, 2400, 1800)
        case _:
            orders = {
                "parts": rng.randrange(1, 4),
                "before": rng.uniform(0, 0.1),
                "between": rng.uniform(0, 0.1),
                "salt": rng.random(),
            }
            return "probe.txt", probe.text(**orders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A file that the server has taken responsibility for."""

    name: str
    size: int
    sha256: str


class ServerDown(Exception):
    """The server did not come back."""


@dataclass(slots=True, kw_only=True)
class Person:
    """Uploads one file after the other until told to stop; resumes after crashes."""

    server: ServerProcess
    rng: random.Random
    stop: threading.Event
    up: threading.Event
    #: what was accepted: job to file
    accepted: dict[str, Sent] = field(default_factory=dict)
    #: what was seen of finished probes: job and name to bytes
    seen: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: jobs that were deleted, and the server said so
    deleted: set[str] = field(default_factory=set)
    resumed: int = 0
    failure: BaseException | None = None

    def live(self) -> None:
        """Upload and look until told to stop; then finish what was begun."""
        try:
            while not self.stop.is_set():
                name, data = some_file(self.rng)
                if self.rng.random() < 0.7:
                    self._resumable(name, data)
                else:
                    self._at_once(name, data)
                self._look()
                if self.rng.random() < 0.15:
                    self._close_one()
                self.stop.wait(self.rng.uniform(0.0, 0.2))
        except Exception as failure:  # noqa: BLE001 -- told to the test
            self.failure = failure

    def _at_once(self, name: str, data: bytes) -> None:
        """Send a file in one request; without an answer nothing was promised."""
        try:
            status, _headers, body = self._ask("PUT", f"/upload/{name}", data)
        except LOST:
            self._wait()
            return
        assert status == 202, body
        job = json.loads(body)["jobId"]
        self._accepted(job, name, data)

    def _resumable(self, name: str, data: bytes) -> None:
        upload = self._insist(lambda: self._create(len(data), name))
        acknowledged = 0
        while acknowledged < len(data):
            end = acknowledged + self.rng.randrange(10_000, 500_000)
            part = data[acknowledged:end]
            try:
                acknowledged = self._patch(upload, acknowledged, part)
            except LOST:
                self._wait()
                offset = self._insist(lambda: self._offset(upload))
                assert offset >= acknowledged, "an acknowledged byte is gone"
                self.resumed += 1
                acknowledged = offset
        self._accepted(upload, name, data)

    def _accepted(self, job: str, name: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.accepted[job] = Sent(name=name, size=len(data), sha256=digest)

    def _create(self, length: int, name: str) -> str:
        coded = {"small.jpg": "c21hbGwuanBn", "large.jpg": "bGFyZ2UuanBn"}
        status, headers, body = self._ask(
            "POST",
            "/files/",
            b"",
            **{
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(length),
                "Upload-Metadata": f"filename {coded.get(name, 'cHJvYmUudHh0')}",
            },
        )
        assert status == 201, body
        return headers["location"].rpartition("/")[2]

    def _patch(self, upload: str, offset: int, part: bytes) -> int:
        status, headers, body = self._ask(
            "PATCH",
            f"/files/{upload}",
            part,
            **{
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": str(offset),
                "Content-Type": CHUNK,
            },
        )
        assert status == 204, body
        told = int(headers["upload-offset"])
        assert told == offset + len(part)
        return told

    def _offset(self, upload: str) -> int:
        version = {"Tus-Resumable": "1.0.0"}
        status, headers, _body = self._ask("HEAD", f"/files/{upload}", None, **version)
        assert status == 200, "what was created is gone"
        return int(headers["upload-offset"])

    def _look(self) -> None:
        """Download what an accepted probe made, as soon as its job is complete."""
        known = {job for job, _name in self.seen}
        left = [
            job
            for job, sent in self.accepted.items()
            if sent.name == "probe.txt" and job not in known
        ]
        for job in left[:2]:
            try:
                _status, _headers, body = self._ask("GET", f"/status/{job}", None)
                found = json.loads(body)
                if found["status"] != "COMPLETED":
                    continue
                for made in found["files"]:
                    path = f"/jobs/{job}/files/{made['name']}"
                    status, _headers, body = self._ask("GET", path, None)
                    assert status == 200, body
                    self.seen[job, made["name"]] = body
            except LOST:
                self._wait()
                return

    def _close_one(self) -> None:
        """Cancel or delete a job, perhaps while it runs; then expect nothing of it."""
        job = next(reversed(self.accepted), None)
        if job is None:
            return
        del self.accepted[job]
        self.seen = {key: data for key, data in self.seen.items() if key[0] != job}
        deletes = self.rng.random() < 0.5
        try:
            status, _headers, body = (
                self._ask("DELETE", f"/jobs/{job}", None)
                if deletes
                else self._ask("POST", f"/jobs/{job}/cancel", b"")
            )
        except LOST:
            self._wait()
            return
        assert status < 300 or (status == 409 and not deletes), body
        if deletes:
            self.deleted.add(job)

    # ----- requests

    def _insist(self, ask: Callable[[], Any]) -> Any:
        for _ in range(200):
            try:
                return ask()
            except LOST:
                self._wait()
        raise ServerDown

    def _wait(self) -> None:
        """Wait until the server should be up again."""
        time.sleep(0.02)
        if not self.up.wait(GIVE_UP_S):
            raise ServerDown

    def _ask(
        self, method: str, path: str, body: bytes | None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        address = urllib.parse.urlsplit(self.server.url)
        assert address.hostname is not None
        link = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        try:
            if body is not None:
                headers["Content-Length"] = str(len(body))
            link.request(
                method, path, None if body is None else self._slowly(body), headers
            )
            answer = link.getresponse()
            named = {k.lower(): v for k, v in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            link.close()

    def _slowly(self, data: bytes) -> Iterator[bytes]:
        """Send in pieces, so that a crash meets half a body now and then."""
        for start in range(0, len(data), 16_384):
            yield data[start : start + 16_384]
            if self.rng.random() < 0.5:
                time.sleep(0.01)
