"""The page for people, in a real browser: it shows every operation."""

import re
import subprocess
from pathlib import Path

import pytest

from asyncflow.web.operations import OPERATIONS
from tests.server_process import serving


@pytest.mark.needs("chromium")
def test_a_browser_shows_every_operation(tmp_path: Path) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    with serving(tmp_path / "data", workers="1") as server:
        done = subprocess.run(
            [
                "chromium",
                *options,
                "--virtual-time-budget=5000",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"{server.url}/docs",
            ],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
    shown = re.findall(r'method">(\w+)</span><code>([^<]+)<', done.stdout)
    assert {f"{method} {path}" for method, path in shown} == {
        one.route for one in OPERATIONS
    }
