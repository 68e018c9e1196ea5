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
[{page, reason}], languages, once something was read by OCR engine and confidence, and
failedOutputs [{output, reason}] if a preview or searchable PDF could not be made.

Options
-------
`engine`: auto, tesserocr or pytesseract. `languages`: what is installed, ["eng"] by
default. `images`: auto, always or never read pictures. `preview`, `searchablePdf`:
whether to make them. `maxPages`. `pageS`: the longest time for one page, in seconds.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from asyncflow.errors import Skip
from asyncflow.jobs import REASONS
from asyncflow.processors import apart, ocr, raster, sheets
from asyncflow.processors.base import Derivative, Options, Result, Work, processor
from asyncflow.processors.desk import PDF, Desk
from asyncflow.processors.transcript import Transcript

MAX_PAGES: Final = 2000
PAGE_S: Final = 30.0
_PREVIEW: Final = "preview"
_COPY: Final = "searchablePdf"
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
    accepts=(PDF, *_PICTURES),
    outputs=("text", "textJson", _COPY, _PREVIEW),
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
    request = sheets.Request(
        source=str(work.source),
        media_type=work.media_type,
        max_pages=options.max_pages,
        engine=options.engine,
        languages=options.codes,
        page_s=options.page_s,
        shown=options.searchable_pdf,
    )
    # an attempt before may have ended with its process, by something in the document
    with contextlib.closing(
        apart.desk(request) if work.attempt > 1 else Desk(request)
    ) as desk:
        pages = desk.open()
        if isinstance(pages, sheets.Failure):
            raise pages.error()
        if work.media_type != PDF and not _worth_reading(desk, pages, options):
            reason = "switched_off" if options.images == "never" else "no_text"
            raise Skip(REASONS[reason], reason=reason)
        return _Run(work, options, desk, pages).go()


def _worth_reading(desk: Desk | apart.Apart, pages: int, options: TextOptions) -> bool:
    """Tell whether any page of a picture looks like text, or shall be read anyway."""
    if options.images != "auto":
        return options.images == "always"
    failure: sheets.Failure | None = None
    for number in range(pages):
        looks = desk.looks_like_text(number)
        if isinstance(looks, sheets.Failure):
            failure = looks
        elif looks:
            return True
    if failure is not None:
        raise failure.error()
    return False


class _Run:
    """One document, written down page by page."""

    def __init__(
        self, work: Work, options: TextOptions, desk: Desk | apart.Apart, pages: int
    ) -> None:
        self._work = work
        self._options = options
        self._desk = desk
        self._pages = pages
        self._is_pdf = work.media_type == PDF
        unread = ocr.lacking(options.codes)
        self._unread = unread
        self._languages = tuple(one for one in options.codes if one not in unread)
        self._has_copy = False
        self._engine = ""
        self._sources: list[str] = []
        self._confidences: list[float] = []
        self._failed: list[dict[str, object]] = []
        self._failures: list[sheets.Failure] = []
        #: why an output could not be made, by its name
        self._unmade: dict[str, str] = {}
        self._text = work.out / "text.txt"
        self._table = work.out / "text.json"
        self._transcript = Transcript(self._text, self._table, self._languages)

    def go(self) -> Result:
        """Read every page and return what was made."""
        try:
            if self._work.attempt == 1:
                self._preview()
            for number in range(self._pages):
                self._try(number)
                self._work.progress(100 * (number + 1) / self._pages)
            if self._work.attempt > 1 and not self._has_failed(1):
                self._preview()
            self._refuse_nothing()
            return Result(derivatives=tuple(self._made()), facts=self._facts())
        finally:
            self._transcript.close()

    def _try(self, number: int) -> None:
        """Read one page; remember why if that fails."""
        found = self._desk.read(number)
        if isinstance(found, sheets.Failure):
            self._note_lost(number, found)
            return
        self._copy(found)
        if found.failure is not None:
            self._note(number, found.failure)
        self._write(found)

    def _note_lost(self, number: int, failure: sheets.Failure) -> None:
        self._transcript.add_failed(number, failure.reason)
        self._note(number, failure)

    def _note(self, number: int, failure: sheets.Failure) -> None:
        self._failed.append({"page": number + 1, "reason": failure.reason})
        self._failures.append(failure)

    def _has_failed(self, page: int) -> bool:
        return any(one["page"] == page for one in self._failed)

    def _write(self, sheet: sheets.Sheet) -> None:
        self._transcript.add(sheet)
        self._sources.append(sheet.source)
        self._engine = sheet.engine or self._engine
        self._confidences += [
            word.confidence for word in sheet.words if word.confidence is not None
        ]

    def _copy(self, sheet: sheets.Sheet) -> None:
        """Add the page to the searchable PDF, if it needs that."""
        shown = sheet.shown
        if shown is None or (self._is_pdf and not shown.words):
            return
        if _COPY not in self._unmade:
            failure = self._desk.add(sheet.number, shown)
            self._has_copy = failure is None
            self._note_unmade(_COPY, failure)

    def _preview(self) -> None:
        """Publish a picture of a PDF's first page."""
        if not (self._is_pdf and self._options.preview):
            return
        path = self._work.out / "preview.jpg"
        # a page that cannot be shown is not the end: it may not be needed at all
        failure = self._desk.preview(str(path))
        if failure is None:
            self._work.publish(
                Derivative(name=_PREVIEW, path=path, media_type="image/jpeg")
            )
        self._note_unmade(_PREVIEW, failure)

    def _note_unmade(self, output: str, failure: sheets.Failure | None) -> None:
        if failure is not None:
            self._unmade[output] = failure.reason

    def _refuse_nothing(self) -> None:
        """Raise what is wrong with every page, or what is missing for any text."""
        for failure in self._failures:
            if failure.is_lack and not self._transcript.words:
                raise failure.error()
        if self._failures and not self._sources:
            raise self._failures[-1].error()

    def _made(self) -> Iterator[Derivative]:
        self._transcript.close()
        plain, table = "text/plain; charset=utf-8", "application/json"
        yield Derivative(name="text", path=self._text, media_type=plain)
        yield Derivative(name="textJson", path=self._table, media_type=table)
        if self._has_copy:
            path = self._work.out / "searchable.pdf"
            is_made = self._desk.save(str(path))
            if isinstance(is_made, sheets.Failure):
                self._note_unmade(_COPY, is_made)
            elif is_made:
                yield Derivative(name=_COPY, path=path, media_type=PDF)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "pages": self._pages,
            "words": self._transcript.words,
            "layerPages": sum(one in {"layer", "mixed"} for one in self._sources),
            "ocrPages": sum(one in {"ocr", "mixed"} for one in self._sources),
            "failedPages": self._failed,
            "languages": list(self._languages),
        }
        if self._unread:
            facts["missingLanguages"] = list(self._unread)
        # where the page itself could not be read that is said already
        unmade = [
            {"output": output, "reason": reason}
            for output, reason in self._unmade.items()
            if output != _PREVIEW or not self._has_failed(1)
        ]
        if unmade:
            facts["failedOutputs"] = unmade
        if self._engine:
            facts["engine"] = self._engine
        if self._confidences:
            mean = sum(self._confidences) / len(self._confidences)
            facts["confidence"] = round(mean, 1)
        return facts
