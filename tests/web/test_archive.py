"""All files of a job in one zip, from a real server."""

import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from asyncflow.web.archive import distinct
from tests.server_process import ServerProcess, serving
from tests.web.live import code_of, create, healthy_server, patch, rows


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("zip"), workers="1") as server:
        yield server


@pytest.fixture(scope="module")
def photo() -> bytes:
    data = BytesIO()
    Image.effect_noise((1600, 1200), 50).convert("RGB").save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def job(server: ServerProcess, photo: bytes) -> str:
    job = server.upload("été 🌞.jpg", photo)
    assert server.finished(job)["status"] == "COMPLETED"
    return job


def test_an_archive_holds_the_original_and_every_derivative(
    server: ServerProcess, photo: bytes, job: str
) -> None:
    answer = server.request("GET", f"/jobs/{job}/files.zip")
    assert answer.status == 200
    with zipfile.ZipFile(BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        held = {one.filename: one for one in archive.infolist()}
        assert archive.read("été 🌞.jpg") == photo
        urls = server.status(job)["downloadUrls"]
        assert len(held) == len(urls) > 1
        for name in set(urls) - {"original"}:
            (member,) = [one for one in held if one.startswith(f"été 🌞-{name}.")]
            assert archive.read(member) == server.request("GET", urls[name]).body
    assert {one.compress_type for one in held.values()} == {zipfile.ZIP_STORED}


def test_an_archive_is_an_attachment_with_the_files_name(
    server: ServerProcess, job: str
) -> None:
    for method in ("GET", "HEAD"):
        headers = server.request(method, f"/jobs/{job}/files.zip").headers
        assert headers["content-type"] == "application/zip"
        assert headers["content-disposition"].startswith("attachment; ")
        assert headers["content-disposition"].endswith(
            "%C3%A9t%C3%A9%20%F0%9F%8C%9E.zip"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox")


def test_text_is_packed_and_gets_smaller(server: ServerProcess) -> None:
    text = b"the same words again and again\n" * 10_000
    job = server.upload("words.txt", text)
    server.finished(job)
    body = server.request("GET", f"/jobs/{job}/files.zip").body
    assert len(body) < len(text) // 10
    with zipfile.ZipFile(BytesIO(body)) as archive:
        assert archive.read("words.txt") == text


def test_an_unfinished_upload_has_no_archive(server: ServerProcess) -> None:
    job = create(server, 10)
    patch(server, job, 0, b"12345")
    answer = server.request("GET", f"/jobs/{job}/files.zip")
    assert (answer.status, code_of(answer)) == (404, "file_not_available")


def test_what_was_refused_is_for_the_operator_alone(server: ServerProcess) -> None:
    data = b"\xff\xd8\xff\xe0 not a picture at all" * 100
    job = server.upload("broken.jpg", data)
    assert server.finished(job)["status"] == "REJECTED"
    path = f"/jobs/{job}/files.zip"
    assert server.request("GET", path).status == 404
    bearer = f"Bearer {server.token}"
    body = server.request("GET", path, Authorization=bearer).body
    with zipfile.ZipFile(BytesIO(body)) as archive:
        assert archive.read("broken.jpg") == data


@pytest.mark.parametrize("job", ["nonsense", "01a20323-0000-7000-8000-000000000000"])
def test_an_unknown_job_has_no_archive(server: ServerProcess, job: str) -> None:
    answer = server.request("GET", f"/jobs/{job}/files.zip")
    assert (answer.status, code_of(answer)) == (404, "job_not_found")


def test_a_blob_that_is_shorter_than_its_row_says_breaks_the_download(
    tmp_path: Path, photo: bytes
) -> None:
    with serving(tmp_path / "data", workers="1") as server:
        job = server.upload("a.jpg", photo)
        server.finished(job)
        ((key,),) = rows(server, "SELECT key FROM upload")
        raw = server.data_dir / "store" / "raw"
        (blob,) = (one for one in raw.rglob(Path(key).name) if one.is_file())
        blob.write_bytes(blob.read_bytes()[:-5])
        with pytest.raises((ConnectionError, HTTPException)):
            server.request("GET", f"/jobs/{job}/files.zip")


def test_the_longest_names_still_say_what_they_are(
    server: ServerProcess, photo: bytes
) -> None:
    name = "p" * 251 + ".jpg"
    job = server.upload(name, photo)
    urls = server.finished(job)["downloadUrls"]
    told = server.request("HEAD", urls["thumbnail"]).headers["content-disposition"]
    assert told.endswith('p-thumbnail.jpg"')
    body = server.request("GET", f"/jobs/{job}/files.zip").body
    with zipfile.ZipFile(BytesIO(body)) as archive:
        held = archive.namelist()
    assert len(held) == len(set(held)) == len(urls)
    assert all(len(one) <= 255 for one in held)
    assert {f"{one[-10:]}" for one in held} >= {"pppppp.jpg", "medium.jpg"}


def test_long_names_that_are_alike_are_told_apart() -> None:
    found = distinct(["é" * 125 + ".jpeg"] * 12)
    assert len(set(found)) == 12
    assert all(len(one.encode()) <= 255 for one in found)
    assert found[11].endswith("é (12).jpeg")


def test_names_that_are_alike_are_told_apart() -> None:
    assert distinct(["a.jpg", "A.JPG", "a.jpg", "b", "b", "a (2).jpg"]) == [
        "a.jpg",
        "A (2).JPG",
        "a (3).jpg",
        "b",
        "b (2)",
        "a (2) (2).jpg",
    ]
