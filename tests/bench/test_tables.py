"""The tables of numbers, with tiny sizes: that they work, not what they say."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import TABLES
from bench.rows import Row, percentile, plain

ROOT = Path(__file__).resolve().parents[2]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def report(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_prints_numbers_and_keeps_them_as_json(
    table: str, tmp_path: Path
) -> None:
    done = run_bench(table, "--quick", "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path)
    assert set(found["tables"]) == {table}
    rows = found["tables"][table]
    for row in rows:
        assert math.isfinite(row["value"])
        assert row["what"] in done.stdout
    assert any(row["value"] > 0 for row in rows)
    assert found["machine"]["fdatasyncP50Ms"] > 0
    assert list(tmp_path.iterdir()) == list(tmp_path.glob("*.json"))


def test_a_table_that_does_not_exist_is_refused_by_name() -> None:
    done = run_bench("speed")
    assert done.returncode == 2
    assert "no table speed" in done.stderr
    assert "answer" in done.stderr


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row(what="x", value=5, unit="ms", most=5), "ok"),
        (Row(what="x", value=5.1, unit="ms", most=5), "MISS"),
        (Row(what="x", value=5, unit="/s", least=5), "ok"),
        (Row(what="x", value=4.9, unit="/s", least=5), "MISS"),
    ],
)
def test_a_target_is_reached_up_to_its_edge(row: Row, verdict: str) -> None:
    assert verdict in plain("table", [row]).splitlines()[-1].split()


def test_a_number_without_a_target_has_no_verdict() -> None:
    text = plain("table", [Row(what="x", value=5, unit="ms")])
    assert "ok" not in text
    assert "MISS" not in text


@pytest.mark.parametrize(("share", "value"), [(0, 1), (50, 5), (99, 10), (100, 10)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile(range(10, 0, -1), share) == value


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
