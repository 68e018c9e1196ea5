"""What a page shows beside its text layer: stamped scans, outlined letters, layers."""

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pypdfium2
import pytest

from asyncflow.processors import matrix, pages
from asyncflow.processors.clock import Clock, PageTimeout
from asyncflow.processors.matrix import Box
from asyncflow.processors.ocr import Seen
from asyncflow.processors.reading import Reading
from asyncflow.processors.uncovered import Uncovered
from asyncflow.testing.processor import Ran
from tests.processors import text_pages
from tests.processors.readings import page_of, read, words_of
from tests.processors.text_pages import landscape, match, page_pdf, sheet

#: the picture covers the page, as that of a scanner does
SCAN = "q 595 0 0 421 0 0 cm /I Do Q"
STAMP = "BT /F 9 Tf 30 10 Td (Page 1 of 1) Tj ET"
STAMPED = ["Page", "1", "of", "1"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{SCAN} {STAMP}", id="a page number"),
        pytest.param(f"{STAMP} {SCAN} {STAMP}", id="one below the scan as well"),
        pytest.param(
            f"{SCAN} {STAMP} 0.9 g BT /F 90 Tf 0.8 0.6 -0.6 0.8 90 20 Td (COPY) Tj ET",
            id="a watermark across the scan",
        ),
        pytest.param(f"/N Do {STAMP}", id="within forms"),
        pytest.param(
            f"q 595 0 0 211 0 0 cm /I Do Q {STAMP} q 1 0 0 1 0 210 cm 0 0 99 20 re f Q",
            id="on half of the page",
        ),
    ],
)
def test_a_stamped_scan_is_still_read(tmp_path: Path, content: str) -> None:
    words = text_pages.some_words(60)
    ran = read(page_pdf(content, tmp_path / "scan.pdf", picture=sheet(words)))
    page = page_of(ran)
    assert page["source"] == "mixed"
    assert (ran.facts["layerPages"], ran.facts["ocrPages"]) == (1, 1)
    guessed = [one["text"] for one in page["words"] if one["confidence"] is not None]
    own = [one["text"] for one in page["words"] if one["confidence"] is None]
    assert match(words, guessed) >= 0.95
    assert own[-4:] == STAMPED or own[:4] == STAMPED
    assert "engine" in ran.facts


def test_what_begins_higher_comes_first_and_all_can_be_searched(tmp_path: Path) -> None:
    words = text_pages.some_words(60)
    path = page_pdf(f"{SCAN} {STAMP}", tmp_path / "scan.pdf", picture=sheet(words))
    ran = read(path)
    assert match([*words, *STAMPED], words_of(ran)) >= 0.98
    found = text_pages.words_in_pdf(ran.files["searchablePdf"])
    assert match([*STAMPED, *words], found) >= 0.98
    again = read(ran.files["searchablePdf"])
    assert page_of(again)["source"] == "layer"
    assert again.facts["ocrPages"] == 0


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_stamped_scan_that_is_shown_turned_has_its_words_in_place(
    tmp_path: Path, turn: int
) -> None:
    words = text_pages.some_words(60)
    path = tmp_path / "scan.pdf"
    page_pdf(f"{SCAN} {STAMP}", path, picture=sheet(words), rotate=turn)
    ran = read(path)
    assert match(words, [w for w in words_of(ran) if w not in STAMPED]) >= 0.95
    with_text = pypdfium2.PdfDocument(ran.files["searchablePdf"])
    # the stamp says how the page is meant to be shown
    assert with_text[0].get_rotation() == turn
    with_text.close()
    assert read(ran.files["searchablePdf"]).facts["ocrPages"] == 0


def test_a_stamped_scan_of_a_single_word_is_read(tmp_path: Path) -> None:
    scan = sheet(["invoice"])
    ran = read(page_pdf(f"{SCAN} {STAMP}", tmp_path / "scan.pdf", picture=scan))
    assert words_of(ran) == ["invoice", *STAMPED]


def test_letters_drawn_as_outlines_are_read(tmp_path: Path) -> None:
    ran = read(page_pdf(outlined("nothing but shapes"), tmp_path / "shapes.pdf"))
    assert words_of(ran) == ["nothing", "but", "shapes"]
    assert page_of(ran)["source"] == "ocr"


