"""Reads one picture of a page: turns it upright, levels its lines, finds the words.

Rules
-----
- Words keep the place they have in the straightened picture; `back` maps it to the
  picture that was given. Whoever draws text over the page needs both.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from asyncflow.processors import matrix, ocr, paper
from asyncflow.processors.clock import Clock
from asyncflow.processors.matrix import Matrix

#: below it, "upside down" is only a guess: the page is read both ways
_SURE: Final = 5.0
#: nonsense reaches 60
MAKES_SENSE: Final = 75.0
#: a word that is not read into a drawing
_WORD_CONFIDENCE: Final = 80.0
_WORD_LETTERS: Final = 3
_A_LINE_OR_TWO: Final = 12  # words
#: more blocks than Tesseract finds in a picture
_BLOCKS: Final = 1_000_000


def looks_of(picture: Any) -> bytes:
    """Return what tells the grey *picture* from others."""
    digest = hashlib.blake2b(picture.write_to_memory())
    digest.update(b"%d" % picture.width)
    return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a picture of a page says.

    `turn` is how far it was turned clockwise, `skew` by how many degrees its lines
    then sank to the right. `back` maps the words' boxes to the given picture.
    """

    words: Sequence[ocr.Seen]
    turn: int
    skew: float
    back: Matrix

    @property
    def text(self) -> str:
        """The words in lines, an empty line between paragraphs."""
        parts = [word.text for word in self.words[:1]]
        for last, word in pairwise(self.words):
            if word.place[:2] != last.place[:2]:
                parts.append("\n\n")
            elif word.place != last.place:
                parts.append("\n")
            else:
                parts.append(" ")
            parts.append(word.text)
        return "".join(parts)

    @property
    def confidence(self) -> float:
        """How sure the words are, long ones more than short ones: 0 to 100."""
        return self.certainty / (sum(len(word.text) for word in self.words) or 1)

    @property
    def certainty(self) -> float:
        """How much was read with how much confidence; to compare two readings."""
        return sum(word.confidence * len(word.text) for word in self.words)


def read(picture: Any, *, dpi: int, engine: ocr.Engine, clock: Clock) -> Reading:
    """Read the grey libvips image *picture*. Raise PageTimeout."""
    turn = engine.turn(_scan(picture, dpi), within_s=clock.left())
    degrees = 0 if turn is None else turn.degrees
    turned = _level(picture, degrees, dpi=dpi, engine=engine, clock=clock)
    if turn is None or degrees == 0 or turn.certainty >= _SURE:
        return turned
    as_given = _level(picture, 0, dpi=dpi, engine=engine, clock=clock)
    return max(turned, as_given, key=lambda reading: reading.certainty)


def try_to_read(picture: Any, *, dpi: int, engine: ocr.Engine, clock: Clock) -> Reading:
    """Read a small *picture*, in which there is often nothing. Raise PageTimeout.

    To read nothing takes less than to look for lines. So it is read as it is given, and
    turned and levelled only if something is there that makes no sense.
    """
    words = engine.read(_scan(picture, dpi), within_s=clock.left())
    as_given = Reading(words=words, turn=0, skew=0.0, back=matrix.IDENTITY)
    if not words or as_given.confidence >= MAKES_SENSE:
        return _telling(as_given)
    if len(words) <= _A_LINE_OR_TWO:
        # too little to tell which way it is turned, and little to try
        turns = [90, 180, 270]
    else:
        told = engine.turn(_scan(picture, dpi), within_s=clock.left())
        turns = [0 if told is None else told.degrees]
        if not any(turns) and not _is_askew(paper.skew_of(picture)):
            return _telling(as_given)
    tries = [
        _level(picture, turn, dpi=dpi, engine=engine, clock=clock) for turn in turns
    ]
    return _telling(max(as_given, *tries, key=lambda reading: reading.certainty))


def _telling(found: Reading) -> Reading:
    """Return *found*, without any word if none is sure to be one."""
    if any(
        word.confidence >= _WORD_CONFIDENCE
        and sum(map(str.isalnum, word.text)) >= _WORD_LETTERS
        for word in found.words
    ):
        return found
    return replace(found, words=[])


def together(parts: Sequence[tuple[Reading, Matrix]]) -> tuple[Reading, Matrix]:
    """Return readings of several pictures of one page, each with its map, as one."""
    if len(parts) == 1:
        return parts[0]
    words: list[ocr.Seen] = []
    for at, (found, to_page) in enumerate(parts):
        words += [
            replace(
                word,
                box=to_page.box(word.box),
                line=to_page.box(word.line),
                # blocks are told apart by their numbers
                place=(at * _BLOCKS + word.place[0], *word.place[1:]),
            )
            for word in found.words
        ]
    return Reading(words=words, turn=0, skew=0.0, back=matrix.IDENTITY), matrix.IDENTITY


def _level(
    picture: Any, turn: int, *, dpi: int, engine: ocr.Engine, clock: Clock
) -> Reading:
    """Read *picture* after turning it by *turn* degrees and levelling its lines."""
    back = matrix.unturned(turn, picture.width, picture.height)
    if turn:
        picture = picture.rot(f"d{turn}").copy_memory()
    skew = paper.skew_of(picture)
    if _is_askew(skew):
        picture, unlevel = paper.straighten(picture, skew)
        back = unlevel.then(back)
    else:
        skew = 0.0
    words = engine.read(_scan(picture, dpi), within_s=clock.left())
    return Reading(words=words, turn=turn, skew=skew, back=back)


def _is_askew(skew: float) -> bool:
    return abs(skew) >= paper.MIN_SKEW


def _scan(picture: Any, dpi: int) -> ocr.Scan:
    return ocr.Scan(
        width=picture.width,
        height=picture.height,
        pixels=bytes(picture.write_to_memory()),
        dpi=dpi,
    )
