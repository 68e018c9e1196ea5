import json
import resource
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import pypdfium2
import pytest

from asyncflow.errors import BadFile, Skip
from asyncflow.processors import matrix, ocr
from asyncflow.processors.clock import PageTimeout
from asyncflow.processors.searchable import Searchable
from asyncflow.processors.text import text
from asyncflow.testing.processor import Ran, run_processor
from tests.processors import text_pages
from tests.processors.readings import words_of
from tests.processors.text_pages import landscape, match, saved, sheet, skewed

ENGINES = [
    pytest.param("tesserocr"),
    pytest.param("pytesseract", marks=pytest.mark.needs("tesseract")),
]
LAID: dict[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {
    "upright": lambda page: page,
    "upside down": lambda page: page.rotate(180),
    "on its left side": lambda page: page.rotate(90, expand=True),
    "on its right side": lambda page: page.rotate(-90, expand=True),
    "two degrees askew": lambda page: skewed(page, 2),
    "askew and upside down": lambda page: skewed(page, -3.4).rotate(180),
}
TURNS = {
    "upside down": 180,
    "on its left side": 90,
    "on its right side": 270,
    "askew and upside down": 180,
}


def read(path: Path, media_type: str = "image/png", **options: object) -> Ran:
    return run_processor(text, path, media_type=media_type, options=options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("laid", LAID)
def test_a_page_is_read_however_it_lay_on_the_glass(
    tmp_path: Path, engine: str, laid: str
) -> None:
    words = text_pages.some_words(60)
    path = saved(LAID[laid](sheet(words)), tmp_path / "page.png")
    ran = read(path, engine=engine)
    assert match(words, words_of(ran)) >= 0.98
    assert match(words, text_pages.words_in_pdf(ran.files["searchablePdf"])) >= 0.98
    page = json.loads(ran.files["textJson"].read_text())["pages"][0]
    assert page["rotation"] == TURNS.get(laid, 0)
    assert (abs(page["skew"]) > 1) == ("askew" in laid)
    assert ran.facts["engine"] == engine


def test_boxes_lie_where_the_words_are_on_the_page_as_it_was_given(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(60)
    upright = sheet(words)
    path = saved(skewed(upright, 3).rotate(180), tmp_path / "page.png")
    page = json.loads(read(path).files["textJson"].read_text())["pages"][0]
    assert (page["width"], page["height"], page["unit"]) == (*upright.size, "px")
    ink = PIL.ImageChops.invert(PIL.Image.open(path).convert("L"))
    everything = ink.getbbox()
    assert everything is not None
    boxes = [word["box"] for word in page["words"]]
    around = [
        pick(side)
        for pick, side in zip(
            (min, min, max, max), zip(*boxes, strict=True), strict=True
        )
    ]
    assert around == pytest.approx(everything, abs=12)
    assert all(word["confidence"] > 60 for word in page["words"])
    # nothing of the first word but its neighbours' edges is left outside its box
    left, top, right, bottom = map(int, boxes[0])
    first = ink.crop((left, top, right, bottom))
    assert sum(first.histogram()[128:]) > 100


def test_a_searchable_pdf_of_a_picture_has_its_size_and_stands_upright(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(60)
    path = saved(sheet(words).rotate(90, expand=True), tmp_path / "page.png")
    pdf = pypdfium2.PdfDocument(read(path).files["searchablePdf"])
    assert pdf[0].get_size() == pytest.approx((595.2, 421), abs=0.5)
    shown = pdf[0].render(scale=text_pages.DPI / 72, grayscale=True).to_pil()
    # the ink is where it was before the page was turned, and no letters were added
    difference = PIL.ImageChops.difference(shown.resize(text_pages.SIZE), sheet(words))
    assert sum(difference.histogram()[100:]) < 0.01 * shown.width * shown.height
    pdf.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_small_picture_of_text_is_read(tmp_path: Path, *, dark: bool) -> None:
    words = text_pages.some_words(40)
    small = sheet(words, dark=dark).reduce(2)
    ran = read(saved(small, tmp_path / "shot.png"))
    assert match(words, words_of(ran)) >= 0.95


@pytest.mark.parametrize("form", ["png", "webp", "tiff"])
@pytest.mark.parametrize("ink", [0, 235, 255])
def test_letters_on_nothing_are_read_light_or_dark(
    tmp_path: Path, form: str, ink: int
) -> None:
    words = text_pages.some_words(40)
    letters = PIL.Image.new("RGBA", text_pages.SIZE, (ink, ink, ink, 0))
    letters.putalpha(PIL.ImageChops.invert(sheet(words)))
    more = {"lossless": True} if form == "webp" else {}
    path = saved(letters, tmp_path / f"page.{form}", **more)
    ran = read(path, f"image/{form}")
    assert match(words, words_of(ran)) >= 0.98
    # and are seen in the PDF, on the ground that they are meant for
    pdf = pypdfium2.PdfDocument(ran.files["searchablePdf"])
    shown = pdf[0].render(scale=1, grayscale=True).to_pil()
    pdf.close()
    assert shown.getextrema()[1] - shown.getextrema()[0] > 150
    assert (shown.getpixel((5, 5)) < 50) == (ink > 200)


def test_a_sheet_with_nothing_around_it_stays_on_white(tmp_path: Path) -> None:
    words = text_pages.some_words(40)
    page = sheet(words).convert("RGBA")
    cut = PIL.Image.new("L", page.size, 0)
    cut.paste(255, (40, 40, page.width - 40, page.height - 40))
    page.putalpha(cut)
    ran = read(saved(page, tmp_path / "page.png"))
    assert match(words, words_of(ran)) >= 0.98
    pdf = pypdfium2.PdfDocument(ran.files["searchablePdf"])
    shown = pdf[0].render(scale=1, grayscale=True).to_pil()
    pdf.close()
    assert shown.getpixel((5, 5)) > 200


def test_a_searchable_pdf_takes_pictures_up_to_a_limit(tmp_path: Path) -> None:
    jpeg = tmp_path / "page.jpg"
    sheet(["word"]).save(jpeg)
    data = jpeg.read_bytes()
    pdf = Searchable(most_bytes=2 * len(data))
    for _ in range(2):
        pdf.add_picture(data, (595, 421), [], matrix.IDENTITY)
    with pytest.raises(BadFile) as caught:
        pdf.add_picture(data, (595, 421), [], matrix.IDENTITY)
    assert caught.value.reason == "out_of_memory"
    pdf.close()


def test_a_photograph_costs_a_glance_and_makes_no_files(tmp_path: Path) -> None:
    path = tmp_path / "view.jpg"
    landscape((3840, 2160)).save(path)
    with pytest.raises(Skip):
        read(path, "image/jpeg")  # loads what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(Skip, match="no text in this picture") as caught:
        read(path, "image/jpeg")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert caught.value.reason == "no_text"
    assert after.ru_utime - before.ru_utime < 0.5


def test_a_photograph_is_read_when_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "view.jpg"
    landscape((400, 300)).save(path)
    ran = read(path, "image/jpeg", images="always")
    assert ran.facts["ocrPages"] == 1
    assert "text" in ran.files


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [(1, 1), (400, 1), (3, 3000), (40, 40)])
def test_a_picture_too_small_for_letters_is_no_failure(
    tmp_path: Path, engine: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "tiny.png"
    stripes = PIL.Image.new("L", size, 255)
    stripes.putdata([255 * (at // 3 % 2) for at in range(size[0] * size[1])])
    stripes.save(path)
    with pytest.raises(Skip, match="no text"):
        read(path)
    ran = read(path, images="always", engine=engine)
    assert ran.facts["failedPages"] == []
    assert ran.facts["ocrPages"] == 1


def test_a_faint_picture_of_a_page_is_read(tmp_path: Path) -> None:
    words = text_pages.some_words(60)
    faint = sheet(words).point(lambda grey: 200 + grey * 30 // 255)
    ran = read(saved(faint, tmp_path / "page.png"))
    assert match(words, ran.files["text"].read_text().split()) >= 0.98


def test_pictures_are_not_read_when_that_is_switched_off(tmp_path: Path) -> None:
    path = saved(sheet(text_pages.some_words(40)), tmp_path / "page.png")
    with pytest.raises(Skip, match="switched off"):
        read(path, images="never")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_that_takes_too_long_is_given_up(tmp_path: Path, engine: str) -> None:
    reader = ocr.choose(engine, ["eng"])
    page = sheet(text_pages.some_words(400))
    scan = ocr.Scan(
        width=page.width, height=page.height, pixels=page.tobytes(), dpi=text_pages.DPI
    )
    with pytest.raises(PageTimeout):
        reader.read(scan, within_s=0.05)
    reader.close()


def test_a_language_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path,
) -> None:
    path = saved(sheet(text_pages.some_words(40)), tmp_path / "page.png")
    with pytest.raises(Skip, match=r"language tlh is installed; installed: .*eng"):
        read(path, languages=["tlh"])


def test_a_language_without_data_is_left_out_and_named(tmp_path: Path) -> None:
    path = saved(sheet(text_pages.some_words(40)), tmp_path / "page.png")

    found = read(path, languages=["tlh", "eng"])

    assert found.facts["languages"] == ["eng"]
    assert found.facts["missingLanguages"] == ["tlh"]
    assert int(str(found.facts["words"])) > 20


def test_a_picture_that_ends_too_early_is_the_files_fault(tmp_path: Path) -> None:
    whole = saved(sheet(text_pages.some_words(40)), tmp_path / "page.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-4000])
    with pytest.raises(BadFile) as caught:
        read(cut)
    assert caught.value.reason in ("truncated", "damaged")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("engine", "cuneiform"),
        ("images", True),
        ("languages", []),
        ("languages", "../eng"),
        ("preview", "yes"),
        ("pageS", 0),
        ("maxPages", True),
    ],
)
def test_a_bad_option_is_named_with_what_is_accepted(
    tmp_path: Path, option: str, value: object
) -> None:
    path = saved(sheet(["word"]), tmp_path / "page.png")
    with pytest.raises(ValueError, match=rf"^{option} is .*; accepted"):
        run_processor(text, path, media_type="image/png", options={option: value})


@pytest.mark.parametrize("name", ["ocr_page_300dpi.png", "ocr_page_skew2deg.png"])
def test_real_sized_pages_are_read_alike_straight_and_askew(
    corpus: Path, name: str
) -> None:
    ran = read(corpus / name)
    assert ran.facts["words"] == 560
    said = " ".join(words_of(ran))
    assert said.startswith("The upload server streams every chunk to disk and answers")


def test_a_real_photograph_is_not_taken_for_text(corpus: Path) -> None:
    with pytest.raises(Skip, match="no text"):
        read(corpus / "photo_4k.jpg", "image/jpeg")