def test_letters_drawn_as_outlines_are_read_beside_a_page_number(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(24)
    lines = [" ".join(words[at : at + 6]) for at in range(0, 24, 6)]
    drawn = " ".join(outlined(line, down=50 * at) for at, line in enumerate(lines))
    ran = read(page_pdf(f"{drawn} {STAMP}", tmp_path / "shapes.pdf"))
    assert match([*words, *STAMPED], words_of(ran)) >= 0.95


def outlined(said: str, *, down: int = 0) -> str:
    """Return the drawing of a line of text as shapes: a polygon for each run of ink."""
    font = PIL.ImageFont.load_default(size=24)
    page = PIL.Image.new("1", (560, 40))
    draw = PIL.ImageDraw.Draw(page)
    shapes, left = [], 0.0
    for letter in said:
        draw.rectangle((0, 0, *page.size), fill=0)
        draw.text((left, 4), letter, font=font, fill=1)
        left += font.getlength(letter)
        dots = [
            f"{x + 20} {380 - y - down} 1 1 re"
            for y in range(page.height)
            for x in range(page.width)
            if page.getpixel((x, y))
        ]
        shapes.append(f"{' '.join(dots)} f")
    return " ".join(shapes)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("BT /F 12 Tf 3 Tr {text} ET", id="written invisibly"),
        pytest.param("BT /F 12 Tf {text} ET q 595 0 0 421 0 0 cm /I Do Q", id="below"),
    ],
)
def test_a_scan_with_a_layer_from_elsewhere_is_not_read_again(
    tmp_path: Path, content: str
) -> None:
    words = text_pages.some_words(60)
    scan = page_pdf(SCAN, tmp_path / "scan.pdf", picture=sheet(words))
    placed = [
        f"1 0 0 1 {one['box'][0]} {421 - one['box'][3]} Tm ({one['text']}) Tj"
        for one in page_of(read(scan))["words"]
    ]
    layer = content.format(text=" ".join(placed))
    path = page_pdf(f"{SCAN} {layer}", tmp_path / "layer.pdf", picture=sheet(words))
    ran = read(path)
    assert page_of(ran)["source"] == "layer"
    assert "engine" not in ran.facts
    assert match(words, words_of(ran)) >= 0.98


def test_a_layer_in_the_wrong_places_is_not_doubled(tmp_path: Path) -> None:
    words = text_pages.some_words(60)
    said = " ".join(words)
    layer = f"BT /F 2 Tf 3 Tr 10 10 Td ({said}) Tj ET"
    path = page_pdf(f"{SCAN} {layer}", tmp_path / "scan.pdf", picture=sheet(words))
    ran = read(path)
    assert words_of(ran) == words
    assert page_of(ran)["source"] == "layer"


ARTICLE = """
The council decided on Monday that the new bridge over the river would be built by the
end of the year. The mayor said that the cost of the bridge was higher than expected and
that the city would have to pay for most of it. Many people in the city are against the
bridge because the road to it would go through the old park. The council will decide on
the cost in the next meeting and the people of the city may speak at it. The river has
been crossed by a ferry since the last war and the ferry is too small for the number of
cars that want to cross the river each day. The park is the oldest in the city and has
trees that are more than three hundred years old. The mayor said that no tree of the
park would be cut for the road."""
LETTER = """
The people of the park say that the road to the bridge would be the end of the park. We
will speak at the next meeting of the council and the mayor has to answer. Not one tree
may be cut"""


@pytest.mark.parametrize("mode", [0, 3], ids=["seen", "not seen"])
def test_a_pasted_letter_is_read_though_the_text_beside_it_has_most_of_its_words(
    tmp_path: Path, mode: int
) -> None:
    said = ARTICLE.split()
    lines = [" ".join(said[at : at + 16]) for at in range(0, len(said), 16)]
    typed = " ".join(f"({line}) '" for line in lines)
    content = f"BT {mode} Tr /F 8 Tf 10 TL 20 410 Td {typed} ET"
    content += " q 300 0 0 212 280 5 cm /I Do Q"
    path = page_pdf(content, tmp_path / "page.pdf", picture=sheet(LETTER.split()))
    ran = read(path)
    assert page_of(ran)["source"] == "mixed"
    assert match([*said, *LETTER.split()], words_of(ran)) >= 0.98


def test_a_stamp_takes_no_word_from_the_scan_that_begins_like_it(
    tmp_path: Path,
) -> None:
    stamp = "BT /F 9 Tf 30 10 Td (invoice total) Tj ET"
    scan = sheet(["invoice", "total", "paid"])
    ran = read(page_pdf(f"{SCAN} {stamp}", tmp_path / "scan.pdf", picture=scan))
    assert words_of(ran) == ["invoice", "total", "paid", "invoice", "total"]


