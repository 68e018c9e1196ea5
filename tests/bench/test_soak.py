"""The soak, for a moment: that it loads, samples and prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.soak import Sample, slope

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_soak_prints_its_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--minutes", "0.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    # so short, everything still grows: only what was done is looked at
    assert "Traceback" not in done.stderr
    for what in ("things done", "RSS grows by", "descriptors grow by"):
        assert what in done.stdout
    (failed,) = [line for line in done.stdout.splitlines() if "that failed" in line]
    assert failed.split()[-3:] == ["<=", "0", "ok"], failed


@pytest.mark.parametrize(("growth", "expected"), [(0.0, 0.0), (2.0, 2.0), (-1.0, -1.0)])
def test_a_slope_is_by_how_much_a_minute_adds(growth: float, expected: float) -> None:
    samples = [
        Sample(
            at_s=60.0 * n,
            # what happens in the first half does not count
            rss_mib=growth * n if n >= 5 else 1000.0,
            fds=0,
            threads=0,
            tasks=0,
            wal_mib=0,
        )
        for n in range(10)
    ]

    assert slope(samples, lambda s: s.rss_mib) == pytest.approx(expected)
