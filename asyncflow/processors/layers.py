"""Takes the text that a page of a PDF carries itself, and doubts what is no text.

Rules
-----
- What a font draws and what its codes mean are told apart in a PDF, and the second may
  be missing or nonsense. Words of such letters are doubtful: they are no part of
  `words`, and what draws them is named, so that it can be looked at and read.
- A word is doubtful if most of its letters have no meaning: PDFium finds none in the
  font, or the meaning is no character (U+FFFD, private use, control characters).
- A page is doubtful as a whole if a quarter of it and more are rows of signs: subsets
  of fonts often count their letters from "!" on. It may be a program or a drawing made
  of letters; whoever reads it finds out.
- Bullets, icons and signs of formulas are no words, and stay.
"""

import ctypes
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from asyncflow.processors.boxes import around
from asyncflow.processors.clock import Clock
from asyncflow.processors.matrix import Box, Matrix

#: what stands for no character, in UTF-16; PDFium marks hyphens by U+0002 and U+FFFE
_NOTHING: Final = re.compile(
    "[\x00\x01\x03-\x08\x0b-\x1f\x7f-\x9f\ue000-\uf8ff\udb80-\udbff\ufffd\uffff]"
)
#: stands for all that has no meaning: kinds cannot be told
_NO_CHARACTER: Final = "\ufffd"
#: as many letters make a word; icons and formulas have fewer in a row
_WORD: Final = 3
#: letters in such words, and how many of them differ: a row of icons has less
_LEAST_LETTERS: Final = 8
_LEAST_KINDS: Final = 5
#: as many signs in a row are no "!=", and as many kinds of them no line of dots
_SIGNS: Final = 4
_SIGN_KINDS: Final = 3
#: of a page's letters, how many may stand in rows of signs
_MOST_SIGNS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word on a page; `confidence` is 0 to 100, None where it is not a guess."""

    text: str
    box: Box
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The text that a page of a PDF carries itself, without what is doubtful.

    `doubtful` are the words that are left out, `drawing` the addresses of PDFium's
    texts that draw them, `whole` is the layer with them.
    """

    text: str
    words: list[Word]
    doubtful: list[Word] = field(default_factory=list)
    drawing: frozenset[int] = frozenset()
    whole: "Layer | None" = None


class _Run(NamedTuple):
    """Letters without a space between them, and the number of the first."""

    start: int
    letters: list[str]
    boxes: list[Box]


def layer_of(page: Any, to_shown: Matrix, clock: Clock) -> Layer:
    """Return the text of PDFium's *page*. Raise PageTimeout."""
    textpage = page.get_textpage()
    try:
        text = str(textpage.get_text_range(errors="replace"))
        runs = list(_runs(textpage, clock))
        whole = Layer(text=text, words=_words(runs, to_shown))
        doubtful = _doubtful(textpage, runs)
        if not doubtful:
            return whole
        left_out = {run.start for run in doubtful}
        good = [run for run in runs if run.start not in left_out]
        return Layer(
            text=_without(textpage, doubtful),
            words=_words(good, to_shown),
            doubtful=_words(doubtful, to_shown),
            drawing=_drawing(textpage, doubtful),
            whole=whole,
        )
    finally:
        textpage.close()


def word_of(letters: list[str], boxes: list[Box], to_shown: Matrix) -> Word:
    """Return a word of PDFium's *letters*, UTF-16 units: two may be one letter."""
    return Word(text=_decoded(letters), box=to_shown.box(around(boxes)))


def address_of(one: Any) -> int:
    """Return where PDFium keeps *one*: what it is known by."""
    return ctypes.cast(one, ctypes.c_void_p).value or 0


def letter_of(code: int) -> str:
    """Return the letter, or half of one, that PDFium means by *code*.

    A font may mean anything, even what Unicode has no number for.
    """
    return chr(code) if code <= sys.maxunicode else _NO_CHARACTER


def _words(runs: Sequence[_Run], to_shown: Matrix) -> list[Word]:
    return [word_of(run.letters, run.boxes, to_shown) for run in runs]


