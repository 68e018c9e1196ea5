"""Shows what a page of a PDF says beside its text layer: in pictures, in drawn letters.

A scan with a stamped page number has a text layer, and the layer is the page number. So
a layer is believed only for what it covers.

Rules
-----
- A page is looked at if pictures cover `_PICTURE_SHARE` of it, or if more letters than
  it has in its layer are drawn as shapes. Small illustrations and ruled tables cost
  nothing.
- What is looked at is the page without the layer. If that looks like lines of text it
  is worth reading, else it is an illustration. A page of hardly more than a stamp, most
  of which is a picture of paper, is read however little is on the paper.
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
in the picture. It is known by being drawn invisibly, or below the picture.
"""

import collections
import ctypes
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from asyncflow.processors import matrix, paper
from asyncflow.processors.matrix import Box, Matrix
from asyncflow.processors.ocr import Seen
from asyncflow.processors.pages import Layer, PdfPage, Word, word_of
from asyncflow.processors.reading import Reading

#: a picture of half a page's width and a tenth of its height, larger than most logos
_PICTURE_SHARE: Final = 0.05
#: what a scanner's picture covers at least
_SHEET_SHARE: Final = 0.5
#: the words of a fax's header line, or of a page number
_MOST_OF_A_STAMP: Final = 20
#: pictures this small hide no text that was drawn before them
_SPECK_SHARE: Final = 0.005
#: a rectangle has five segments, a letter about twenty
_MOST_OF_A_BOX: Final = 5
_SEGMENTS_A_LETTER: Final = 20
#: markers of a plot are all alike, letters are not
_LEAST_KINDS: Final = 10
_LEAST_LETTERS: Final = 20
#: plans have more shapes than anybody wants to count
_MOST_OBJECTS: Final = 50_000
_DEPTH: Final = 8
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
#: of the words that were read, how many may stand in text that is not seen
_MOST_REPEATED: Final = 0.5
#: words in a row that two texts on one subject seldom share
_ROW: Final = 3
#: in pictures that are no pages, guesses are noise
_LEAST_CONFIDENCE: Final = 50.0
_TRANSPARENT: Final = 0
_NOWHERE: Final = (0.0, 0.0, 0.0, 0.0)


class Uncovered:
    """What a page shows beside its layer; makes the page forget how it draws text."""

    def __init__(self, page: PdfPage, layer: Layer) -> None:
        self._page, self._layer = page, layer
        found = _looked_through(page)
        letters = sum(len(word.text) for word in layer.words)
        self._has_pictures = found.share >= _PICTURE_SHARE
        self._is_stamped = (
            found.share >= _SHEET_SHARE and len(layer.words) <= _MOST_OF_A_STAMP
        )
        self._has_letters = found.letters > max(letters, _LEAST_LETTERS)
        self._pictures = found.pictures
        self._unseen, self._hidden = list[Word](), list[Box]()
        if self.is_worth_a_look:
            self._unseen = _unseen(page, found.hidden)
            self._hidden = [_widened(word.box) for word in self._unseen]
            found.sleep()

    @property
    def is_worth_a_look(self) -> bool:
        """Whether there may be more to read than the layer says."""
        return self._has_pictures or self._has_letters

    def looks_like_text(self) -> bool:
        """Tell whether lines of text are seen; costs no more than a glance."""
        if not self.is_worth_a_look:
            return False
        scale = paper.LOOK_SIDE / max(self._page.width, self._page.height)
        whole, to_page, _dpi = self._page.picture(scale)
        whole = self._within(whole, to_page)
        rest = self._without_hidden(whole, to_page)
        if self._hidden and paper.ink(rest) < _LEFT_OVER * paper.ink(whole):
            return False
        is_sheet = self._is_stamped and paper.is_sheet(rest)
        return is_sheet or paper.looks_like_text(rest)

    def picture(self) -> tuple[Any, Matrix, int]:
        """Render what is not covered; return it as `PdfPage.picture` does."""
        picture, to_page, dpi = self._page.picture()
        picture = self._without_hidden(self._within(picture, to_page), to_page)
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

    def _within(self, picture: Any, to_page: Matrix) -> Any:
        """Return *picture* without the lines of tables and plots around pictures."""
        if self._has_letters:
            return picture
        to_picture = to_page.inverse()
        return paper.only(picture, [to_picture.box(box) for box in self._pictures])

    def _without_hidden(self, picture: Any, to_page: Matrix) -> Any:
        if not self._hidden:
            return picture
        to_picture = to_page.inverse()
        return paper.blank(picture, [to_picture.box(box) for box in self._hidden])


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
            _overlap(box, one) > _MOST_OVERLAP
            for band in self._touched(box)
            for one in band
            if one[0] < x1 and one[2] > x0
        )

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
        return any(_overlap(box, place) > 0 for place in places)


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


