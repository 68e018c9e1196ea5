"""Text is stored compressed, leaves as anybody likes it, and damage to it is found."""

import base64
import gzip
import hashlib
from pathlib import Path

import pytest

from asyncflow.backup import verify
from tests.server_process import ServerProcess

MODULE = r"""
from asyncflow import processor
from asyncflow.processors.base import Derivative, Result


@processor("repeats", accepts=("text/plain",), outputs=("much",))
def repeats(work):
    made = work.out / "much.txt"
    made.write_bytes(work.source.read_bytes() * 5000)
    return Result(
        derivatives=(Derivative(name="much", path=made, media_type="text/plain"),)
    )
"""
WORDS = "naïve words\n".encode()
MUCH = WORDS * 5000


def digest_of(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def test_text_is_kept_compressed_and_checked_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repeats_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = {"workers": "1", "processors": "repeats_module"}
    server = ServerProcess(data_dir=tmp_path / "data", settings=settings).start()
    try:
        job = server.upload("a.txt", WORDS)
        status = server.finished(job)
        (made,) = [one for one in status["files"] if one["name"] == "much"]
        assert made["size"] == len(MUCH)
        assert made["sha256"] == hashlib.sha256(MUCH).hexdigest()
        url = status["downloadUrls"]["much"]
        plain = server.request("GET", url)
        assert plain.body == MUCH
        assert plain.headers["repr-digest"] == digest_of(MUCH)
        packed = server.request("GET", url, Accept_Encoding="gzip")
        assert gzip.decompress(packed.body) == MUCH
        assert packed.headers["repr-digest"] == digest_of(packed.body)
        original = server.request("GET", status["downloadUrls"]["original"])
        assert original.headers["repr-digest"] == digest_of(WORDS)
    finally:
        assert server.stop() == 0

    (blob,) = (tmp_path / "data" / "store").rglob("*much*")
    assert blob.read_bytes() == packed.body
    assert await verify(tmp_path / "data") == []
    damaged = bytearray(packed.body)
    damaged[len(damaged) // 2] ^= 1
    blob.write_bytes(damaged)
    (damage,) = await verify(tmp_path / "data")
    assert damage.blob.name == "much"
