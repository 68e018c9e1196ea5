"""The numbers that are kept by triggers say what counting would say."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.server_process import serving


def test_stored_bytes_are_those_of_originals_and_derivatives(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415 -- only here

    Image.effect_noise((640, 480), 40).save(tmp_path / "noise.jpg")
    with serving(tmp_path / "data") as server:
        jobs = [
            server.upload("noise.jpg", (tmp_path / "noise.jpg").read_bytes()),
            server.upload("note.txt", b"some words\n" * 100),
        ]
        for job in jobs:
            assert server.finished(job)["status"] == "COMPLETED"
        assert server.request("DELETE", f"/jobs/{jobs[1]}").status == 204
        shown = server.request("GET", "/metrics").body.decode()
        with closing(sqlite3.connect(tmp_path / "data" / "asyncflow.db")) as db:
            kept = db.execute("SELECT bytes FROM stored").fetchone()[0]
            counted = db.execute(
                "SELECT (SELECT sum(size) FROM job) +"
                " (SELECT sum(size) FROM derivative)"
            ).fetchone()[0]

    assert kept == counted > 0
    assert f"asyncflow_storage_bytes {float(kept)!r}" in shown
