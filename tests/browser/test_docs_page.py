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


def test_a_search_leaves_no_heading_without_what_it_heads(visitor: Visitor) -> None:
    page = visitor.page
    page.goto(f"{visitor.url}/docs")
    headings = page.locator("h2:visible")
    expect(headings).not_to_have_count(0)
    every = headings.count()
    page.get_by_label("Find").fill("/admin/tenants")
    expect(headings).to_have_text(["operation"])
    page.get_by_label("Find").fill("certainly nothing")
    expect(headings).to_have_count(0)
    expect(page.get_by_role("status")).to_contain_text("Nothing has these words")
    page.get_by_label("Find").fill("")
    expect(headings).to_have_count(every)
    expect(page.get_by_role("status")).to_have_count(0)
