"""What a step left out although it is done: told on the card, aloud and in the sum."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import SCHEMES, Visitor, letter, photo, visiting
from tests.processors.text_pages import joined, page_pdf, with_lost_page
from tests.server_process import ServerProcess, serving

pytestmark = pytest.mark.needs("chromium")

TYPED = "BT /F1 24 Tf 72 700 Td (a good first page) Tj ET"
NOT_READ = "Page 2 could not be read in full: a tool for that is not installed."
NO_DATA = (
    "No data for the language tlh is installed: text in it may be wrong or missing."
)


@pytest.fixture(scope="module")
def klingon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serve somebody whose language nobody can read."""
    folder = tmp_path_factory.mktemp("klingon") / "data"
    with serving(folder, workers="1", text_languages="tlh") as server:
        yield server


def mixed(folder: Path) -> Path:
    """Write a PDF of a typed page and a scanned one."""
    typed = page_pdf(TYPED, folder / "typed.pdf")
    scan = letter(folder / "scan.pdf", "Only words")
    return joined([typed, scan], folder / "mixed.pdf")


def test_pages_that_were_not_read_are_named_on_the_card_and_said(
    browser: Browser, klingon: ServerProcess, tmp_path: Path
) -> None:
    with visiting(browser, klingon.url) as visitor:
        visitor.open()
        visitor.give(photo(tmp_path / "whole.jpg"))
        visitor.wait("whole.jpg", "COMPLETED")
        visitor.give(mixed(tmp_path))
        card = visitor.wait("mixed.pdf", "COMPLETED", 40_000)
        told = card.get_by_role("list", name="Reasons of mixed.pdf")
        expect(told.get_by_role("listitem")).to_have_text([NOT_READ, NO_DATA])
        expect(card.locator(".status")).to_have_text(
            re.compile("^Done, not in full · ")
        )
        expect(visitor.page.locator("p.live")).to_contain_text(
            f"mixed.pdf: done. {NOT_READ} {NO_DATA}"
        )
        expect(visitor.page.locator(".summary p")).to_have_text(
            "2 files · 2 done (1 not in full)"
        )
        for scheme in SCHEMES:
            visitor.page.emulate_media(color_scheme=scheme)
            assert visitor.violations() == []
        # also to who comes later
        visitor.page.reload()
        visitor.wait("mixed.pdf", "COMPLETED")
        expect(told.get_by_role("listitem")).to_have_text([NOT_READ, NO_DATA])


def test_the_operator_sees_which_pages_were_not_read(
    browser: Browser, klingon: ServerProcess, tmp_path: Path
) -> None:
    job = klingon.upload("torn.pdf", mixed(tmp_path).read_bytes())
    assert klingon.finished(job)["status"] == "COMPLETED"
    with visiting(browser, klingon.url) as visitor:
        visitor.page.goto(f"{klingon.url}/admin?token={klingon.token}")
        row = visitor.page.locator("#jobs li", has_text="torn.pdf")
        row.get_by_role("button", name="torn.pdf", exact=True).click()
        expect(row.locator(".gap")).to_have_text([NOT_READ, NO_DATA])
        assert visitor.violations() == []


