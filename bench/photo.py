"""Makes the photo that the tables upload: 3840 x 2160, as heavy as a real one."""

from functools import cache
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 3840, 2160
SMALL_WIDTH, SMALL_HEIGHT = 640, 360


@cache
def jpeg(*, small: bool = False) -> bytes:
    """Return a landscape of clouds and camera noise as a JPEG of 1 to 3 MB."""
    import pyvips  # noqa: PLC0415 -- tables without a photo need not load it

    width, height = (SMALL_WIDTH, SMALL_HEIGHT) if small else (WIDTH, HEIGHT)
    channels: list[Any] = []
    for seed, cell in enumerate((256, 192, 128)):
        clouds = pyvips.Image.perlin(width, height, cell_size=cell, seed=seed)
        noise = pyvips.Image.gaussnoise(width, height, sigma=5, mean=0, seed=seed)
        channels.append(clouds * 90 + 128 + noise)
    picture = channels[0].bandjoin(channels[1:]).cast("uchar")
    shown = picture.copy(interpretation="srgb")
    return bytes(shown.jpegsave_buffer(Q=88))


def write(path: Path, *, small: bool = False) -> Path:
    """Write the photo to *path*."""
    path.write_bytes(jpeg(small=small))
    return path
