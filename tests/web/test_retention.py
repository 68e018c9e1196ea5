"""What a server removes by itself, and what it has no room for."""

import base64
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server_process import Answer, ServerProcess
from tests.web.live import Line, code_of, create, healthy_server, patch, until

TUS: Mapping[str, Any] = {"Tus_Resumable": "1.0.0"}
OCTETS: Mapping[str, Any] = {"Content_Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def photo() -> bytes:
    made = io.BytesIO()
    Image.effect_noise((320, 240), 60).convert("RGB").save(made, "JPEG")
    return made.getvalue()


def kept(folder: Path, top: str) -> list[Path]:
    return [
        one for one in (folder / "data" / "store" / top).rglob("*") if one.is_file()
    ]


def test_an_original_is_removed_after_its_time_and_its_results_stay(
    tmp_path: Path, photo: bytes
) -> None:
    with healthy_server(tmp_path, keep_originals="1s", workers="1") as server:
        job = server.upload("a.jpg", photo)
        assert server.finished(job)["status"] == "COMPLETED"
        until(lambda: not kept(tmp_path, "raw"))

        status = server.status(job)
        assert status["originalKept"] is False
        assert "original" not in status["downloadUrls"]
        thumbnail = server.request("GET", status["downloadUrls"]["thumbnail"])
        assert thumbnail.status == 200
        gone = server.request("GET", f"/jobs/{job}/files/original")
        assert (gone.status, code_of(gone)) == (404, "file_not_available")
        again = server.request("POST", f"/jobs/{job}/retry")
        assert (again.status, code_of(again)) == (409, "job_not_retryable")
        assert "removed after its time" in again.json["detail"]
        whole = server.request("GET", f"/jobs/{job}/files.zip")
        assert whole.status == 200


def test_a_job_is_removed_after_its_time_with_all_its_files(
    tmp_path: Path, photo: bytes
) -> None:
    with healthy_server(tmp_path, keep_jobs="1s", workers="1") as server:
        job = server.upload("a.jpg", photo)
        server.finished(job)
        unfinished = create(server, 10)
        assert patch(server, unfinished, 0, b"hello").status == 204

        until(lambda: server.request("GET", f"/status/{job}").status == 404)
        until(lambda: len(kept(tmp_path, "raw")) == 1)
        until(lambda: not kept(tmp_path, "processed"))
        # what has not ended has no age yet
        assert server.status(unfinished)["status"] == "UPLOADING"


def test_old_bytes_that_nobody_names_are_swept(tmp_path: Path, photo: bytes) -> None:
    with healthy_server(tmp_path, sweep_every="1s", workers="1") as server:
        job = server.upload("a.jpg", photo)
        server.finished(job)
        store = tmp_path / "data" / "store"
        named = [*kept(tmp_path, "raw"), *kept(tmp_path, "processed")]
        orphans = [
            store / "raw" / "zz" / "nobody-zz",
            store / "processed" / "zz" / "nobody-zz" / "1-1" / "thumbnail.jpg",
        ]
        young = store / "raw" / "yy" / "nobody-yy"
        for path in (*orphans, young):
            path.parent.mkdir(parents=True)
            path.write_bytes(b"lost")
        old = time.time() - 2 * 3600
        for path in (*named, *orphans):
            os.utime(path, (old, old))

        until(lambda: not any(path.exists() for path in orphans))

        assert all(path.exists() for path in (*named, young))


@pytest.mark.parametrize("setting", ["quota_bytes", "tenant_quota_bytes"])
def test_nothing_is_taken_beyond_the_quota(tmp_path: Path, setting: str) -> None:
    with healthy_server(tmp_path, workers="1", **{setting: "2000"}) as server:
        first = server.upload("a.bin", os.urandom(1500))
        server.finished(first)

        def refused() -> bool:
            answer = server.request("PUT", "/upload/b.bin", bytes(1000))
            if answer.status == 202:  # the sum is read once a second
                server.request("DELETE", f"/jobs/{answer.json['jobId']}")
                return False
            assert (answer.status, code_of(answer)) == (507, "quota_exceeded")
            assert int(answer.headers["retry-after"]) > 0
            return True

        until(refused)
        server.request("DELETE", f"/jobs/{first}")
        until(lambda: server.request("PUT", "/upload/b.bin", b"x" * 1000).status == 202)


def begin(server: ServerProcess) -> str:
    answer = server.request("POST", "/files/", b"", **TUS, Upload_Defer_Length="1")
    return "/files/" + answer.headers["location"].rpartition("/")[2]


def late_length(server: ServerProcess) -> Answer:
    """Say what a file's length is only when its bytes come."""
    path = begin(server)
    return server.request(
        "PATCH",
        path,
        bytes(3000),
        **TUS,
        **OCTETS,
        Upload_Offset="0",
        Upload_Length="3000",
    )


def no_length(server: ServerProcess) -> Answer:
    """Send pieces of a file whose length is never said."""
    path = begin(server)
    for at in (0, 1000):
        server.request(
            "PATCH", path, bytes(1000), **TUS, **OCTETS, Upload_Offset=str(at)
        )
    return server.request(
        "PATCH", path, bytes(1000), **TUS, **OCTETS, Upload_Offset="2000"
    )


def chunked_body(server: ServerProcess) -> Answer:
    """Send a body of unknown length."""
    with Line(server) as line:
        line.head("PUT", "/upload/a.bin", ("Transfer-Encoding", "chunked"))
        line.chunk(bytes(3000))
        line.chunk(b"")
        return line.answer()


def chunks(server: ServerProcess) -> Answer:
    """Send a file chunk by chunk."""
    said: dict[str, Any] = {"totalChunks": 3}
    said["chunk"] = base64.b64encode(bytes(1000)).decode()

    def one(index: int) -> Answer:
        body = json.dumps({**said, "chunkIndex": index}).encode()
        kind: Any = "application/json"
        return server.request("POST", "/upload/chunked", body, Content_Type=kind)

    said["jobId"] = one(0).json["jobId"]
    one(1)
    return one(2)


def many_begun(server: ServerProcess) -> Answer:
    """Announce several files that only together are too many bytes."""
    server.request("POST", "/files/", b"", **TUS, Upload_Length="1500")
    return server.request("POST", "/files/", b"", **TUS, Upload_Length="1500")


@pytest.mark.parametrize(
    "way", [late_length, no_length, chunked_body, chunks, many_begun]
)
@pytest.mark.parametrize("setting", ["quota_bytes", "tenant_quota_bytes"])
def test_no_way_leads_around_the_quota(
    tmp_path: Path, setting: str, way: Callable[[ServerProcess], Answer]
) -> None:
    with healthy_server(tmp_path, workers="1", **{setting: "2000"}) as server:
        answer = way(server)

        assert (answer.status, code_of(answer)) == (507, "quota_exceeded")


def test_lengths_that_are_said_at_once_do_not_all_fit_a_quota(tmp_path: Path) -> None:
    with healthy_server(tmp_path, workers="1", quota_bytes="10000") as server:
        paths = [begin(server) for _ in range(12)]

        def say(path: str) -> int:
            said: Any = {"Upload_Offset": "0", "Upload_Length": "6000"}
            return server.request("PATCH", path, b"", **TUS, **OCTETS, **said).status

        with ThreadPoolExecutor(len(paths)) as threads:
            statuses = list(threads.map(say, paths))

        assert sorted(statuses) == [204] + [507] * 11


def test_a_refused_creation_takes_nothing_of_the_quota(tmp_path: Path) -> None:
    limits = {"quota_bytes": "10000", "open_uploads": "1"}
    with healthy_server(tmp_path, workers="1", **limits) as server:
        first = create(server, 1)
        for _ in range(20):
            refused = server.request("POST", "/files/", b"", **TUS, Upload_Length="900")
            assert (refused.status, code_of(refused)) == (429, "too_many_uploads")

        assert server.request("DELETE", f"/files/{first}", **TUS).status == 204
        # nor does what is given up, from that moment on
        for _ in range(5):
            upload = create(server, 9_000)
            assert server.request("DELETE", f"/files/{upload}", **TUS).status == 204


def test_a_repeat_is_answered_though_nothing_more_fits_the_quota(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path, workers="1", quota_bytes="2000") as server:
        key: Any = {"Idempotency_Key": "one"}
        length: Any = {"Upload_Length": "1500"}
        first, again = (
            server.request("POST", "/files/", b"", **TUS, **length, **key)
            for _ in range(2)
        )
        assert (first.status, again.status) == (201, 201)
        assert again.headers["location"] == first.headers["location"]
        refused = server.request("POST", "/files/", b"", **TUS, **length)
        assert (refused.status, code_of(refused)) == (507, "quota_exceeded")


def test_usage_is_shown_by_tenant(tmp_path: Path) -> None:
    with healthy_server(tmp_path, workers="1") as server:
        server.finished(server.upload("a.bin", b"x" * 1234))

        shown = _tenants(server)

        assert shown == {"-": 1234}


def _tenants(server: ServerProcess) -> dict[str, int]:
    answer = server.request(
        "GET", "/admin/tenants", Authorization=f"Bearer {server.token}"
    )
    return {one["name"]: one["storedBytes"] for one in answer.json["tenants"]}
