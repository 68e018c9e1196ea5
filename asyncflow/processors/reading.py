"""Reads one picture of a page: turns it upright, levels its lines, finds the words.

Rules
-----
- Words keep the place they have in the straightened picture; `back` maps it to the
  picture that was given. Whoever draws text over the page needs both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from asyncflow.processors import matrix, ocr, paper
from asyncflow.processors.clock import Clock
from asyncflow.processors.matrix import Matrix

#: below it, "upside down" is only a guess: the page is read both ways
_SURE: Final = 5.0


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
    def certainty(self) -> float:
        """How much was read with how much confidence; to compare two readings."""
        return sum(word.confidence * len(word.text) for word in self.words)


def read(picture: Any, *, dpi: int, engine: ocr.Engine, clock: Clock) -> Reading:
    """Read the grey libvips image *picture*. Raise PageTimeout."""
    turn = engine.turn(_scan(picture, dpi), within_s=clock.left())
    if turn is None or turn.degrees == 0:
        return _level(picture, 0, dpi=dpi, engine=engine, clock=clock)
    turned = _level(picture, turn.degrees, dpi=dpi, engine=engine, clock=clock)
    if turn.certainty >= _SURE:
        return turned
    as_given = _level(picture, 0, dpi=dpi, engine=engine, clock=clock)
    return max(turned, as_given, key=lambda reading: reading.certainty)


def _level(
    picture: Any, turn: int, *, dpi: int, engine: ocr.Engine, clock: Clock
) -> Reading:
    """Read *picture* after turning it by *turn* degrees and levelling its lines."""
    back = matrix.unturned(turn, picture.width, picture.height)
    if turn:
        picture = picture.rot(f"d{turn}").copy_memory()
    skew = paper.skew_of(picture)
    if abs(skew) < paper.MIN_SKEW:
        skew = 0.0
    else:
        picture, unlevel = paper.straighten(picture, skew)
        back = unlevel.then(back)
    words = engine.read(_scan(picture, dpi), within_s=clock.left())
    return Reading(words=words, turn=turn, skew=skew, back=back)


def _scan(picture: Any, dpi: int) -> ocr.Scan:
    return ocr.Scan(
        width=picture.width,
        height=picture.height,
        pixels=bytes(picture.write_to_memory()),
        dpi=dpi,
    )
