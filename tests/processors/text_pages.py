"""Pages of known words, as pictures and as PDFs, and how well they were read."""

import difflib
import io
import random
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pypdfium2

from asyncflow.processors.matrix import Matrix
from asyncflow.processors.ocr import Seen
from asyncflow.processors.searchable import Searchable

_VOCABULARY = """
about after again almost always animal another answer around because before
began between books bring called carry change children city close country cross
different does earth enough every family father figure first follow found great group
hands heard horse house important just large later learn leave letter light little
living money month morning mother mountain music never night nothing number open order
other page paper people picture place plant point question quick reach river round
school second sentence should small something sometimes special state still story street
study sudden table their thing those thought through together took travel until upon
voice walk watch water weather while white whole window winter without words world would
write years young"""
#: half a sheet of A4, as coarse as is still read without a mistake: it saves time
DPI = 150
SIZE = (1240, 877)


def some_words(count: int, *, seed: int = 1) -> list[str]:
    return random.Random(seed).choices(_VOCABULARY.split(), k=count)


def sheet(words: Sequence[str], *, dark: bool = False) -> PIL.Image.Image:
    """Return a page with the words in lines."""
    back, ink = (25, 235) if dark else (255, 0)
    page = PIL.Image.new("L", SIZE, back)
    lines = textwrap.fill(" ".join(words), 56)
    font = PIL.ImageFont.load_default(size=28)
    PIL.ImageDraw.Draw(page).multiline_text(
        (130, 160), lines, font=font, fill=ink, spacing=14
    )
    return page


def skewed(page: PIL.Image.Image, degrees: float) -> PIL.Image.Image:
    """Return the page laid on the glass so that its lines sink to the right."""
    return page.rotate(-degrees, resample=PIL.Image.Resampling.BICUBIC, fillcolor=255)


