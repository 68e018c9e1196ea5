"""Types the scanned letter of the demo: two pages without text, only pictures of it.

The second page lies upside down, as it happens at scanners.
"""

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DPI = 200
WIDTH, HEIGHT = 1654, 2339  # A4 at 200 dpi
_MARGIN, _LEADING, _SIZE = 190, 52, 34
_PAPER, _INK = (250, 248, 242), (38, 36, 44)

_PAGES = (
    """Valley Observatory
Spring report, page one

The morning fog lifted at seven and the instruments were
dry by eight. We counted forty-one larks on the northern
slope and eleven on the southern one.

The upload of last night broke off twice when the line to
the village failed. Each time it went on where it had
stopped, and not one picture was lost.

Two of the scans could not be read. The list says which,
and why, and the new lamp will help with both.""",
    """Valley Observatory
Spring report, page two

The river stands two hands higher than a year ago. The
bridge is safe, but the lower path should stay closed
until the end of the month.

Next week we measure the orchard again. Please bring the
long tape, the blue notebook and a good deal of patience.

With kind regards from the valley,
the keeper of the observatory""",
)


def type_letter(target: Path, *, seed: int = 3) -> Path:
    """Write the letter as a scanned PDF to *target*."""
    chance = random.Random(seed)  # noqa: S311 -- dust on a scanner
    first, second = (_page(text, chance) for text in _PAGES)
    second = second.rotate(180)
    first.save(
        target, "PDF", save_all=True, append_images=[second], resolution=DPI, quality=80
    )
    return target


def _page(text: str, chance: random.Random) -> Image.Image:
    page = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=_SIZE)
    for number, line in enumerate(text.splitlines()):
        draw.text((_MARGIN, _MARGIN + number * _LEADING), line, _INK, font)
    for _ in range(60):
        x, y = chance.randrange(WIDTH), chance.randrange(HEIGHT)
        draw.point((x, y), (190, 186, 178))
    return page
