"""Opens a document page by page: PDFs by PDFium, pictures by the loaders of `raster`.

Rules
-----
- One page is in memory at a time, never rendered larger than `MAX_PIXELS`.
- Places on a page are counted from the top left of the page as it is shown: in points
  for PDFs, in pixels of the upright picture for pictures.
- What is wrong with a page is `BadFile`; other pages may still be good.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from asyncflow.errors import BadFile
from asyncflow.processors import matrix, paper, raster, tiff
from asyncflow.processors.clock import Clock, PageTimeout
from asyncflow.processors.layers import Layer, Word, layer_of
from asyncflow.processors.matrix import Box, Matrix
from asyncflow.processors.notes import (
    Note,
    has_more_than_links,
    has_notes,
    hide,
    notes_of,
)

#: A4 at 300 dpi has 8.7 million, A3 17.4; larger pages are read at a lower resolution
MAX_PIXELS: Final = 18_000_000
#: what a page of a PDF is rendered at
RENDER_DPI: Final = 300
#: Tesseract takes no longer picture
_MAX_SIDE: Final = 32_000
_POINTS: Final = 72
#: smaller pictures are enlarged: letters of ten pixels are read badly
_SMALL_SIDE: Final = 1600
_ENLARGE: Final = 2.0
#: a picture whose header gives no believable resolution becomes as long as this
A4: Final = (595.0, 842.0)
_JPEG_QUALITY: Final = 80
_WHITE: Final = (255, 255, 255, 255)
_EVERYWHERE: Final = (-1e6, -1e6, 1e6, 1e6)
#: PDFium's word for "something was drawn into the page"
_FLATTENED: Final = 1


class PdfPage:
    """A page of a PDF."""

    unit: Final = "pt"

    def __init__(
        self, page: Any, number: int, clock: Clock, notes: Sequence[Note] = ()
    ) -> None:
        #: PDFium's page
        self.raw = page
        self._notes = notes
        self.number = number
        self.clock = clock
        self.width, self.height = (float(side) for side in page.get_size())

    @property
    def bounds(self) -> Box:
        """The page in the points its content is in."""
        x0, y0, x1, y1 = self.raw.get_bbox()
        return x0, y0, x1, y1

    @property
    def to_user_space(self) -> Matrix:
        """The map from points as the page is shown to those its content is in."""
        x0, y0, x1, y1 = self.bounds
        match self.raw.get_rotation():
            case 90:
                return Matrix(0, 1, 1, 0, x0, y0)
            case 180:
                return Matrix(-1, 0, 0, 1, x1, y0)
            case 270:
                return Matrix(0, -1, -1, 0, x1, y1)
            case _:
                return Matrix(1, 0, 0, -1, x0, y1)

    def layer(self) -> Layer:
        """Return the page's own text, as it is in the file. Raise PageTimeout."""
        return layer_of(self.raw, self.to_user_space.inverse(), self.clock)

    def noted(self) -> Layer:
        """Return what was typed onto the page as notes that are not drawn."""
        to_shown = self.to_user_space.inverse()
        words = [
            Word(text=text, box=to_shown.box(note.box))
            for note in self._notes
            for text in note.text.split()
        ]
        return Layer(text="\n\n".join(note.text for note in self._notes), words=words)

    def has_picture(self) -> bool:
        """Tell whether there is a picture on the page, which may show text."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        found = self.raw.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=5)
        return next(iter(found), None) is not None

    def shows_something(self) -> bool:
        """Tell whether anything at all is drawn; costs no more than a glance."""
        scale = paper.LOOK_SIDE / max(self.width, self.height)
        picture, _to_page, _dpi = self.picture(scale)
        return paper.ink(picture) > 0

    def picture(
        self, scale: float = RENDER_DPI / _POINTS, within: Box | None = None
    ) -> tuple[Any, Matrix, int]:
        """Render the page; return it in grey, the map to points, and its dpi.

        *within* is the part of the page that is rendered, all of it by default.
        Raise PageTimeout.
        """
        x0, y0, x1, y1 = within or (0.0, 0.0, self.width, self.height)
        scale = min(scale, math.sqrt(MAX_PIXELS / ((x1 - x0) * (y1 - y0))))
        scale = min(scale, _MAX_SIDE / max(x1 - x0, y1 - y0))
        left, top = math.floor(x0 * scale), math.floor(y0 * scale)
        size = math.ceil(x1 * scale) - left, math.ceil(y1 * scale) - top
        bitmap = self._drawn(scale, size, left=left, top=top, grey=True)
        try:
            stride, height = bitmap.stride, bitmap.height
            picture = _vips().Image.new_from_memory(
                bytes(bitmap.buffer), stride, height, 1, "uchar"
            )
            picture = picture.crop(0, 0, bitmap.width, height).copy_memory()
        finally:
            bitmap.close()
        to_page = Matrix(1 / scale, 0, 0, 1 / scale, left / scale, top / scale)
        return picture, to_page, round(scale * _POINTS)

    def preview(self, side: int) -> bytes:
        """Return the page as a JPEG that fits into a square of *side* pixels.

        Raise PageTimeout.
        """
        scale = side / max(self.width, self.height)
        size = math.ceil(self.width * scale), math.ceil(self.height * scale)
        bitmap = self._drawn(scale, size, grey=False)
        try:
            shown = bitmap.to_pil().convert("RGB")
        finally:
            bitmap.close()
        shown.thumbnail((side, side))
        picture = _vips().Image.new_from_memory(
            shown.tobytes(), shown.width, shown.height, 3, "uchar"
        )
        return _jpeg(picture.copy(interpretation="srgb"))

    def _drawn(
        self,
        scale: float,
        size: tuple[int, int],
        *,
        grey: bool,
        left: int = 0,
        top: int = 0,
    ) -> Any:
        """Draw *size* pixels of the page, object by object, while it has time."""
        import pypdfium2  # noqa: PLC0415 -- few workers need it
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- likewise

        whole = math.ceil(self.width * scale), math.ceil(self.height * scale)
        form = pdfium.FPDFBitmap_Gray if grey else pdfium.FPDFBitmap_BGR
        flags = pdfium.FPDF_ANNOT
        flags |= pdfium.FPDF_GRAYSCALE if grey else pdfium.FPDF_REVERSE_BYTE_ORDER
        bitmap = pypdfium2.PdfBitmap.new_native(*size, form, rev_byteorder=not grey)
        bitmap.fill_rect(_WHITE, 0, 0, *size)
        pause = pdfium.IFSDK_PAUSE(version=1)
        ask = type(pause.NeedToPauseNow)(lambda _pause: self.clock.is_over)
        pause.NeedToPauseNow = ask
        place = (-left, -top, *whole, 0)
        state = pdfium.FPDF_RenderPageBitmap_Start(
            bitmap, self.raw, *place, flags, pause
        )
        pdfium.FPDF_RenderPage_Close(self.raw)
        if state == pdfium.FPDF_RENDER_TOBECONTINUED:
            bitmap.close()
            raise PageTimeout
        return bitmap


class PicturePage:
    """A picture, or one page of a TIFF."""

    unit: Final = "px"

    def __init__(
        self, source: raster.Source, media_type: str, number: int, clock: Clock
    ) -> None:
        self._source = source
        self._media_type = media_type
        self.number = number
        self.clock = clock
        shape = raster.measure(source, media_type)
        self.width, self.height = float(shape.width), float(shape.height)
        #: what is looked at and read has pixels that are squares
        self._square = shape.squared()
        self._dpi = shape.believable_dpi

    def looks_like_text(self) -> bool:
        """Tell whether the picture shows lines of text; costs no more than a glance."""
        side = max(self._square.width, self._square.height)
        small = self._shrunk(min(1.0, paper.LOOK_SIDE / side))
        return paper.looks_like_text(paper.grey(small))

    def picture(self) -> tuple[Any, Matrix, int]:
        """Return the picture in grey, the map to its own pixels, and its dpi."""
        width, height = self._square.width, self._square.height
        scale = min(1.0, math.sqrt(MAX_PIXELS / (width * height)))
        scale = min(scale, _MAX_SIDE / max(width, height))
        if max(width, height) < _SMALL_SIDE:
            scale = _ENLARGE
        picture = paper.grey(self._shrunk(scale))
        # the size was rounded: the map must not be
        to = Matrix(
            self.width / picture.width, 0, 0, self.height / picture.height, 0, 0
        )
        return picture, to, round(max(self.dpi) * scale)

    @property
    def dpi(self) -> tuple[float, float]:
        """The resolution across and down, or one that makes it as long as A4."""
        guess = max(self.width, self.height) / max(A4) * _POINTS
        return self._dpi or (guess, guess)

    @property
    def size(self) -> tuple[float, float]:
        """The picture's width and height in points."""
        across, down = self.dpi
        return self.width / across * _POINTS, self.height / down * _POINTS

    def turned(self, turn: int) -> tuple[bytes, tuple[float, float], Matrix]:
        """Return the picture for a PDF: a JPEG, its size in points, the map onto it.

        It is turned clockwise by *turn* degrees; the map is from pixels as they were.
        """
        pixels = self._square.width * self._square.height
        picture = paper.opaque(self._shrunk(min(1.0, math.sqrt(MAX_PIXELS / pixels))))
        if turn:
            picture = picture.rot(f"d{turn}")
        width, height = self.size
        there = Matrix(width / self.width, 0, 0, height / self.height, 0, 0)
        there = there.then(matrix.unturned(turn, width, height).inverse())
        if turn in (90, 270):
            width, height = height, width
        # pages count upwards
        there = there.then(Matrix(1, 0, 0, -1, 0, height))
        return _jpeg(picture), (width, height), there

    def _shrunk(self, scale: float) -> Any:
        return raster.shrink(
            self._source,
            self._media_type,
            width=max(1, round(self._square.width * scale)),
            height=max(1, round(self._square.height * scale)),
            frames=1,
            max_pixels=round(self.width * self.height),
        )


