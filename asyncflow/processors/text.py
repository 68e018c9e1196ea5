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
[{page, reason}], languages, once something was read by OCR engine and confidence,
failedOutputs [{output, reason}] if a preview or searchable PDF could not be made, and
emptyPages [{page, reason}] of a searchable PDF that could not even show them.

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
#: per cent of the step, if looking at all pages finds the last one worth reading
_LOOKED: Final = 20.0
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
    # thumbnails first: reading a page takes a second, a thumbnail a moment
    priority=10,
    # each page has its own limit, and one to be shown if it cannot be read; this one
    # only ends what escapes all of them
    wall_s=2 * MAX_PAGES * PAGE_S,
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
        begun = 0.0 if work.media_type == PDF else _look(work, desk, pages)
        return _Run(work, desk, pages, begun).go()


def _look(work: Work, desk: Desk | apart.Apart, pages: int) -> float:
    """Look for a page of a picture that is worth reading; return the progress then.

    Raise Skip if there is none, or what is wrong with a page that may be one.
    """
    if work.options.images == "never":
        raise Skip(REASONS["switched_off"], reason="switched_off")
    failure: sheets.Failure | None = None
    begun = 0.0
    for number in range(pages):
        looks = work.options.images == "always" or desk.looks_like_text(number)
        if looks is True:
            return begun
        if looks:
            failure = looks
        begun = _LOOKED * (number + 1) / pages
        work.progress(begun)
    raise failure.error() if failure else Skip(REASONS["no_text"], reason="no_text")


class _Run:
    """One document, written down page by page."""

    def __init__(
        self, work: Work, desk: Desk | apart.Apart, pages: int, begun: float
    ) -> None:
        self._work = work
        options: TextOptions = work.options
        self._options = options
        self._desk = desk
        self._pages = pages
        #: how far the step is before anything is read, in per cent
        self._begun = begun
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
        #: pages of the searchable PDF that show nothing
        self._empty: list[dict[str, object]] = []
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
                self._tell(number + 1)
            if self._work.attempt > 1 and not self._has_failed(1):
                self._preview()
            self._refuse_nothing()
            return Result(derivatives=tuple(self._made()), facts=self._facts())
        finally:
            self._transcript.close()

    def _tell(self, done: int) -> None:
        left = (100 - self._begun) * (1 - done / self._pages)
        self._work.progress(100 - left)

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
        # without a tool no page of a picture is read
        if not self._is_pdf and self._options.searchable_pdf and not failure.is_lack:
            self._show(number)

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
        if shown is not None and (shown.words or not self._is_pdf):
            self._add(sheet.number, shown)

    def _show(self, number: int) -> None:
        """Add a page that could not be read, so that no page of a picture is lost."""
        shown = self._desk.show(number)
        if isinstance(shown, sheets.Failure):
            self._empty.append({"page": number + 1, "reason": shown.reason})
            shown = self._desk.blank(number)
        self._add(number, shown)

    def _add(self, number: int, shown: sheets.Shown) -> None:
        if _COPY not in self._unmade:
            failure = self._desk.add(number, shown)
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
            self._has_copy = is_made is True
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
        if self._has_copy and self._empty:
            facts["emptyPages"] = self._empty
        if self._engine:
            facts["engine"] = self._engine
        if self._confidences:
            mean = sum(self._confidences) / len(self._confidences)
            facts["confidence"] = round(mean, 1)
        return facts
