"""`POST /upload` with a form, as browsers and curl send it."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess, serving
from tests.web.live import (
    Line,
    code_of,
    form,
    healthy_server,
    jobs,
    kept,
    rows,
    rss_bytes,
    until,
)

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("upload-form")
    with healthy_server(folder, max_upload_bytes="400MiB") as found:
        yield found


def test_one_file_is_answered_with_its_job(server: ServerProcess) -> None:
    kind, body = form(("words.txt", b"hello"))
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=body)
    assert answer.status == 202
    told = answer.json
    assert told["status"] == "PENDING"
    assert told["fileName"] == "words.txt"
    assert told["message"]
    assert told["statusUrl"] == f"/status/{told['jobId']}"
    assert told["uploadTimeMs"] >= 0
    assert "estimatedTime" in told
    assert answer.headers["asyncflow-job-id"] == told["jobId"]
    assert server.finished(told["jobId"])["status"] == "COMPLETED"
    original = server.request("GET", f"/jobs/{told['jobId']}/files/original")
    assert original.body == b"hello"


def test_several_files_are_answered_in_their_order_each_with_its_outcome(
    server: ServerProcess,
) -> None:
    kind, body = form(
        ("one.txt", b"one"),
        ("empty.txt", b""),
        ("photo.png", b"MZ" + bytes(2000)),
        ("four.txt", b"four"),
    )
    before = kept(server)
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=body)
    assert answer.status == 202
    told = answer.json["jobs"]
    assert [one["fileName"] for one in told] == [
        "one.txt",
        "empty.txt",
        "photo.png",
        "four.txt",
    ]
    codes = [one.get("error", {}).get("code") for one in told]
    assert codes == [None, None, "type_mismatch", None]
    assert [bool(one["jobId"]) for one in told] == [True, True, False, True]
    for one in (told[0], told[3]):
        assert server.finished(one["jobId"])["status"] == "COMPLETED"
    assert server.finished(told[1]["jobId"])["error"]["code"] == "empty_file"
    until(lambda: len(kept(server) - before) == 3)


def test_several_files_of_which_none_is_taken_are_a_refusal(
    server: ServerProcess,
) -> None:
    kind, body = form(("a.png", b"MZ" + bytes(2000)), ("b.pdf", b"MZ" + bytes(2000)))
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=body)
    assert answer.status == 422
    codes = [one["error"]["code"] for one in answer.json["jobs"]]
    assert codes == ["type_mismatch"] * 2


def test_a_form_in_which_nobody_chose_a_file_has_none(server: ServerProcess) -> None:
    kind, nothing = form(("", b""))
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=nothing)
        assert (answer.status, code_of(answer)) == (400, "missing_file")
        kind, nameless = form(("", b""), ("", b"nobody named it"))
        answer = line.ask("POST", "/upload", kind, body=nameless)
    assert (answer.status, answer.json["fileName"]) == (202, "file")
    found = server.finished(answer.json["jobId"])
    assert found["fileSize"] == len(b"nobody named it")


def test_other_fields_are_ignored(server: ServerProcess) -> None:
    mark = b"--frontier\r\nContent-Disposition: form-data; name="
    body = (
        mark
        + b'"title"\r\n\r\nA day out\r\n'
        + mark
        + b'"other"; filename="no.txt"\r\n\r\nnot this one\r\n'
        + mark
        + b'"file"; filename="yes.txt"\r\n\r\nthis one\r\n'
        + mark
        + b'"file"\r\n\r\nno file at all\r\n--frontier--\r\n'
    )
    before = jobs(server)
    with Line(server) as line:
        answer = line.ask("POST", "/upload", form()[0], body=body)
    assert answer.json["fileName"] == "yes.txt"
    assert jobs(server) == before + 1


def test_an_accepted_file_is_told_though_the_form_broke_off_after_it(
    server: ServerProcess,
) -> None:
    kind, body = form(("whole.txt", b"whole"), ("torn.txt", b"torn" * 100))
    before = kept(server)
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=body[:-100])
    assert answer.status == 202
    whole, torn = answer.json["jobs"]
    assert whole["fileName"] == "whole.txt"
    assert whole["jobId"]
    assert torn["fileName"] == "torn.txt"
    assert torn["jobId"] is None
    assert torn["error"]["code"] == "invalid_multipart"
    until(lambda: len(kept(server) - before) == 1)


def test_an_accepted_file_is_told_though_rubbish_follows_the_form(
    server: ServerProcess,
) -> None:
    kind, body = form(("whole.txt", b"whole"))
    with Line(server) as line:
        answer = line.ask("POST", "/upload", kind, body=body + bytes(200_000))
    whole, rest = answer.json["jobs"]
    assert (answer.status, bool(whole["jobId"])) == (202, True)
    assert (rest["fileName"], rest["error"]["code"]) == (None, "invalid_multipart")


def test_a_large_form_is_streamed(server: ServerProcess) -> None:
    piece = hashlib.sha256(b"noise").digest() * (MIB // 32)
    kind, body = form(("large.bin", b""))
    head, tail = body.split(b"\r\n\r\n", 1)
    head += b"\r\n\r\n"
    before = rss_bytes(server.pid)
    most = before
    with Line(server) as line:
        length = len(head) + 300 * MIB + len(tail)
        line.head("POST", "/upload", kind, length=length)
        line.send(head)
        for _ in range(300):
            line.send(piece)
            most = max(most, rss_bytes(server.pid))
        line.send(tail)
        answer = line.answer()
    assert answer.status == 202
    assert most - before < 24 * MIB
    status = server.status(answer.json["jobId"])
    assert status["fileSize"] == 300 * MIB
    assert server.request("DELETE", f"/jobs/{status['jobId']}").status == 204


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    with healthy_server(tmp_path, max_upload_bytes="1MiB") as server:
        kind, body = form(("large.bin", bytes(MIB + 1)))
        with Line(server) as line:
            answer = line.ask("POST", "/upload", kind, body=body)
        assert (answer.status, code_of(answer)) == (413, "upload_too_large")
        until(lambda: not kept(server))


@pytest.mark.needs("curl")
def test_curl_sends_a_form(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"from curl")
    (tmp_path / "b;c.txt").write_bytes(b"from curl too")
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail"),
            *("-F", "title=x", "-F", "file=@a.txt", "-F", 'file=@"b;c.txt"'),
            f"{server.url}/upload",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert b'"fileName":"a.txt"' in done.stdout
    assert b'"fileName":"b;c.txt"' in done.stdout


def test_a_stalled_form_does_not_hold_up_a_server_that_stops(tmp_path: Path) -> None:
    kind, body = form(("torn.txt", b"torn" * 100))
    with serving(tmp_path / "data", grace="200ms") as server:
        with Line(server) as line:
            line.head("POST", "/upload", kind, length=len(body))
            line.send(body[:200])
            until(lambda: jobs(server) == 1)
            server.signal(signal.SIGTERM)
            answer = line.answer()
            assert (answer.status, code_of(answer)) == (503, "shutting_down")
        began = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - began < 4
        # its bytes go with the next start, if not before
        assert rows(server, "SELECT 1 FROM upload WHERE state<>'ended'") == []


def test_a_form_of_unknown_length_is_no_larger_than_others(tmp_path: Path) -> None:
    files = [(f"{n}.bin", os.urandom(150_000)) for n in range(4)]
    kind, body = form(*files)
    with healthy_server(tmp_path, max_upload_bytes="250000") as server:
        with Line(server) as line:
            line.head("POST", "/upload", kind, ("Transfer-Encoding", "chunked"))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for at in range(0, len(body), 50_000):
                    line.chunk(body[at : at + 50_000])
                line.chunk(b"")
            answer = line.answer()
        if answer.status == 202:
            # what had come whole before is told
            codes = [one.get("error", {}).get("code") for one in answer.json["jobs"]]
        else:
            codes = [code_of(answer)]
        assert codes[-1] == "upload_too_large"
        assert len(codes) < len(files)
