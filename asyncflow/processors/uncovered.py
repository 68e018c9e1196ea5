"""Shows what a page of a PDF says beside its text layer: in pictures, in drawn letters.

A scan with a stamped page number has a text layer, and the layer is the page number. So
a layer is believed only for what it covers.

Rules
-----
- Looked at are the places of pictures into which a line of text fits (`places`), or
  the whole page if more letters than it has in its layer are drawn as shapes. Icons and
  ruled tables cost nothing.
- What is looked at is the page without the layer. If a place looks like lines of text
  it is worth reading, else it is an illustration. Small places are simply read if they
  have a ground with ink on it. A page of hardly more than a stamp, most of which is a
  picture of paper, is read however little is on the paper.
- Text whose meaning is doubtful is no part of the layer: it is seen, and read. The file
  is believed after all if the reading bears it out, or tells nothing.
- Text that somebody's OCR has laid over a scan covers the scan: its places are blank.
- What was read is dropped where the layer says it already. If most of it is said, word
  after word, by text that is not seen, that text lies in the wrong places, and all is
  dropped. Text that is seen is something else that the page shows: words in common
  prove nothing.

Theory of operation
-------------------
PDFium draws a page from its objects, and each can be put to sleep. Then the stamp is
gone, and what it was put on is seen again; a blank box would make a hole into the scan
below a slanted watermark. Text that was never seen cannot be put to sleep: its ink is
in the picture.
"""

import collections
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from asyncflow.processors import paper
from asyncflow.processors.boxes import (
    area,
    around,
    common,
    overlap,
    widened,
)
from asyncflow.processors.content import Content, content_of
from asyncflow.processors.layers import Layer, Word, address_of, letter_of, word_of
from asyncflow.processors.matrix import Box, Matrix
from asyncflow.processors.ocr import Seen
from asyncflow.processors.pages import PdfPage
from asyncflow.processors.places import Place, places_of, together
from asyncflow.processors.reading import MAKES_SENSE, Reading

#: what a scanner's picture covers at least
_SHEET_SHARE: Final = 0.5
#: the words of a fax's header line, or of a page number
_MOST_OF_A_STAMP: Final = 20
#: of letters drawn as shapes; fewer are a logo
_LEAST_LETTERS: Final = 20
#: of the ink of a picture, what OCR left over of its lines: dots, edges, strokes
_LEFT_OVER: Final = 0.2
#: of a letter's smaller side, how far from its word it may lie
_GAP: Final = 0.5
#: into how many bands a page is divided to find what lies in one place
_BANDS: Final = 128
#: by how much of a letter's height its place is made blank around it
_MARGIN: Final = 0.15
#: of a word that was read, what may lie on a word of the layer
_MOST_OVERLAP: Final = 0.3
#: of a line whose words have others above them: the rest are spaces
_IS_COVERED: Final = 0.5
#: of the words that were read, how many may stand in text that is not seen
_MOST_REPEATED: Final = 0.5
#: words in a row that two texts on one subject seldom share
_ROW: Final = 3
#: in pictures that are no pages, guesses are noise
_LEAST_CONFIDENCE: Final = 50.0
#: a word that can hardly be another one, and of how many letters
_SURE: Final = 80.0
_TELLING: Final = 3
#: of such words, how many must be the same
_MOST_ARE_SAME: Final = 0.7
#: of a page, places that are read in less time than their lines are looked for
_SMALL_SHARE: Final = 0.2
#: of a page, pictures so small that a photograph with letters on it is an ornament
_TINY_SHARE: Final = 0.05
_GLANCE_SCALE: Final = 150 / 72
#: pixels that show whether there is a line of letters in a strip
_GLANCE_SIDE: Final = 24
#: of a place's shorter side, what of it may be its edge
_EDGE: Final = 0.1
_NOWHERE: Final = (0.0, 0.0, 0.0, 0.0)


