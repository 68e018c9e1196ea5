"""Finds the text of PDFs and of pictures of documents.

A page of a PDF that carries its text is not read again, but for what its text does not
cover: a scan with a stamp is still a scan. One without text is turned upright, levelled
and read (OCR). Pictures are read when they look like text: a landscape costs a glance.
One bad page does not spoil the others: it is listed in `failedPages`, and the step
fails only if no page can be read.

Makes `text` (a form feed between pages), `textJson` (each word's place and confidence),
`searchablePdf` where something was read by OCR, and `preview` of a PDF's first page. A
picture without any look of text is skipped.

Facts: pages, words, layerPages, ocrPages (a page with both counts twice), failedPages
[{page, reason}], languages, and once something was read by OCR engine and confidence.

Options
-------
`engine`: auto, tesserocr or pytesseract. `languages`: what is installed, ["eng"] by
default. `images`: auto, always or never read pictures. `preview`, `searchablePdf`:
whether to make them. `maxPages`. `pageS`: the longest time for one page, in seconds.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec

from asyncflow.errors import BadFile, Skip
from asyncflow.jobs import REASONS
from asyncflow.processors import matrix, ocr, pages, raster, reading, uncovered
from asyncflow.processors.base import Derivative, Options, Result, Work, processor
from asyncflow.processors.clock import PageTimeout, limited
from asyncflow.processors.searchable import Searchable
from asyncflow.processors.transcript import Transcript

MAX_PAGES: Final = 2000
PAGE_S: Final = 30.0
PREVIEW_SIDE: Final = 800
_PICTURES: Final = tuple(
    kind for kind in (*raster.VIPS, *raster.PILLOW, *raster.HEIC) if kind != "image/gif"
)


class TextOptions(Options):
    """What can be asked of `text`."""

    engine: Literal["auto", "tesserocr", "pytesseract"] = "auto"
    #: a list, or joined by "+" as Tesseract does
    languages: str | tuple[str, ...] = ("eng",)
    images: Literal["auto", "always", "never"] = "auto"
    preview: bool = True
    searchable_pdf: bool = True
    max_pages: Annotated[int, msgspec.Meta(ge=1)] = MAX_PAGES
    page_s: Annotated[float, msgspec.Meta(ge=1)] = PAGE_S

    def __post_init__(self) -> None:
        """Refuse what is no code of a language, such as `eng` or `chi_sim`."""
        if not self.codes or not all(code.isidentifier() for code in self.codes):
            said = list(self.codes)
            raise ValueError(f'languages is {said!r}; accepted: codes such as ["eng"]')

    @property
    def codes(self) -> tuple[str, ...]:
        """The languages, one by one."""
        said = self.languages
        return tuple(said.split("+")) if isinstance(said, str) else said


def _missing() -> str | None:
    # without an OCR engine, text layers can still be read
    return None if importlib.util.find_spec("pypdfium2") else "pypdfium2"


@processor(
    "text",
    accepts=("application/pdf", *_PICTURES),
    outputs=("text", "textJson", "searchablePdf", "preview"),
    # each page has its own limit; this one only ends what escapes all of them
    # thumbnails first: reading a page takes a second, a thumbnail a moment
    priority=10,
    wall_s=MAX_PAGES * PAGE_S,
    memory_bytes=3 << 30,
    # libvips keeps its threads
    resident=True,
    ready=_missing,
    options=TextOptions,
)
def text(work: Work) -> Result:
    """Write down the document's text, page by page."""
    options: TextOptions = work.options
    document = pages.Document(work.source, work.media_type, max_pages=options.max_pages)
    with contextlib.closing(document):
        if not document.is_pdf and not _worth_reading(document, options):
            reason = "switched_off" if options.images == "never" else "no_text"
            raise Skip(REASONS[reason], reason=reason)
        return _Run(work, options, document).go()


