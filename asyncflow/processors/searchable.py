"""Writes PDFs in which scanned pages can be searched: text nobody sees over the scan.

Theory of operation
-------------------
A scanned PDF is copied as it is, picture, size and bookmarks; its pages without text
get the words as invisible text (render mode 3), each stretched to its place. What the
page's own content has last said of spaces, rises and widths holds for them, too: the
font is too large for spaces and rises to matter, widths are measured and taken back.
Pictures become a new PDF with one page each. A page that was turned to be read is shown
turned.
"""

import ctypes
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from asyncflow.errors import BadFile
from asyncflow.processors import glyphless
from asyncflow.processors.matrix import Matrix
from asyncflow.processors.ocr import Seen
from asyncflow.processors.pages import with_area

#: a third of what the step may use
MOST_BYTES: Final = 1 << 30
_INVISIBLE: Final = 3
#: what the page's own content has set of spaces and rises is nothing to so large a font
_SIZE: Final = 1000.0
#: by which share words may be wider than they are meant to be
_ALIKE: Final = 0.005
_LAST: Final = 0xFFFF
_UNKNOWN: Final = 0xFFFD
_SPACE: Final = 0x20
#: a copy of a protected document must open without its protection
_WITHOUT_SECURITY: Final = 3


class Searchable:
    """A PDF that is being made; `save` it, then `close` it.

    Pictures that are added to it are in memory until then, up to *most_bytes*.
    """

    def __init__(
        self, source: Path | None = None, *, most_bytes: int = MOST_BYTES
    ) -> None:
        import pypdfium2  # noqa: PLC0415 -- few workers need it

        if source is None:
            self._pdf = pypdfium2.PdfDocument.new()
        else:
            self._pdf = pypdfium2.PdfDocument(source)
        self._font: Any = None
        self._room = most_bytes
        #: whether any page has got text
        self.has_text = False

    def close(self) -> None:
        """Free what the document holds."""
        self._pdf.close()

    def add_picture(
        self, jpeg: bytes, size: tuple[float, float], words: Sequence[Seen], to: Matrix
    ) -> None:
        """Add a page of *size* points that shows *jpeg*; *to* maps words onto it.

        Without a picture it is empty. Raise BadFile if there is no room for it.
        """
        import pypdfium2  # noqa: PLC0415 -- few workers need it

        self._room -= len(jpeg)
        if self._room < 0:
            raise BadFile("out_of_memory", "the pages need more memory than allowed")
        page = self._pdf.new_page(*size)
        try:
            if jpeg:
                image = pypdfium2.PdfImage.new(self._pdf)
                image.load_jpeg(io.BytesIO(jpeg), inline=True)
                image.set_matrix(pypdfium2.PdfMatrix().scale(*size))
                page.insert_obj(image)
            self._write(page, words, to)
            page.gen_content()
        finally:
            page.close()

    def add_text(
        self, number: int, words: Sequence[Seen], to: Matrix, *, turn: int
    ) -> None:
        """Write *words* over page *number* (from 0) and show it *turn* degrees on.

        Raise BadFile if there is no such page.
        """
        import pypdfium2  # noqa: PLC0415 -- few workers need it

        try:
            page = with_area(self._pdf, number)
        except pypdfium2.PdfiumError as error:
            raise BadFile("damaged", f"page {number + 1} is damaged") from error
        try:
            placed = self._write(page, words, to)
            page.set_rotation((page.get_rotation() + turn) % 360)
            page.gen_content()
        finally:
            page.close()
        if placed:
            self._straighten(number, words, to, placed)

    def save(self, path: Path) -> None:
        """Write the PDF to *path*."""
        self._pdf.save(path, flags=_WITHOUT_SECURITY)

    def _straighten(
        self, number: int, words: Sequence[Seen], to: Matrix, placed: Sequence[Matrix]
    ) -> None:
        """Write the words anew if the page's own content stretches what follows."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        page = self._pdf[number]
        try:
            stretch = _stretch(page, placed[-1])
            if not stretch or abs(stretch - 1) < _ALIKE:
                return
            for _ in placed:
                last = pdfium.FPDFPage_CountObjects(page) - 1
                one = pdfium.FPDFPage_GetObject(page, last)
                pdfium.FPDFPage_RemoveObject(page, one)
                pdfium.FPDFPageObj_Destroy(one)
            self._write(page, words, to, stretch)
            page.gen_content()
        finally:
            page.close()

    def _write(
        self, page: Any, words: Sequence[Seen], to: Matrix, stretch: float = 1.0
    ) -> list[Matrix]:
        """Write *words* onto the page, against its *stretch*; return their places."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        placed = []
        for word in words:
            codes = _codes(word.text)
            letters = len(codes)
            # readers guess spaces from gaps, and miss narrow ones: write them
            codes.append(_SPACE)
            if (
                not letters
                or word.line[3] <= word.line[1]
                or word.box[2] <= word.box[0]
            ):
                continue
            obj = pdfium.FPDFPageObj_CreateTextObj(
                self._pdf, self._loaded(), ctypes.c_float(_SIZE)
            )
            units = (ctypes.c_uint32 * len(codes))(*codes)
            pdfium.FPDFText_SetCharcodes(obj, units, len(codes))
            pdfium.FPDFTextObj_SetTextRenderMode(obj, _INVISIBLE)
            place = _place(word, letters, stretch).then(to)
            pdfium.FPDFPageObj_SetMatrix(
                obj,
                pdfium.FS_MATRIX(place.a, place.b, place.c, place.d, place.e, place.f),
            )
            pdfium.FPDFPage_InsertObject(page, obj)
            placed.append(place)
        self.has_text = self.has_text or bool(placed)
        return placed

    def _loaded(self) -> Any:
        """Return the invisible font, put into the document when first asked for."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        if self._font is None:
            font, glyphs = glyphless.font(), glyphless.GLYPHS
            self._font = pdfium.FPDFText_LoadCidType2Font(
                self._pdf,
                (ctypes.c_uint8 * len(font)).from_buffer_copy(font),
                len(font),
                glyphless.TO_UNICODE,
                (ctypes.c_uint8 * len(glyphs)).from_buffer_copy(glyphs),
                len(glyphs),
            )
            if not self._font:
                raise RuntimeError("PDFium refuses the invisible font")
        return self._font


def _codes(text: str) -> list[int]:
    """Return the text in UTF-16 units; what needs two of them cannot be written."""
    return [code if code <= _LAST else _UNKNOWN for code in map(ord, text)]


def _place(word: Seen, letters: int, stretch: float) -> Matrix:
    """Return the map from text as it is drawn to the word's place in the picture."""
    x0, _, x1, _ = word.box
    top, bottom = word.line[1], word.line[3]
    height = bottom - top
    across = (x1 - x0) / (glyphless.ADVANCE * _SIZE * letters * stretch)
    # text counts upwards from its baseline, pictures downwards from their top
    return Matrix(
        across, 0, 0, -height / _SIZE, x0, bottom - glyphless.DESCENT * height
    )


def _stretch(page: Any, placed: Matrix) -> float:
    """Return by how much wider the last text of *page* is than it was *placed*."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    last = pdfium.FPDFPage_GetObject(page, pdfium.FPDFPage_CountObjects(page) - 1)
    found = pdfium.FS_MATRIX()
    pdfium.FPDFPageObj_GetMatrix(last, found)
    along = placed.a * found.a + placed.b * found.b
    return float(along / (placed.a**2 + placed.b**2))