@dataclass(slots=True, kw_only=True)
class _Found:
    """What a page is made of."""

    #: how much of the page pictures cover; where they overlap, more
    share: float = 0.0
    #: where pictures are on the page as it is shown
    pictures: list[Box] = field(default_factory=list)
    #: about how many letters are drawn as shapes
    letters: float = 0.0
    texts: list[Any] = field(default_factory=list)
    #: the addresses of texts that are not seen
    hidden: set[int] = field(default_factory=set)

    def sleep(self) -> None:
        """Let no text be drawn any more."""
        import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

        for text in self.texts:
            pdfium.FPDFPageObj_SetIsActive(text, 0)


def _looked_through(page: PdfPage) -> _Found:
    """Look at the page's objects in the order in which they are drawn."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    found = _Found()
    area, to_shown = page.width * page.height, page.to_user_space.inverse()
    kinds: set[int] = set()
    seen: list[tuple[int, Box]] = []
    for raw, kind, to_user_space in _objects(page.raw):
        page.clock.left()
        if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
            box = _bounds(raw, to_user_space)
            share = _area(_common(box, page.bounds)) / area
            found.share += share
            found.pictures.append(to_shown.box(box))
            if share >= _SPECK_SHARE:
                below = {address for address, at in seen if _middle_is_in(at, box)}
                found.hidden |= below
                seen = [one for one in seen if one[0] not in below]
        elif kind == pdfium.FPDF_PAGEOBJ_TEXT:
            found.texts.append(raw)
            if _is_invisible(raw):
                found.hidden.add(_address(raw))
            else:
                seen.append((_address(raw), _bounds(raw, to_user_space)))
        elif kind == pdfium.FPDF_PAGEOBJ_PATH and _is_filled(raw):
            segments = pdfium.FPDFPath_CountSegments(raw)
            if segments > _MOST_OF_A_BOX:
                found.letters += segments / _SEGMENTS_A_LETTER
                kinds.add(segments)
    if len(kinds) < _LEAST_KINDS:
        found.letters = 0
    return found


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
        letter = chr(pdfium.FPDFText_GetUnicode(textpage, at))
        if not letter.isspace():
            text = pdfium.FPDFText_GetTextObject(textpage, at)
            if text and _address(text) in hidden:
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


def _address(one: Any) -> int:
    return ctypes.cast(one, ctypes.c_void_p).value or 0


def _bounds(one: Any, to_user_space: Matrix) -> Box:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    sides = [ctypes.c_float() for _ in range(4)]
    if not pdfium.FPDFPageObj_GetBounds(one, *sides):
        return 0.0, 0.0, 0.0, 0.0
    x0, y0, x1, y1 = (side.value for side in sides)
    return to_user_space.box((x0, y0, x1, y1))


def _plain(text: str) -> str:
    """Return what is compared of a word: OCR mistakes its marks first."""
    return "".join(filter(str.isalnum, text.casefold())) or text


def _widened(box: Box) -> Box:
    x0, y0, x1, y1 = box
    by = _MARGIN * (y1 - y0)
    return x0 - by, y0 - by, x1 + by, y1 + by


def _middle_is_in(one: Box, other: Box) -> bool:
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    return other[0] <= x <= other[2] and other[1] <= y <= other[3]


def _common(one: Box, other: Box) -> Box:
    x0, y0 = max(one[0], other[0]), max(one[1], other[1])
    return x0, y0, max(x0, min(one[2], other[2])), max(y0, min(one[3], other[3]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(box: Box, other: Box) -> float:
    """Return how much of *box* lies in *other*: 0 to 1."""
    return _area(_common(box, other)) / (_area(box) or 1.0)
