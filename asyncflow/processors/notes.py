"""Finds what was typed onto a page of a PDF as notes of which the file has no picture.

A note (FreeText annotation) may come with its looks, which PDFium draws into the page;
then it is text like any other. Without them each program draws the note's text by
itself. PDFium does so at some times and not at others, knows no line breaks and no
letters but Latin ones, and may draw a black box. So it is told to leave them out.

Rules
-----
- Notes that nobody is to see stay unseen.
- Where in the note a word stands is for whoever draws it: all have the note's place.
"""

import ctypes
import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from asyncflow.processors.matrix import Box

#: annotations of a page that are looked at
_MOST: Final = 10_000
#: of text that is written as XHTML
_TAG: Final = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note on a page; `box` is in the points that the page's content is in.

    `number` is that of the annotation on its page.
    """

    number: int
    text: str
    box: Box


def has_notes(page: Any) -> bool:
    """Tell whether there are notes on PDFium's *page*, whatever their looks."""
    return any(_is_note(one) for _number, one in _annotations(page))


def has_more_than_links(page: Any) -> bool:
    """Tell whether there is anything on PDFium's *page* that may be drawn over it."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    undrawn = (pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP)
    return any(
        pdfium.FPDFAnnot_GetSubtype(one) not in undrawn
        for _number, one in _annotations(page)
    )


def notes_of(page: Any) -> list[Note]:
    """Return the notes that have no looks on PDFium's *page*, which is not shown yet.

    When PDFium shows a page it may make looks for them.
    """
    return [
        Note(number=number, text=text, box=_rectangle(one))
        for number, one in _annotations(page)
        if _is_note(one) and _is_bare(one) and (text := _contents(one))
    ]


def hide(page: Any, notes: Sequence[Note]) -> None:
    """Let PDFium not draw *notes* of *page*."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    numbers = {note.number for note in notes}
    for number, one in _annotations(page):
        if number in numbers:
            pdfium.FPDFAnnot_SetFlags(one, pdfium.FPDF_ANNOT_FLAG_HIDDEN)


def _annotations(page: Any) -> Iterator[tuple[int, Any]]:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    for number in range(min(pdfium.FPDFPage_GetAnnotCount(page), _MOST)):
        annotation = pdfium.FPDFPage_GetAnnot(page, number)
        if annotation:
            try:
                yield number, annotation
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)


def _is_note(annotation: Any) -> bool:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    return bool(kind == pdfium.FPDF_ANNOT_FREETEXT)


def _is_bare(annotation: Any) -> bool:
    """Tell whether the note has no looks, and is to be seen."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    unseen = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
    flags = pdfium.FPDFAnnot_GetFlags(annotation)
    return not flags & unseen and not _looks(annotation).strip()


def _contents(annotation: Any) -> str:
    plain = _said(annotation, b"Contents")
    return plain or html.unescape(_TAG.sub(" ", _said(annotation, b"RC"))).strip()


def _said(annotation: Any, key: bytes) -> str:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    return _text_of(partial(pdfium.FPDFAnnot_GetStringValue, annotation, key))


def _looks(annotation: Any) -> str:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    normal = pdfium.FPDF_ANNOT_APPEARANCEMODE_NORMAL
    return _text_of(partial(pdfium.FPDFAnnot_GetAP, annotation, normal))


def _text_of(get: Callable[[Any, int], int]) -> str:
    """Return the text that PDFium's function *get* has, asked for its length first."""
    length = get(None, 0)
    data = (ctypes.c_ushort * (length // 2 + 1))()
    get(data, length)
    return bytes(data)[:length].decode("utf-16-le", "replace").strip("\0")


def _rectangle(annotation: Any) -> Box:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    at = pdfium.FS_RECTF()
    pdfium.FPDFAnnot_GetRect(annotation, at)
    return at.left, at.bottom, at.right, at.top
