import collections
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import PIL.Image
import pypdfium2
import pytest

from asyncflow.errors import BadFile, Skip
from asyncflow.jobs import Verdict
from asyncflow.orders import Made, Order, Outcome
from asyncflow.pool import Pool
from asyncflow.processes import children
from asyncflow.processors import ocr
from asyncflow.processors.apart import Apart
from asyncflow.processors.matrix import Box
from asyncflow.processors.sheets import Failure, Request, Sheet
from asyncflow.processors.text import text
from asyncflow.testing.processor import Ran, run_processor
from tests.processors import text_pages
from tests.processors.readings import read, words_of
from tests.processors.text_pages import match, scanned_pdf, sheet, typed_pdf

PDF = "application/pdf"


def pages_of(ran: Ran) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ran.files["textJson"].read_text())[
        "pages"
    ]
    return found


def test_a_text_layer_is_taken_as_it_is_and_nothing_is_read_again(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(40)
    ran = read(typed_pdf([words, words[:8]], tmp_path / "typed.pdf"))
    said = ran.files["text"].read_text().split("\f")
    assert [said[0].split(), said[1].split()] == [words, words[:8]]
    assert ran.facts["layerPages"] == 2
    assert ran.facts["ocrPages"] == 0
    assert "engine" not in ran.facts
    assert "searchablePdf" not in ran.files
    first = pages_of(ran)[0]
    assert first["unit"] == "pt"
    assert first["words"][0] == {  # type: ignore[index]
        "text": words[0],
        "box": [pytest.approx(side, abs=1) for side in (20, 42, 80, 54)],
        "confidence": None,
    }


def test_only_the_page_without_text_is_read(tmp_path: Path) -> None:
    typed, scanned = text_pages.some_words(16), text_pages.some_words(60, seed=3)
    path = text_pages.joined(
        [
            typed_pdf([typed, []], tmp_path / "typed.pdf"),
            scanned_pdf([sheet(scanned).rotate(180)], tmp_path / "scanned.pdf"),
        ],
        tmp_path / "mixed.pdf",
    )
    ran = read(path)
    assert [page["source"] for page in pages_of(ran)] == ["layer", "ocr", "ocr"]
    assert ran.facts["layerPages"] == 1
    said = [part.split() for part in ran.files["text"].read_text().split("\f")]
    assert said[:2] == [typed, []]
    assert match(scanned, said[2]) >= 0.98
    searchable = ran.files["searchablePdf"]
    assert text_pages.words_in_pdf(searchable, 0) == typed
    assert match(scanned, text_pages.words_in_pdf(searchable, 2)) >= 0.98


def test_a_searchable_pdf_keeps_the_pages_sizes_and_looks(tmp_path: Path) -> None:
    page = sheet(text_pages.some_words(20))
    path = scanned_pdf([page, page.rotate(90, expand=True)], tmp_path / "scan.pdf")
    made = pypdfium2.PdfDocument(read(path).files["searchablePdf"])
    before = pypdfium2.PdfDocument(path)
    assert len(made) == 2
    assert made[0].get_size() == pytest.approx(before[0].get_size())
    assert made[1].get_mediabox() == pytest.approx(before[1].get_mediabox())
    # shown upright, but for that the page is the same
    assert made[1].get_size() == pytest.approx(before[1].get_size()[::-1])
    for number in range(2):
        shown = made[number].render(scale=0.5, grayscale=True).to_pil()
        meant = before[0].render(scale=0.5, grayscale=True).to_pil()
        meant = meant.resize(shown.size)
        assert abs(mean(shown) - mean(meant)) < 1
    made.close()
    before.close()


def mean(picture: PIL.Image.Image) -> float:
    counts = picture.histogram()
    return sum(grey * count for grey, count in enumerate(counts)) / sum(counts)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_words_lie_right_on_pages_that_are_shown_turned(
    tmp_path: Path, turn: int
) -> None:
    words = text_pages.some_words(60)
    path = scanned_pdf([sheet(words)], tmp_path / "scan.pdf")
    pdf = pypdfium2.PdfDocument(path)
    pdf[0].set_rotation(turn)
    pdf.save(tmp_path / "turned.pdf")
    pdf.close()
    ran = read(tmp_path / "turned.pdf")
    assert match(words, ran.files["text"].read_text().split()) >= 0.98
    assert match(words, text_pages.words_in_pdf(ran.files["searchablePdf"])) >= 0.98
    assert pages_of(ran)[0]["rotation"] == 360 - turn
    again = pages_of(read(ran.files["searchablePdf"]))[0]
    assert again["source"] == "layer"
    first = again["words"][0]["box"]  # type: ignore[index]
    # the first word starts where it was drawn, 130 and 160 pixels from the corner
    assert first[0] == pytest.approx(130 * 72 / text_pages.DPI, abs=3)
    assert first[1] == pytest.approx(160 * 72 / text_pages.DPI, abs=20)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_words_of_a_scan_that_lies_on_its_side_are_found_again(
    tmp_path: Path, turn: int
) -> None:
    words = text_pages.some_words(60)
    page = sheet(words).rotate(turn, expand=True)
    ran = read(scanned_pdf([page], tmp_path / "scan.pdf"))
    assert pages_of(ran)[0]["rotation"] == turn
    searchable = ran.files["searchablePdf"]
    assert match(words, text_pages.words_in_pdf(searchable)) >= 0.98
    again = read(searchable)
    assert (again.facts["layerPages"], again.facts["ocrPages"]) == (1, 0)
    assert match(words, again.files["text"].read_text().split()) >= 0.98


def places_of(ran: Ran) -> dict[str, list[float]]:
    """Return where on the first page each word lies that is there once."""
    words = pages_of(ran)[0]["words"]
    said = collections.Counter(word["text"] for word in words)  # type: ignore[attr-defined]
    return {
        word["text"]: word["box"]
        for word in words  # type: ignore[attr-defined]
        if said[word["text"]] == 1
    }


@pytest.mark.parametrize("state", ["20 Tc", "50 Tz", "5 Ts", "-4 Tc 80 Tz"])
def test_words_lie_right_whatever_a_stamp_has_said_of_spaces_and_widths(
    tmp_path: Path, state: str
) -> None:
    drawn = f"q 595 0 0 421 0 0 cm /I Do Q BT {state} /F 9 Tf 20 20 Td (stamp) Tj ET"
    scan = sheet(text_pages.some_words(60))
    path = text_pages.page_pdf(drawn, tmp_path / "stamped.pdf", picture=scan)
    ran = read(path)
    seen, written = places_of(ran), places_of(read(ran.files["searchablePdf"]))
    assert len(seen) > 10
    assert written.keys() == seen.keys()
    for word in seen.keys() - {"stamp"}:
        x0, y0, x1, y1 = seen[word]
        # letters are as wide as in the picture, and as high as their line
        assert written[word][0::2] == pytest.approx([x0, x1], abs=2.5)
        assert written[word][1] == pytest.approx(y0, abs=8)
        assert (written[word][1] + written[word][3]) / 2 == pytest.approx(
            (y0 + y1) / 2, abs=3.5
        )


@pytest.mark.parametrize("over", ["a link", "a field"])
def test_a_scan_whose_picture_is_named_for_all_pages_is_read_below_what_is_over_it(
    tmp_path: Path, over: str
) -> None:
    words = text_pages.some_words(40)
    path = text_pages.page_pdf(
        "q 595 0 0 421 0 0 cm /I Do Q",
        tmp_path / "scan.pdf",
        picture=sheet(words),
        filled="name" if over == "a field" else "",
    )
    data = path.read_bytes()
    (named,) = re.findall(rb"/Contents 4 0 R (/Resources .*) >>\n", data)
    if over == "a link":
        link = b"/Annots [<< /Type /Annot /Subtype /Link /Rect [9 9 99 99] >>]"
        data = re.sub(rb"/Annots \[.*?\]", link, data, count=1)
    data = data.replace(b"4 0 R " + named, b"4 0 R")
    data = data.replace(b"/Type /Pages", b"/Type /Pages " + named)
    # the table of places is wrong now: without it PDFium looks for itself
    path.write_bytes(data[: data.rindex(b"xref\n0")] + b"trailer << /Root 1 0 R >>")
    assert match(words, words_of(read(path))) >= 0.9


def test_an_empty_page_is_no_failure(tmp_path: Path) -> None:
    pdf = pypdfium2.PdfDocument.new()
    pdf.new_page(300, 200)
    pdf.save(tmp_path / "empty.pdf")
    pdf.close()
    ran = read(tmp_path / "empty.pdf")
    assert (ran.facts["pages"], ran.facts["words"]) == (1, 0)
    assert ran.files["text"].read_bytes() == b""
    assert pages_of(ran)[0]["source"] == "none"


def test_a_preview_is_published_before_anything_is_read(tmp_path: Path) -> None:
    path = typed_pdf([["word"]], tmp_path / "typed.pdf")
    ran = read(path)
    assert ran.published == ("preview",)
    with PIL.Image.open(ran.files["preview"]) as preview:
        assert (preview.format, max(preview.size)) == ("JPEG", 800)
    assert "preview" not in read(path, preview=False).files


def test_a_lost_page_does_not_spoil_the_others(tmp_path: Path) -> None:
    ran = read(text_pages.with_lost_page(tmp_path / "lost.pdf"))
    assert ran.facts["failedPages"] == [{"page": 2, "reason": "damaged"}]
    assert ran.files["text"].read_text() == "first\n\f\fthird\n"
    assert pages_of(ran)[1] == {"number": 2, "error": "damaged"}


def boxed(path: Path, *, crop: Box, media: Box = (0, 0, 595, 421)) -> Path:
    """Write a PDF of a stamped scan and a typed page, both cut to *crop*."""
    drawn = "q 595 0 0 421 0 0 cm /I Do Q BT /F 9 Tf 20 20 Td (stamp) Tj ET"
    scan = sheet(text_pages.some_words(40))
    stamped = text_pages.page_pdf(drawn, path.with_stem("scan"), picture=scan)
    typed = typed_pdf([["typed"]], path.with_stem("typed"))
    both = text_pages.joined([stamped, typed], path.with_stem("both"))
    pdf = pypdfium2.PdfDocument(both)
    for page in pdf:
        page.set_mediabox(*media)
        page.set_cropbox(*crop)
    pdf.save(path)
    pdf.close()
    return path


@pytest.mark.parametrize("crop", [(1000, 1000, 1500, 1500), (595, 0, 900, 842)])
def test_a_page_that_its_crop_box_leaves_no_area_is_read_uncropped(
    tmp_path: Path, crop: Box
) -> None:
    ran = read(boxed(tmp_path / "away.pdf", crop=crop))
    assert ran.facts["failedPages"] == []
    assert match(text_pages.some_words(40), words_of(ran)) >= 0.9
    assert words_of(ran)[-1] == "typed"
    assert [page["width"] for page in pages_of(ran)] == [595, 595]
    made = pypdfium2.PdfDocument(ran.files["searchablePdf"])
    assert made[0].get_size() == (595, 421)
    made.close()


def test_a_page_without_any_area_is_damaged(tmp_path: Path) -> None:
    far = (9e7, 9e7, 9e7 + 500, 9e7 + 500)
    path = boxed(tmp_path / "far.pdf", media=far, crop=(0, 0, 5, 5))
    good = typed_pdf([["good"]], tmp_path / "good.pdf")
    ran = read(text_pages.joined([path, good], tmp_path / "all.pdf"))
    lost = [{"page": page, "reason": "damaged"} for page in (1, 2)]
    assert ran.facts["failedPages"] == lost
    assert words_of(ran) == ["good"]
    with pytest.raises(BadFile) as caught:
        read(path)
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("size", [(14_000, 400), (400, 14_000)])
def test_a_picture_as_long_as_a_page_and_hardly_wide_is_no_failure(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = (8 if side == 400 else side for side in size)
    drawn = f"q {width} 0 0 {height} 0 0 cm /I Do Q BT /F 9 Tf 20 20 Td (typed) Tj ET"
    path = text_pages.page_pdf(drawn, tmp_path / "strip.pdf", picture=sheet(["word"]))
    pdf = pypdfium2.PdfDocument(path)
    pdf[0].set_mediabox(0, 0, *size)
    pdf.save(tmp_path / "long.pdf")
    pdf.close()
    assert words_of(read(tmp_path / "long.pdf")) == ["typed"]


def test_a_document_without_a_good_page_fails(tmp_path: Path) -> None:
    path = text_pages.with_lost_page(tmp_path / "lost.pdf")
    path.write_bytes(
        re.sub(rb"\[4 0 R 99 0 R 5 0 R\]", b"[98 0 R 99 0 R 97 0 R]", path.read_bytes())
    )
    with pytest.raises(BadFile) as caught:
        read(path)
    assert caught.value.reason == "damaged"


def test_a_page_that_takes_too_long_to_draw_does_not_spoil_the_others(
    tmp_path: Path,
) -> None:
    slow = text_pages.plan(tmp_path / "plan.pdf", curves=60_000)
    typed = typed_pdf([["typed"]], tmp_path / "typed.pdf")
    for first, second in ((slow, typed), (typed, slow)):
        both = text_pages.joined([first, second], tmp_path / "both.pdf")
        ran = read(both, pageS=3)
        assert words_of(ran) == ["typed"]
        assert ran.facts["failedPages"] == [
            {"page": 1 if first is slow else 2, "reason": "timeout"}
        ]


def test_a_document_that_is_nothing_but_too_slow_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"page 1 took over 3 s") as caught:
        read(text_pages.plan(tmp_path / "plan.pdf", curves=60_000), pageS=3)
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize(
    ("letter", "found"), [("\U0001f600", "\U0001f600"), ("\ud83d", "\ufffd")]
)
def test_letters_of_two_units_are_one_letter(
    tmp_path: Path, letter: str, found: str, attempt: int
) -> None:
    meanings = {"a": "a", "X": letter, "b": "b"}
    drawn = text_pages.typed(["aXb"])
    path = text_pages.mapped_pdf(drawn, meanings, tmp_path / "letter.pdf")
    ran = run_processor(text, path, media_type=PDF, attempt=attempt)
    assert words_of(ran) == [f"a{found}b"]
    word = pages_of(ran)[0]["words"][0]  # type: ignore[index]
    assert word["text"] == f"a{found}b"


def test_what_unicode_has_no_number_for_is_no_failure(tmp_path: Path) -> None:
    content = "BT 30 300 Td /F 12 Tf <e3808141> Tj /G 12 Tf (word) Tj ET"
    path = text_pages.wide_pdf(content, tmp_path / "wide.pdf")
    word = pages_of(read(path))[0]["words"][0]  # type: ignore[index]
    assert word["text"] == "\ufffdAword"


def test_terminal_commands_in_a_text_layer_are_removed(tmp_path: Path) -> None:
    words = [
        "red\x1b[31malert",
        "\x1b]0;title\x07bell",
        "nul\x00l",
        "c1\x9b2Jx",
        "fine",
    ]
    ran = read(typed_pdf([words], tmp_path / "hostile.pdf"))
    for name in ("text", "textJson"):
        said = ran.files[name].read_text()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]|31m|2J|u00[01]", said)
        assert "alert" in said
        assert "fine" in said


