"""How much longer a job takes, as its card says it."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import visiting
from tests.server_process import serving

pytestmark = pytest.mark.needs("chromium")

PROCESSOR = '''"""Reads slowly what says so."""

import time

from asyncflow import Result, Work, processor


@processor("reader", accepts=("text/plain",), outputs=())
def reader(work: Work) -> Result:
    """Need half a second for each tenth."""
    if work.source.read_bytes() == b"slow":
        for percent in range(10, 100, 10):
            time.sleep(0.5)
            work.progress(percent)
    return Result()
'''


def test_how_much_is_left_changes_while_a_step_runs(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "slow_reader.py").write_text(PROCESSOR)
    settings = {"processors": "slow_reader", "workers": "1"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        server.finished(server.upload("quick.txt", b"quick"))
        (tmp_path / "slow.txt").write_text("slow")
        visitor.open()
        visitor.give(tmp_path / "slow.txt")
        status = visitor.card("slow.txt").locator(".status")
        expect(status).to_have_text(re.compile("about [3-6] s left"))
        expect(status).to_have_text(re.compile("about [12] s left"))
        visitor.wait("slow.txt", "COMPLETED")
