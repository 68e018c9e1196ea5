"""curl, as a person would resume with it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import create, healthy_server, metadata, offset_of

pytestmark = pytest.mark.needs("curl")

DATA = b"bytes for a program that everybody has\n" * 20_000
HALF = len(DATA) // 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("curl")) as found:
        yield found


def curl(*args: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body


def test_curl_goes_on_where_an_upload_stopped(
    server: ServerProcess, tmp_path: Path
) -> None:
    upload = create(server, len(DATA), metadata(filename="words.txt"))
    for name, piece in (("first", DATA[:HALF]), ("rest", DATA[HALF:])):
        file = tmp_path / name
        file.write_bytes(piece)
        curl(
            *("-X", "PATCH", "--data-binary", f"@{file}"),
            *("-H", "Tus-Resumable: 1.0.0"),
            *("-H", "Content-Type: application/offset+octet-stream"),
            *("-H", f"Upload-Offset: {offset_of(server, upload)}"),
            f"{server.url}/files/{upload}",
        )
    assert original(server, upload) == DATA


def test_curl_passes_over_104_and_sends_its_file(
    server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(DATA)
    headers = curl(
        *("--data-binary", f"@{file}", "-o", "/dev/null", "-D", "-"),
        *("-H", "Upload-Draft-Interop-Version: 8", "-H", "Upload-Complete: ?1"),
        *("-H", 'Content-Disposition: attachment; filename="words.txt"'),
        f"{server.url}/files/",
    )
    lines = headers.splitlines()
    assert lines[0] == "HTTP/1.1 104 Upload Resumption Supported"
    assert "HTTP/1.1 201 Created" in lines
    found = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    assert original(server, found["asyncflow-job-id"]) == DATA


def test_the_documented_way_to_go_on_works(
    server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" + bytes(5000))
    said = Path("docs/reference/http.md").read_text()
    begins = "curl -i -X POST -H 'Upload-Complete: ?0'"
    commands = said[said.index(begins) :].split("```")[0].splitlines()
    assert len(commands) == 3
    upload = ""
    for command in commands:
        mine = command.replace("http://127.0.0.1:8080", server.url)
        # of the thousand bytes that came before the break, none has come here
        mine = mine.replace("ID", upload).replace("1001", "1").replace("1000", "0")
        done = subprocess.run(
            ["/bin/sh", "-c", mine.replace("curl", "curl -sSf", 1)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        headers = dict(
            line.lower().split(": ", 1)
            for line in done.stdout.splitlines()
            if ": " in line
        )
        upload = upload or headers["asyncflow-job-id"]
    assert server.status(upload)["fileSize"] == 5003
    assert server.status(upload)["fileName"] == "photo.jpg"
