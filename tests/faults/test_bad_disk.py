"""A disk that loses bytes, and blobs that cannot be read: only they suffer."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import probe
from tests.faults.conftest import Make
from tests.server_process import Answer, ServerProcess

TUS: Mapping[str, Any] = {"Tus_Resumable": "1.0.0"}
DATA = probe.text(parts=1).ljust(300_000)
THIRD = len(DATA) // 3


def begin(server: ServerProcess) -> str:
    """Create an upload of DATA; return its id."""
    answer = server.request("POST", "/files/", b"", **TUS, Upload_Length=str(len(DATA)))
    assert answer.status == 201, answer.body
    return answer.headers["location"].rpartition("/")[2]


def send(server: ServerProcess, upload: str, start: int, end: int) -> Answer:
    """Send DATA from *start* to *end*."""
    return server.request(
        "PATCH",
        f"/files/{upload}",
        DATA[start:end],
        **TUS,
        Upload_Offset=str(start),
        Content_Type="application/offset+octet-stream",
    )


def look(server: ServerProcess, upload: str) -> Answer:
    return server.request("HEAD", f"/files/{upload}", **TUS)


def blob(folder: Path, upload: str) -> Path:
    """Return where an upload's bytes lie."""
    return folder / "store" / "raw" / upload[-2:] / upload


@contextmanager
def losing(server: ServerProcess, path: Path) -> Iterator[None]:
    """Let every sync of one file fail, as on a disk with bad blocks."""
    command = ["strace", "-f", "-p", str(server.pid), "-P", str(path)]
    command += ["-e", "trace=fdatasync,fsync"]
    command += ["-e", "inject=fdatasync,fsync:error=EIO"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=20)


@pytest.mark.needs("strace")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can trace a running server")
def test_bytes_that_a_sync_lost_are_never_told(make: Make, tmp_path: Path) -> None:
    server = make()
    upload = begin(server)
    assert send(server, upload, 0, THIRD).status == 204

    with losing(server, blob(tmp_path / "data", upload)):
        refused = send(server, upload, THIRD, 2 * THIRD)
        assert look(server, upload).headers["upload-offset"] == str(THIRD)

    assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers
    assert look(server, upload).headers["upload-offset"] == str(THIRD)
    assert send(server, upload, THIRD, len(DATA)).status == 204
    assert server.finished(upload)["status"] == "COMPLETED"
    assert blob(tmp_path / "data", upload).read_bytes() == DATA


def test_a_blob_that_is_no_file_keeps_no_server_from_starting(
    make: Make, tmp_path: Path
) -> None:
    server = make()
    bad, good = begin(server), begin(server)
    assert send(server, bad, 0, THIRD).status == 204
    assert send(server, good, 0, THIRD).status == 204
    server.kill()
    elsewhere = tmp_path / "elsewhere"
    blob(tmp_path / "data", bad).rename(elsewhere)
    blob(tmp_path / "data", bad).symlink_to(elsewhere)
    with blob(tmp_path / "data", good).open("ab") as file:
        file.write(DATA[THIRD:])

    again = make()

    assert again.finished(good)["status"] == "COMPLETED"
    assert send(again, bad, THIRD, len(DATA)).status >= 400
    assert elsewhere.read_bytes() == DATA[:THIRD]
    assert again.stop() == 0
