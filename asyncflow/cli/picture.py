"""Paints the picture of the demo: a valley at dawn, as a phone would have stored it.

It lies on its side with an EXIF orientation, and carries GPS coordinates: the
derivatives stand upright and do not tell where it was taken.
"""

import math
import random
from array import array
from pathlib import Path
from typing import Any

import pyvips
from PIL import Image

WIDTH, HEIGHT = 4032, 3024  # 12 megapixels, as phones have
_RIDGES = 6
_ORIENTATION = 0x0112
_MAKE, _MODEL, _TAKEN, _GPS = 0x010F, 0x0110, 0x0132, 0x8825
# the picture is stored turned by a quarter; 6 tells viewers to turn it back
_TURNED = 6

_SKY = ((46, 64, 120), (238, 150, 120), (255, 226, 168))  # top, middle, horizon
_FAR, _NEAR = (206, 150, 150), (22, 32, 54)


def paint(target: Path, *, seed: int = 7) -> Path:
    """Write the picture as a JPEG to *target*."""
    chance = random.Random(seed)  # noqa: S311 -- a painter's dice
    scene = _sky()
    scene = _with_sun(scene)
    for ridge in range(_RIDGES):
        scene = _with_ridge(scene, ridge / (_RIDGES - 1), chance)
    scene = _with_grain(scene, seed)
    turned = scene.rot270()
    pixels = Image.frombuffer(
        "RGB", (turned.width, turned.height), turned.write_to_memory(), "raw", "RGB"
    )
    pixels.save(target, "JPEG", quality=90, exif=_exif())
    return target


def _sky() -> Any:
    """Blend three colours from the top down to the horizon."""
    height = pyvips.Image.xyz(WIDTH, HEIGHT)[1] / HEIGHT
    top, middle, low = _SKY
    upper = _blend(top, middle, height * 2)
    lower = _blend(middle, low, height * 2 - 1)
    return (height < 0.5).ifthenelse(upper, lower)  # noqa: PLR2004 -- the middle


def _blend(start: tuple[int, ...], end: tuple[int, ...], share: Any) -> Any:
    part = (share > 0).ifthenelse(share, 0)
    part = (part < 1).ifthenelse(part, 1)
    bands = [a + part * (b - a) for a, b in zip(start, end, strict=True)]
    return bands[0].bandjoin(bands[1:])


def _with_sun(scene: Any) -> Any:
    place = pyvips.Image.xyz(WIDTH, HEIGHT)
    across, down = place[0] - WIDTH * 0.64, place[1] - HEIGHT * 0.42
    distance = (across * across + down * down) ** 0.5
    glow = (distance * (-1 / 520.0)).exp() * 150
    disc = ((distance - 130) * -0.15).linear(1, 0.5)
    disc = (disc > 0).ifthenelse(disc, 0)
    disc = (disc < 1).ifthenelse(disc, 1)
    lit = scene + glow * [1.0, 0.85, 0.55]
    return disc * [255, 246, 214] + (disc * -1 + 1) * lit


def _with_ridge(scene: Any, depth: float, chance: random.Random) -> Any:
    """Put hills before the scene; *depth* 0 is the farthest line, 1 the nearest."""
    line = _outline(depth, chance)
    edge = pyvips.Image.new_from_memory(line, WIDTH, 1, 1, "float").embed(
        0, 0, WIDTH, HEIGHT, extend="copy"
    )
    below = pyvips.Image.xyz(WIDTH, HEIGHT)[1] - edge
    cover = (below > 0).ifthenelse(below, 0)
    cover = (cover < 1).ifthenelse(cover, 1)
    colour = [far + (near - far) * depth for far, near in zip(_FAR, _NEAR, strict=True)]
    # mist lies in the valleys: each ridge grows paler towards its foot
    mist = (below * (-1 / (260 + 240 * depth))).exp() * -1 + 1
    mist = mist * (0.5 * (1 - depth * 0.8))
    hill = mist * [248, 206, 178] + (mist * -1 + 1) * colour
    return cover * hill + (cover * -1 + 1) * scene


def _outline(depth: float, chance: random.Random) -> bytes:
    """Return the height of a ridge for every column, as floats in memory."""
    base = HEIGHT * (0.50 + 0.40 * depth)
    waves = [
        (
            HEIGHT * 0.075 / (octave**1.35),
            octave * (1.1 + chance.random()) * math.tau / WIDTH,
            chance.random() * math.tau,
        )
        for octave in (1, 2, 3, 5, 8, 13, 21, 40, 75)
    ]
    heights = [
        base - sum(size * math.sin(x * pace + start) for size, pace, start in waves)
        for x in range(WIDTH)
    ]
    return array("f", heights).tobytes()


def _with_grain(scene: Any, seed: int) -> Any:
    """Add a camera's noise, so that the picture is as heavy as a real one."""
    noise = pyvips.Image.gaussnoise(WIDTH, HEIGHT, sigma=2.2, mean=0, seed=seed)
    return (scene + noise).cast("uchar").copy(interpretation="srgb")


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    exif[_MAKE], exif[_MODEL] = "asyncflow", "demo camera"
    exif[_TAKEN] = "2026:06:21 05:12:00"
    exif.get_ifd(_GPS).update(
        {1: "N", 2: (46.0, 34.0, 39.0), 3: "E", 4: (7.0, 59.0, 2.0)}
    )
    return exif