def test_a_page_that_is_lost_is_named_beside_the_text_of_the_others(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(with_lost_page(tmp_path / "lost.pdf"))
    card = visitor.wait("lost.pdf", "COMPLETED", 40_000)
    expect(card.locator(".reasons li")).to_have_text(
        ["Page 2 could not be read: it is damaged."]
    )
    text = card.get_by_role("region", name="Text of lost.pdf")
    expect(text).to_contain_text("third")


def test_a_language_that_no_page_needed_is_not_missed(
    browser: Browser, klingon: ServerProcess, tmp_path: Path
) -> None:
    with visiting(browser, klingon.url) as visitor:
        visitor.open()
        visitor.give(page_pdf(TYPED, tmp_path / "typed.pdf"))
        card = visitor.wait("typed.pdf", "COMPLETED", 40_000)
        expect(card.get_by_role("region", name="Text of typed.pdf")).to_be_visible()
        expect(card.locator(".reasons")).to_be_hidden()


def test_a_language_without_data_is_named_beside_what_was_read(
    browser: Browser, tmp_path: Path
) -> None:
    settings = {"workers": "1", "text_languages": "eng,tlh"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        visitor.open()
        visitor.give(letter(tmp_path / "opera.pdf", "Only words"))
        card = visitor.wait("opera.pdf", "COMPLETED", 40_000)
        expect(card.locator(".reasons li")).to_have_text([NO_DATA])


def failed(*pages: int, reason: str = "damaged") -> list[dict[str, object]]:
    return [{"page": page, "reason": reason} for page in pages]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"failedPages": [], "ocrPages": 3}, []),
        # somebody's own function may find anything
        ({"failedPages": 3}, []),
        ({"failedPages": [7, None]}, []),
        ({"failedPages": [], "missingLanguages": 2, "ocrPages": 1}, []),
        ([], []),
        (None, []),
        (
            {"failedPages": [*failed(2), *failed(3, 5, reason="timeout")]},
            [
                "Page 2 could not be read: it is damaged.",
                "Pages 3 and 5 could not be read in full: they took too long.",
            ],
        ),
        (
            {"failedPages": failed(2, 4, 5, 6, 9, 10)},
            ["Pages 2, 4 to 6, 9 and 10 could not be read: they are damaged."],
        ),
        (
            {"failedPages": failed(*range(1, 40, 2), 40)},
            [
                (
                    "Pages 1, 3, 5, 7, 9, 11, 13, 15, 17 and 12 more "
                    "could not be read: they are damaged."
                )
            ],
        ),
        (
            {"failedPages": failed(8, reason="crashed")},
            ["Page 8 could not be read: the reader crashed on it."],
        ),
        (
            {
                "failedPages": failed(3),
                "failedOutputs": [
                    {"output": "searchablePdf", "reason": "crashed"},
                    {"output": "preview", "reason": "timeout"},
                    {"output": "abstract", "reason": "odd"},
                ],
            },
            [
                "Page 3 could not be read: it is damaged.",
                "The searchable PDF could not be made: what makes it crashed.",
                "The preview could not be made: it took too long.",
                "The abstract could not be made (odd).",
            ],
        ),
        ({"failedPages": [], "failedOutputs": [{"output": 3}]}, []),
        ({"failedPages": [], "emptyPages": [{"page": "2"}]}, []),
        (
            {
                "failedPages": failed(2, reason="truncated"),
                "emptyPages": failed(2, reason="truncated"),
            },
            [
                "Page 2 could not be read: it ends too early.",
                ("Page 2 of the searchable PDF is empty: it could not be shown."),
            ],
        ),
        (
            {"failedPages": failed(2, 4), "emptyPages": failed(2, 4)},
            [
                "Pages 2 and 4 could not be read: they are damaged.",
                (
                    "Pages 2 and 4 of the searchable PDF are empty: "
                    "they could not be shown."
                ),
            ],
        ),
        (
            {"failedPages": failed(7, reason="too_odd")},
            ["Page 7 could not be read (too_odd)."],
        ),
        (
            {"failedPages": [], "missingLanguages": ["deu", "fra"], "ocrPages": 1},
            [
                (
                    "No data for the languages deu and fra is installed: "
                    "text in them may be wrong or missing."
                )
            ],
        ),
    ],
)
def test_what_was_left_out_is_told_in_plain_words(
    visitor: Visitor, facts: object, said: list[str]
) -> None:
    visitor.open()
    words = """async (job) => (await import("/assets/gaps.js")).gaps(job)"""
    job = {"steps": [{"name": "identify"}, {"name": "text"}], "facts": {"text": facts}}
    assert visitor.page.evaluate(words, job) == said
