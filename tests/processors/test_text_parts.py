import math
import subprocess
import sys

import PIL.Image
import pytest
import pyvips
from hypothesis import given, strategies as st

from asyncflow.processors import matrix, paper
from asyncflow.processors.matrix import Matrix
from asyncflow.processors.transcript import clean
from tests.processors import text_pages


def image(picture: PIL.Image.Image) -> pyvips.Image:
    return pyvips.Image.new_from_memory(
        picture.tobytes(), picture.width, picture.height, 1, "uchar"
    )


@given(st.text())
def test_what_is_cleaned_has_no_control_characters(text: str) -> None:
    kept = clean(text)
    assert not any(
        (ord(one) < 32 and one not in "\t\n") or 0x7F <= ord(one) < 0xA0 for one in kept
    )
    assert clean(kept) == kept


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("a\x1b[1;31mb", "ab"),
        ("a\x1b]8;;http://x\x1b\\b", "ab"),
        ("a\x1bcb", "ab"),
        ("a\x9b31mb", "ab"),
        ("a\x1b", "a"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("exam\ufffeple\x00", "exam-ple"),
        ("größer, 日本", "größer, 日本"),
    ],
)
def test_commands_go_and_words_stay(hostile: str, harmless: str) -> None:
    assert clean(hostile) == harmless


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_picture_is_mapped_back(turn: int) -> None:
    back = matrix.unturned(turn, 300, 200)
    width, height = (200, 300) if turn in (90, 270) else (300, 200)
    assert back.box((0, 0, width, height)) == (0, 0, 300, 200)
    # the picture's own top left corner, as seen after turning it
    corner = {0: (0, 0), 90: (200, 0), 180: (300, 200), 270: (0, 300)}[turn]
    assert back.point(*corner) == (0, 0)


@given(*[st.floats(-100, 100)] * 4)
def test_a_map_and_its_inverse_cancel(a: float, e: float, x: float, y: float) -> None:
    there = Matrix(math.cos(a), math.sin(a), -math.sin(a), math.cos(a), e, -e)
    assert there.then(there.inverse()).point(x, y) == pytest.approx((x, y), abs=1e-6)
    assert there.scale == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "degrees"), [(12, -7.5), (200, -2), (12, 0.5), (200, 0), (12, 8)]
)
def test_the_slope_of_lines_is_found(count: int, degrees: float) -> None:
    page = text_pages.sheet(text_pages.some_words(count))
    laid = image(text_pages.skewed(page, degrees))
    assert paper.looks_like_text(laid)
    assert paper.looks_like_text(laid.rot90())
    assert paper.skew_of(laid) == pytest.approx(degrees, abs=0.2)


@pytest.mark.parametrize("degrees", [0.0, 3.0])
def test_faint_lines_are_lines(degrees: float) -> None:
    page = text_pages.sheet(text_pages.some_words(100))
    faint = text_pages.skewed(page, degrees).point(lambda grey: 200 + grey * 30 // 255)
    assert paper.looks_like_text(image(faint))
    assert paper.skew_of(image(faint)) == pytest.approx(degrees, abs=0.2)


@pytest.mark.parametrize("noise", [2, 6, 10])
def test_an_empty_sheet_with_the_noise_of_a_scanner_has_no_lines(noise: float) -> None:
    sheet = PIL.Image.effect_noise((1600, 1200), noise)
    assert not paper.looks_like_text(image(sheet))


def test_a_landscape_in_fog_has_no_lines() -> None:
    view = text_pages.landscape((1200, 800)).convert("L")
    fog = view.point(lambda grey: 200 + grey * 30 // 255)
    assert not paper.looks_like_text(image(fog))


def test_a_straightened_page_is_level_and_can_be_mapped_back() -> None:
    page = text_pages.sheet(text_pages.some_words(100))
    straight, back = paper.straighten(image(text_pages.skewed(page, 4)), 4.0)
    assert abs(paper.skew_of(straight)) <= 0.1
    # the middle of the one is the middle of the other
    middle = (straight.width / 2, straight.height / 2)
    assert back.point(*middle) == pytest.approx((page.width / 2, page.height / 2))


@pytest.mark.parametrize("size", [(1200, 800), (640, 480)])
def test_a_landscape_has_no_lines(size: tuple[int, int]) -> None:
    view = image(text_pages.landscape(size).convert("L"))
    assert not paper.looks_like_text(view)
    assert paper.skew_of(view) == 0


def test_an_empty_page_has_no_lines() -> None:
    assert not paper.looks_like_text(image(text_pages.sheet([])))


def test_a_page_that_never_ends_ends_the_worker() -> None:
    program = (
        "import threading\n"
        "from asyncflow.processors.clock import limited\n"
        "with limited(0.05):\n"
        "    threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert done.returncode == 70


def test_the_server_that_lists_the_processor_loads_no_heavy_library() -> None:
    program = (
        "import sys, asyncflow.processors.text\n"
        "heavy = {'tesserocr', 'pytesseract', 'pypdfium2', 'pyvips', 'PIL'}\n"
        "print(*heavy & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=30
    )
    assert done.stdout.strip() == b""
