"""Affine maps of the plane, as PDF writes them: x' = ax + cy + e, y' = bx + dy + f."""

import math
from dataclasses import dataclass
from typing import Final

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One affine map."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def then(self, last: "Matrix") -> "Matrix":
        """Return the map that applies this one first and *last* afterwards."""
        return Matrix(
            last.a * self.a + last.c * self.b,
            last.b * self.a + last.d * self.b,
            last.a * self.c + last.c * self.d,
            last.b * self.c + last.d * self.d,
            last.a * self.e + last.c * self.f + last.e,
            last.b * self.e + last.d * self.f + last.f,
        )

    def inverse(self) -> "Matrix":
        """Return the map back. Raise ZeroDivisionError if there is none."""
        det = self.a * self.d - self.b * self.c
        a, b, c, d = self.d / det, -self.b / det, -self.c / det, self.a / det
        e, f = a * self.e + c * self.f, b * self.e + d * self.f
        return Matrix(a, b, c, d, -e, -f)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return where the point goes."""
        return self.a * x + self.c * y + self.e, self.b * x + self.d * y + self.f

    def box(self, box: Box) -> Box:
        """Return the upright box around where *box* (x0, y0, x1, y1) goes."""
        x0, y0, x1, y1 = box
        corners = [self.point(x, y) for x in (x0, x1) for y in (y0, y1)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def scale(self) -> float:
        """The square root of how much larger areas become."""
        return math.sqrt(abs(self.a * self.d - self.b * self.c))


IDENTITY: Final = Matrix(1, 0, 0, 1, 0, 0)


def unturned(turn: int, width: float, height: float) -> Matrix:
    """Return the map from a picture turned clockwise back to how it was.

    *turn* is 0, 90, 180 or 270 degrees; *width* and *height* are those before turning.
    """
    match turn:
        case 90:
            return Matrix(0, -1, 1, 0, 0, height)
        case 180:
            return Matrix(-1, 0, 0, -1, width, height)
        case 270:
            return Matrix(0, 1, -1, 0, width, 0)
        case _:
            return IDENTITY
