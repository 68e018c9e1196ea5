"""Real and hostile files meet a whole server: each ends as it should, with a reason."""

import csv
import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from asyncflow.jobs import REASONS
from tests.server_process import ServerProcess
from tests.web.live import code_of, healthy_server, metric, until

#: what the manifest calls an outcome -> how such a job may end
OUTCOMES = {
    "ok": {"COMPLETED"},
    "reject": {"REJECTED"},
    "fail-clean": {"FAILED", "REJECTED"},
    "ok-or-reject": {"COMPLETED", "FAILED", "REJECTED"},
    # who has no scanner keeps what only a scanner would refuse
    "infected": {"COMPLETED", "REJECTED"},
}
#: refusals while the file is still on its way
EARLY = {"type_mismatch", "empty_file"}
WORKERS = 2
IDLE = 'asyncflow_workers{state="idle"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("corpus")
    with healthy_server(folder, workers=str(WORKERS)) as found:
        yield found


def send(server: ServerProcess, name: str, data: bytes) -> Any:
    """Upload a file; return its job's id, or the refusal as a job would show it."""
    answer = server.request("PUT", f"/upload/{name}", data)
    if answer.status == 202:
        return answer.json["jobId"]
    code = code_of(answer)
    assert code in EARLY, (name, answer.body)
    return {"status": "REJECTED", "error": {"code": code, "detail": "refused early"}}


def outcome(server: ServerProcess, sent: Any) -> Any:
    return server.finished(sent, timeout=100) if isinstance(sent, str) else sent


def check_reason(name: str, found: Any) -> None:
    if found["status"] == "COMPLETED":
        assert found["facts"]["identify"]["sha256"], name
        assert found["mediaType"], name
    else:
        assert found["error"]["code"] in REASONS, (name, found["error"])
        assert found["error"]["detail"], name


@pytest.mark.timeout(180)
def test_every_file_of_the_corpus_ends_as_it_should(
    server: ServerProcess, corpus: Path
) -> None:
    with (corpus / "manifest.csv").open(newline="") as file:
        expected = {row["name"]: row["expected"] for row in csv.DictReader(file)}
    sent = {name: send(server, name, (corpus / name).read_bytes()) for name in expected}
    wrong = {}
    for name, job in sent.items():
        found = outcome(server, job)
        check_reason(name, found)
        if found["status"] not in OUTCOMES[expected[name]]:
            wrong[name] = (expected[name], found["status"], found["error"])
    assert wrong == {}
    until(lambda: metric(server, IDLE) == WORKERS)


# ----- what anybody can make


def picture(kind: str, size: tuple[int, int] = (300, 200)) -> bytes:
    noise = random.Random(1).randbytes(size[0] * size[1] * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(file, kind)
    return file.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """Return a small PNG whose header announces a large picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack("!I", len(data)) + body + struct.pack("!I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b"")


SVG = b"""<?xml version="1.0"?>
<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>"""

MVG = b"push graphic-context\nimage over 0,0 0,0 'http://127.0.0.1/'\n"

HLS = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n"

HTML = b"<!doctype html><script>alert(document.domain)</script>"

ENDED = {"FAILED", "REJECTED"}

SELF_MADE: dict[str, tuple[bytes, set[str]]] = {
    "photo.jpg": (picture("JPEG"), {"COMPLETED"}),
    "photo.png": (picture("PNG"), {"COMPLETED"}),
    "photo.webp": (picture("WEBP"), {"COMPLETED"}),
    "a png.jpg": (picture("PNG"), {"COMPLETED"}),
    "words.txt": (b"some words\n", {"COMPLETED"}),
    "nothing known.bin": (random.Random(2).randbytes(5000), {"COMPLETED"}),
    "torn.jpg": (picture("JPEG")[:20_000], ENDED),
    "torn.png": (picture("PNG")[:20_000], ENDED),
    "only a header.png": (picture("PNG")[:33], ENDED),
    "only a signature.jpg": (b"\xff\xd8\xff\xe0", ENDED),
    "bomb.png": (png_that_says(60_000, 60_000), {"REJECTED"}),
    "impossible.png": (png_that_says(0, 0), ENDED),
    "page.jpg": (HTML, {"REJECTED"}),
    "words.jpg": (b"some words\n" * 10, {"REJECTED"}),
    "entity.svg": (SVG, {"REJECTED"}),
    "entity.jpg": (SVG, {"REJECTED"}),
    "reach.mvg": (MVG, {"REJECTED"}),
    "reach.jpg": (MVG, {"REJECTED"}),
    "list.mp4": (HLS, {"REJECTED"}),
    "program.mp4": (b"\x7fELF" + bytes(2000), {"REJECTED"}),
    "garbage.pdf": (b"%PDF-1.7\n" + random.Random(3).randbytes(2000), ENDED),
    "words.pdf": (b"some words\n" * 200, {"REJECTED"}),
    "empty.jpg": (b"", {"REJECTED"}),
}


@pytest.mark.timeout(120)
def test_every_file_that_anybody_can_make_ends_as_it_should(
    server: ServerProcess,
) -> None:
    sent = {
        name: send(server, name.replace(" ", "%20"), data)
        for name, (data, _ends) in SELF_MADE.items()
    }
    wrong = {}
    for name, (_data, ends) in SELF_MADE.items():
        found = outcome(server, sent[name])
        check_reason(name, found)
        if found["status"] not in ends:
            wrong[name] = (found["status"], found["error"])
    assert wrong == {}
    until(lambda: metric(server, IDLE) == WORKERS)


def test_a_picture_whose_bytes_are_changed_at_random_harms_nobody(
    server: ServerProcess,
) -> None:
    chance = random.Random(4)
    whole = picture("JPEG", (120, 80))
    jobs = []
    for _ in range(15):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(2, len(data))] = chance.randrange(256)
        jobs.append(send(server, "changed.jpg", bytes(data)))
    for job in jobs:
        check_reason("changed.jpg", outcome(server, job))
    until(lambda: metric(server, IDLE) == WORKERS)
