"""TIFFs of several pages: each is read alone, and none is missing in what is made."""

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageSequence
import PIL.TiffImagePlugin
import pypdfium2
import pytest
import pyvips
from hypothesis import given, strategies as st

from asyncflow.errors import BadFile, Skip
from asyncflow.processors import tiff
from asyncflow.processors.base import Work
from asyncflow.processors.text import TextOptions, text
from asyncflow.testing.processor import Ran, run_processor
from tests.processors import text_pages
from tests.processors.text_pages import landscape, match, saved, sheet

TIFF = "image/tiff"


def read(path: Path, *, attempt: int = 1, **options: object) -> Ran:
    return run_processor(text, path, media_type=TIFF, options=options, attempt=attempt)


def test_all_pages_of_a_tiff_are_read(tmp_path: Path) -> None:
    first, second = text_pages.some_words(40), text_pages.some_words(40, seed=2)
    pages = [sheet(first), PIL.Image.new("L", text_pages.SIZE, 255), sheet(second)]
    path = saved(
        pages[0], tmp_path / "fax.tiff", save_all=True, append_images=pages[1:]
    )
    ran = read(path)
    assert ran.facts["pages"] == 3
    said = ran.files["text"].read_text().split("\f")
    assert [match(first, said[0].split()), match(second, said[2].split())] == [1.0, 1.0]
    assert said[1] == ""
    assert len(pypdfium2.PdfDocument(ran.files["searchablePdf"])) == 3
    assert ran.percents[-1] == 100
    assert len(ran.percents) == 3


def spoiled_tiff(pages: Sequence[PIL.Image.Image], path: Path, *, bad: int) -> Path:
    """Write a TIFF of which the picture data of page *bad* (from 0) are nonsense."""
    first, *rest = pages
    saved(first, path, save_all=True, append_images=rest, compression="tiff_lzw")
    with PIL.Image.open(path) as tiff:
        tiff.seek(bad)
        starts = tiff.tag_v2[273]  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[starts[0] : starts[0] + 60] = b"Z" * 60
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("bad", "attempt"), [(0, 1), (1, 1), (2, 1), (0, 2)])
def test_a_damaged_page_of_a_tiff_costs_no_other_page(
    tmp_path: Path, bad: int, attempt: int
) -> None:
    words = text_pages.some_words(40)
    pages = [landscape((600, 400)).convert("L"), sheet(words), sheet(words)]
    path = spoiled_tiff(pages, tmp_path / "fax.tiff", bad=bad)
    ran = read(path, attempt=attempt)
    assert ran.facts["failedPages"] == [{"page": bad + 1, "reason": "damaged"}]
    said = ran.files["text"].read_text().split("\f")
    good = {1, 2} - {bad}
    assert [match(words, said[page].split()) for page in good] == [1.0] * len(good)


def test_a_tiff_without_text_that_cannot_all_be_looked_at_is_damaged(
    tmp_path: Path,
) -> None:
    pages = [landscape((600, 400)).convert("L"), sheet(text_pages.some_words(40))]
    path = spoiled_tiff(pages, tmp_path / "fax.tiff", bad=1)
    with pytest.raises(BadFile) as caught:
        read(path)
    assert caught.value.reason == "damaged"


def shown_in(pdf: Path) -> list[tuple[tuple[float, float], bool]]:
    """Return the size in points of each page, and whether it shows any ink."""
    document = pypdfium2.PdfDocument(pdf)
    found = []
    for page in document:
        darkest, _ = page.render(grayscale=True).to_pil().getextrema()
        found.append((page.get_size(), darkest < 128))
    document.close()
    return found


LYING = (595.2, 421.0)
STANDING = (421.0, 595.2)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_page_that_nobody_can_show_is_an_empty_one_of_its_size_and_named(
    tmp_path: Path, attempt: int
) -> None:
    words = text_pages.some_words(40)
    standing = sheet(words).rotate(90, expand=True)
    pages = [sheet(words), standing, sheet(words)]
    path = spoiled_tiff(pages, tmp_path / "fax.tiff", bad=1)
    ran = read(path, attempt=attempt)
    lost = [{"page": 2, "reason": "damaged"}]
    assert ran.facts["failedPages"] == lost
    assert ran.facts["emptyPages"] == lost
    shown = shown_in(ran.files["searchablePdf"])
    assert [size for size, _ in shown] == [
        pytest.approx(size, abs=0.5) for size in (LYING, STANDING, LYING)
    ]
    assert [has_ink for _, has_ink in shown] == [True, False, True]
    assert text_pages.words_in_pdf(ran.files["searchablePdf"], 1) == []
    assert match(words, text_pages.words_in_pdf(ran.files["searchablePdf"], 2)) >= 0.98