def landscape(size: tuple[int, int]) -> PIL.Image.Image:
    """Return what photographs are made of: slopes, and texture without direction."""
    noise = PIL.Image.effect_noise((size[0] // 4, size[1] // 4), 90).resize(size)
    sky = PIL.Image.linear_gradient("L").resize(size)
    sun = PIL.Image.radial_gradient("L").resize(size)
    return PIL.Image.merge("RGB", (PIL.Image.blend(noise, sky, 0.4), sky, sun))


def saved(page: PIL.Image.Image, path: Path, **more: object) -> Path:
    page.save(path, dpi=(DPI, DPI), **more)  # type: ignore[arg-type]
    return path


def scanned_pdf(pages: Sequence[PIL.Image.Image], path: Path) -> Path:
    """Write a PDF whose pages are pictures."""
    first, *rest = pages
    first.save(path, save_all=True, append_images=rest, resolution=DPI)
    return path


def typed_pdf(texts: Iterable[Sequence[str]], path: Path) -> Path:
    """Write a PDF whose pages carry their text; no words make an empty page."""
    pdf = Searchable()
    for words in texts:
        white = PIL.Image.new("L", (8, 8), 255)
        white.save(path, "JPEG")
        lines = [words[at : at + 8] for at in range(0, len(words), 8)]
        seen = [
            Seen(
                text=word,
                box=(70 * column, 20 * row, 70 * column + 60, 20 * row + 12),
                line=(0, 20 * row, 600, 20 * row + 12),
                place=(1, 1, row),
                confidence=100,
            )
            for row, line in enumerate(lines)
            for column, word in enumerate(line)
        ]
        to_page = Matrix(1, 0, 0, -1, 20, 800)
        pdf.add_picture(path.read_bytes(), (595, 842), seen, to_page)
    pdf.save(path)
    pdf.close()
    return path


def joined(paths: Sequence[Path], path: Path) -> Path:
    """Write one PDF of all the pages of others."""
    whole = pypdfium2.PdfDocument.new()
    for one in paths:
        part = pypdfium2.PdfDocument(one)
        whole.import_pages(part)
        part.close()
    whole.save(path)
    whole.close()
    return path


def plan(path: Path, *, curves: int, at_once: bool = False) -> Path:
    """Write a PDF of a page of dashed curves, each of which takes long to draw.

    *at_once*: they are one line, so that drawing it cannot be stopped.
    """
    at = random.Random(1)
    ends = "" if at_once else " S"
    drawn = " ".join(
        "{} {} m {} {} {} {} {} {} c".format(*(at.randrange(420) for _ in range(8)))
        + ends
        for _ in range(curves)
    )
    return page_pdf(f"[1 1] 0 d 0.2 w {drawn} S", path)


def with_lost_page(path: Path) -> Path:
    """Write a PDF of three pages, the second of which is not in the file."""
    stream = b"BT /F1 24 Tf 72 700 Td (%s) Tj ET"
    parts = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count 3 /Kids [4 0 R 99 0 R 5 0 R] >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for page, (content, said) in {4: (6, b"first"), 5: (7, b"third")}.items():
        parts[page] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % content
        )
        body = stream % said
        parts[content] = b"<< /Length %d >> stream\n%s\nendstream" % (len(body), body)
    path.write_bytes(_file(parts))
    return path


def page_pdf(
    content: str,
    path: Path,
    *,
    picture: PIL.Image.Image | None = None,
    rotate: int = 0,
    filled: str = "",
    noted: str = "",
    shows: bool = True,
) -> Path:
    """Write a PDF of one page of 595 x 421 points, with *content* drawn on it.

    *picture* is `/I`, `/F` is a font; `/N` draws *picture* and "nested words". *filled*
    stands in a field of a form, *noted* in a note on the page. *shows*: the file says
    how the field looks; many programs leave that to whoever opens it.
    """
    nested = b"q 595 0 0 421 0 0 cm /I Do Q BT /F 12 Tf 30 20 Td (nested words) Tj ET"
    resources = b"<< /Font << /F 6 0 R >> /XObject << /I 5 0 R /N 7 0 R >> >>"
    drawn, body = content.encode(), io.BytesIO()
    (picture or PIL.Image.new("L", (8, 8), 255)).convert("L").save(body, "JPEG")
    width, height = picture.size if picture else (8, 8)
    parts = {
        1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [8 0 R]"
        b" /NeedAppearances %s /DA (/F 12 Tf 0 g) /DR %s >> >>"
        % (b"false" if shows else b"true", resources),
        2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 421] /Rotate %d"
        b" /Annots [%s] /Contents 4 0 R /Resources %s >>"
        % (rotate, b"8 0 R 10 0 R" if filled or noted else b"", resources),
        4: b"<< /Length %d >> stream\n%s\nendstream" % (len(drawn), drawn),
        5: b"<< /Type /XObject /Subtype /Image /Width %d /Height %d"
        b" /ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /DCTDecode"
        b" /Length %d >> stream\n%s\nendstream"
        % (width, height, len(body.getvalue()), body.getvalue()),
        6: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        7: b"<< /Type /XObject /Subtype /Form /BBox [0 0 595 421] /Resources %s"
        b" /Length %d >> stream\n%s\nendstream" % (resources, len(nested), nested),
    }
    for at, (kind, said) in {
        8: (b"/Subtype /Widget /FT /Tx /T (name) /Rect [150 350 400 370]", filled),
        10: (b"/Subtype /FreeText /Rect [50 300 400 320]", noted),
    }.items():
        shown = b"BT /F 12 Tf 2 5 Td (%s) Tj ET" % said.encode()
        parts[at] = b"<< /Type /Annot /F 4 /AP << /N %d 0 R >> %s >>" % (at + 1, kind)
        parts[at + 1] = (
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 350 20] /Resources %s"
            b" /Length %d >> stream\n%s\nendstream" % (resources, len(shown), shown)
        )
    if not shows:
        value = b" /V (%s) /DA (/F 12 Tf 0 g) >>" % filled.encode()
        parts[8] = parts[8].replace(b"/AP << /N 9 0 R >>", b"").replace(b" >>", value)
    path.write_bytes(_file(parts))
    return path


def mapped_pdf(letter: str, path: Path) -> Path:
    """Write a PDF that says "aXb", where X stands for *letter* in UTF-16."""
    units = letter.encode("utf-16-be", "surrogatepass").hex().encode()
    drawn = b"BT /F 12 Tf 30 300 Td (aXb) Tj ET"
    table = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /A def"
        b" 1 begincodespacerange <00> <FF> endcodespacerange 3 beginbfchar"
        b" <61> <0061> <62> <0062> <58> <%s> endbfchar endcmap end end" % units
    )
    parts = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 421] /Contents 4 0 R"
        b" /Resources << /Font << /F 5 0 R >> >> >>",
        4: b"<< /Length %d >> stream\n%s\nendstream" % (len(drawn), drawn),
        5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>",
        6: b"<< /Length %d >> stream\n%s\nendstream" % (len(table), table),
    }
    path.write_bytes(_file(parts))
    return path


def _file(parts: Mapping[int, bytes]) -> bytes:
    data, places = b"%PDF-1.7\n", {}
    for number, part in sorted(parts.items()):
        places[number] = len(data)
        data += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % places[number] for number in sorted(parts))
    return data + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\n"
        b"startxref\n%d\n%%%%EOF\n" % (len(parts) + 1, table, len(parts) + 1, len(data))
    )


def match(expected: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of words that are the same, in the same order."""
    return difflib.SequenceMatcher(None, expected, found, autojunk=False).ratio()


def words_in_pdf(path: Path, number: int = 0) -> list[str]:
    """Return the words that a reader of the PDF finds on page *number*."""
    pdf = pypdfium2.PdfDocument(path)
    try:
        return str(pdf[number].get_textpage().get_text_range()).split()
    finally:
        pdf.close()
