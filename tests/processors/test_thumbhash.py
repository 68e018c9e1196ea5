"""The hash against the format's definition, computed the slow and obvious way."""

import math
import random

import pytest

from asyncflow.processors import thumbhash


def decoded_average(code: bytes) -> tuple[float, float, float]:
    """Return the average colour that a decoder reads from the first bytes."""
    head = int.from_bytes(code[:3], "little")
    light = (head & 63) / 63
    yellow = ((head >> 6) & 63) / 31.5 - 1
    red = ((head >> 12) & 63) / 31.5 - 1
    blue = light - 2 / 3 * yellow
    warm = (3 * light - blue + red) / 2
    return warm, warm - red, blue


def slow_light_terms(width: int, height: int, rgba: bytes) -> list[int]:
    """Return the nibbles of an opaque picture's luminance, by the double sum."""
    longest = max(width, height)
    nx = max(3, math.floor(7 * width / longest + 0.5))
    ny = max(3, math.floor(7 * height / longest + 0.5))
    terms = []
    for cy in range(ny):
        for cx in range(nx):
            if cx * ny >= nx * (ny - cy) or not (cx or cy):
                continue
            total = 0.0
            for y in range(height):
                for x in range(width):
                    r, g, b = rgba[4 * (x + y * width) :][:3]
                    total += (
                        (r + g + b)
                        / 765
                        * math.cos(math.pi / width * cx * (x + 0.5))
                        * math.cos(math.pi / height * cy * (y + 0.5))
                    )
            terms.append(total / (width * height))
    scale = max(map(abs, terms))
    return [math.floor(15 * (0.5 + 0.5 / scale * f) + 0.5) for f in terms]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 128, 255), (90, 90, 90)])
def test_the_average_colour_can_be_read_back(colour: tuple[int, int, int]) -> None:
    code = thumbhash.encode(8, 6, bytes((*colour, 255)) * 48)
    for got, wanted in zip(decoded_average(code), colour, strict=True):
        assert abs(got - wanted / 255) < 0.06


@pytest.mark.parametrize("size", [(20, 12), (7, 19), (16, 16)])
def test_luminance_follows_the_definition(size: tuple[int, int]) -> None:
    width, height = size
    pixels = random.Random(width).randbytes(3 * width * height)
    rgba = b"".join(pixels[i : i + 3] + b"\xff" for i in range(0, len(pixels), 3))
    code = thumbhash.encode(width, height, rgba)
    nibbles = [half for byte in code[5:] for half in (byte & 15, byte >> 4)]
    wanted = slow_light_terms(width, height, rgba)
    assert nibbles[: len(wanted)] == wanted


def test_the_header_tells_shape_and_transparency() -> None:
    wide = thumbhash.encode(20, 10, bytes((9, 9, 9, 255)) * 200)
    tall = thumbhash.encode(10, 20, bytes((9, 9, 9, 255)) * 200)
    clear = thumbhash.encode(10, 20, bytes((9, 9, 9, 100)) * 200)
    assert (wide[4] >> 7, tall[4] >> 7) == (1, 0)
    assert (tall[2] >> 7, clear[2] >> 7) == (0, 1)
    assert wide[3] & 7 == tall[3] & 7 == 4


def test_an_invisible_picture_has_a_hash() -> None:
    assert thumbhash.encode(3, 3, bytes(36))


@pytest.mark.parametrize("size", [(0, 5), (5, 101)])
def test_a_side_out_of_range_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        thumbhash.encode(*size, b"")


def test_missing_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="RGBA"):
        thumbhash.encode(2, 2, b"123")
