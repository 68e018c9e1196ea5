"""Finds out what one page of a document says, by its text layer, by OCR, or by both.

Rules
-----
- A sheet is all that is known of a page; whoever writes it down needs the page no more,
  and need not be in the same process.
- What is wrong with a page is an answer, not an error: other pages may be good. Half of
  a page is better than none, as long as it is said.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from asyncflow.errors import BadFile, Skip
from asyncflow.processors import matrix, ocr, pages, reading, uncovered
from asyncflow.processors.clock import PageTimeout, limited
from asyncflow.processors.layers import Layer, Word
from asyncflow.processors.places import Place

#: small pictures that are remembered
_MOST_KNOWN: Final = 64


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Why a page, or a part of it, could not be read; `reason` is one of REASONS.

    `is_lack`: a tool is missing, and the page may be good.
    """

    reason: str
    detail: str
    is_lack: bool = False

    def error(self) -> BadFile | Skip:
        """Return what to raise if this is all there is to say of a document."""
        if self.is_lack:
            return Skip(self.detail, reason=self.reason)
        return BadFile(self.reason, self.detail)


def took_too_long(number: int, page_s: float) -> Failure:
    """Return what is said of page *number* (from 0) when its time is over."""
    return Failure(reason="timeout", detail=f"page {number + 1} took over {page_s:g} s")


