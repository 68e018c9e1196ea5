"""Looks through what a page of a PDF is made of, in the order in which it is drawn.

Text that is not seen is known by being drawn invisibly, or below a picture. Whether
shapes are letters is known by their number and their kinds.
"""

import ctypes
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from asyncflow.processors import boxes, matrix
from asyncflow.processors.layers import address_of
from asyncflow.processors.matrix import Box, Matrix
from asyncflow.processors.pages import PdfPage
from asyncflow.processors.places import Picture

#: of a page, pictures this small hide no text that was drawn before them
_SPECK_SHARE: Final = 0.005
#: a rectangle has five segments, a letter about twenty
_MOST_OF_A_BOX: Final = 5
_SEGMENTS_A_LETTER: Final = 20
#: markers of a plot are all alike, letters are not
_LEAST_KINDS: Final = 10
#: plans have more shapes than anybody wants to count
_MOST_OBJECTS: Final = 50_000
_DEPTH: Final = 8
_TRANSPARENT: Final = 0


@dataclass(slots=True, kw_only=True)
class Content:
    """What a page is made of; places are on the page as it is shown."""

    pictures: list[Picture] = field(default_factory=list)
    #: where texts are that are doubtful, and seen
    doubtful: list[Box] = field(default_factory=list)
    #: about how many letters are drawn as shapes
    letters: float = 0.0
    #: the addresses of texts that are not seen
    hidden: set[int] = field(default_factory=set)
    #: PDFium's texts, without those that are doubtful
    texts: list[Any] = field(default_factory=list)

    def sleep(self) -> None:
        """Let no text be drawn any more but what is doubtful."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        for text in self.texts:
            pdfium.FPDFPageObj_SetIsActive(text, 0)


def content_of(page: PdfPage, doubtful: Collection[int]) -> Content:
    """Look through *page*; *doubtful* are the addresses of texts that are no layer.

    Raise PageTimeout.
    """
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    look = _Look(page, doubtful)
    for raw, kind, to_user_space in _objects(page.raw):
        page.clock.left()
        if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
            look.at_picture(raw, _bounds(raw, to_user_space))
        elif kind == pdfium.FPDF_PAGEOBJ_TEXT:
            look.at_text(raw, _bounds(raw, to_user_space))
        elif kind == pdfium.FPDF_PAGEOBJ_PATH and _is_filled(raw):
            look.at_shape(raw)
    if len(look.kinds) < _LEAST_KINDS:
        look.found.letters = 0
    return look.found


class _Look:
    """What has been found, and what is still seen of it."""

    def __init__(self, page: PdfPage, doubtful: Collection[int]) -> None:
        self.found = Content()
        self.kinds: set[int] = set()
        self._doubtful = doubtful
        self._page = page.bounds
        self._speck = _SPECK_SHARE * boxes.area(self._page)
        self._to_shown = page.to_user_space.inverse()
        self._seen: list[tuple[int, Box]] = []

    def at_picture(self, raw: Any, box: Box) -> None:
        self.found.pictures.append(
            Picture(box=self._to_shown.box(box), pixels=_pixels(raw))
        )
        if boxes.area(boxes.common(box, self._page)) < self._speck:
            return
        below = {address for address, at in self._seen if boxes.has_middle_of(box, at)}
        self.found.hidden |= below
        self._seen = [one for one in self._seen if one[0] not in below]

    def at_text(self, raw: Any, box: Box) -> None:
        address, is_seen = address_of(raw), not _is_invisible(raw)
        if address in self._doubtful:
            if is_seen:
                self.found.doubtful.append(self._to_shown.box(box))
            return
        self.found.texts.append(raw)
        if is_seen:
            self._seen.append((address, box))
        else:
            self.found.hidden.add(address)

    def at_shape(self, raw: Any) -> None:
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        segments = pdfium.FPDFPath_CountSegments(raw)
        if segments > _MOST_OF_A_BOX:
            self.found.letters += segments / _SEGMENTS_A_LETTER
            self.kinds.add(segments)


def _objects(page: Any) -> Iterator[tuple[Any, int, Matrix]]:
    """Yield the page's objects, their kinds, and the maps from their own space."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    forms = [matrix.IDENTITY]
    objects = page.get_objects(max_depth=_DEPTH)
    for _number, one in zip(range(_MOST_OBJECTS), objects, strict=False):
        del forms[one.level + 1 :]
        if one.type == pdfium.FPDF_PAGEOBJ_FORM:
            forms.append(Matrix(*one.get_matrix().get()).then(forms[-1]))
        else:
            yield one.raw, one.type, forms[-1]


def _is_invisible(text: Any) -> bool:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    mode = pdfium.FPDFTextObj_GetTextRenderMode(text)
    if mode in {pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP}:
        return True
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    told = pdfium.FPDFPageObj_GetFillColor(text, red, green, blue, alpha)
    return bool(told) and alpha.value == _TRANSPARENT


def _is_filled(path: Any) -> bool:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    mode, stroke = ctypes.c_int(), ctypes.c_int()
    told = pdfium.FPDFPath_GetDrawMode(path, mode, stroke)
    return bool(told) and mode.value != pdfium.FPDF_FILLMODE_NONE


def _pixels(picture: Any) -> int:
    """Return how many pixels PDFium's *picture* has; 0 if it is damaged."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    width, height = ctypes.c_uint(), ctypes.c_uint()
    pdfium.FPDFImageObj_GetImagePixelSize(picture, width, height)
    return width.value * height.value


def _bounds(one: Any, to_user_space: Matrix) -> Box:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    sides = [ctypes.c_float() for _ in range(4)]
    if not pdfium.FPDFPageObj_GetBounds(one, *sides):
        return 0.0, 0.0, 0.0, 0.0
    x0, y0, x1, y1 = (side.value for side in sides)
    return to_user_space.box((x0, y0, x1, y1))
