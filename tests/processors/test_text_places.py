"""Small pictures on pages that carry text: stamps, letterheads, receipts, icons."""

from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from asyncflow.processors.matrix import Box
from asyncflow.processors.places import Picture, places_of
from asyncflow.testing.processor import Ran
from tests.processors import text_pages
from tests.processors.readings import page_of, read, words_of
from tests.processors.text_pages import in_lines, landscape, page_pdf, typed

BODY = text_pages.some_words(160, seed=7)
TYPED = typed(in_lines(BODY, of=14), size=8)
PAGE: Box = (0, 0, 595, 842)


def guessed(ran: Ran) -> list[dict[str, Any]]:
    return [one for one in page_of(ran)["words"] if one["confidence"] is not None]


def slip(*lines: str, dpi: int = 200, size: int = 11) -> PIL.Image.Image:
    """Return a cutting with lines of *size* points, hardly larger than they are."""
    font = PIL.ImageFont.load_default(size=size * dpi / 72)
    said = "\n".join(lines)
    _, _, width, height = PIL.ImageDraw.Draw(
        PIL.Image.new("L", (1, 1))
    ).multiline_textbbox((0, 0), said, font=font)
    cutting = PIL.Image.new("L", (round(width) + 20, round(height) + 20), 255)
    PIL.ImageDraw.Draw(cutting).multiline_text((10, 8), said, font=font, fill=0)
    return cutting


def put(cutting: PIL.Image.Image, x: int, y: float, *, name: str = "I") -> str:
    width, height = (side * 72 / 200 for side in cutting.size)
    assert width * height < 0.05 * 595 * 421
    return f"q {width} 0 0 {height} {x} {y} cm /{name} Do Q"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["PAID"], id="a word"),
        pytest.param(["Received 24 March 2021"], id="a line"),
        pytest.param(["Harbour Street", "Books and Maps", "Total 24.50"], id="lines"),
        pytest.param(
            ["North Coast Trading Company, Harbour Street 24, Bristol"],
            id="a letterhead",
        ),
    ],
)
def test_a_small_picture_of_lines_is_read(tmp_path: Path, lines: list[str]) -> None:
    cutting = slip(*lines)
    content = f"{TYPED} {put(cutting, 250, 30)}"
    ran = read(page_pdf(content, tmp_path / "page.pdf", picture=cutting))
    assert [one["text"] for one in guessed(ran)] == " ".join(lines).split()
    assert words_of(ran) == [*BODY, *" ".join(lines).split()]
    assert page_of(ran)["source"] == "mixed"
    for one in guessed(ran):
        x0, y0, x1, y1 = one["box"]
        assert 250 <= x0 < x1 <= 250 + cutting.width * 0.36 + 1
        assert 391 - cutting.height * 0.36 - 1 <= y0 < y1 <= 391


def test_small_pictures_apart_are_read_each_for_itself(tmp_path: Path) -> None:
    head, stamp = slip("North Coast Trading Company"), slip("Received 24 March")
    content = f"{put(head, 20, 398)} {TYPED} {put(stamp, 400, 30, name='J')}"
    ran = read(page_pdf(content, tmp_path / "page.pdf", picture=head, other=stamp))
    said = ["North", "Coast", "Trading", "Company", "Received", "24", "March"]
    assert [one["text"] for one in guessed(ran)] == said
    searchable = text_pages.words_in_pdf(ran.files["searchablePdf"])
    assert set(said) <= set(searchable)
    again = read(ran.files["searchablePdf"])
    assert again.facts["ocrPages"] == 0
    assert sorted(words_of(again)) == sorted([*BODY, *said])


def test_a_small_picture_beside_a_photograph_is_read(tmp_path: Path) -> None:
    stamp, view = slip("Received 24 March"), landscape((800, 533))
    content = f"{TYPED} q 240 0 0 160 20 20 cm /J Do Q {put(stamp, 400, 30)}"
    ran = read(page_pdf(content, tmp_path / "page.pdf", picture=stamp, other=view))
    assert [one["text"] for one in guessed(ran)] == ["Received", "24", "March"]


