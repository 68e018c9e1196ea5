"""Tables held against types."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import pytest

from asyncflow import shapes


class Size(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    width: Annotated[int, msgspec.Meta(ge=1)]
    fit_mode: Literal["cover", "inside"] | None = None


class Look(msgspec.Struct, forbid_unknown_fields=True):
    sizes: Annotated[Mapping[str, Size], msgspec.Meta(min_length=1)] | None = None
    names: tuple[str, ...] = ()
    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    loud: bool = False

    def __post_init__(self) -> None:
        if self.loud and self.strength == 0:
            raise ValueError("loud needs a strength above 0")


def problems(said: object) -> list[str]:
    return list(shapes.problems(said, Look, ("a", "b c", "d")))


def test_what_fits_has_no_problems() -> None:
    assert problems({}) == []
    assert problems({"sizes": {"x y": {"width": 3, "fitMode": "cover"}}}) == []


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("x", "is 'x'; accepted: a table"),
        ({"sizes": {}}, ".sizes is {}; accepted: a table of length >= 1"),
        (
            {"sizes": {"x y": {"width": 0}}},
            '.sizes."x y".width is 0; accepted: a whole number >= 1',
        ),
        ({"sizes": {"x": {}}}, ".sizes.x.width is missing"),
        (
            {"sizes": {"x": {"width": 1, "fitMode": "no"}}},
            ".sizes.x.fitMode is 'no'; accepted: cover, inside",
        ),
        ({"names": ["a", 1]}, ".names[1] is 1; accepted: a text"),
        ({"strength": 2}, ".strength is 2; accepted: a number from 0 to 1"),
        ({"loud": "yes"}, ".loud is 'yes'; accepted: true or false"),
        ({"lout": True}, ".lout; did you mean loud?"),
        ({"zzz": True}, ".zzz; there are loud, names, sizes, strength"),
        ({"loud": True, "strength": 0}, ": loud needs a strength above 0"),
    ],
)
def test_a_mistake_is_named_by_its_path(said: object, says: str) -> None:
    (found,) = problems(said)

    assert 'a."b c".d' in found
    assert found.endswith(says)


def test_all_mistakes_are_named() -> None:
    assert len(problems({"loud": 1, "strength": "x", "names": 3, "more": 1})) == 4