def _runs(textpage: Any, clock: Clock) -> Iterator[_Run]:
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    letters: list[str] = []
    boxes: list[Box] = []
    count = textpage.count_chars()
    raw, code_of = textpage.raw, pdfium.FPDFText_GetUnicode
    box_of = pdfium.FPDFText_GetCharBox
    x0, x1, y0, y1 = (ctypes.c_double() for _ in range(4))
    for at in range(count + 1):
        # one beyond the end is a space: it ends the last word
        letter = letter_of(code_of(raw, at)) if at < count else " "
        if not letter.isspace() and letter != "\0":
            letters.append(letter)
            box_of(raw, at, x0, x1, y0, y1)
            boxes.append((x0.value, y0.value, x1.value, y1.value))
        elif letters:
            clock.left()
            yield _Run(at - len(letters), letters, boxes)
            letters, boxes = [], []


def _doubtful(textpage: Any, runs: Sequence[_Run]) -> list[_Run]:
    """Return those of *runs* that may mean something else than they say."""
    signs = [run for run in runs if _is_signs(run.letters)]
    if _are_words(signs) and _letters(signs) >= _MOST_SIGNS * _letters(runs):
        return list(runs)
    unknown = [run for run in runs if _is_unknown(textpage, run)]
    return unknown if _are_words(unknown) else []


def _letters(runs: Sequence[_Run]) -> int:
    return sum(len(run.letters) for run in runs)


def _are_words(runs: Sequence[_Run]) -> bool:
    """Tell whether *runs* are more than a few bullets and icons."""
    letters = [one for run in runs if len(run.letters) >= _WORD for one in run.letters]
    kinds = len(set(letters))
    return len(letters) >= _LEAST_LETTERS and (
        kinds >= _LEAST_KINDS or _NO_CHARACTER in letters
    )


def _is_unknown(textpage: Any, run: _Run) -> bool:
    """Tell whether most of the run's letters have no meaning that is known."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    letters, unmapped = run.letters, pdfium.FPDFText_HasUnicodeMapError
    raw, last = textpage.raw, run.start + len(letters) - 1
    # fonts seldom change within a word: nearly all are believed by their ends
    if not (
        unmapped(raw, run.start) == 1
        or unmapped(raw, last) == 1
        or _NOTHING.search("".join(letters))
    ):
        return False
    lost = sum(
        _NOTHING.match(letter) is not None or unmapped(raw, run.start + at) == 1
        for at, letter in enumerate(letters)
    )
    return bool(lost > len(letters) / 2)


def _is_signs(letters: Sequence[str]) -> bool:
    """Tell whether most of *letters* are neither letters nor digits."""
    text = "".join(letters)
    if len(text) < _SIGNS or text.isalnum() or len(set(text)) < _SIGN_KINDS:
        return False
    signs = sum(unicodedata.category(letter)[0] in "PS" for letter in _decoded(letters))
    return signs > len(text) / 2


def _without(textpage: Any, runs: Sequence[_Run]) -> str:
    """Return the page's text without *runs*, and without lines that are then empty."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    units = [
        letter_of(pdfium.FPDFText_GetUnicode(textpage, at))
        for at in range(textpage.count_chars())
    ]
    for run in runs:
        units[run.start : run.start + len(run.letters)] = [""] * len(run.letters)
    lines = _decoded(units).splitlines()
    return "\n".join(line for line in lines if line.strip(" \t\0"))


def _drawing(textpage: Any, runs: Sequence[_Run]) -> frozenset[int]:
    """Return the addresses of the texts that draw *runs*."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 -- few workers need it

    found = (
        pdfium.FPDFText_GetTextObject(textpage, run.start + at)
        for run in runs
        for at in range(len(run.letters))
    )
    return frozenset(address_of(text) for text in found if text)


def _decoded(units: Sequence[str]) -> str:
    data = "".join(units).encode("utf-16-le", "surrogatepass")
    return data.decode("utf-16-le", "replace")
