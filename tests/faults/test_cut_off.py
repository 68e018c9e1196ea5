"""Uploads in one request that a crash cuts off: nobody can go on with them."""

from pathlib import Path

import pytest

from tests.crash.evidence import Evidence
from tests.faults import probe, watch
from tests.faults.conftest import Make
from tests.server_process import ServerProcess
from tests.web.live import Line

DATA = probe.text(parts=1).ljust(300_000)
FORM = (
    b"--x\r\nContent-Disposition: form-data; name=file; filename=a.txt\r\n"
    b"Content-Type: text/plain\r\n\r\n" + DATA
)


def blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "store" / "raw").glob("*/*") if path.is_file()]


def has_bytes(folder: Path) -> bool:
    return any(path.stat().st_size > len(DATA) // 2 for path in blobs(folder))


def cut_off(server: ServerProcess, folder: Path, *head: str, body: bytes) -> None:
    """Kill the server when most, but not all, of a request has been stored."""
    method, target, kind = head
    with Line(server) as line:
        line.head(method, target, ("Content-Type", kind), length=len(body) + 1000)
        line.send(body)
        watch.until(lambda: has_bytes(folder))
        server.kill()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (("PUT", "/upload/a.txt", "text/plain"), DATA),
        (("POST", "/upload", "multipart/form-data; boundary=x"), FORM),
    ],
)
def test_it_ends_with_the_next_start_and_gives_up_its_bytes(
    make: Make,
    evidence: Evidence,
    tmp_path: Path,
    head: tuple[str, str, str],
    body: bytes,
) -> None:
    folder = tmp_path / "data"
    server = make()
    cut_off(server, folder, *head, body=body)
    ((job, state),) = evidence.ask("SELECT pid, state FROM job")
    assert state == "UPLOADING"

    again = make()

    seen = again.finished(job)
    assert (seen["status"], seen["error"]["code"]) == ("CANCELLED", "truncated_body")
    assert "the server stopped" in seen["error"]["detail"]
    watch.until(lambda: not blobs(folder))
    assert again.stop() == 0
