"""The gate: what each kind of file is, and what is refused, why, and how fast."""

import csv
import hashlib
import struct
import time
import wave
import zlib
from pathlib import Path

import PIL.Image
import pytest

from asyncflow.errors import BadFile
from asyncflow.jobs import REASONS
from asyncflow.processors import pdf, raster
from asyncflow.processors.identify import identify
from asyncflow.processors.image import image
from asyncflow.processors.tiff import pages
from asyncflow.testing.processor import run_processor
from tests.processors import text_pages
from tests.processors.conftest import Maker


def facts(path: Path, **options: object) -> dict[str, object]:
    ran = run_processor(identify, path, media_type="", options=options, out=path.parent)
    assert ran.derivatives == ()
    return dict(ran.facts)


def refusal(path: Path, media_type: str = "", **options: object) -> str:
    with pytest.raises(BadFile) as caught:
        run_processor(identify, path, media_type=media_type, options=options)
    assert caught.value.reason in REASONS
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.jpg", "image/jpeg"),
        ("a.png", "image/png"),
        ("a.webp", "image/webp"),
        ("a.gif", "image/gif"),
        ("a.tiff", "image/tiff"),
        ("a.avif", "image/avif"),
        ("a.jp2", "image/jp2"),
        ("a.ppm", "image/x-portable-pixmap"),
    ],
)
def test_a_picture_is_measured(make: Maker, name: str, media_type: str) -> None:
    path = make.picture(name)
    assert facts(path) == {
        "mediaType": media_type,
        "size": path.stat().st_size,
        "width": 640,
        "height": 360,
        "frames": 1,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_a_bmp_is_measured_by_the_fallback_loader(make: Maker) -> None:
    found = facts(make.picture("a.bmp"))
    assert found["mediaType"] in ("image/bmp", "image/x-ms-bmp")
    assert (found["width"], found["height"]) == (640, 360)


@pytest.mark.parametrize(("orientation", "width"), [(1, 640), (3, 640), (6, 360)])
def test_a_picture_is_measured_upright(
    make: Maker, orientation: int, width: int
) -> None:
    assert facts(make.photo("a.jpg", orientation=orientation))["width"] == width


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_frames_are_counted_and_multiply_the_pixels(make: Maker, name: str) -> None:
    path = make.animation(name, frames=7, size=(100, 50))
    assert facts(path)["frames"] == 7
    assert refusal(path, maxPixels=34_999) == "too_many_pixels"
    assert facts(path, maxPixels=35_000)["width"] == 100


def test_the_content_counts_and_not_the_extension(make: Maker) -> None:
    path = make.picture("a.png").rename(make.folder / "b.jpg")
    assert facts(path)["mediaType"] == "image/png"


def test_a_pdf_tells_its_pages(make: Maker) -> None:
    found = facts(make.pdf("a.pdf", pages=3, content=zlib.compress(b"0 0 m")))
    assert (found["mediaType"], found["pages"]) == ("application/pdf", 3)


def test_a_pdf_of_which_a_page_is_lost_has_the_others(tmp_path: Path) -> None:
    assert facts(text_pages.with_lost_page(tmp_path / "lost.pdf"))["pages"] == 3


def test_sound_tells_its_duration(make: Maker) -> None:
    path = make.folder / "a.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\1" * 12_000)
    found = facts(path)
    assert str(found["mediaType"]).startswith("audio/")
    assert found["durationS"] == 1.5


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", "hello"), ("a", "hello"), ("a.zip", b"PK\x05\x06" + bytes(18))],
)
def test_other_kinds_are_accepted_as_they_are(
    make: Maker, name: str, data: bytes | str
) -> None:
    assert facts(make.text(name, data)).keys() == {"mediaType", "size", "sha256"}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jpg", b"", "empty_file"),
        ("a.jpg", "just text", "type_mismatch"),
        ("a.jpg", "<html><script>alert(1)</script></html>", "type_mismatch"),
        ("a.pdf", "just text", "type_mismatch"),
        ("a.mp4", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x\n", "type_mismatch"),
        ("a.mp3", "just text", "type_mismatch"),
        ("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_type"),
        ("a.txt", "<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_type"),
        ("a.mvg", "push graphic-context\nviewbox 0 0 1 1\n", "unsupported_type"),
        ("a.jpg", "push graphic-context\nviewbox 0 0 1 1\n", "unsupported_type"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "truncated"),
        ("a.gif", b"GIF89a\x01\x00\x01\x00/*;alert(1)", "damaged"),
        ("a.pdf", b"%PDF-1.7\n1 0 obj\n<<", "truncated"),
        ("a.pdf", b"%PDF-1.7\nrubbish\n%%EOF\n", "damaged"),
    ],
)
def test_what_nobody_should_open_is_refused(
    make: Maker, name: str, data: bytes | str, reason: str
) -> None:
    path = make.text(name, data)
    assert refusal(path) in (
        (reason, "type_mismatch") if reason == "unsupported_type" else (reason,)
    )