class Shown(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a searchable PDF needs of a page: words, and the map from them to it.

    `turn` is how far the page is to be turned clockwise. A picture comes along as a
    JPEG that is turned already, with its size in points; without one it is empty.
    """

    words: list[ocr.Seen] = []
    to: matrix.Matrix = matrix.IDENTITY
    turn: int = 0
    jpeg: bytes = b""
    size: tuple[float, float] = (0.0, 0.0)


class Sheet(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What one page says; its fields are those of a page in `textJson`.

    `number` counts from 0. `failure` is why only a part could be read, `engine` what
    has read, if anything had to be.
    """

    number: int
    width: float
    height: float
    unit: str
    source: Literal["layer", "ocr", "mixed", "none"]
    text: str = ""
    words: list[Word] = []
    rotation: int = 0
    skew: float = 0.0
    failure: Failure | None = None
    engine: str = ""
    shown: Shown | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """How a document is to be read; `shown`: searchable PDFs are wanted."""

    source: str
    media_type: str
    max_pages: int
    engine: str
    languages: tuple[str, ...]
    page_s: float
    shown: bool


class Reader:
    """Reads the pages of one document; `close` it."""

    def __init__(self, request: Request, document: pages.Document) -> None:
        self._request = request
        self._document = document
        self._engine: ocr.Engine | None = None
        self._lacking: Skip | None = None
        #: small pictures by their looks: letterheads are on every page, and read once
        self._known: dict[bytes, reading.Reading] = {}

    def read(self, number: int) -> Sheet | Failure:
        """Return what page *number* (from 0) says, or why nobody knows."""
        try:
            with (
                limited(self._request.page_s) as clock,
                self._document.page(number, clock) as page,
            ):
                return self._page(page)
        except (BadFile, PageTimeout, Skip) as error:
            return self._failure(number, error)

    def close(self) -> None:
        """Free what the engine holds."""
        if self._engine is not None:
            self._engine.close()

    def _page(self, page: pages.Page) -> Sheet:
        if not isinstance(page, pages.PdfPage):
            return self._of_reading(page, *self._found(page, page.picture()))
        layer, notes = page.layer(), page.noted()
        whole = layer.whole or layer
        try:
            sheet = self._covered(page, layer)
        except (PageTimeout, Skip) as error:
            if not whole.words and not notes.words:
                raise
            sheet = self._of_layer(page, whole, self._failure(page.number, error))
        return _with_notes(sheet, notes)

    def _covered(self, page: pages.PdfPage, layer: Layer) -> Sheet:
        """Return what *layer* says, and what is read where it says nothing."""
        if layer.words:
            beside = uncovered.Uncovered(page, layer)
            if places := beside.worth_reading(self._can_read):
                return self._read_beside(page, layer, beside, places)
            # what is doubtful is not seen, or covered by what is not
            return self._of_layer(page, layer)
        if page.has_picture() or page.shows_something():
            found, to_page = self._found(page, page.picture())
            if not (layer.whole and uncovered.bears_out(found, layer.doubtful)):
                return self._of_reading(page, found, to_page)
        elif not layer.doubtful:
            return self._sheet(page, "none")
        return self._of_layer(page, layer.whole or layer)

    def _failure(self, number: int, error: BadFile | PageTimeout | Skip) -> Failure:
        if isinstance(error, PageTimeout):
            return took_too_long(number, self._request.page_s)
        return failure_of(error)

    def _of_reading(
        self, page: pages.Page, found: reading.Reading, to_page: matrix.Matrix
    ) -> Sheet:
        return self._sheet(
            page,
            "ocr",
            text=found.text,
            words=_placed(found, to_page),
            rotation=found.turn,
            skew=found.skew,
            shown=self._shown(page, found, to_page, turn=found.turn),
        )

    def _read_beside(
        self,
        page: pages.PdfPage,
        layer: Layer,
        beside: uncovered.Uncovered,
        places: Sequence[Place],
    ) -> Sheet:
        """Read by OCR what *layer* does not cover."""
        parts = [
            self._found(page, beside.picture(place), is_small=beside.is_small(place))
            for place in places
        ]
        found, to_page = reading.together(parts)
        whole = layer.whole if beside.has_doubtful else None
        if whole and uncovered.bears_out(found, layer.doubtful):
            found = uncovered.without(found, to_page, layer.doubtful)
            layer = whole
        found = beside.new(found, to_page)
        if not found.words:
            return self._of_layer(page, layer)
        words = _placed(found, to_page)
        return self._sheet(
            page,
            "mixed",
            text=uncovered.joined(layer, found, words),
            words=[*layer.words, *words],
            rotation=found.turn,
            skew=found.skew,
            shown=self._shown(page, found, to_page, turn=0),
        )

    def _of_layer(
        self, page: pages.PdfPage, layer: Layer, failure: Failure | None = None
    ) -> Sheet:
        text, words = layer.text, layer.words
        return self._sheet(page, "layer", text=text, words=words, failure=failure)

    def _sheet(
        self,
        page: pages.Page,
        source: Literal["layer", "ocr", "mixed", "none"],
        *,
        text: str = "",
        words: Sequence[Word] = (),
        rotation: int = 0,
        skew: float = 0.0,
        failure: Failure | None = None,
        shown: Shown | None = None,
    ) -> Sheet:
        return Sheet(
            number=page.number,
            width=page.width,
            height=page.height,
            unit=page.unit,
            source=source,
            text=text,
            words=list(words),
            rotation=rotation,
            skew=skew,
            failure=failure,
            engine=self._reader().name if source in {"ocr", "mixed"} else "",
            shown=shown,
        )

    def _found(
        self,
        page: pages.Page,
        shown: tuple[Any, matrix.Matrix, int],
        *,
        is_small: bool = False,
    ) -> tuple[reading.Reading, matrix.Matrix]:
        """Read what *page* has *shown*; return it and the map from its words to it."""
        engine = self._reader()
        picture, to_page, dpi = shown
        if not is_small:
            found = reading.read(picture, dpi=dpi, engine=engine, clock=page.clock)
            return found, found.back.then(to_page)
        looks = reading.looks_of(picture)
        known = self._known.get(looks)
        if known is None:
            known = reading.try_to_read(
                picture, dpi=dpi, engine=engine, clock=page.clock
            )
            if len(self._known) < _MOST_KNOWN:
                self._known[looks] = known
        return known, known.back.then(to_page)

    def _can_read(self) -> bool:
        with contextlib.suppress(Skip):
            self._reader()
        return self._lacking is None

    def _reader(self) -> ocr.Engine:
        if self._lacking is not None:
            raise self._lacking
        if self._engine is None:
            try:
                self._engine = ocr.choose(self._request.engine, self._request.languages)
            except Skip as lacking:
                self._lacking = lacking
                raise
        return self._engine

    def _shown(
        self,
        page: pages.Page,
        found: reading.Reading,
        to_page: matrix.Matrix,
        *,
        turn: int,
    ) -> Shown | None:
        if not self._request.shown:
            return None
        words = list(found.words)
        if isinstance(page, pages.PdfPage):
            return Shown(words=words, to=to_page.then(page.to_user_space), turn=turn)
        jpeg, size, onto = page.turned(turn)
        to = to_page.then(onto)
        return Shown(words=words, to=to, turn=turn, jpeg=jpeg, size=size)


def failure_of(error: BadFile | Skip) -> Failure:
    """Return what is said of a page that has met *error*."""
    is_lack = isinstance(error, Skip)
    return Failure(reason=error.reason, detail=str(error), is_lack=is_lack)


def _with_notes(sheet: Sheet, notes: Layer) -> Sheet:
    """Return *sheet* with what was typed onto the page as notes behind it."""
    if not notes.words:
        return sheet
    source: Literal["layer", "mixed"]
    source = "layer" if sheet.source in {"layer", "none"} else "mixed"
    return msgspec.structs.replace(
        sheet,
        source=source,
        text="\n\n".join(text for text in (sheet.text.strip(), notes.text) if text),
        words=[*sheet.words, *notes.words],
    )


def _placed(found: reading.Reading, to_page: matrix.Matrix) -> list[Word]:
    """Return the words of *found* where they are on the page."""
    return [
        Word(text=seen.text, box=to_page.box(seen.box), confidence=seen.confidence)
        for seen in found.words
    ]