class Uncovered:
    """What a page shows beside its layer; makes the page forget how it draws text."""

    def __init__(self, page: PdfPage, layer: Layer) -> None:
        self._page, self._layer = page, layer
        self._area = page.width * page.height
        found = content_of(page, layer.drawing)
        self._unseen = _unseen(page, found.hidden)
        self._hidden = [
            widened(word.box, _MARGIN * (word.box[3] - word.box[1]))
            for word in self._unseen
        ]
        covered = _Boxes(self._hidden, page.height)
        found.doubtful = [
            box for box in found.doubtful if covered.share(box) < _IS_COVERED
        ]
        self.has_doubtful = bool(found.doubtful)
        self._places = _places(page, layer, found)
        if self._places:
            found.sleep()

    def worth_reading(self, can_read: Callable[[], bool]) -> list[Place]:
        """Return the places that may say more than the layer; costs glances at most.

        *can_read* tells whether there is an engine: to try to read small places costs
        less than to look for their lines.
        """
        if self.has_doubtful:
            return self._places
        return [
            place for place in self._places if self._is_worth_reading(place, can_read)
        ]

    def is_small(self, place: Place) -> bool:
        """Tell whether *place* is a picture, and a small part of the page."""
        return not place.is_scattered and place.area <= _SMALL_SHARE * self._area

    def _is_worth_reading(self, place: Place, can_read: Callable[[], bool]) -> bool:
        x0, y0, x1, y1 = place.box
        short, long = sorted((x1 - x0, y1 - y0))
        scale = max(paper.LOOK_SIDE / long, _GLANCE_SIDE / short)
        scale = min(scale, _GLANCE_SCALE)
        # without its edges, which would be lines
        inner = widened(place.box, -min(1 / scale, _EDGE * short))
        whole, to_page, _dpi = self._page.picture(scale, inner)
        whole = _within(place, whole, to_page)
        rest = self._without_hidden(whole, to_page)
        if self._hidden and paper.ink(rest) < _LEFT_OVER * paper.ink(whole):
            return False
        if self.is_small(place) and can_read():
            if paper.may_show_text(rest):
                return True
            if place.area <= _TINY_SHARE * self._area:
                return False
        is_sheet = (
            len(self._layer.words) <= _MOST_OF_A_STAMP
            and place.area >= _SHEET_SHARE * self._area
            and paper.is_sheet(rest)
        )
        return is_sheet or paper.looks_like_text(rest)

    def picture(self, place: Place) -> tuple[Any, Matrix, int]:
        """Render *place* of what is not covered; return it as `PdfPage.picture`."""
        picture, to_page, dpi = self._page.picture(within=place.box)
        picture = _within(place, picture, to_page)
        picture = self._without_hidden(picture, to_page)
        if self.is_small(place):
            picture, to_framed = paper.framed(picture)
            to_page = to_framed.inverse().then(to_page)
        return picture, to_page, dpi

    def new(self, found: Reading, to_page: Matrix) -> Reading:
        """Return *found* without what the layer says already. Raise PageTimeout."""
        hidden, said = _Boxes(self._hidden, self._page.height), _Said(self._layer.words)
        words = []
        for word in found.words:
            self._page.clock.left()
            box = to_page.box(word.box)
            if (
                word.confidence >= _LEAST_CONFIDENCE
                and not hidden.cover(box)
                and not said.says(word, box)
            ):
                words.append(word)
        if _repeated(words, self._unseen) > _MOST_REPEATED * len(words):
            words = []
        return replace(found, words=words)

    def _without_hidden(self, picture: Any, to_page: Matrix) -> Any:
        if not self._hidden:
            return picture
        to_picture = to_page.inverse()
        return paper.blank(picture, [to_picture.box(box) for box in self._hidden])


def _places(page: PdfPage, layer: Layer, found: Content) -> list[Place]:
    """Return where there may be more to read than *layer* says."""
    whole = (0.0, 0.0, page.width, page.height)
    letters = sum(len(word.text) for word in layer.words)
    if found.letters > max(letters, _LEAST_LETTERS):
        return [Place(box=whole)]
    places = places_of(found.pictures, whole)
    wide = [widened(box, _MARGIN * (box[3] - box[1])) for box in found.doubtful]
    shown = [box for one in wide if area(box := common(one, whole)) > 0]
    if not shown:
        return places
    return [together([*places, Place(box=around(shown), pictures=shown)])]


def _within(place: Place, picture: Any, to_page: Matrix) -> Any:
    """Return *picture* without the lines of tables and plots around its pictures."""
    if len(place.pictures) <= 1:
        return picture
    to_picture = to_page.inverse()
    return paper.only(picture, [to_picture.box(box) for box in place.pictures])


class _Boxes:
    """Boxes on a page, kept by the bands of the page that they touch."""

    def __init__(self, boxes: Sequence[Box], height: float) -> None:
        self._bands: list[list[Box]] = [[] for _ in range(_BANDS)]
        self._height = height / _BANDS
        for box in boxes:
            for band in self._touched(box):
                band.append(box)

    def cover(self, box: Box) -> bool:
        """Tell whether one of them covers so much of *box* that it is the same."""
        x0, _, x1, _ = box
        return any(
            overlap(box, one) > _MOST_OVERLAP
            for band in self._touched(box)
            for one in band
            if one[0] < x1 and one[2] > x0
        )

    def share(self, box: Box) -> float:
        """Return how much of *box* they cover together, if they lie side by side."""
        near = {one for band in self._touched(box) for one in band}
        return sum(overlap(box, one) for one in near)

    def _touched(self, box: Box) -> list[list[Box]]:
        first, last = (
            int(min(max(0.0, at / self._height), _BANDS - 1)) for at in (box[1], box[3])
        )
        return self._bands[first : last + 1]