def test_a_declared_type_counts_like_an_extension(make: Maker) -> None:
    path = make.text("a", "just text")
    assert refusal(path, media_type="image/jpeg") == "type_mismatch"
    assert refusal(path, media_type="image/svg+xml") == "unsupported_type"


def test_a_picture_named_as_a_film_is_refused(make: Maker) -> None:
    path = make.picture("a.png").rename(make.folder / "a.mp4")
    assert refusal(path) == "type_mismatch"


def test_a_pixel_bomb_is_refused_by_its_header(make: Maker) -> None:
    path = make.huge_png("a.png", 30_000)
    facts(make.picture("warm.png"))
    started = time.process_time()
    assert refusal(path) == "too_many_pixels"
    assert time.process_time() - started < 0.05


def test_too_many_pages_are_refused(make: Maker) -> None:
    path = make.pdf("a.pdf", pages=3, content=zlib.compress(b""))
    assert refusal(path, maxPages=2) == "too_many_pages"


def tiff(make: Maker, *sizes: tuple[int, int], big: bool = False) -> Path:
    first, *rest = [PIL.Image.new("1", size, 1) for size in sizes]
    path = make.folder / "fax.tif"
    more = {"append_images": rest, "compression": "group4", "big_tiff": big}
    first.save(path, save_all=True, **more)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("big", [False, True])
def test_each_page_of_a_tiff_has_its_own_limit(make: Maker, *, big: bool) -> None:
    sheet = (2480, 3508)
    path = tiff(make, *[sheet] * 12, big=big)
    found = facts(path)
    assert (found["width"], found["height"], found["frames"]) == (*sheet, 12)
    assert refusal(path, maxPages=11) == "too_many_pages"
    assert facts(path, maxPages=12)["frames"] == 12


def sizes(path: Path) -> list[tuple[int, int]]:
    return [(page.width, page.height) for page in pages(path)]


@pytest.mark.parametrize(("entries", "found"), [(4096, 1), (4097, 0)])
def test_a_directory_of_a_tiff_has_a_sane_length(
    make: Maker, entries: int, found: int
) -> None:
    directory = struct.pack("<H", entries) + bytes(12 * entries) + bytes(4)
    path = make.text("a.tif", b"II*\0" + struct.pack("<I", 8) + directory)
    assert len(sizes(path)) == found


@pytest.mark.parametrize("big", [False, True])
def test_the_largest_page_of_a_tiff_counts(make: Maker, *, big: bool) -> None:
    path = tiff(make, (10, 10), (20, 10), (60, 50), (10, 10), big=big)
    assert refusal(path, maxPixels=2_999) == "too_many_pixels"
    assert facts(path, maxPixels=3_000)["frames"] == 4


def test_the_pages_of_a_tiff_are_measured_in_any_order_of_bytes(make: Maker) -> None:
    path = make.folder / "fax.tif"
    width = struct.pack(">HHIHH", 256, 3, 1, 700, 0)
    page = struct.pack(">H", 2) + width + struct.pack(">HHII", 257, 4, 1, 900)
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8) + page + struct.pack(">I", 8))
    # one that leads back to itself is one page, and so is one that leads nowhere
    assert sizes(path) == [(700, 900)]
    path.write_bytes(path.read_bytes()[:-4])
    assert sizes(path) == [(700, 900)]
    path.write_bytes(path.read_bytes()[:-2])
    assert sizes(path) == []


