"""Upright boxes on a page: what is around them, what they have in common."""

from collections.abc import Sequence

from asyncflow.processors.matrix import Box


def around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around *boxes*."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def common(one: Box, other: Box) -> Box:
    """Return what two boxes have in common; a box without any area if nothing."""
    x0, y0 = max(one[0], other[0]), max(one[1], other[1])
    return x0, y0, max(x0, min(one[2], other[2])), max(y0, min(one[3], other[3]))


def area(box: Box) -> float:
    """Return the size of *box*."""
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(box: Box, other: Box) -> float:
    """Return how much of *box* lies in *other*: 0 to 1."""
    return area(common(box, other)) / (area(box) or 1.0)


def has_middle_of(box: Box, other: Box) -> bool:
    """Tell whether the middle of *other* lies in *box*."""
    x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def widened(box: Box, by: float) -> Box:
    """Return *box* with *by* more on each side."""
    x0, y0, x1, y1 = box
    return x0 - by, y0 - by, x1 + by, y1 + by