def _worth_reading(document: pages.Document, options: TextOptions) -> bool:
    """Tell whether any page of a picture looks like text, or shall be read anyway."""
    if options.images != "auto":
        return options.images == "always"
    for number in range(document.pages):
        with limited(options.page_s) as clock, document.page(number, clock) as page:
            if isinstance(page, pages.PicturePage) and page.looks_like_text():
                return True
    return False


class _Run:
    """One document, read page by page."""

    def __init__(
        self, work: Work, options: TextOptions, document: pages.Document
    ) -> None:
        self._work = work
        self._options = options
        self._document = document
        self._engine: ocr.Engine | None = None
        self._lacking: Skip | None = None
        self._searchable: Searchable | None = None
        self._sources: list[str] = []
        self._confidences: list[float] = []
        self._failed: list[dict[str, object]] = []
        self._last_error: Exception | None = None
        self._text = work.out / "text.txt"
        self._table = work.out / "text.json"
        self._unread = ocr.lacking(options.codes)
        self._languages = tuple(one for one in options.codes if one not in self._unread)
        self._transcript = Transcript(self._text, self._table, self._languages)

    def go(self) -> Result:
        """Read every page and return what was made."""
        try:
            self._preview()
            for number in range(self._document.pages):
                self._try(number)
                self._work.progress(100 * (number + 1) / self._document.pages)
            self._refuse_nothing()
            return Result(derivatives=tuple(self._made()), facts=self._facts())
        finally:
            self._transcript.close()
            if self._engine is not None:
                self._engine.close()
            if self._searchable is not None:
                self._searchable.close()

    def _try(self, number: int) -> None:
        """Read one page; remember why if that fails."""
        try:
            with (
                limited(self._options.page_s) as clock,
                self._document.page(number, clock) as page,
            ):
                self._page(page)
        except (BadFile, PageTimeout, Skip) as error:
            self._transcript.add_failed(number, self._note(number, error))

    def _note(self, number: int, error: BadFile | PageTimeout | Skip) -> str:
        """Remember what is wrong with page *number*; return the reason."""
        match error:
            case BadFile():
                reason = error.reason
            case PageTimeout():
                reason = "timeout"
            case _:
                reason = "missing_tool"
                self._lacking = error
        self._failed.append({"page": number + 1, "reason": reason})
        self._last_error = error
        return reason

    def _page(self, page: pages.Page) -> None:
        if not isinstance(page, pages.PdfPage):
            self._read(page)
            return
        layer = page.layer()
        if not layer.words:
            if page.has_picture() or page.shows_something():
                self._read(page)
            else:
                self._write(page, "none")
            return
        try:
            beside = uncovered.Uncovered(page, layer)
            if beside.looks_like_text():
                self._read_beside(page, layer, beside)
            else:
                self._write(page, "layer", text=layer.text, words=layer.words)
        except (PageTimeout, Skip) as error:
            # half of a page is better than none, as long as it is said
            reason = self._note(page.number, error)
            self._write(page, "layer", text=layer.text, words=layer.words, error=reason)

    def _read(self, page: pages.Page) -> None:
        """Read a page by OCR."""
        found, to_page = self._found(page, page)
        # before the transcript, which keeps no page that fails later
        if self._options.searchable_pdf:
            self._make_searchable(page, found, to_page)
        self._write(
            page,
            "ocr",
            text=found.text,
            words=_placed(found, to_page),
            rotation=found.turn,
            skew=found.skew,
        )
        self._confidences += [seen.confidence for seen in found.words]

    def _read_beside(
        self, page: pages.PdfPage, layer: pages.Layer, beside: uncovered.Uncovered
    ) -> None:
        """Read by OCR what *layer* does not cover."""
        found, to_page = self._found(page, beside)
        found = beside.new(found, to_page)
        if not found.words:
            self._write(page, "layer", text=layer.text, words=layer.words)
            return
        if self._options.searchable_pdf:
            self._make_searchable(page, replace(found, turn=0), to_page)
        words = _placed(found, to_page)
        self._write(
            page,
            "mixed",
            text=uncovered.joined(layer, found, words),
            words=[*layer.words, *words],
            rotation=found.turn,
            skew=found.skew,
        )
        self._confidences += [seen.confidence for seen in found.words]

    def _found(
        self, page: pages.Page, shown: pages.Page | uncovered.Uncovered
    ) -> tuple[reading.Reading, matrix.Matrix]:
        """Read what *page* has *shown*; return it and the map from its words to it."""
        engine = self._reader()
        picture, to_page, dpi = shown.picture()
        found = reading.read(picture, dpi=dpi, engine=engine, clock=page.clock)
        return found, found.back.then(to_page)

    def _write(self, page: pages.Page, source: str, **more: Any) -> None:
        self._transcript.add(page, source=source, **more)
        self._sources.append(source)

    def _reader(self) -> ocr.Engine:
        if self._lacking is not None:
            raise self._lacking
        if self._engine is None:
            self._engine = ocr.choose(self._options.engine, self._options.codes)
        return self._engine

    def _make_searchable(
        self, page: pages.Page, found: reading.Reading, to_page: matrix.Matrix
    ) -> None:
        if self._searchable is None:
            source = self._work.source if self._document.is_pdf else None
            self._searchable = Searchable(source)
        if isinstance(page, pages.PdfPage):
            if found.words:
                to_content = to_page.then(page.to_user_space)
                self._searchable.add_text(
                    page.number, found.words, to_content, turn=found.turn
                )
            return
        jpeg, size, onto = page.turned(found.turn)
        self._searchable.add_picture(jpeg, size, found.words, to_page.then(onto))

    def _preview(self) -> None:
        """Publish a picture of a PDF's first page."""
        if not (self._document.is_pdf and self._options.preview):
            return
        # a page that cannot be shown is not the end: it may not be needed at all
        with (
            contextlib.suppress(BadFile, PageTimeout),
            limited(self._options.page_s) as clock,
            self._document.page(0, clock) as page,
        ):
            if isinstance(page, pages.PdfPage):
                path = self._work.out / "preview.jpg"
                path.write_bytes(page.preview(PREVIEW_SIDE))
                self._work.publish(
                    Derivative(name="preview", path=path, media_type="image/jpeg")
                )

    def _refuse_nothing(self) -> None:
        """Raise what is wrong with every page, or what is missing for any text."""
        if self._lacking is not None and not self._transcript.words:
            raise self._lacking
        if not self._sources and self._last_error is not None:
            raise self._last_error

    def _made(self) -> Iterator[Derivative]:
        self._transcript.close()
        plain, table = "text/plain; charset=utf-8", "application/json"
        yield Derivative(name="text", path=self._text, media_type=plain)
        yield Derivative(name="textJson", path=self._table, media_type=table)
        if self._searchable is not None and self._searchable.has_text:
            path = self._work.out / "searchable.pdf"
            self._searchable.save(path)
            yield Derivative(
                name="searchablePdf", path=path, media_type="application/pdf"
            )

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "pages": self._document.pages,
            "words": self._transcript.words,
            "layerPages": sum(one in {"layer", "mixed"} for one in self._sources),
            "ocrPages": sum(one in {"ocr", "mixed"} for one in self._sources),
            "failedPages": self._failed,
            "languages": list(self._languages),
        }
        if self._unread:
            facts["missingLanguages"] = list(self._unread)
        if self._engine is not None:
            facts["engine"] = self._engine.name
        if self._confidences:
            mean = sum(self._confidences) / len(self._confidences)
            facts["confidence"] = round(mean, 1)
        return facts


def _placed(found: reading.Reading, to_page: matrix.Matrix) -> list[pages.Word]:
    """Return the words of *found* where they are on the page."""
    return [
        pages.Word(
            text=seen.text, box=to_page.box(seen.box), confidence=seen.confidence
        )
        for seen in found.words
    ]
