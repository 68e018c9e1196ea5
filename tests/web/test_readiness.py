"""Whether `/readyz` tells the truth, and `/metrics` the same."""

import signal
from pathlib import Path

from tests.server_process import Answer, serving
from tests.web.live import Line, create, half_open, healthy_server, metric, until


def test_each_condition_is_named_and_met_by_a_healthy_server(tmp_path: Path) -> None:
    with healthy_server(tmp_path, workers="1") as server:
        answer = server.request("GET", "/readyz")
        assert answer.status == 200
        names = ["accepting", "database", "recovery", "disk", "workers"]
        assert answer.json["checks"] == {
            name: {"ok": True, "reason": None} for name in names
        }
        assert metric(server, "asyncflow_ready") == 1.0
        assert metric(server, 'asyncflow_check{check="disk"}') == 1.0


def test_a_server_that_takes_no_file_for_want_of_room_is_not_ready(
    tmp_path: Path,
) -> None:
    # the disk of every machine holds more than that
    with healthy_server(tmp_path, workers="1", fill_level="1") as server:
        answer = server.request("GET", "/readyz")
        assert (answer.status, answer.json["status"]) == (503, "not ready")
        checks = answer.json["checks"]
        disk = checks.pop("disk")
        assert disk == {
            "ok": False,
            "reason": "the disk is filled above 1 % already",
        }
        assert all(one["ok"] for one in checks.values())
        assert server.request("PUT", "/upload/a.txt", b"x").status == 507
        assert metric(server, "asyncflow_ready") == 0.0
        assert metric(server, 'asyncflow_check{check="disk"}') == 0.0
        assert server.request("GET", "/livez").status == 200


def test_a_server_that_lets_an_upload_end_before_it_stops_is_not_ready(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data", workers="1") as server, Line(server) as line:
        assert asked(line).status == 200
        half = bytes(1 << 20)
        upload = create(server, 2 * len(half))
        with half_open(server, upload, 0, half, length=2 * len(half)) as sending:
            until(lambda: server.status(upload)["uploadedBytes"])
            server.signal(signal.SIGTERM)
            until(lambda: asked(line).status == 503)
            checks = asked(line).json["checks"]
            assert checks["accepting"] == {"ok": False, "reason": "the server stops"}
            assert checks["database"]["ok"]
            sending.send(half)
            assert sending.answer().status == 204
        assert server.wait() == 0


def asked(line: Line) -> Answer:
    return line.ask("GET", "/readyz")
