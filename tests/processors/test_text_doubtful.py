"""Pages whose own text means nothing: fonts without a map to Unicode, or a bad one."""

import string
from pathlib import Path

import pytest

from tests.processors import text_pages
from tests.processors.readings import page_of, read, words_of
from tests.processors.text_pages import drawn_pdf, in_lines, mapped_pdf, match, typed

WORDS = text_pages.some_words(60)
LINES = in_lines(WORDS)
LETTERS = sorted(set("".join(WORDS)))


def counted(*numbers: int) -> dict[str, str]:
    """Return what letters mean to a font that counts them as they come."""
    letters = dict.fromkeys("".join(WORDS))
    return dict(zip(letters, map(chr, numbers), strict=False))


@pytest.mark.parametrize(
    "meanings",
    [
        pytest.param(dict.fromkeys(LETTERS, "\ufffd"), id="no character"),
        pytest.param(counted(*range(0xE000, 0xE020)), id="private use"),
        pytest.param(counted(*range(0x0E, 0x20), *range(0x80, 0xA0)), id="controls"),
        pytest.param(counted(*range(0x21, 0x7F)), id="counted from the first sign"),
    ],
)
def test_a_page_whose_letters_mean_nothing_is_read(
    tmp_path: Path, meanings: dict[str, str]
) -> None:
    ran = read(mapped_pdf(typed(LINES), meanings, tmp_path / "page.pdf"))
    assert match(WORDS, words_of(ran)) >= 0.98
    assert page_of(ran)["source"] == "ocr"
    assert (ran.facts["layerPages"], ran.facts["ocrPages"]) == (0, 1)
    assert set(WORDS) <= set(text_pages.words_in_pdf(ran.files["searchablePdf"]))


def test_what_was_read_instead_is_believed_later(tmp_path: Path) -> None:
    meanings = counted(*range(0xE000, 0xE020))
    ran = read(mapped_pdf(typed(LINES), meanings, tmp_path / "page.pdf"))
    again = read(ran.files["searchablePdf"])
    assert match(WORDS, words_of(again)) >= 0.98
    assert again.facts["ocrPages"] == 0


def test_a_page_in_a_font_without_a_map_is_read(tmp_path: Path) -> None:
    codes = {" ": " ", **dict(zip(map(chr, range(0x80, 0xFF)), LETTERS, strict=False))}
    coded = {letter: code for code, letter in codes.items()}
    lines = ["".join(coded.get(one, one) for one in line) for line in LINES]
    ran = read(drawn_pdf(typed(lines), tmp_path / "page.pdf", codes=codes))
    assert match(WORDS, words_of(ran)) >= 0.98
    assert page_of(ran)["source"] == "ocr"


def test_a_font_without_a_map_whose_codes_are_right_is_believed(tmp_path: Path) -> None:
    codes = {letter: letter for letter in [" ", *LETTERS]}
    ran = read(drawn_pdf(typed(LINES), tmp_path / "page.pdf", codes=codes))
    assert words_of(ran) == WORDS
    assert page_of(ran)["source"] == "layer"


def test_a_font_without_a_map_keeps_accents_that_are_not_read(tmp_path: Path) -> None:
    line = "výlet ráno dávno býval rok"
    codes = {letter: letter for letter in sorted(set(line))}
    ran = read(drawn_pdf(typed([line]), tmp_path / "page.pdf", codes=codes))
    assert words_of(ran) == line.split()


def test_only_the_lines_that_mean_nothing_are_read(tmp_path: Path) -> None:
    head, body = "Mountain river paper", in_lines(WORDS)
    meanings = {one: chr(0xE000 + ord(one)) for one in string.ascii_letters}
    content = f"{typed([head], size=20)} {typed(body, font='G', top=340)}"
    ran = read(mapped_pdf(content, meanings, tmp_path / "page.pdf"))
    assert words_of(ran) == [*head.split(), *WORDS]
    assert page_of(ran)["source"] == "mixed"
    own = [one["text"] for one in page_of(ran)["words"] if one["confidence"] is None]
    assert own == WORDS


def test_what_looks_like_signs_and_is_meant_so_is_believed(tmp_path: Path) -> None:
    lines = [
        "int main(void) {",
        "x[i++] = (y->z)[--j];",
        "+---+-*-+---+",
        "}}));//**{{",
    ]
    path = text_pages.page_pdf(typed(lines), tmp_path / "page.pdf")
    ran = read(path)
    assert words_of(ran) == " ".join(lines).split()
    assert page_of(ran)["source"] == "layer"


def test_bullets_icons_and_dots_cost_nothing(tmp_path: Path) -> None:
    meanings = {one: chr(0xF000 + ord(one)) for one in "lnqu."}
    drawn = typed(["l", "n", "lnqu", "." * 40])
    content = f"{drawn} {typed(LINES, font='G', top=300)}"
    ran = read(mapped_pdf(content, meanings, tmp_path / "page.pdf"))
    assert words_of(ran)[-len(WORDS) :] == WORDS
    assert page_of(ran)["source"] == "layer"
    assert "engine" not in ran.facts


def test_what_means_nothing_is_kept_where_nothing_can_be_read(tmp_path: Path) -> None:
    path = mapped_pdf(typed(LINES), counted(*range(0x21, 0x7F)), tmp_path / "page.pdf")
    ran = read(path, languages=["none_such"])
    page = page_of(ran)
    assert (page["source"], page["error"]) == ("layer", "missing_tool")
    assert len(page["words"]) == len(WORDS)