@pytest.mark.parametrize(
    ("kind", "value"), [(1, b"\x96"), (6, b"\x60"), (8, b"\x96\0"), (9, b"\x96\0\0\0")]
)
def test_a_side_counts_however_it_is_written(
    make: Maker, kind: int, value: bytes
) -> None:
    path = tiff(make, (10, 10), (150, 10))
    data = path.read_bytes()
    wide = struct.pack("<HHIHH", 256, 3, 1, 150, 0)
    assert data.count(wide) == 1
    odd = struct.pack("<HHI", 256, kind, 1) + value.ljust(4, b"\0")
    path.write_bytes(data.replace(wide, odd))
    assert sizes(path) == [(10, 10), (int.from_bytes(value, "little"), 10)]
    assert refusal(path, maxPixels=900) == "too_many_pixels"


def test_a_side_that_needs_more_room_is_found(make: Maker) -> None:
    path = tiff(make, (10, 10), (150, 10))
    data = path.read_bytes()
    wide = struct.pack("<HHIHH", 256, 3, 1, 150, 0)
    odd = struct.pack("<HHII", 256, 16, 1, len(data))
    path.write_bytes(data.replace(wide, odd) + struct.pack("<Q", 150))
    assert sizes(path) == [(10, 10), (150, 10)]
    assert refusal(path, maxPixels=900) == "too_many_pixels"


def test_a_page_as_large_as_a_town_is_refused(make: Maker) -> None:
    path = make.pdf("a.pdf", side=14_401, content=zlib.compress(b""))
    assert refusal(path) == "too_many_pixels"


BOMB = b"0 0 m 9 9 l S\n" * 6_000_000


@pytest.mark.parametrize("deep", [1, 2])
def test_a_deflate_bomb_in_a_pdf_is_refused(make: Maker, deep: int) -> None:
    content, filters = BOMB, b"["
    for _ in range(deep):
        content, filters = zlib.compress(content, 9), filters + b"/FlateDecode "
    path = make.pdf("a.pdf", content=content, filters=filters + b"]")
    facts(make.pdf("warm.pdf", content=zlib.compress(b"")))
    started = time.process_time()
    assert refusal(path) == "too_complex"
    assert time.process_time() - started < 0.1


def test_a_picture_inside_a_pdf_may_unpack_far(make: Maker) -> None:
    path = make.pdf(
        "a.pdf", content=zlib.compress(BOMB, 9), extra=b"/Subtype /Image /Width 9"
    )
    pdf.refuse_bombs(path)
    assert facts(path)["pages"] == 1


def test_heic_without_the_extra_says_that_the_server_lacks_something(
    make: Maker,
) -> None:
    if raster.has_heic():
        pytest.skip("the extra is installed")
    path = make.text("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(BadFile, match="cannot read HEIC pictures yet") as caught:
        run_processor(identify, path)
    assert caught.value.reason == "missing_tool"


@pytest.mark.parametrize("value", [0, -1, "many", 1.5])
def test_a_senseless_limit_is_the_operators_error(make: Maker, value: object) -> None:
    with pytest.raises(ValueError, match="maxPixels is"):
        facts(make.picture("a.png"), maxPixels=value)


def test_every_file_of_the_corpus_ends_as_expected(corpus: Path) -> None:
    """Clean files pass both processors; the others are refused by one of them."""
    wrong = []
    with (corpus / "manifest.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            got = _ending(corpus / row["name"])
            allowed = {
                "ok": {"ok"},
                "infected": {"ok"},
                "ok-or-reject": {"ok", "rejected"},
                "reject": {"rejected"},
                "fail-clean": {"rejected", "failed"},
            }[row["expected"]]
            if got not in allowed:
                wrong.append((row["name"], row["expected"], got))
    assert wrong == []


def _ending(path: Path) -> str:
    try:
        media_type = str(facts(path)["mediaType"])
    except BadFile:
        return "rejected"
    if not raster.is_known(media_type):
        return "ok"
    try:
        ran = run_processor(image, path, media_type=media_type)
    except BadFile:
        return "failed"
    for made in ran.files.values():
        with PIL.Image.open(made) as picture:
            picture.load()
    return "ok"
