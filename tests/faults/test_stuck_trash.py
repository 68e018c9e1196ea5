"""Given-up bytes that cannot be removed: the others are, and these later."""

from pathlib import Path

from tests.faults import probe, watch
from tests.faults.conftest import Make


def test_bytes_that_cannot_be_removed_hold_up_no_others(
    make: Make, tmp_path: Path
) -> None:
    server = make()
    stuck = free = server.upload("a.txt", probe.text(parts=1))
    while free[-2:] == stuck[-2:]:  # they must lie in two folders
        free = server.upload("a.txt", probe.text(parts=1))
    for job in (stuck, free):
        assert server.finished(job)["status"] == "COMPLETED"
    raw = tmp_path / "data" / "store" / "raw"
    good = raw / free[-2:] / free
    bad = raw / stuck[-2:]
    bad.rename(tmp_path / "elsewhere")
    bad.symlink_to(tmp_path / "elsewhere")

    assert server.request("DELETE", f"/jobs/{stuck}").status == 204
    watch.until(lambda: "trash.stuck" in server.log())
    assert server.request("DELETE", f"/jobs/{free}").status == 204

    watch.until(lambda: not good.exists())
    assert (tmp_path / "elsewhere" / stuck).exists()
    watch.until(lambda: "trash" in watch.alerts(server))
    assert server.stop() == 0
