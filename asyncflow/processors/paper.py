"""Judges and straightens the picture of a page: is it text, and are its lines level.

Theory of operation
-------------------
Lines of text are rows of ink with white between them. Sum the ink along every row: if
the rows follow the lines, the sums jump from row to row; along any other slope they
are nearly even. The slope at which they jump most is the page's skew, and how much
more they jump there than at other slopes tells text from photographs, in whose
textures no slope is special.

To try a slope cheaply the page is cut into narrow upright strips, each reduced to one
column of sums; shearing these few columns is shearing the page.

All pictures here are libvips images with one 8-bit band.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from asyncflow.processors.matrix import Box, Matrix

#: the side to which a picture is reduced for finding lines
LOOK_SIDE: Final = 1200
_STRIP: Final = 12  # pixels
_GROUPS: Final = 4
_LEAST_SIDE: Final = 16  # no line of text fits into less
_EDGE: Final = 32  # grey levels from one pixel to the next that make an edge
#: of faint pencil, and more than the noise of a scanner
_LEAST_EDGE: Final = 6
#: per cent of the darkest and of the brightest pixels that tell nothing of contrast
_RARE: Final = 0.2
_MAX_SKEW: Final = 10  # degrees
#: below it, the engines read as well, and turning would only blur
MIN_SKEW: Final = 0.25
#: lines of text reach 5 to 30, photographs 1 to 3, stripes and grids anything
_IS_TEXT: Final = 4.0
#: below it, finer tries cannot reach that
_WORTH_A_LOOK: Final = 2.0
#: a page with less ink than this share of its area is empty
_MIN_INK: Final = 0.002
#: grey levels by which a sheet differs from place to place, and how much of it is bare
_PAPER_VARIES: Final = 24
_MOST_IS_PAPER: Final = 0.75
#: of letters that touch the edges, a third is ink; of photographs, a half is seldom sky
_LEAST_GROUND: Final = 0.5
_FRAME: Final = 20  # pixels
_WHITE: Final = 255
#: an opaque sheet on nothing has an edge on black, which tells nothing
_MUCH_MORE: Final = 2.0


def grey(picture: Any) -> Any:
    """Return *picture* as one 8-bit band in memory."""
    return _grey(opaque(picture)).copy_memory()


def opaque(picture: Any) -> Any:
    """Return *picture* on white; on black if that shows much more of it.

    White letters on nothing are meant for a dark ground.
    """
    if not picture.hasalpha():
        return picture
    if picture[-1].min() < _WHITE:
        step = max(1, max(picture.width, picture.height) // LOOK_SIDE)
        small = picture.subsample(step, step).copy_memory()
        white, black = (
            ink(_grey(small.flatten(background=ground))) for ground in (_WHITE, 0)
        )
        if black > _MUCH_MORE * white:
            return picture.flatten(background=0)
    return picture.flatten(background=_WHITE)


def _grey(picture: Any) -> Any:
    return picture.colourspace("b-w")[0].cast("uchar")


def looks_like_text(picture: Any) -> bool:
    """Tell whether the grey *picture* shows lines of text, upright or on its side."""
    ink = _lines(_small(picture))
    if ink.avg() / _WHITE < _MIN_INK:
        return False
    return any(_slant(lies)[1] >= _IS_TEXT for lies in (ink, ink.rot90()))


def ink(picture: Any) -> float:
    """Return how much of the grey *picture* is ink: the share of its edges, 0 to 1."""
    return float(_edges(_small(picture)).avg()) / _WHITE


def is_sheet(picture: Any) -> bool:
    """Tell whether the grey *picture* is of paper with anything on it, not of things.

    Paper has one colour, more or less.
    """
    small = _small(picture)
    return _bare(small) >= _MOST_IS_PAPER and ink(small) > 0


def may_show_text(picture: Any) -> bool:
    """Tell whether the grey *picture* has a ground of one colour and ink on it.

    Cuttings have it, however few lines they show; most photographs have not.
    """
    small = _small(picture)
    return _bare(small) >= _LEAST_GROUND and ink(small) >= _MIN_INK


def blank(picture: Any, boxes: Sequence[Box]) -> Any:
    """Return the grey *picture* with *boxes* in the colour that is most common."""
    import PIL.ImageDraw  # noqa: PLC0415 -- few workers need it

    canvas = _pillow(picture)
    draw = PIL.ImageDraw.Draw(canvas)
    back = _most_common(picture)
    for box in boxes:
        draw.rectangle(box, fill=back)
    return _from_pillow(canvas)


def only(picture: Any, boxes: Sequence[Box]) -> Any:
    """Return the grey *picture* white but for *boxes*."""
    import PIL.Image  # noqa: PLC0415 -- few workers need it

    whole = _pillow(picture)
    canvas = PIL.Image.new("L", whole.size, _WHITE)
    for x0, y0, x1, y1 in boxes:
        place = (max(0, round(x0)), max(0, round(y0)), round(x1), round(y1))
        if place[0] < place[2] and place[1] < place[3]:
            canvas.paste(whole.crop(place), place)
    return _from_pillow(canvas)


def framed(picture: Any) -> tuple[Any, Matrix]:
    """Return the grey *picture* with paper around it, and the map to that.

    Letters that touch an edge are read badly.
    """
    wide, high = picture.width + 2 * _FRAME, picture.height + 2 * _FRAME
    back = [_most_common(picture)]
    around = picture.embed(
        _FRAME, _FRAME, wide, high, extend="background", background=back
    )
    return around.copy_memory(), Matrix(1, 0, 0, 1, _FRAME, _FRAME)


def skew_of(picture: Any) -> float:
    """Return by how many degrees lines sink to the right; 0 where there are none."""
    angle, certainty = _slant(_lines(_small(picture)))
    return angle if certainty >= _IS_TEXT else 0.0


def straighten(picture: Any, skew: float) -> tuple[Any, Matrix]:
    """Turn *picture* so that its lines are level; return it and the map back."""
    turn = math.radians(skew)
    cos, sin = math.cos(turn), math.sin(turn)
    # the four corners stay inside: the canvas grows, the middle stays the middle
    width = math.ceil(picture.width * cos + picture.height * abs(sin))
    height = math.ceil(picture.width * abs(sin) + picture.height * cos)
    x, y = picture.width / 2, picture.height / 2
    there = Matrix(
        cos,
        -sin,
        sin,
        cos,
        width / 2 - (cos * x + sin * y),
        height / 2 - (-sin * x + cos * y),
    )
    straight = picture.affine(
        [there.a, there.c, there.b, there.d],
        odx=there.e,
        ody=there.f,
        oarea=[0, 0, width, height],
        background=_WHITE,
        extend="background",
    )
    return straight.copy_memory(), there.inverse()


def _small(picture: Any) -> Any:
    side = max(picture.width, picture.height)
    if side <= LOOK_SIDE:
        return picture
    return picture.resize(LOOK_SIDE / side).copy_memory()


def _bare(picture: Any) -> float:
    """Return how much of *picture* has about the colour that is most common."""
    back = _most_common(picture)
    return float(((picture - back).abs() <= _PAPER_VARIES).avg()) / _WHITE


def _pillow(picture: Any) -> Any:
    import PIL.Image  # noqa: PLC0415 -- few workers need it

    size = (picture.width, picture.height)
    return PIL.Image.frombytes("L", size, bytes(picture.write_to_memory()))


def _from_pillow(picture: Any) -> Any:
    pixels = picture.tobytes()
    return _vips().Image.new_from_memory(pixels, *picture.size, 1, "uchar")


def _most_common(picture: Any) -> int:
    """Return the grey level of most pixels: the colour of the paper."""
    _count, level, _zero = picture.hist_find().maxpos()
    return int(level)


def _lines(picture: Any) -> Any:
    """Return the edges of *picture*; where there are none, those of faint ink."""
    found = _edges(picture)
    if found.avg() / _WHITE >= _MIN_INK:
        return found
    dark, bright = (picture.percent(share) for share in (_RARE, 100 - _RARE))
    contrast = (bright - dark) / _WHITE
    return _edges(picture, max(_LEAST_EDGE, _EDGE * contrast))


def _edges(picture: Any, edge: float = _EDGE) -> Any:
    """Return 255 where *picture* changes by more than *edge*, 0 elsewhere."""
    wide = picture.embed(
        0, 0, picture.width + 1, picture.height + 1, extend="copy"
    ).copy_memory()
    right = (wide.crop(1, 0, picture.width, picture.height) - picture).abs()
    below = (wide.crop(0, 1, picture.width, picture.height) - picture).abs()
    return ((right > edge) | (below > edge)).copy_memory()


def _slant(ink: Any) -> tuple[float, float]:
    """Return the angle at which rows jump most, and how many times more than usual."""
    if min(ink.width, ink.height) < _LEAST_SIDE:
        return 0.0, 0.0
    count = max(_GROUPS, ink.width // _STRIP)
    strips = ink.resize(count / ink.width, vscale=1.0, kernel="linear").copy_memory()
    angles = [float(angle) for angle in range(-_MAX_SKEW, _MAX_SKEW + 1)]
    # narrow groups first: over the whole width, the peak lies between two tries
    rough = {angle: _jumps(strips, angle, groups=_GROUPS) for angle in angles}
    best = max(rough, key=rough.__getitem__)
    usual = sorted(rough.values())[len(rough) // 2] or 1.0
    if rough[best] < usual * _WORTH_A_LOOK:
        return 0.0, 0.0
    tries = [best + step / 10 for step in range(-9, 10)]
    angle = max(tries, key=lambda at: _jumps(strips, at, groups=1))
    most = max(rough[best], _jumps(strips, angle, groups=_GROUPS))
    return round(angle, 1), most / usual


def _jumps(strips: Any, angle: float, *, groups: int) -> float:
    """Return how much the sums of rows that sink by *angle* differ from each other."""
    slope = math.tan(math.radians(angle)) * _STRIP
    level = strips.affine(
        [1, 0, -slope, 1],
        interpolate=_nearest(),
        ody=slope * strips.width / 2,
        oarea=[0, 0, strips.width, strips.height],
    )
    rows = level.cast("float").shrinkh(level.width // groups).copy_memory()
    after = rows.crop(0, 1, rows.width, rows.height - 1)
    steps = after - rows.crop(0, 0, rows.width, rows.height - 1)
    return float((steps * steps).avg())


@cache
def _nearest() -> Any:
    return _vips().Interpolate.new("nearest")


def _vips() -> Any:
    import pyvips  # noqa: PLC0415 -- never before a worker has forked

    return pyvips