def test_pages_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    path = typed_pdf([["one"], ["two"], ["three"]], tmp_path / "long.pdf")
    with pytest.raises(BadFile) as caught:
        read(path, maxPages=2)
    assert caught.value.reason == "too_many_pages"


def test_without_an_engine_text_layers_are_still_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = scanned_pdf([sheet(["word"])], tmp_path / "scan.pdf")
    typed = typed_pdf([["typed"]], tmp_path / "typed.pdf")
    both = text_pages.joined([scanned, typed], tmp_path / "both.pdf")
    # a language of which nothing can be installed stands for a missing engine
    ran = read(both, languages=["none_such"])
    assert ran.facts["failedPages"] == [{"page": 1, "reason": "missing_tool"}]
    assert ran.files["text"].read_text() == "\ftyped\n"
    with pytest.raises(Skip, match="none_such"):
        read(scanned, languages=["none_such"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert not ocr.is_installed("pytesseract")
    with pytest.raises(Skip, match="pytesseract cannot be used"):
        read(scanned, engine="pytesseract")


def test_a_page_that_ends_its_process_is_given_up_by_the_next_attempt(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(60)
    typed = typed_pdf([["typed"]], tmp_path / "typed.pdf")
    slow = text_pages.plan(tmp_path / "plan.pdf", curves=150_000, at_once=True)
    scan = scanned_pdf([sheet(words).rotate(90, expand=True)], tmp_path / "scan.pdf")
    path = text_pages.joined([typed, slow, scan, slow], tmp_path / "all.pdf")
    out = tmp_path / "out"
    out.mkdir()
    ran = run_processor(
        text, path, media_type=PDF, options={"pageS": 4}, attempt=2, out=out
    )
    late = [{"page": page, "reason": "timeout"} for page in (2, 4)]
    assert ran.facts["failedPages"] == late
    said = [part.split() for part in ran.files["text"].read_text().split("\f")]
    assert (said[0], said[1], said[3]) == (["typed"], [], [])
    assert match(words, said[2]) >= 0.98
    searchable = ran.files["searchablePdf"]
    assert match(words, text_pages.words_in_pdf(searchable, 2)) >= 0.98
    assert ran.facts["engine"]
    assert ran.published == ("preview",)


def test_a_page_that_crashes_its_process_is_given_up(tmp_path: Path) -> None:
    typed = typed_pdf([["one"], ["two"]], tmp_path / "typed.pdf")
    request = Request(
        source=str(typed),
        media_type=PDF,
        max_pages=9,
        engine="auto",
        languages=("eng",),
        page_s=30,
        shown=True,
    )
    before = set(children(os.getpid()))
    apart = Apart(request)
    first = apart.read(0)
    assert isinstance(first, Sheet)
    assert first.text.strip() == "one"
    (child,) = set(children(os.getpid())) - before
    os.kill(child, signal.SIGSEGV)
    lost, second = apart.read(1), apart.read(1)
    apart.close()
    assert isinstance(lost, Failure)
    assert lost.reason == "crashed"
    assert isinstance(second, Sheet)
    assert second.text.strip() == "two"


async def run_in_worker(
    source: Path, folder: Path, *, attempt: int, options: Mapping[str, object]
) -> tuple[Outcome, dict[str, str], list[float]]:
    """Run `text` in a worker; return how it ended, what it made, and its progress."""
    made: dict[str, str] = {}
    percents: list[float] = []

    async def take(one: Made) -> None:
        with open(one.fd, "rb", closefd=False) as file:
            made[one.name] = file.read().decode("utf-8", errors="replace")

    pool = Pool(size=1, folder=folder, modules=("asyncflow.processors.text",))
    await pool.start()
    try:
        order = Order(
            label="text",
            processor="text",
            source=source,
            file_name=source.name,
            media_type=PDF,
            options=options,
            attempt=attempt,
        )
        outcome = await pool.run(order, on_progress=percents.append, on_derivative=take)
    finally:
        await pool.close()
    return outcome, made, percents


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_confined_worker_reads_a_scan(tmp_path: Path, attempt: int) -> None:
    words = text_pages.some_words(60)
    source = scanned_pdf([sheet(words).rotate(180)] * 2, tmp_path / "scan.pdf")
    outcome, made, percents = await run_in_worker(
        source, tmp_path / "slots", attempt=attempt, options={}
    )
    assert outcome.verdict is Verdict.DONE, outcome.trace
    assert set(made) == {"preview", "text", "textJson", "searchablePdf"}
    assert attempt > 1 or next(iter(made)) == "preview"
    assert match(words * 2, made["text"].split()) >= 0.98
    assert 50 in percents


async def test_a_searchable_pdf_that_crashes_its_process_is_left_out_and_named(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(60)
    source = text_pages.page_pdf(
        "q 595 0 0 421 0 0 cm /I Do Q BT /F 9 Tf 20 20 Td (stamp) Tj ET",
        tmp_path / "stamped.pdf",
        picture=sheet(words),
    )
    # PDFium cannot write a document that has its catalog among its pages
    kids = (b"/Count 1 /Kids [3 0 R]", b"/Count 2 /Kids [3 0 R 1 0 R]")
    source.write_bytes(source.read_bytes().replace(*kids))
    slots = tmp_path / "slots"
    first, _, _ = await run_in_worker(source, slots, attempt=1, options={})
    assert first.verdict is Verdict.LOST
    outcome, made, _ = await run_in_worker(source, slots, attempt=2, options={})
    assert outcome.verdict is Verdict.DONE, outcome.trace
    assert set(made) == {"preview", "text", "textJson"}
    assert match(words, made["text"].split()) >= 0.95
    assert outcome.facts["failedPages"] == [{"page": 2, "reason": "damaged"}]
    assert outcome.facts["failedOutputs"] == [
        {"output": "searchablePdf", "reason": "crashed"}
    ]


async def test_a_preview_that_takes_too_long_costs_no_text(tmp_path: Path) -> None:
    source = text_pages.plan(
        tmp_path / "plan.pdf", curves=150_000, at_once=True, said="ground floor"
    )
    outcome, made, _ = await run_in_worker(
        source, tmp_path / "slots", attempt=2, options={"pageS": 3}
    )
    assert outcome.verdict is Verdict.DONE, outcome.trace
    assert made["text"] == "ground floor\n"
    assert set(made) == {"text", "textJson"}
    assert outcome.facts["failedPages"] == []
    assert outcome.facts["failedOutputs"] == [
        {"output": "preview", "reason": "timeout"}
    ]


def test_a_real_scan_is_read(corpus: Path) -> None:
    ran = read(corpus / "scan_only.pdf")
    words = ran.files["text"].read_text().split()
    assert words[:6] == ["The", "upload", "server", "streams", "every", "chunk"]
    searchable = ran.files["searchablePdf"]
    assert match(words, text_pages.words_in_pdf(searchable)) >= 0.98


@pytest.mark.parametrize(
    ("name", "said"),
    [("text_crazyones.pdf", "The Crazy Ones"), ("empty_user_pw.pdf", "pdf encryption")],
)
def test_real_text_layers_are_taken(corpus: Path, name: str, said: str) -> None:
    ran = read(corpus / name)
    assert ran.files["text"].read_text().startswith(said)
    assert ran.facts["layerPages"] == ran.facts["pages"]
