"""Pictures of both pages for the documentation: python -m tests.browser.screenshots.

Run by hand; look at what comes out before it is committed.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import Browser, expect

from tests.browser.visitor import Visitor, chromium, damaged, letter, visiting
from tests.server_process import ServerProcess, serving

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDE = {"width": 900, "height": 1300}
PHONE = {"width": 390, "height": 844}
COLOURS = 128
SAID = "Dear all,\n\nthe ferry leaves at nine.\nBring the maps."


def landscape(path: Path) -> Path:
    """Write a photo that is nobody's: a sun over hills."""
    picture = Image.new("RGB", (2400, 1600), "#f5b26b")
    draw = ImageDraw.Draw(picture)
    for row in range(900):
        draw.line(
            (0, row, 2400, row), fill=(70 + row // 6, 110 + row // 9, 190 - row // 9)
        )
    draw.ellipse((1500, 420, 1860, 780), fill="#fff1c1")
    for top, colour in ((800, "#4d6b73"), (1000, "#35505a"), (1220, "#1f343d")):
        hills = [(x, top + (x * 7919 // 150) % 170) for x in range(0, 2401, 300)]
        draw.polygon([(0, 1600), *hills, (2400, 1600)], fill=colour)
    picture.filter(ImageFilter.GaussianBlur(4)).save(path, "JPEG", quality=92)
    return path


def save(visitor: Visitor, name: str) -> None:
    """Save what is on the screen, with few colours, so that it is small."""
    shot = Image.open(io.BytesIO(visitor.page.screenshot()))
    small = shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)


def upload_page(browser: Browser, server: ServerProcess, files: list[Path]) -> None:
    """Take the upload page: light, dark, on a phone."""
    shapes = {
        "upload-light": {"viewport": WIDE, "color_scheme": "light"},
        "upload-dark": {"viewport": WIDE, "color_scheme": "dark"},
        "upload-phone": {"viewport": PHONE, "color_scheme": "light"},
    }
    for name, options in shapes.items():
        with visiting(browser, server.url, **options) as visitor:
            visitor.open()
            visitor.give(*files[1:3])
            visitor.wait("ferry.pdf", "COMPLETED", 60_000)
            visitor.give(files[0])
            expect(
                visitor.wait("evening.jpg", "COMPLETED").locator("img")
            ).to_be_visible()
            visitor.slow(20_000)
            visitor.give(files[3])
            status = visitor.wait("morning.jpg", "uploading").locator(".status")
            expect(status).to_contain_text("left")
            visitor.page.evaluate("scrollTo(0, 0)")
            visitor.page.wait_for_timeout(700)
            save(visitor, name)
            visitor.page.get_by_role("button", name="Cancel: morning.jpg").click()
            expect(visitor.card("morning.jpg")).to_have_count(0)


def admin_page(browser: Browser, server: ServerProcess) -> None:
    """Take the admin page: light, dark, on a phone."""
    shapes = {
        "admin-light": {
            "viewport": {"width": 1100, "height": 2150},
            "color_scheme": "light",
        },
        "admin-dark": {
            "viewport": {"width": 1100, "height": 2150},
            "color_scheme": "dark",
        },
        "admin-phone": {"viewport": PHONE, "color_scheme": "light"},
    }
    for name, options in shapes.items():
        with visiting(browser, server.url, **options) as visitor:
            visitor.page.goto(f"{server.url}/admin?token={server.token}")
            visitor.page.get_by_role(
                "button", name="torn.jpg", exact=True
            ).first.click()
            expect(visitor.page.locator(".past:visible")).to_contain_text("truncated")
            # a phone shows only a part: the one where each row is a card of its own
            first = "#consumers-title" if name.endswith("phone") else "header"
            visitor.page.locator(first).evaluate("one => one.scrollIntoView()")
            save(visitor, name)


def main() -> None:
    """Take all of them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            landscape(folder / "evening.jpg"),
            letter(folder / "ferry.pdf", SAID),
            damaged(folder / "torn.jpg"),
            landscape(folder / "morning.jpg"),
        ]
        with serving(folder / "data", workers="2") as server, chromium() as browser:
            upload_page(browser, server, files)
            admin_page(browser, server)


if __name__ == "__main__":
    main()
