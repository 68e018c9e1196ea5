"""What a dialect's request may not say, and what its refusal must."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    create,
    form,
    healthy_server,
    kept,
    listening_port,
    needs_root,
    patch,
    until,
)

PARTIAL: Header = ("Upload-Concat", "partial")
APPEND: Header = ("Content-Type", "application/partial-upload")
CHUNKED: Header = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("strict")
    with healthy_server(folder, max_upload_bytes="1000") as found:
        yield found


def meant(method: str) -> Header:
    return "X-HTTP-Method-Override", method


@pytest.mark.parametrize(("body", "status"), [(b"abc", 413), (b"", 201)])
def test_an_empty_upload_takes_no_bytes(
    server: ServerProcess, body: bytes, status: int
) -> None:
    before = kept(server)
    with Line(server) as line:
        empty = ("Upload-Length", "0")
        line.head("POST", "/files", TUS, CHUNK, empty, CHUNKED)
        if body:
            line.chunk(body)
        line.chunk(b"")
        answer = line.answer()
    assert answer.status == status
    if body:
        assert code_of(answer) == "past_upload_length"
        until(lambda: kept(server) <= before)


def test_a_refusal_of_what_is_too_large_tells_the_limit(server: ServerProcess) -> None:
    long = ("Upload-Length", "1001")
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, long)
        assert (answer.status, answer.headers["tus-max-size"]) == (413, "1000")
        for target in ("/files/", "/upload/a.txt"):
            answer = line.ask("PUT", target, ("Upload-Complete", "?0"), long)
            assert answer.status == 413
            assert answer.headers["upload-limit"] == "min-size=0, max-size=1000"


def test_a_refused_question_is_not_kept_by_caches(server: ServerProcess) -> None:
    gone, there = create(server, 5), create(server, 5)
    with Line(server) as line:
        line.ask("DELETE", f"/files/{gone}", TUS)
        nobody = f"/files/{there[:-1]}{'0' if there[-1] != '0' else '1'}"
        for target, headers, status in (
            (f"/files/{gone}", [TUS], 410),
            (f"/files/{there}", [], 412),
            (nobody, [TUS], 404),
            ("/files/x", [TUS], 404),
            (nobody, [("Upload-Complete", "?0")], 404),
        ):
            answer = line.ask("HEAD", target, *headers)
            assert answer.status == status
            assert answer.headers["cache-control"] == "no-store"


def test_a_refused_method_is_answered_in_the_dialect(server: ServerProcess) -> None:
    with Line(server) as line:
        for method, target in (("DELETE", "/files/"), ("PUT", "/files/x")):
            answer = line.ask(method, target, TUS)
            assert (answer.status, answer.headers["tus-resumable"]) == (405, "1.0.0")


def test_a_wrong_checksum_is_called_so(server: ServerProcess) -> None:
    wrong = base64.b64encode(bytes(20)).decode()
    said = ("Upload-Checksum", f"sha1 {wrong}")
    answer = patch(server, create(server, 5), 0, b"hello", said)
    assert (answer.status, answer.json["title"]) == (460, "Checksum Mismatch")


def test_two_origins_are_allowed_nothing(tmp_path: Path) -> None:
    with healthy_server(tmp_path, allowed_origins="https://a.example") as server:
        ours = ("Origin", "https://a.example")
        with Line(server) as line:
            answer = line.ask("PUT", "/upload/a.txt", ours, body=b"x")
            assert answer.status == 202
            assert answer.headers["access-control-allow-origin"] == ours[1]
            for other in (ours, ("Origin", "https://b.example")):
                answer = line.ask("PUT", "/upload/a.txt", ours, other, body=b"x")
                assert answer.status == 403
                assert "access-control-allow-origin" not in answer.headers


# ----- the method that a POST stands for


def test_a_post_to_all_uploads_may_stand_for_another_method(
    server: ServerProcess,
) -> None:
    before = kept(server)
    five = ("Upload-Length", "5")
    with Line(server) as line:
        answer = line.ask("POST", "/files/", TUS, meant("OPTIONS"))
        assert (answer.status, answer.headers["tus-version"]) == (200, "1.0.0")
        answer = line.ask("POST", f"/files/{create(server, 5)}", TUS, meant("options"))
        assert (answer.status, answer.headers["tus-version"]) == (200, "1.0.0")
        for method in ("DELETE", "HEAD", "PUT", "x y"):
            answer = line.ask("POST", "/files/", TUS, five, meant(method))
            assert answer.status == 405
    assert len(kept(server) - before) == 1
    with Line(server) as line:
        whole = ("Upload-Complete", "?1")
        answer = line.ask("POST", "/files/", whole, meant("PUT"), body=b"abc")
        assert answer.status == 201


def test_no_other_method_stands_for_one(server: ServerProcess) -> None:
    upload = create(server, 5)
    at = ("Upload-Offset", "0")
    with Line(server) as line:
        for method, headers in (
            ("GET", [TUS, meant("DELETE")]),
            ("PATCH", [TUS, CHUNK, at, meant("PATCH")]),
            ("POST", [TUS, meant("DELETE"), meant("DELETE")]),
        ):
            answer = line.ask(method, f"/files/{upload}", *headers)
            assert (answer.status, code_of(answer)) == (400, "invalid_header")
        assert line.ask("HEAD", f"/files/{upload}", TUS).status == 200


# ----- what is complete


def test_a_joined_upload_takes_no_bytes_when_it_is_complete(
    server: ServerProcess,
) -> None:
    part = create(server, 3, PARTIAL)
    assert patch(server, part, 0, b"abc").status == 204
    with Line(server) as line:
        answer = line.ask("POST", "/files/", TUS, ("Upload-Concat", f"final;{part}"))
    job = answer.headers["asyncflow-job-id"]
    assert server.finished(job)["status"] == "COMPLETED"
    for offset, data in ((3, b""), (0, b"abc"), (3, b"d")):
        refused = patch(server, job, offset, data)
        assert (refused.status, code_of(refused)) == (403, "final_upload")


@pytest.mark.parametrize(("body", "status"), [(b"", 204), (b"x", 403)])
def test_a_chunked_body_at_the_end_of_a_complete_upload_may_be_empty(
    server: ServerProcess, body: bytes, status: int
) -> None:
    upload = create(server, 3)
    assert patch(server, upload, 0, b"abc").status == 204
    with Line(server) as line:
        at = ("Upload-Offset", "3")
        line.head("PATCH", f"/files/{upload}", TUS, CHUNK, at, CHUNKED)
        if body:
            line.chunk(body)
        line.chunk(b"")
        assert line.answer().status == status


# ----- parts


@pytest.mark.parametrize(
    "extra",
    [
        [PARTIAL],
        [("Upload-Concat", "final;x")],
        [("Upload-Defer-Length", "1")],
        [("Upload-Length", "3")],
    ],
    ids=str,
)
def test_a_joined_upload_is_said_once_and_without_a_length(
    server: ServerProcess, extra: list[Header]
) -> None:
    final = ("Upload-Concat", f"final;/files/{create(server, 3, PARTIAL)}")
    with Line(server) as line:
        answer = line.ask("POST", "/files/", TUS, final, *extra)
    assert (answer.status, code_of(answer)) == (400, "invalid_header")


def test_as_many_parts_as_are_promised_can_be_named(server: ServerProcess) -> None:
    part = create(server, 1, PARTIAL)
    assert patch(server, part, 0, b"x").status == 204
    most, more = (" ".join([f"/files/{part}"] * count) for count in (700, 701))
    with Line(server) as line:
        joined = line.ask("POST", "/files/", TUS, ("Upload-Concat", f"final;{most}"))
        refused = line.ask("POST", "/files/", TUS, ("Upload-Concat", f"final;{more}"))
    assert (joined.status, refused.status) == (201, 400)
    assert "1 to 700" in refused.json["detail"]


def test_a_part_tells_of_no_job(server: ServerProcess) -> None:
    with Line(server) as line:
        three = ("Upload-Length", "3")
        made = line.ask("POST", "/files/", TUS, PARTIAL, three)
        here = f"/files/{made.headers['location']}"
        looked = line.ask("HEAD", here, TUS)
        at = ("Upload-Offset", "0")
        done = line.ask("PATCH", here, ("Upload-Complete", "?1"), APPEND, at, body=b"a")
    for answer in (made, looked, done):
        assert "asyncflow-job-id" not in answer.headers
    assert done.status == 400
    with Line(server) as line:
        said = ("Upload-Complete", "?1")
        done = line.ask("PATCH", here, said, APPEND, at, body=b"abc")
    assert (done.status, done.body) == (200, b"")
    assert done.headers["upload-complete"] == "?1"


# ----- addresses and names


@needs_root
def test_the_path_of_the_public_address_stands_before_all_others(
    tmp_path: Path,
) -> None:
    where = "https://up.example/base/"
    with healthy_server(tmp_path, public_url=where) as server:
        server.url = f"http://127.0.0.1:{listening_port(server.pid)}"
        told = server.request("PUT", "/upload/a.txt", b"hello").json
        job = told["jobId"]
        assert told["statusUrl"] == f"/base/status/{job}"
        found = server.finished(job)
        assert found["downloadUrls"]["original"].startswith(f"/base/jobs/{job}/")
        with Line(server) as line:
            whole = ("Upload-Complete", "?1")
            made = line.ask("POST", "/files/", whole, body=b"x")
        upload = made.json["jobId"]
        assert made.headers["location"] == f"{where}files/{upload}"
        assert made.json["statusUrl"] == f"/base/status/{upload}"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("%00.txt", "file.txt"),
        ("a%2F%1b.csv", "file.csv"),
        (".hidden.txt", "hidden.txt"),
        (".bashrc", "bashrc"),
        ("...", "file"),
    ],
)
def test_a_name_that_loses_all_keeps_its_extension(
    server: ServerProcess, said: str, name: str
) -> None:
    with Line(server) as line:
        answer = line.ask("PUT", f"/upload/{said}", body=b"hello")
    assert (answer.status, answer.json["fileName"]) == (202, name)


# ----- requests that are repeated


@pytest.mark.parametrize("how", ["raw", "chunked", "form"])
def test_another_file_with_the_same_key_is_refused(
    server: ServerProcess, how: str
) -> None:
    key = ("Idempotency-Key", how)

    def send(data: bytes) -> tuple[int, str]:
        kind, body = form(("a.txt", data))
        with Line(server) as line:
            if how == "form":
                answer = line.ask("POST", "/upload", kind, key, body=body)
            elif how == "raw":
                answer = line.ask("PUT", "/upload/a.txt", key, body=data)
            else:
                line.head("PUT", "/upload/a.txt", key, CHUNKED)
                line.chunk(data)
                line.chunk(b"")
                answer = line.answer()
        return answer.status, answer.json.get("jobId") or code_of(answer)

    first = send(b"hello")
    assert first[0] == 202
    assert send(b"hello") == first
    assert send(b"jello") == (422, "idempotency_key_reused")
    until(lambda: server.finished(first[1]))
    with Line(server) as line:
        if how == "raw":
            again = line.ask("PUT", "/upload/a.txt", key, body=b"hello")
            assert again.json["status"] == "COMPLETED"