def test_a_small_picture_in_parts_is_read(tmp_path: Path) -> None:
    cutting = slip("Received 24 March")
    half = cutting.height // 2
    upper = cutting.crop((0, 0, cutting.width, half))
    lower = cutting.crop((0, half, cutting.width, cutting.height))
    drawn = put(upper, 250, 30 + lower.height * 0.36)
    drawn += f" {put(lower, 250, 30, name='J')}"
    path = tmp_path / "page.pdf"
    ran = read(page_pdf(f"{TYPED} {drawn}", path, picture=upper, other=lower))
    assert [one["text"] for one in guessed(ran)] == ["Received", "24", "March"]


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Received 24 March"], id="a line"),
        pytest.param(["Harbour Street Books and Maps"] * 5, id="lines"),
    ],
)
def test_a_small_picture_is_read_however_it_was_pasted(
    tmp_path: Path, turn: int, lines: list[str]
) -> None:
    cutting = slip(*lines, size=8).rotate(turn, expand=True)
    content = f"{TYPED} {put(cutting, 430, 30)}"
    ran = read(page_pdf(content, tmp_path / "page.pdf", picture=cutting))
    assert [one["text"] for one in guessed(ran)] == " ".join(lines).split()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("q 24 0 0 24 400 30 cm /I Do Q", id="an icon"),
        pytest.param("q 500 0 0 4 30 30 cm /I Do Q", id="a rule"),
        pytest.param("q 120 0 0 90 400 30 cm /J Do Q", id="a small photograph"),
        pytest.param(
            " ".join(
                f"q 4 0 0 4 {9 * (at % 60) + 20} {9 * (at // 60) + 20} cm /I Do Q"
                for at in range(600)
            ),
            id="hundreds of bullets",
        ),
    ],
)
def test_small_pictures_without_lines_are_not_read(
    tmp_path: Path, content: str
) -> None:
    words, view = slip("PAID"), landscape((240, 180))
    path = tmp_path / "page.pdf"
    ran = read(page_pdf(f"{TYPED} {content}", path, picture=words, other=view))
    assert words_of(ran) == BODY
    assert "engine" not in ran.facts


def pictures(*boxes: Box, pixels: int = 10_000) -> list[Picture]:
    return [Picture(box=box, pixels=pixels) for box in boxes]


def test_pictures_that_touch_are_one_place() -> None:
    tiles = [
        (float(x), float(y), x + 10.0, y + 10.0)
        for y in range(100, 150, 10)
        for x in range(100, 300, 10)
    ]
    (place,) = places_of(pictures(*tiles[::2], *tiles[1::2], pixels=100), PAGE)
    assert place.box == (100, 100, 300, 150)
    assert len(place.pictures) == 100


def test_what_shows_no_line_is_no_place() -> None:
    assert places_of(pictures((10, 10, 34, 34), (60, 10, 300, 16)), PAGE) == []
    assert places_of(pictures((10, 10, 300, 40), pixels=256), PAGE) == []
    assert places_of(pictures((-300, 10, -10, 40)), PAGE) == []


def test_of_many_small_places_the_largest_are_looked_at() -> None:
    many = [(50.0, 20.0 * at, 90.0 + at, 20.0 * at + 10) for at in range(1, 21)]
    assert [place.box for place in places_of(pictures(*many), PAGE)] == many[-8:]


def test_many_places_that_cover_much_are_looked_at_at_once() -> None:
    lines: list[Box] = [(50, 20.0 * at, 500, 20.0 * at + 10) for at in range(1, 31)]
    (place,) = places_of(pictures(*lines), PAGE)
    assert place.box == (50, 20, 500, 610)
    assert place.pictures == lines


def test_thousands_of_pictures_are_looked_at_at_once_or_not_at_all() -> None:
    dots = [
        (x * 5.0, y * 5.0, x * 5 + 2.0, y * 5 + 2.0)
        for x in range(60)
        for y in range(60)
    ]
    assert places_of(pictures(*dots), PAGE) == []
    tiles = [
        (x * 5.0, y * 5.0, x * 5 + 5.0, y * 5 + 5.0)
        for x in range(60)
        for y in range(60)
    ]
    (place,) = places_of(pictures(*tiles), PAGE)
    assert place.box == (0, 0, 300, 300)
