"""A server that may open few files: it refuses, loses nothing, and recovers."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.server_process import ServerProcess
from tests.web.live import until

LIMIT = 120


@contextlib.contextmanager
def crowded(server: ServerProcess) -> Iterator[None]:
    """Take every descriptor that the server has left, by connecting."""
    where = urlsplit(server.url)
    assert where.hostname is not None
    with contextlib.ExitStack() as stack:
        for _ in range(LIMIT):
            link = socket.create_connection((where.hostname, where.port or 0), 5)
            stack.callback(link.close)
        until(lambda: _open_files(server) >= LIMIT - 2)
        yield


def _open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_a_server_without_descriptors_works_again_once_it_has_some(
    tmp_path: Path,
) -> None:
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={"workers": "1"},
        wrap=("sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"),
    ).start()
    try:
        before = server.upload("before.txt", b"kept")
        server.finished(before)
        with crowded(server):
            # whoever is not let in waits, and nothing breaks
            assert server.process is not None
            assert server.process.poll() is None

        until(lambda: _answers(server))
        after = server.upload("after.txt", b"kept, too")
        assert server.finished(after)["status"] == "COMPLETED"
        for job, data in ((before, b"kept"), (after, b"kept, too")):
            found = server.request("GET", f"/jobs/{job}/files/original")
            assert found.body == data
    finally:
        assert server.stop() == 0


def _answers(server: ServerProcess) -> bool:
    with contextlib.suppress(OSError):
        return server.request("GET", "/readyz", timeout=2).status == 200
    return False
