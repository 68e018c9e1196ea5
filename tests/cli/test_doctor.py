import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncflow.cli import main
from asyncflow.cli.machine import clock, cores, file_system, folder, memory
from asyncflow.cli.toolbox import sqlite
from tests.client.small_server import SmallServer

GIB = 1 << 30


def test_every_finding_that_is_not_fine_has_a_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["doctor", "--json"])

    found = json.loads(capsys.readouterr().out)["checks"]
    names = {one["name"] for one in found}
    assert {
        "Python",
        "SQLite",
        "libvips",
        "sandbox",
        "fsync",
        "disk",
        "server",
    } <= names
    # what no processor uses is neither missing nor fine
    assert names.isdisjoint({"ffmpeg", "clamd"})
    assert all(one.get("hint") for one in found if one["level"] != "ok")
    assert code == int(any(one["level"] == "stop" for one in found))


def test_a_running_server_is_found(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor"])

    assert f"{server.url} is up and ready" in capsys.readouterr().out


def test_bad_settings_would_stop_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNCFLOW_PORT", "many")

    assert main(["doctor"]) == 1

    assert "port is 'many'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 40, 1), "warn"), ((3, 51, 2), "warn"), ((3, 51, 3), "ok"), ((4, 0), "ok")],
)
def test_an_sqlite_with_the_reset_bug_is_warned_of(
    version: tuple[int, ...], level: str
) -> None:
    assert sqlite(version).level == level


@pytest.mark.parametrize(
    ("quota", "level"), [("50000 100000", "warn"), ("max 100000", "ok"), ("", "ok")]
)
def test_a_share_of_a_core_is_little(tmp_path: Path, quota: str, level: str) -> None:
    (tmp_path / "cpu.max").write_text(quota)

    assert cores(tmp_path).level == level


@pytest.mark.parametrize(("limit", "level"), [(GIB // 2, "warn"), ("max", "ok")])
def test_a_container_may_have_little_memory(
    tmp_path: Path, limit: object, level: str
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")

    assert memory(tmp_path).level == level


def mounts(tmp_path: Path, kind: str) -> Path:
    table = tmp_path / "mountinfo"
    point = str(tmp_path).replace(" ", "\\040")
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:40 / {point} rw shared:9 - {kind} somewhere rw\n"
    )
    return table


@pytest.mark.parametrize(
    ("kind", "level"), [("nfs4", "warn"), ("tmpfs", "warn"), ("xfs", "ok")]
)
def test_the_file_system_under_the_data_folder_is_looked_at(
    tmp_path: Path, kind: str, level: str
) -> None:
    found = file_system(tmp_path, mounts(tmp_path, kind))

    assert (found.level, kind in found.text) == (level, True)


def test_a_clock_before_the_first_release_is_wrong() -> None:
    assert clock(datetime(1970, 1, 1, tzinfo=UTC)).level == "warn"


@pytest.fixture
def in_the_way(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("")
    return file


def test_a_data_folder_that_cannot_be_made_stops_the_server(in_the_way: Path) -> None:
    (found,) = folder(in_the_way / "data", fill_level=90)

    assert found.level == "stop"


def test_a_full_disk_stops_the_server(tmp_path: Path) -> None:
    found = {one.name: one for one in folder(tmp_path, fill_level=0)}

    assert found["disk"].level == "stop"


def test_languages_without_data_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNCFLOW_TEXT_LANGUAGES", "eng,tlh")
    main(["doctor"])

    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("languages")
    ]
    assert "no data to read tlh" in line
