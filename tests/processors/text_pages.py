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


def plan(path: Path, *, curves: int, at_once: bool = False, said: str = "") -> Path:
    """Write a PDF of a page of dashed curves, each of which takes long to draw.

    *at_once*: they are one line, so that drawing it cannot be stopped. *said* stands
    beside them.
    """
    at = random.Random(1)
    ends = "" if at_once else " S"
    drawn = " ".join(
        "{} {} m {} {} {} {} {} {} c".format(*(at.randrange(420) for _ in range(8)))
        + ends
        for _ in range(curves)
    )
    typed = f"BT /F 12 Tf 30 390 Td ({said}) Tj ET "
    return page_pdf(f"{typed if said else ''}[1 1] 0 d 0.2 w {drawn} S", path)


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
    other: PIL.Image.Image | None = None,
    rotate: int = 0,
    filled: str = "",
    noted: str = "",
    shows: bool = True,
    note: str = "",
) -> Path:
    """Write a PDF of one page of 595 x 421 points, with *content* drawn on it.

    *picture* is `/I`, *other* is `/J`, `/F` is a font; `/N` draws *picture* and "nested
    words". *filled* stands in a field of a form, *noted* in a note on the page.
    *shows*: the file says how the field looks; many programs leave that to whoever
    opens it. *note* is what the file says of another note.
    """
    nested = b"q 595 0 0 421 0 0 cm /I Do Q BT /F 12 Tf 30 20 Td (nested words) Tj ET"
    resources = b"<< /Font << /F 6 0 R >> /XObject << /I 5 0 R /J 12 0 R /N 7 0 R >> >>"
    form = b"/Type /XObject /Subtype /Form /Resources " + resources
    forms = (
        b"/AcroForm << /Fields [8 0 R] /NeedAppearances %s /DA (/F 12 Tf 0 g) /DR %s >>"
        % (b"false" if shows else b"true", resources)
    )
    parts = {
        1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % (forms if filled else b""),
        2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 421] /Rotate %d"
        b" /Annots [%s] /Contents 4 0 R /Resources %s >>"
        % (
            rotate,
            b"8 0 R 10 0 R 13 0 R" if filled or noted or note else b"",
            resources,
        ),
        4: _stream(content.encode()),
        5: _picture(picture),
        6: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        7: _stream(nested, form + b" /BBox [0 0 595 421]"),
        12: _picture(other),
        13: b"<< /Type /Annot /Subtype /FreeText /F 4 %s >>" % note.encode(),
        14: _stream(b"", form + b" /BBox [0 0 350 20]"),
    }
    noted_too = b"/Subtype /FreeText /Rect [50 300 400 320] /Contents (%s)"
    for at, (kind, said) in {
        8: (b"/Subtype /Widget /FT /Tx /T (name) /Rect [150 350 400 370]", filled),
        10: (noted_too % noted.encode(), noted),
    }.items():
        shown = b"BT /F 12 Tf 2 5 Td (%s) Tj ET" % said.encode()
        parts[at] = b"<< /Type /Annot /F 4 /AP << /N %d 0 R >> %s >>" % (at + 1, kind)
        parts[at + 1] = _stream(shown, form + b" /BBox [0 0 350 20]")
    if not shows:
        value = b" /V (%s) /DA (/F 12 Tf 0 g) >>" % filled.encode()
        parts[8] = parts[8].replace(b"/AP << /N 9 0 R >>", b"").replace(b" >>", value)
    path.write_bytes(_file(parts))
    return path


def _picture(picture: PIL.Image.Image | None) -> bytes:
    body = io.BytesIO()
    shown = picture or PIL.Image.new("L", (8, 8), 255)
    shown.convert("L").save(body, "JPEG")
    kind = b"/Type /XObject /Subtype /Image /ColorSpace /DeviceGray /BitsPerComponent 8"
    size = b"/Filter /DCTDecode /Width %d /Height %d" % shown.size
    return _stream(body.getvalue(), kind + size)


def mapped_pdf(content: str, meanings: Mapping[str, str], path: Path) -> Path:
    """Write a PDF of a page with *content*, in a font that tells what letters mean.

    `/F` is drawn like `/G`, but its letters mean what *meanings* says, in UTF-16.
    """
    entries = " ".join(
        f"<{ord(code):02x}> <{meant.encode('utf-16-be', 'surrogatepass').hex()}>"
        for code, meant in meanings.items()
    )
    table = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /A def"
        b" 1 begincodespacerange <00> <FF> endcodespacerange %d beginbfchar"
        b" %s endbfchar endcmap end end" % (len(meanings), entries.encode())
    )
    return _font_pdf(
        content,
        {
            5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica"
            b" /ToUnicode 7 0 R >>",
            7: _stream(table),
        },
        path,
    )