def test_a_page_that_takes_too_long_to_read_is_shown_without_words(
    tmp_path: Path,
) -> None:
    words = text_pages.some_words(12)
    dense = PIL.Image.new("L", (4400, 4400), 255)
    small = sheet(text_pages.some_words(400)).resize((880, 622))
    for at in range(35):
        dense.paste(small, (at % 5 * 880, at // 5 * 622))
    pages = [sheet(words), dense, sheet(words)]
    path = saved(
        pages[0], tmp_path / "fax.tiff", save_all=True, append_images=pages[1:]
    )
    ran = read(path, pageS=8, attempt=2)
    assert ran.facts["failedPages"] == [{"page": 2, "reason": "timeout"}]
    assert "emptyPages" not in ran.facts
    copy = ran.files["searchablePdf"]
    assert [has_ink for _, has_ink in shown_in(copy)] == [True, True, True]
    assert text_pages.words_in_pdf(copy, 1) == []
    assert match(words, text_pages.words_in_pdf(copy, 2)) >= 0.98


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_page_whose_header_makes_no_sense_costs_no_page_behind_it(
    tmp_path: Path, attempt: int
) -> None:
    words = text_pages.some_words(40)
    pages = [sheet(words), sheet(words).rotate(90, expand=True), sheet(words)]
    path = saved(
        pages[0], tmp_path / "fax.tiff", save_all=True, append_images=pages[1:]
    )
    data = bytearray(path.read_bytes())
    _, second, _ = tiff.pages(path)
    ((_, start), _) = second.changes
    (at,) = struct.unpack("<I", start)
    # 258 is how many bits a sample has
    entry = data.index(struct.pack("<HHI", 258, 3, 1), at)
    data[entry + 8 : entry + 10] = struct.pack("<H", 999)
    path.write_bytes(data)
    ran = read(path, attempt=attempt)
    assert ran.facts["pages"] == 3
    assert ran.facts["failedPages"] == [{"page": 2, "reason": "damaged"}]
    shown = shown_in(ran.files["searchablePdf"])
    wide, high = shown[1][0]
    assert wide / high == pytest.approx(877 / 1240, rel=0.01)
    assert [has_ink for _, has_ink in shown] == [True, False, True]


def test_no_page_is_shown_where_that_is_switched_off(tmp_path: Path) -> None:
    words = text_pages.some_words(40)
    path = spoiled_tiff([sheet(words)] * 2, tmp_path / "fax.tiff", bad=1)
    ran = read(path, searchablePdf=False)
    assert ran.facts["failedPages"] == [{"page": 2, "reason": "damaged"}]
    assert set(ran.files) == {"text", "textJson"}
    assert "emptyPages" not in ran.facts


@pytest.mark.parametrize(("dpi", "high"), [((204, 196), 2286), ((204, 98), 1143)])
@pytest.mark.parametrize("turn", [0, 90, 180])
def test_a_coarse_fax_is_read_and_its_pages_keep_their_height(
    tmp_path: Path, dpi: tuple[int, int], high: int, turn: int
) -> None:
    words = text_pages.some_words(60)
    laid = PIL.Image.new("L", (1728, 2286), 255)
    laid.paste(sheet(words).resize((1728, 1222)), (0, 400))
    laid = laid.rotate(turn, expand=True).resize((1728, high))
    path = tmp_path / "fax.tiff"
    laid.point(lambda grey: 255 * (grey > 128)).convert("1").save(path, dpi=dpi)
    ran = read(path)
    copy = ran.files["searchablePdf"]
    size = (1728 / 204 * 72, high / dpi[1] * 72)
    ((shown, _),) = shown_in(copy)
    assert shown == pytest.approx(size[::-1] if turn == 90 else size, abs=0.5)
    assert match(words, text_pages.words_in_pdf(copy)) >= 0.95
    page = json.loads(ran.files["textJson"].read_text())["pages"][0]
    assert (page["width"], page["height"]) == (1728, high)
    assert all(word["box"][3] <= high for word in page["words"])


def chain(path: Path, pages: int, *, order: str = "<") -> Path:
    """Write a TIFF of blank *pages* that all show the same few bytes."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    data = bytearray(start + bytes(4) + b"\xff" * 512)
    entries = [(256, 64), (257, 64), (258, 1), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 1), (278, 64), (279, 512)]
    link = 4
    for _ in range(pages):
        struct.pack_into(f"{order}I", data, link, len(data))
        data += struct.pack(f"{order}H", len(entries))
        for tag, number in entries:
            data += struct.pack(f"{order}HHII", tag, 4, 1, number)
        link = len(data)
        data += bytes(4)
    path.write_bytes(data)
    return path


def test_who_looks_at_blank_pages_tells_how_far_that_is(tmp_path: Path) -> None:
    percents: list[float] = []
    work = Work(
        source=chain(tmp_path / "blank.tiff", 40),
        out=tmp_path,
        file_name="blank.tiff",
        media_type=TIFF,
        options=TextOptions(),
        progress=percents.append,
    )
    with pytest.raises(Skip, match="no text"):
        text(work)
    assert len(percents) == 40
    assert percents == sorted(set(percents))
    assert 0 < percents[0] < percents[-1] < 100


def test_progress_never_goes_back_when_text_comes_late(tmp_path: Path) -> None:
    blank = PIL.Image.new("L", (64, 64), 255)
    pages = [*[blank] * 3, sheet(text_pages.some_words(40))]
    path = saved(
        pages[0], tmp_path / "fax.tiff", save_all=True, append_images=pages[1:]
    )
    percents = read(path).percents
    assert len(percents) == 3 + 4
    assert list(percents) == sorted(set(percents))
    assert percents[-1] == 100


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_page_is_opened_without_going_through_the_others(
    tmp_path: Path, order: str
) -> None:
    *_, last = tiff.pages(chain(tmp_path / "blank.tiff", 2000, order=order))
    taken: list[int] = []

    def counted(size: int) -> bytes:
        data = alone.read(size)
        taken.append(len(data))
        return data

    with last.opened() as alone:
        stream = pyvips.SourceCustom()
        stream.on_read(counted)
        stream.on_seek(alone.seek)
        page = pyvips.Image.new_from_source(stream, "")
        assert (page.width, page.avg()) == (64, 255)
        assert page.get_typeof("n-pages") == 0 or page.get("n-pages") == 1
    assert sum(taken) < 20_000


@pytest.mark.parametrize("big", [False, True])
def test_each_page_looks_as_if_it_were_alone(tmp_path: Path, *, big: bool) -> None:
    path = tmp_path / "pages.tiff"
    levels = (10, 120, 240)
    with PIL.TiffImagePlugin.AppendingTiffWriter(path, new=True) as writer:
        for level in levels:
            page = PIL.Image.new("L", (30, level), level)
            page.save(writer, "TIFF", big_tiff=big)
            writer.newFrame()
    found = []
    for one in tiff.pages(path):
        with one.opened() as alone, PIL.Image.open(io.BytesIO(alone.read(-1))) as shown:
            assert len(list(PIL.ImageSequence.Iterator(shown))) == 1
            found.append((shown.height, shown.getpixel((0, 0))))
    assert found == [(level, level) for level in levels]


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=9)), max_size=3),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=6),
)
def test_exchanged_bytes_are_read_wherever_reading_begins(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    changes: list[tuple[int, bytes]],
    reads: list[tuple[int, int]],
) -> None:
    path = tmp_path_factory.mktemp("alone") / "file"
    path.write_bytes(data)
    expected = bytearray(data)
    for at, new in changes:
        there = expected[at : at + len(new)]
        expected[at : at + len(new)] = new[: len(there)]
    page = tiff.Page(path=path, width=0, height=0, changes=tuple(changes))
    with page.opened() as alone:
        for at, size in reads:
            alone.seek(at)
            assert alone.read(size) == expected[at : at + size]
