"""Joins the pictures of a page into places, each of which may show lines of text.

Rules
-----
- Pictures that touch are one place: programs cut pictures into strips and tiles.
- A place counts if a line of text fits into it, with a word that can be made out:
  `_LINE` x `_WORD` points, `_LEAST_PIXELS` pixels. Bullets, icons, rules and the
  coloured grounds of tables are smaller.
- Up to `_MOST_APART` places are looked at one by one, however small. Of more, all at
  once if they cover `_LARGE` of the page, else the largest.
- More than `_MOST_PICTURES` pictures are looked at all at once, or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncflow.processors import boxes
from asyncflow.processors.matrix import Box

_LINE: Final = 7.0
_WORD: Final = 25.0
_LEAST_PIXELS: Final = 600
_MOST_APART: Final = 8
_MOST_PICTURES: Final = 500
#: a picture of half a page's width and a tenth of its height
_LARGE: Final = 0.05
#: strips of one picture may be this many points apart
_SEAM: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture on a page as it is shown, and how many pixels it has."""

    box: Box
    pixels: int


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """A part of a page; `pictures` are what it is looked at for, all of it if none.

    `is_scattered`: they do not touch each other.
    """

    box: Box
    pictures: list[Box] = field(default_factory=list)
    pixels: int = 0
    is_scattered: bool = False

    @property
    def area(self) -> float:
        """Its size in square points."""
        return boxes.area(self.box)


def places_of(pictures: Sequence[Picture], page: Box) -> list[Place]:
    """Return where on *page* its *pictures* may show text."""
    shown = [
        Picture(box=box, pixels=one.pixels)
        for one in pictures
        if boxes.area(box := boxes.common(one.box, page)) > 0
    ]
    if len(shown) > _MOST_PICTURES:
        return _all_at_once([_place(one) for one in shown], page)
    found = [place for place in _joined(shown) if _holds_a_line(place)]
    if len(found) <= _MOST_APART:
        return found
    largest = sorted(found, key=lambda place: place.area)[-_MOST_APART:]
    return _all_at_once(found, page) or largest


def _joined(pictures: Sequence[Picture]) -> list[Place]:
    """Return *pictures* as places that do not touch each other."""
    places: list[Place] = []
    for one in pictures:
        place = _place(one)
        # what has grown may touch what it did not touch before
        while near := [other for other in places if _touch(place.box, other.box)]:
            places = [other for other in places if other not in near]
            place = together([*near, place])
        places.append(place)
    return places


def together(places: Sequence[Place]) -> Place:
    """Return one place for all of *places*, each of which has pictures."""
    return Place(
        box=boxes.around([place.box for place in places]),
        pictures=[box for place in places for box in place.pictures],
        pixels=sum(place.pixels for place in places),
    )


def _all_at_once(places: Sequence[Place], page: Box) -> list[Place]:
    """Return one place for all of *places*, none if they cover little of *page*."""
    whole = together(places)
    whole.is_scattered = True
    covered = sum(map(boxes.area, whole.pictures))
    return [whole] if covered >= _LARGE * boxes.area(page) else []


def _place(picture: Picture) -> Place:
    return Place(box=picture.box, pictures=[picture.box], pixels=picture.pixels)


def _holds_a_line(place: Place) -> bool:
    x0, y0, x1, y1 = place.box
    short, long = sorted((x1 - x0, y1 - y0))
    return short >= _LINE and long >= _WORD and place.pixels >= _LEAST_PIXELS


def _touch(one: Box, other: Box) -> bool:
    return (
        one[0] <= other[2] + _SEAM
        and other[0] <= one[2] + _SEAM
        and one[1] <= other[3] + _SEAM
        and other[1] <= one[3] + _SEAM
    )
