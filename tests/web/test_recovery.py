"""What a server that died left, and the next one meets while it serves already."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from asyncflow.recovery import AT_ONCE
from tests.server_process import ServerProcess
from tests.web.live import (
    TUS,
    Line,
    create,
    half_open,
    healthy_server,
    look,
    offset_of,
    patch,
    until,
)

DATA = b"some text that a server left when it died\n" * 30
HALF = len(DATA) // 2
#: nothing reads so much within a test
ENDLESS = 1 << 40


def blob(server: ServerProcess, upload: str) -> Path:
    (path,) = (server.data_dir / "store").rglob(upload)
    return path


def change(server: ServerProcess, upload: str, **columns: object) -> None:
    """Change the row of an upload while no server runs."""
    names = ", ".join(f"{name} = ?" for name in columns)
    which = "job_id = (SELECT id FROM job WHERE pid = ?)"
    with closing(sqlite3.connect(server.data_dir / "asyncflow.db")) as db, db:
        db.execute(
            f"UPDATE upload SET {names} WHERE {which}",  # noqa: S608 -- names are ours
            (*columns.values(), upload),
        )


@contextmanager
def dead(server: ServerProcess) -> Iterator[None]:
    """Kill the server, and start another one that has enough to do for ever."""
    blockers = [create(server, 5) for _ in range(AT_ONCE)]
    server.kill()
    for upload in blockers:
        # it is whole, and it takes very long to see whether it is the right one
        with blob(server, upload).open("wb") as file:
            os.truncate(file.fileno(), ENDLESS)
        digest = "sha256:" + hashlib.sha256(b"other").hexdigest()
        change(server, upload, length=ENDLESS, digest=digest)
    yield
    server.log_path.unlink()
    server.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path) as found:
        yield found


def test_a_server_listens_before_it_has_looked_at_what_another_one_left(
    server: ServerProcess,
) -> None:
    with dead(server):
        pass
    assert server.request("GET", "/readyz").status == 200
    sent = server.request("PUT", "/upload/new.txt", DATA)
    assert sent.status == 202
    assert server.finished(sent.json["jobId"])["status"] == "COMPLETED"
    assert server.stop() == 0
    server.start()


def test_who_names_an_upload_that_nobody_has_looked_at_meets_it_as_it_is(
    server: ServerProcess,
) -> None:
    whole, late, begun = (create(server, len(DATA)) for _ in range(3))
    assert patch(server, begun, 0, DATA[:HALF]).status == 204
    with dead(server):
        # as if it had died between the last byte and the job
        for upload in (whole, late):
            blob(server, upload).write_bytes(DATA)
        change(server, late, expires=1)
    for upload in (whole, late):
        # its time was over before anybody could look at it: that takes nothing away
        assert offset_of(server, upload) == len(DATA)
        assert server.finished(upload)["status"] == "COMPLETED"
    assert offset_of(server, begun) == HALF
    assert patch(server, begun, HALF, DATA[HALF:]).status == 204
    assert look(server, begun).headers["upload-offset"] == str(len(DATA))
    assert server.finished(begun)["status"] == "COMPLETED"
    found = server.request("GET", f"/jobs/{begun}/files/original")
    assert found.body == DATA


def test_what_nobody_can_go_on_with_ends_when_it_is_named(
    server: ServerProcess,
) -> None:
    line = Line(server)
    line.head("PUT", "/upload/a.txt", length=len(DATA))
    line.send(DATA[:HALF])
    (upload,) = until(
        lambda: [path.name for path in (server.data_dir / "store").rglob("raw/*/*")]
    )
    with dead(server):
        pass
    line.sock.close()
    assert look(server, upload).status == 410
    assert server.status(upload)["error"]["code"] == "truncated_body"


def test_an_upload_that_fills_while_it_is_recovered_keeps_its_offset(
    server: ServerProcess,
) -> None:
    upload = create(server, len(DATA))
    with half_open(server, upload, 0, DATA[:HALF], length=len(DATA)):
        until(lambda: blob(server, upload).stat().st_size == HALF)
        with dead(server):
            pass
    at = offset_of(server, upload)
    with half_open(server, upload, at, DATA[at : at + 9], length=len(DATA) - at):
        until(lambda: server.status(upload)["uploadedBytes"] == at + 9)
    assert offset_of(server, upload) == at + 9
    assert patch(server, upload, at + 9, DATA[at + 9 :]).status == 204
    assert server.finished(upload)["status"] == "COMPLETED"


def test_quotas_hold_for_what_nobody_has_looked_at(tmp_path: Path) -> None:
    with healthy_server(tmp_path, quota_bytes="100000") as server:
        with Line(server) as line:
            defer = ("Upload-Defer-Length", "1")
            made = line.ask("POST", "/files/", TUS, defer)
        upload = made.headers["asyncflow-job-id"]
        assert patch(server, upload, 0, bytes(60_000)).status == 204
        with dead(server):
            pass
        sent = server.request("PUT", "/upload/new.bin", bytes(50_000))
        assert (sent.status, sent.json["code"]) == (507, "quota_exceeded")
