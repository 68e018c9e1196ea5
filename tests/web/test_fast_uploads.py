"""Large uploads through the whole server: what holds for small ones holds for them."""

import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Line,
    code_of,
    create,
    half_open,
    healthy_server,
    metadata,
    offset_of,
    patch,
    until,
)

MIB = 1 << 20


def some_bytes(count: int, seed: str = "a") -> bytes:
    return hashlib.shake_128(seed.encode()).digest(count)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("fast")) as found:
        yield found


def stored(server: ServerProcess, upload: str) -> bytes:
    return (server.data_dir / "store/raw" / upload[-2:] / upload).read_bytes()


def test_the_capabilities_say_that_the_fast_path_is_on(server: ServerProcess) -> None:
    assert server.request("GET", "/capabilities").json["fastPath"] is True


def test_a_large_file_arrives_in_one_patch(server: ServerProcess) -> None:
    data = some_bytes(40 * MIB + 3)
    upload = create(server, len(data))
    assert patch(server, upload, 0, data).headers["upload-offset"] == str(len(data))
    assert stored(server, upload) == data


def test_a_raw_upload_arrives_whole(server: ServerProcess) -> None:
    data = some_bytes(9 * MIB + 1)
    assert stored(server, server.upload("noise.bin", data)) == data


def test_every_byte_before_a_disconnect_is_kept_and_the_upload_goes_on(
    server: ServerProcess,
) -> None:
    data = some_bytes(12 * MIB)
    upload = create(server, len(data))
    cut = 4_500_001
    with half_open(server, upload, 0, data[:cut], length=len(data)) as line:
        line.sock.shutdown(socket.SHUT_WR)
        assert code_of(line.answer()) == "truncated_body"
    assert offset_of(server, upload) == cut
    assert patch(server, upload, cut, data[cut:]).status == 204
    assert stored(server, upload) == data


def test_a_newcomer_stops_a_large_body_and_no_late_byte_lands(
    server: ServerProcess,
) -> None:
    data = some_bytes(20 * MIB)
    upload = create(server, len(data))
    with half_open(server, upload, 0, data[: 8 * MIB], length=len(data)) as line:
        until(lambda: server.status(upload).get("uploadedBytes") == 8 * MIB)
        offset = offset_of(server, upload)
        assert offset == 8 * MIB
        assert code_of(line.answer()) == "upload_preempted"
    other = some_bytes(12 * MIB, "other")
    assert patch(server, upload, offset, other).status == 204
    assert stored(server, upload) == data[:offset] + other


def test_progress_is_told_while_a_large_body_arrives(server: ServerProcess) -> None:
    upload = create(server, 20 * MIB)
    with half_open(server, upload, 0, some_bytes(3 * MIB), length=20 * MIB) as line:
        until(lambda: server.status(upload).get("uploadedBytes") == 3 * MIB)
        line.send(some_bytes(5))
        until(lambda: server.status(upload).get("uploadedBytes") == 3 * MIB + 5)


def test_a_lying_type_is_refused_before_most_of_the_body(
    server: ServerProcess,
) -> None:
    upload = create(server, 50 * MIB, metadata(filename="a.png", filetype="image/png"))
    data = b"%PDF-1.7\n" + some_bytes(MIB)
    with half_open(server, upload, 0, data, length=50 * MIB) as line:
        assert code_of(line.answer()) == "type_mismatch"


def test_a_checksum_of_a_large_body_is_checked(server: ServerProcess) -> None:
    data = some_bytes(3 * MIB)
    upload = create(server, len(data))
    wrong = ("Upload-Checksum", "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
    assert patch(server, upload, 0, data, wrong).status == 460
    assert offset_of(server, upload) == 0


def test_requests_go_on_behind_a_large_body_on_the_same_connection(
    server: ServerProcess,
) -> None:
    data = some_bytes(4 * MIB)
    upload = create(server, len(data))
    with Line(server) as line:
        at = ("Upload-Offset", "0")
        line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, length=len(data))
        sending = threading.Thread(target=line.send, args=(data,))
        sending.start()
        sending.join()
        line.head("HEAD", f"/files/{upload}", TUS)
        line.head("GET", "/livez")
        assert line.answer().status == 204
        assert line.answer(has_body=False).headers["upload-offset"] == str(len(data))
        assert line.answer().status == 200


def test_a_full_disk_leaks_nothing_into_the_next_upload(tmp_path: Path) -> None:
    limit = 24 * MIB
    small = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({limit}, {limit}));"
    run = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    wrap = (sys.executable, "-c", small + run)
    server = ServerProcess(data_dir=tmp_path / "data", wrap=wrap).start()
    try:
        too_much = some_bytes(32 * MIB, "secret")
        upload = create(server, len(too_much))
        with half_open(server, upload, 0, b"", length=len(too_much)) as line:
            feeding = threading.Thread(target=_feed, args=(line, too_much))
            feeding.start()
            assert line.answer().status == 507
        feeding.join()
        kept = offset_of(server, upload)
        assert stored(server, upload) == too_much[:kept]
        for number in range(6):
            data = some_bytes(5 * MIB + number, str(number))
            after = create(server, len(data))
            assert patch(server, after, 0, data).status == 204
            assert stored(server, after) == data
    finally:
        server.kill()


def _feed(line: Line, data: bytes) -> None:
    try:
        line.send(data)
    except OSError:
        return