def test_what_is_blacked_out_stays_so(tmp_path: Path) -> None:
    words = text_pages.some_words(60)
    bar = "0 g 0 0 595 421 re f 1 g BT /F 9 Tf 30 10 Td (removed) Tj ET"
    path = page_pdf(f"{SCAN} {bar}", tmp_path / "scan.pdf", picture=sheet(words))
    assert words_of(read(path)) == ["removed"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"q 90 0 0 60 30 300 cm /I Do Q {STAMP}", id="a small one"),
        pytest.param(f"q 300 0 0 200 30 90 cm /I Do Q {STAMP}", id="a large one"),
        pytest.param(f"{SCAN} {STAMP}", id="one behind the text"),
    ],
)
def test_an_illustration_is_not_read(tmp_path: Path, content: str) -> None:
    view = landscape((800, 533))
    ran = read(page_pdf(content, tmp_path / "photo.pdf", picture=view))
    assert words_of(ran) == STAMPED
    assert "engine" not in ran.facts


def test_what_was_filled_in_and_noted_is_text_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "form.pdf"
    label = "BT /F 12 Tf 50 355 Td (Name) Tj ET"
    ran = read(page_pdf(label, path, filled="Ada Lovelace", noted="call back"))
    assert words_of(ran) == ["Name", "Ada", "Lovelace", "call", "back"]
    assert page_of(ran)["source"] == "layer"
    assert ink_in_the_field(ran) > 0


def ink_in_the_field(ran: Ran) -> int:
    """Return how many dark pixels the preview has where a form was filled in."""
    with PIL.Image.open(ran.files["preview"]) as shown:
        filled = (int(150 * 800 / 595), int(51 * 800 / 595), 400, int(71 * 800 / 595))
        return sum(shown.convert("L").crop(filled).histogram()[:100])


def test_what_was_filled_in_is_text_though_the_file_does_not_say_how_it_looks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "form.pdf"
    label = "BT /F 12 Tf 50 355 Td (Name) Tj ET"
    ran = read(page_pdf(label, path, filled="Ada Lovelace", shows=False))
    assert words_of(ran) == ["Name", "Ada", "Lovelace"]
    assert ink_in_the_field(ran) > 0


def test_a_form_that_is_nothing_but_what_was_filled_in_has_its_text(
    tmp_path: Path,
) -> None:
    path = page_pdf("", tmp_path / "form.pdf", filled="Ada Lovelace")
    assert words_of(read(path)) == ["Ada", "Lovelace"]


@pytest.fixture
def broadsheet(tmp_path: Path) -> Path:
    """A page whose lower half somebody's OCR has covered with 9,000 tiny words."""
    words = text_pages.some_words(9000)
    lines = [" ".join(words[at : at + 60]) for at in range(0, len(words), 60)]
    layer = " ".join(f"({line}) '" for line in lines)
    content = f"BT /F 1 Tf 3 Tr 1.33 TL 5 205 Td {layer} ET"
    return page_pdf(content + " q 595 0 0 210 0 211 cm /I Do Q", tmp_path / "page.pdf")


def guessed(places: Sequence[Box]) -> Reading:
    """What was read: a word in each place, none of them like another."""
    seen = [
        Seen(text=f"w{at}", box=box, line=box, place=(1, 1, at), confidence=90)
        for at, box in enumerate(places)
    ]
    return Reading(words=seen, turn=0, skew=0, back=matrix.IDENTITY)


def test_thousands_of_covered_words_are_told_apart_in_a_pages_time(
    broadsheet: Path,
) -> None:
    document = pages.Document(broadsheet, "application/pdf", max_pages=1)
    with document.page(0, Clock(25)) as page:
        assert isinstance(page, pages.PdfPage)
        layer = page.layer()
        covered = [word.box for word in layer.words]
        free: list[Box] = [(5 * at, 9, 5 * at + 4, 12) for at in range(100)]
        beside = Uncovered(page, layer)
        read_again = beside.new(guessed([*covered, *free]), matrix.IDENTITY)
    document.close()
    assert [word.box for word in read_again.words] == free


def test_telling_words_apart_ends_with_the_pages_time(broadsheet: Path) -> None:
    document = pages.Document(broadsheet, "application/pdf", max_pages=1)
    with document.page(0, Clock(25)) as page:
        assert isinstance(page, pages.PdfPage)
        beside = Uncovered(page, page.layer())
        page.clock = Clock(0)
        with pytest.raises(PageTimeout):
            beside.new(guessed([(0, 0, 9, 9)]), matrix.IDENTITY)
    document.close()


def test_without_an_engine_the_layer_is_kept_and_the_rest_is_named(
    tmp_path: Path,
) -> None:
    scan = sheet(text_pages.some_words(60))
    path = page_pdf(f"{SCAN} {STAMP}", tmp_path / "scan.pdf", picture=scan)
    ran = read(path, languages=["none_such"])
    assert words_of(ran) == STAMPED
    assert ran.facts["failedPages"] == [{"page": 1, "reason": "missing_tool"}]
    page = page_of(ran)
    assert (page["source"], page["error"]) == ("layer", "missing_tool")
