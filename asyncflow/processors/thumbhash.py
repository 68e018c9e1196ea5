"""Encodes a tiny picture as a ThumbHash: 25 bytes or so that a page can show at once.

Source: the ThumbHash format by Evan Wallace, https://evanw.github.io/thumbhash/.

Theory of operation
-------------------
Colours become luminance L, two colour differences P and Q, and alpha A. Each channel is
reduced to the lowest frequencies of its discrete cosine transform. The transform is
separable, so rows are reduced first and columns of that result next: two small sums
instead of one over every pixel for every frequency.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_SIDE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    dc: float
    ac: tuple[float, ...]
    scale: float


def encode(width: int, height: int, rgba: bytes) -> bytes:
    """Return the ThumbHash of a picture of 8-bit RGBA pixels, not premultiplied.

    Raise ValueError if a side is not 1 to 100 pixels or the bytes do not fit.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"a side must have 1 to {MAX_SIDE} pixels")
    if len(rgba) != width * height * 4:
        raise ValueError(f"{len(rgba)} bytes are not {width} x {height} RGBA pixels")
    light, yellow, red, alpha = _split(rgba)
    sees_through = sum(alpha) < width * height - 1e-6
    longest = max(width, height)
    most = 5 if sees_through else 7
    nx = max(1, _round(most * width / longest))
    ny = max(1, _round(most * height / longest))
    channels = [
        _reduce(light, width, height, max(3, nx), max(3, ny)),
        _reduce(yellow, width, height, 3, 3),
        _reduce(red, width, height, 3, 3),
    ]
    if sees_through:
        channels.append(_reduce(alpha, width, height, 5, 5))
    lies = width > height
    return _pack(channels, ny if lies else nx, lies=lies)


def _split(rgba: bytes) -> tuple[list[float], ...]:
    """Return L, P, Q and A of each pixel, laid over the average colour."""
    alpha = [a / 255 for a in rgba[3::4]]
    opaque = sum(alpha)
    colours = [rgba[0::4], rgba[1::4], rgba[2::4]]
    if opaque:
        means = [
            sum(c * a for c, a in zip(colour, alpha, strict=True)) / 255 / opaque
            for colour in colours
        ]
    else:
        means = [0.0, 0.0, 0.0]
    r, g, b = (
        [m * (1 - a) + a * c / 255 for c, a in zip(colour, alpha, strict=True)]
        for colour, m in zip(colours, means, strict=True)
    )
    light = [(x + y + z) / 3 for x, y, z in zip(r, g, b, strict=True)]
    yellow = [(x + y) / 2 - z for x, y, z in zip(r, g, b, strict=True)]
    red = [x - y for x, y in zip(r, g, strict=True)]
    return light, yellow, red, alpha


def _reduce(
    values: Sequence[float], width: int, height: int, nx: int, ny: int
) -> _Channel:
    """Return the channel's lowest frequencies, those of a triangle nx by ny."""
    across = [_waves(cx, width) for cx in range(nx)]
    rows = [values[y * width : (y + 1) * width] for y in range(height)]
    # swept[cx][y]: row y reduced to its frequency cx
    swept = [
        [sum(v * w for v, w in zip(row, wave, strict=True)) for row in rows]
        for wave in across
    ]
    dc, ac = 0.0, []
    for cy in range(ny):
        down = _waves(cy, height)
        for cx in range(nx):
            if cx * ny >= nx * (ny - cy):
                break
            f = sum(v * w for v, w in zip(swept[cx], down, strict=True))
            f /= width * height
            if cx or cy:
                ac.append(f)
            else:
                dc = f
    scale = max(map(abs, ac), default=0.0)
    if scale:
        ac = [0.5 + 0.5 / scale * f for f in ac]
    return _Channel(dc=dc, ac=tuple(ac), scale=scale)


def _waves(frequency: int, length: int) -> list[float]:
    step = math.pi / length * frequency
    return [math.cos(step * (at + 0.5)) for at in range(length)]


def _pack(channels: Sequence[_Channel], side: int, *, lies: bool) -> bytes:
    light, yellow, red, *rest = channels
    head = _round(63 * light.dc)
    head |= _round(31.5 + 31.5 * yellow.dc) << 6
    head |= _round(31.5 + 31.5 * red.dc) << 12
    head |= _round(31 * light.scale) << 18
    head |= bool(rest) << 23
    tail = side | _round(63 * yellow.scale) << 3 | _round(63 * red.scale) << 9
    tail |= lies << 15
    packed = bytearray(head.to_bytes(3, "little") + tail.to_bytes(2, "little"))
    if rest:
        packed.append(_round(15 * rest[0].dc) | _round(15 * rest[0].scale) << 4)
    nibbles = [_round(15 * f) for channel in channels for f in channel.ac]
    if len(nibbles) % 2:
        nibbles.append(0)
    packed += bytes(
        low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)
    )
    return bytes(packed)


def _round(value: float) -> int:
    """Round halves up, as the format's reference does."""
    return math.floor(value + 0.5)
