"""All that native code does with a document: opens it, reads, shows and copies it.

Rules
-----
- What goes wrong is an answer, not an error: the rest of the document may be good.
- Everything has its time, one for a page, one for the whole. What outlasts it by far
  ends the process.
- Nothing is kept but by one desk, so that it can stand in a process of its own.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from asyncflow.errors import BadFile
from asyncflow.processors import pages
from asyncflow.processors.clock import PageTimeout, limited
from asyncflow.processors.searchable import Searchable
from asyncflow.processors.sheets import (
    Failure,
    Reader,
    Request,
    Sheet,
    Shown,
    failure_of,
    took_too_long,
)

PDF: Final = "application/pdf"
PREVIEW_SIDE: Final = 800
#: to open or save a document takes a moment, and longer only if it is large
_WHOLE_S: Final = 30.0
_BYTES_A_S: Final = 8 << 20


def whole_s(request: Request) -> float:
    """Return how many seconds opening or saving the document may take."""
    return _WHOLE_S + Path(request.source).stat().st_size / _BYTES_A_S


class Desk:
    """One document, and the searchable PDF that is made of it; `close` it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_pdf = request.media_type == PDF
        self._document: pages.Document | None = None
        self._reader: Reader | None = None
        self._searchable: Searchable | None = None

    def open(self) -> int | Failure:
        """Return how many pages there are, or why nobody knows."""
        try:
            return self._opened().pages
        except BadFile as error:
            return failure_of(error)

    def looks_like_text(self, number: int) -> bool | Failure:
        """Tell whether page *number* (from 0) of a picture is worth reading."""
        try:
            with self._page(number) as page:
                return isinstance(page, pages.PdfPage) or page.looks_like_text()
        except (BadFile, PageTimeout) as error:
            return self._failure(number, error)

    def read(self, number: int) -> Sheet | Failure:
        """Return what page *number* (from 0) says, or why nobody knows."""
        try:
            document = self._opened()
        except BadFile as error:
            return failure_of(error)
        if self._reader is None:
            self._reader = Reader(self._request, document)
        return self._reader.read(number)

    def preview(self, path: str) -> Failure | None:
        """Write a picture of a PDF's first page to *path*; return what hinders it."""
        try:
            with self._page(0) as page:
                if isinstance(page, pages.PdfPage):
                    Path(path).write_bytes(page.preview(PREVIEW_SIDE))
        except (BadFile, PageTimeout) as error:
            return self._failure(0, error)
        return None

    def show(self, number: int) -> Shown | Failure:
        """Return page *number* (from 0) of pictures without words, as it was given."""
        try:
            with limited(self._request.page_s) as clock:
                jpeg, size, to = self._opened().picture(number, clock).turned(0)
        except BadFile as error:
            return failure_of(error)
        return Shown(to=to, jpeg=jpeg, size=size)

    def blank(self, number: int) -> Shown:
        """Return an empty page as large as page *number* (from 0) of pictures."""
        with limited(self._request.page_s) as clock:
            return Shown(size=self._opened().size_of(number, clock))

    def add(self, number: int, shown: Shown) -> Failure | None:
        """Add a page to the searchable PDF; return what hinders it."""
        if self._searchable is None:
            with limited(whole_s(self._request)):
                source = Path(self._request.source) if self._is_pdf else None
                self._searchable = Searchable(source)
        to, words = shown.to, shown.words
        try:
            with limited(self._request.page_s):
                if not self._is_pdf:
                    self._searchable.add_picture(shown.jpeg, shown.size, words, to)
                elif words:
                    self._searchable.add_text(number, words, to, turn=shown.turn)
        except BadFile as error:
            return failure_of(error)
        return None

    def save(self, path: str) -> bool | Failure:
        """Write the searchable PDF to *path*, if it has any text; tell whether."""
        if self._searchable is None or not self._searchable.has_text:
            return False
        with limited(whole_s(self._request)):
            self._searchable.save(Path(path))
        return True

    def close(self) -> None:
        """Free what the documents hold."""
        for one in (self._reader, self._searchable, self._document):
            if one is not None:
                one.close()

    def _opened(self) -> pages.Document:
        if self._document is None:
            asked = self._request
            source, most = Path(asked.source), asked.max_pages
            with limited(whole_s(asked)):
                self._document = pages.Document(
                    source, asked.media_type, max_pages=most
                )
        return self._document

    @contextlib.contextmanager
    def _page(self, number: int) -> Iterator[pages.Page]:
        document = self._opened()
        with (
            limited(self._request.page_s) as clock,
            document.page(number, clock) as page,
        ):
            yield page

    def _failure(self, number: int, error: BadFile | PageTimeout) -> Failure:
        if isinstance(error, PageTimeout):
            return took_too_long(number, self._request.page_s)
        return failure_of(error)