Page = PdfPage | PicturePage


class Document:
    """A file as a row of pages."""

    def __init__(self, source: Path, media_type: str, *, max_pages: int) -> None:
        self._source = source
        self._media_type = media_type
        self._pdf: Any = None
        #: the same, of which nothing is ever shown
        self._unseen: Any = None
        self._noted: dict[int, list[Note]] = {}
        #: the same, of which those pages are shown that cannot be flattened
        self._whole: Any = None
        self._heirs: set[int] = set()
        self._pictures: list[raster.Source] = [source]
        if media_type == "application/pdf":
            self._pdf = _opened(source)
            self.pages = len(self._pdf)
        else:
            if media_type == raster.TIFF:
                # more would only be counted
                some = itertools.islice(tiff.pages(source), max_pages + 1)
                self._pictures = list(some) or [source]
            self.pages = len(self._pictures)
        if self.pages > max_pages:
            self.close()
            raise BadFile(
                "too_many_pages",
                f"the document has more than {max_pages} pages",
            )

    def close(self) -> None:
        """Free what the document holds."""
        for pdf in (self._pdf, self._unseen, self._whole):
            if pdf is not None:
                pdf.close()

    def _notes(self, number: int) -> list[Note]:
        import pypdfium2  # noqa: PLC0415 -- few workers need it

        if self._unseen is None:
            self._unseen = pypdfium2.PdfDocument(self._source)
        page = self._unseen[number]
        try:
            return notes_of(page)
        finally:
            page.close()

    def _flattened(self, number: int) -> Any:
        """Open a page; what was filled in or noted on it is text of the page."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        if number in self._heirs:
            return with_area(self._whole, number)
        page = with_area(self._pdf, number)
        if number not in self._noted:
            # before they become a part of the page
            self._noted[number] = self._notes(number) if has_notes(page) else []
            hide(page, self._noted[number])
        if not has_more_than_links(page):
            return page
        pictures = _count_pictures(page)
        if pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY) != _FLATTENED:
            return page
        page.close()
        page = self._pdf[number]
        if _count_pictures(page) >= pictures:
            return page
        # PDFium makes such a page forget what it inherits; the page itself is more than
        # what was filled in
        page.close()
        self._heirs.add(number)
        self._whole = self._whole or _opened(self._source)
        return with_area(self._whole, number)

    def size_of(self, number: int, clock: Clock) -> tuple[float, float]:
        """Return in points how large a picture is, even if it is damaged."""
        try:
            return self.picture(number, clock).size
        except BadFile:
            source = self._pictures[number]
            if isinstance(source, tiff.Page) and source.width and source.height:
                points = max(A4) / max(source.width, source.height)
                return source.width * points, source.height * points
        return A4

    def picture(self, number: int, clock: Clock) -> PicturePage:
        """Open picture *number*, counted from 0. Raise BadFile if that fails."""
        return PicturePage(self._pictures[number], self._media_type, number, clock)

    @contextlib.contextmanager
    def page(self, number: int, clock: Clock) -> Iterator[Page]:
        """Open page *number*, counted from 0. Raise BadFile if that fails."""
        if self._pdf is None:
            yield self.picture(number, clock)
            return
        import pypdfium2  # noqa: PLC0415 -- few workers need it

        try:
            page = self._flattened(number)
        except pypdfium2.PdfiumError as error:
            raise BadFile("damaged", f"page {number + 1} is damaged") from error
        try:
            yield PdfPage(page, number, clock, self._noted[number])
        except pypdfium2.PdfiumError as error:
            raise BadFile("damaged", f"page {number + 1}: {error}") from error
        finally:
            page.close()


def _count_pictures(page: Any) -> int:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    found = page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=5)
    return sum(1 for _ in found)


def with_area(pdf: Any, number: int) -> Any:
    """Open a page of PDFium's; one that its crop box leaves no area is uncropped.

    Raise BadFile if it has no area at all.
    """
    page = pdf[number]
    if _has_area(page):
        return page
    # PDFium cuts it down to the media box
    page.set_cropbox(*_EVERYWHERE)
    page.close()
    page = pdf[number]
    if _has_area(page):
        page.set_cropbox(*page.get_bbox())
        return page
    page.close()
    raise BadFile("damaged", f"page {number + 1} has no area")


def _has_area(page: Any) -> bool:
    # neither has what is infinite, or no number
    return all(0 < side < math.inf for side in page.get_size())


def _opened(source: Path) -> Any:
    import pypdfium2  # noqa: PLC0415 -- few workers need it

    try:
        pdf = pypdfium2.PdfDocument(source)
        # PDFium draws what was filled in without its looks, if asked before any page
        pdf.init_forms()
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise BadFile("encrypted", "the document needs a password") from None
        raise BadFile("damaged", "the document cannot be read") from None
    return pdf


def _jpeg(picture: Any) -> bytes:
    with raster.explained():
        return bytes(picture.jpegsave_buffer(Q=_JPEG_QUALITY, keep="none"))


def _vips() -> Any:
    """Import libvips when it is first needed: never before a worker has forked."""
    import pyvips  # noqa: PLC0415 -- see above

    return pyvips
