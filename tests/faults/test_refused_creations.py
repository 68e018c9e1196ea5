"""Uploads that the store could not begin: they count nowhere, and may come again."""

import base64
import contextlib
import http.client
import json
import resource
import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from tests.faults import watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess
from tests.web.live import rows

LARGE = b"x" * 3_000_000
TUS: Mapping[str, str] = {"Tus-Resumable": "1.0.0"}
CREATION = {**TUS, "Upload-Length": str(len(LARGE))}
BOUNDARY = "between"
HEAD = 'Content-Disposition: form-data; name="file"; filename="a.txt"'
FORM = f"--{BOUNDARY}\r\n{HEAD}\r\n\r\n".encode() + LARGE
FORM += f"\r\n--{BOUNDARY}--\r\n".encode()
IS_FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
IS_JSON = {"Content-Type": "application/json"}


def chunk(n: int, **said: str) -> bytes:
    data = base64.b64encode(b"some bytes").decode()
    return json.dumps(
        {"chunkIndex": n, "totalChunks": 2, "chunk": data, **said}
    ).encode()


class Clients:
    """Connections that are there before the descriptors are gone."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        where = urlsplit(server.url)
        self._links = [
            http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
            for _ in range(count)
        ]
        for link in self._links:
            link.request("GET", "/livez")
            assert link.getresponse().read()

    def ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> set[tuple[int, str, bool]]:
        """Ask on each; tell the status, a refusal's code, and whether to come again."""
        found = set()
        for link in self._links:
            link.request(method, path, body, dict(headers))
            answer = link.getresponse()
            told = answer.read()
            code = json.loads(told)["code"] if answer.status >= 400 else ""
            found.add((answer.status, code, "retry-after" in answer.headers))
        for link in self._links:
            link.close()
        return found


def no_descriptor(server: ServerProcess) -> contextlib.AbstractContextManager[None]:
    """Let the server open nothing, whatever it closes, beside what it has open."""
    return watch.limit(server, resource.RLIMIT_NOFILE, 3)


def open_uploads(server: ServerProcess) -> int:
    ((found,),) = rows(server, "SELECT count(*) FROM upload WHERE state = 'receiving'")
    return int(found)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", "/files/", CREATION, b""),
        ("POST", "/files/", {**CREATION, "Idempotency-Key": "once"}, b""),
        ("POST", "/files/", {**CREATION, "Upload-Concat": "partial"}, b""),
        ("PUT", "/upload/a.txt", {}, LARGE),
        ("POST", "/upload", IS_FORM, FORM),
        ("POST", "/upload/chunked", IS_JSON, chunk(0)),
    ],
    ids=["tus", "repeatable", "part", "raw", "form", "chunk"],
)
def test_an_upload_that_the_store_cannot_begin_counts_nowhere(
    make: Make, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> None:
    server = make(quota_bytes="10MB", open_uploads="4")
    clients = Clients(server, 4)
    with no_descriptor(server):
        refused = clients.ask(method, path, body, headers)

    assert refused == {(503, "busy", True)}
    assert open_uploads(server) == 0
    ((status, _, _),) = Clients(server, 1).ask(method, path, body, headers)
    assert status in {200, 201, 202}
    # all of the quota that this one has left
    assert Clients(server, 2).ask("POST", "/files/", b"", CREATION) == {
        (201, "", False)
    }
    assert "Traceback" not in server.log()
    assert server.stop() == 0


def test_a_file_in_chunks_that_could_not_be_begun_goes_on_under_its_own_id(
    make: Make,
) -> None:
    server = make()
    clients, job = Clients(server, 2), str(uuid.uuid4())
    where = ("POST", "/upload/chunked")
    with no_descriptor(server):
        refused = clients.ask(*where, chunk(0, jobId=job), IS_JSON)
    assert refused == {(503, "busy", True)}

    for n, status in enumerate((200, 202)):
        sent = Clients(server, 1).ask(*where, chunk(n, jobId=job), IS_JSON)
        assert sent == {(status, "", False)}
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.stop() == 0
