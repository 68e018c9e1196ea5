"""Pipelines on a real server: what the page in the docs says, and how to choose."""

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.docs.pages import blocks, page
from tests.server_process import Answer, ServerProcess
from tests.web.live import CHUNK, TUS, code_of, create, healthy_server, metadata, patch

NAMED = "the-page.toml"
IMAGE = '[pipelines.default.types."image/*"'
NEGATIVE = """
[pipelines.default.types."image/*".steps.image]
options = { variants = { thumbnail = { width = -5, height = 5 } } }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pipelines")
    (code,) = blocks(page("howto/shape-pipelines.md"), "toml")
    (folder / NAMED).write_text(code)
    with healthy_server(folder, pipelines=NAMED, workers="2") as found:
        yield found


@pytest.fixture(scope="module")
def photo() -> bytes:
    made = io.BytesIO()
    Image.effect_noise((640, 480), 60).convert("RGB").save(made, "JPEG")
    return made.getvalue()


def steps(job: Any) -> list[str]:
    return [one["name"] for one in job["steps"]]


def test_a_file_meets_the_consumers_of_its_rule(
    server: ServerProcess, photo: bytes
) -> None:
    job = server.finished(server.upload("a.jpg", photo))

    # text came after image, as the rule says
    assert steps(job) == ["identify", "image", "text"]
    assert job["steps"][1]["finishedAt"] <= job["steps"][2]["startedAt"]
    assert {one["name"]: one["required"] for one in job["steps"]}["text"] is False
    assert set(job["downloadUrls"]) == {"original", "thumbnail"}
    made = server.request("GET", job["downloadUrls"]["thumbnail"])
    with Image.open(io.BytesIO(made.body)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (320, 320))


def by_raw_body(
    server: ServerProcess, name: str, data: bytes, **headers: Any
) -> Answer:
    return server.request("PUT", f"/upload/a.jpg?pipeline={name}", data, **headers)


def by_draft(server: ServerProcess, name: str, data: bytes, **headers: Any) -> Answer:
    headers["Upload_Complete"] = "?1"
    return by_raw_body(server, name, data, **headers)


def by_form(server: ServerProcess, name: str, data: bytes, **headers: Any) -> Answer:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="pipeline"\r\n\r\n'
        + name.encode()
        + b'\r\n--x\r\nContent-Disposition: form-data; name="file";'
        b' filename="a.jpg"\r\n\r\n' + data + b"\r\n--x--\r\n"
    )
    kind = "multipart/form-data; boundary=x"
    return server.request("POST", "/upload", body, Content_Type=kind, **headers)


def by_chunks(server: ServerProcess, name: str, data: bytes, **headers: Any) -> Answer:
    fields = {"chunkIndex": "0", "totalChunks": "1", "pipeline": name}
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (key.encode(), value.encode())
        for key, value in fields.items()
    )
    body += (
        b'--x\r\nContent-Disposition: form-data; name="chunk"; filename="a.jpg"\r\n\r\n'
        + data
        + b"\r\n--x--\r\n"
    )
    kind = "multipart/form-data; boundary=x"
    headers["Content_Type"] = kind
    return server.request("POST", "/upload/chunked", body, **headers)


@pytest.mark.parametrize("way", [by_raw_body, by_form, by_chunks])
def test_an_upload_chooses_its_pipeline(
    server: ServerProcess, photo: bytes, way: Any
) -> None:
    answer = way(server, "archive", photo)
    assert answer.status == 202, answer.body

    job = server.finished(answer.json["jobId"])

    assert (job["status"], steps(job)) == ("COMPLETED", ["identify"])
    assert job["metadata"] == {"pipeline": "archive"}


def job_of(answer: Answer) -> Any:
    told = answer.headers.get("asyncflow-job-id")
    return told or answer.json["jobId"]


@pytest.mark.parametrize("way", [by_raw_body, by_draft, by_form, by_chunks])
def test_who_repeats_an_upload_cannot_choose_again(
    server: ServerProcess, photo: bytes, way: Any
) -> None:
    key = {"Idempotency_Key": str(uuid.uuid4())}
    first = job_of(way(server, "archive", photo, **key))

    assert job_of(way(server, "archive", photo, **key)) == first
    other = way(server, "default", photo, **key)
    assert (other.status, code_of(other)) == (422, "idempotency_key_reused")


def test_a_tus_client_chooses_by_metadata(server: ServerProcess, photo: bytes) -> None:
    job = create(server, len(photo), metadata(filename="a.jpg", pipeline="archive"))
    assert patch(server, job, 0, photo).status == 204

    assert steps(server.finished(job)) == ["identify"]


@pytest.mark.parametrize("way", [by_raw_body, by_form, by_chunks])
def test_a_pipeline_that_is_not_there_is_refused(
    server: ServerProcess, photo: bytes, way: Any
) -> None:
    answer = way(server, "archives", photo)

    assert (answer.status, code_of(answer)) == (422, "unknown_pipeline")
    assert "archive, default" in answer.json["detail"]


def test_a_tus_creation_with_an_unknown_pipeline_is_refused(
    server: ServerProcess,
) -> None:
    answer = server.request(
        "POST",
        "/files/",
        b"",
        Tus_Resumable=TUS[1],
        Content_Type=CHUNK[1],
        Upload_Length="3",
        Upload_Metadata=metadata(pipeline="x")[1],
    )

    assert (answer.status, code_of(answer)) == (422, "unknown_pipeline")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[consumers.nobody]\nrate = '1/s'", "there is no consumer called 'nobody'"),
        ("[consumers.text]\nspeed = 1", "speed"),
        (
            NEGATIVE,
            "steps.image.options.variants.thumbnail.width is -5; accepted: a whole",
        ),
        (
            f'{IMAGE}.steps.image]\noptions = {{formt = "webp"}}',
            "steps.image.options.formt; did you mean format?",
        ),
        (
            f'{IMAGE}.steps.text]\noptions = {{languages = ["../eng"]}}',
            "steps.text.options: languages is ['../eng']; accepted: codes such as",
        ),
        (f'{IMAGE}]\nconsumers = ["sample-task"]', "'sample-task' takes no files"),
        (None, "cannot be read"),
    ],
    ids=[
        "nobody",
        "misspelt",
        "negative",
        "option",
        "language",
        "task",
        "missing",
    ],
)
def test_a_server_with_a_bad_file_does_not_start(
    tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "p.toml").write_text(text)
    command = [sys.executable, "-m", "asyncflow", "serve", "--port", "0"]
    command += ["--pipelines", "p.toml", "--data-dir", "data"]

    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )

    assert ended.returncode != 0
    assert says in ended.stderr
    assert "p.toml" in ended.stderr
    assert "Traceback" not in ended.stderr