class _Said:
    """The words of a layer, by what is compared of them."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._places = collections.defaultdict[str, list[Box]](list)
        for word in words:
            self._places[_plain(word.text)].append(word.box)

    def says(self, word: Seen, box: Box) -> bool:
        """Tell whether it has *word* in the place of *box*."""
        places = self._places.get(_plain(word.text), ())
        return any(overlap(box, place) > 0 for place in places)


def _repeated(read: Sequence[Seen], unseen: Sequence[Word]) -> int:
    """Return how many words of *read* stand in rows that *unseen* has as well."""
    said = [_plain(word.text) for word in read]
    length = min(_ROW, len(said))
    known = set(_rows([_plain(word.text) for word in unseen], length))
    repeated: set[int] = set()
    for at, row in enumerate(_rows(said, length)):
        if row in known:
            repeated.update(range(at, at + length))
    return len(repeated)


def _rows(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield each *length* words that follow each other."""
    return zip(*(words[at:] for at in range(length)), strict=False)


def bears_out(found: Reading, doubtful: Sequence[Word]) -> bool:
    """Tell whether *doubtful* says what was read, or nothing was read for sure.

    What is read in a script that the engine does not know makes no sense.
    """
    if found.confidence < MAKES_SENSE:
        return True
    # fonts that say nothing of letters say nothing of spaces either
    said = "".join(_bare(word.text) for word in doubtful)
    sure = [
        bare
        for word in found.words
        if word.confidence >= _SURE and len(bare := _bare(word.text)) >= _TELLING
    ]
    same = sum(bare in said for bare in sure)
    return same >= _MOST_ARE_SAME * len(sure)


def without(found: Reading, to_page: Matrix, words: Sequence[Word]) -> Reading:
    """Return *found* without what *words* say in its place."""
    said = _Said(words)
    rest = [one for one in found.words if not said.says(one, to_page.box(one.box))]
    return replace(found, words=rest)


def joined(layer: Layer, found: Reading, words: Sequence[Word]) -> str:
    """Return the layer's text and that of *found*; what begins higher comes first.

    *words* are those of *found* in places of the page.
    """
    parts = [part for part in (layer.text.strip(), found.text) if part]
    tops = [
        min((word.box[1] for word in some), default=0.0)
        for some in (layer.words, words)
    ]
    if tops[1] < tops[0]:
        parts.reverse()
    return "\n\n".join(parts)


def _unseen(page: PdfPage, hidden: Collection[int]) -> list[Word]:
    """Return the words of *hidden* texts, and where on the page they lie."""
    if not hidden:
        return []
    textpage = page.raw.get_textpage()
    to_shown = page.to_user_space.inverse()
    words: list[Word] = []
    letters: list[str] = []
    boxes: list[Box] = []
    try:
        for letter, box in _letters(textpage, hidden):
            if letters and not (letter and _adjoin(boxes[-1], box)):
                page.clock.left()
                words.append(word_of(letters, boxes, to_shown))
                letters, boxes = [], []
            if letter:
                letters.append(letter)
                boxes.append(box)
    finally:
        textpage.close()
    return words


def _letters(textpage: Any, hidden: Collection[int]) -> Iterator[tuple[str, Box]]:
    """Yield the letters of *hidden* texts, and "" for all else and at the end."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    for at in range(textpage.count_chars()):
        letter = letter_of(pdfium.FPDFText_GetUnicode(textpage, at))
        if not letter.isspace():
            text = pdfium.FPDFText_GetTextObject(textpage, at)
            if text and address_of(text) in hidden:
                yield letter, textpage.get_charbox(at, loose=True)
                continue
        yield "", _NOWHERE
    yield "", _NOWHERE


def _adjoin(last: Box, letter: Box) -> bool:
    """Tell whether *letter* goes on a word after *last*: it is near, on one line."""
    x0, y0, x1, y1 = letter
    by = _GAP * min(x1 - x0, y1 - y0)
    return (
        x0 - by < last[2]
        and last[0] < x1 + by
        and y0 - by < last[3]
        and last[1] < y1 + by
    )


def _bare(text: str) -> str:
    """Return the letters of *text* without the accents that OCR may miss."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text.casefold())))


def _plain(text: str) -> str:
    """Return what is compared of a word: OCR mistakes its marks first."""
    return "".join(filter(str.isalnum, text.casefold())) or text
