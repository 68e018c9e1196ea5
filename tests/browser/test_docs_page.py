"""The description of the interface, as people read it."""

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import SCHEMES, Visitor

pytestmark = pytest.mark.needs("chromium")


def test_axe_finds_nothing_wrong_in_light_and_dark(visitor: Visitor) -> None:
    page = visitor.page
    page.goto(f"{visitor.url}/docs")
    page.locator("details", has=page.locator("table")).first.locator("summary").click()
    expect(page.locator("details[open] table").first).to_be_visible()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        assert visitor.violations() == []