def drawn_pdf(content: str, path: Path, *, codes: Mapping[str, str]) -> Path:
    """Write a PDF of a page with *content*, in a font that says nothing of meanings.

    `/F` draws for each letter of *codes* what it stands for.
    """
    font = PIL.ImageFont.load_default(size=_EM)
    glyphs = {code: _glyph(letter, font) for code, letter in codes.items()}
    first, last = min(map(ord, codes)), max(map(ord, codes))
    widths = [
        round(font.getlength(codes[chr(at)])) if chr(at) in codes else 0
        for at in range(first, last + 1)
    ]
    names = b" ".join(b"%d /glyph%d" % (ord(code), ord(code)) for code in codes)
    procs = b" ".join(
        b"/glyph%d %d 0 R" % (ord(code), 7 + at) for at, code in enumerate(codes)
    )
    return _font_pdf(
        content,
        {
            5: b"<< /Type /Font /Subtype /Type3 /FontBBox [0 -%d %d %d]"
            b" /FontMatrix [%f 0 0 %f 0 0] /FirstChar %d /LastChar %d /Widths %s"
            b" /Encoding << /Type /Encoding /Differences [%s] >> /CharProcs << %s >>"
            b" /Resources << >> >>"
            % (
                *(_EM, _EM, _EM, 1 / _EM, 1 / _EM, first, last),
                *(str(widths).replace(",", "").encode(), names, procs),
            ),
            **{7 + at: _stream(glyph) for at, glyph in enumerate(glyphs.values())},
        },
        path,
    )


def wide_pdf(content: str, path: Path) -> Path:
    """Write a PDF of a page with *content*, in a font whose codes are like UTF-8."""
    system = b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Own) /Supplement 0 >>"
    table = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /W def"
        b" /CMapType 1 def 4 begincodespacerange <00> <7f> <c080> <dfbf>"
        b" <e08080> <efbfbf> <f0808080> <f7bfbfbf> endcodespacerange"
        b" 1 begincidchar <e38081> 1 endcidchar endcmap end end"
    )
    return _font_pdf(
        content,
        {
            5: b"<< /Type /Font /Subtype /Type0 /BaseFont /Helvetica /Encoding 7 0 R"
            b" /DescendantFonts [8 0 R] >>",
            7: _stream(table, b"/Type /CMap /CMapName /W " + system),
            8: b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Helvetica %s >>"
            % system,
        },
        path,
    )


_EM = 40


def _glyph(
    letter: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont
) -> bytes:
    """Return the drawing of a letter for a font: a rectangle for each run of ink."""
    picture = PIL.Image.new("1", (2 * _EM, 2 * _EM))
    PIL.ImageDraw.Draw(picture).text((4, _EM), letter, font=font, fill=1, anchor="ls")
    dots = [
        b"%d %d 1 1 re" % (x - 4, _EM - 1 - y)
        for y in range(picture.height)
        for x in range(picture.width)
        if picture.getpixel((x, y))
    ]
    width = round(font.getlength(letter))
    return b"%d 0 0 -%d %d %d d1 %s f" % (width, _EM, _EM, _EM, b" ".join(dots))


def _font_pdf(content: str, font: Mapping[int, bytes], path: Path) -> Path:
    """Write a PDF of one page; *font* are object 5, called `/F`, and those from 7."""
    parts = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 421] /Contents 4 0 R"
        b" /Resources << /Font << /F 5 0 R /G 6 0 R >> >> >>",
        4: _stream(content.encode("latin-1")),
        6: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        **font,
    }
    path.write_bytes(_file(parts))
    return path


def typed(
    lines: Iterable[str], *, font: str = "F", size: int = 12, top: int = 390
) -> str:
    """Return the drawing of *lines* of text."""
    marked = str.maketrans({sign: f"\\{sign}" for sign in "()\\"})
    said = " ".join(f"({line.translate(marked)}) '" for line in lines)
    return f"BT /{font} {size} Tf {size * 3 // 2} TL 30 {top} Td {said} ET"


def in_lines(words: Sequence[str], *, of: int = 8) -> list[str]:
    """Return the words in lines *of* so many."""
    return [" ".join(words[at : at + of]) for at in range(0, len(words), of)]


def _stream(data: bytes, kind: bytes = b"") -> bytes:
    return b"<< %s /Length %d >> stream\n%s\nendstream" % (kind, len(data), data)


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
