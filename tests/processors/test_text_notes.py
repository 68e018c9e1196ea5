"""Notes that were typed onto a page, of which the file does not say how they look."""

from pathlib import Path

import pytest

from tests.processors import text_pages
from tests.processors.readings import page_of, read, words_of
from tests.processors.text_pages import page_pdf, sheet

TYPED = "BT /F 12 Tf 50 355 Td (Name) Tj ET"
PLACE = "/Rect [50 300 200 320]"


@pytest.mark.parametrize(
    "note",
    [
        pytest.param("/Contents (call back) /DA (/Helv 12 Tf)", id="without looks"),
        pytest.param("/Contents (call\\rback)", id="nor a font"),
        pytest.param(
            "/Contents <FEFF00630061006C006C0020006200610063006B>", id="UTF-16"
        ),
        pytest.param("/Contents (call back) /AP << /N 14 0 R >>", id="empty looks"),
        pytest.param(
            "/RC (<?xml version='1.0'?><body><p>call <b>back</b></p></body>)", id="rich"
        ),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_note_of_which_there_is_no_picture_is_text_of_the_page(
    tmp_path: Path, note: str, attempt: int
) -> None:
    path = page_pdf(TYPED, tmp_path / "page.pdf", note=f"{PLACE} {note}")
    ran = read(path, attempt=attempt)
    assert words_of(ran) == ["Name", "call", "back"]
    assert page_of(ran)["source"] == "layer"
    assert [one["box"] for one in page_of(ran)["words"][1:]] == [
        [50, 101, 200, 121]
    ] * 2


@pytest.mark.parametrize("flags", [2, 32], ids=["hidden", "not to be viewed"])
def test_a_note_that_nobody_is_to_see_stays_unseen(tmp_path: Path, flags: int) -> None:
    note = f"{PLACE} /Contents (secret) /F {flags}"
    path = page_pdf(TYPED, tmp_path / "page.pdf", note=note)
    path.write_bytes(path.read_bytes().replace(b"/FreeText /F 4 ", b"/FreeText     "))
    assert words_of(read(path)) == ["Name"]


def test_a_note_on_a_scan_stands_behind_what_is_read(tmp_path: Path) -> None:
    words = text_pages.some_words(30)
    note = f"{PLACE} /Contents (call back)"
    scan = "q 595 0 0 421 0 0 cm /I Do Q"
    ran = read(page_pdf(scan, tmp_path / "page.pdf", picture=sheet(words), note=note))
    assert words_of(ran) == [*words, "call", "back"]
    assert page_of(ran)["source"] == "mixed"


def test_a_page_that_is_nothing_but_a_note_has_its_text(tmp_path: Path) -> None:
    note = f"{PLACE} /Contents (call back)"
    ran = read(page_pdf("", tmp_path / "page.pdf", note=note, rotate=90))
    assert words_of(ran) == ["call", "back"]
    assert page_of(ran)["source"] == "layer"
