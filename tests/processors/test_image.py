"""What the image processor makes: sizes, colours, transparency, motion, no secrets."""

import base64
import io
import tempfile
from pathlib import Path

import PIL.Image
import pytest
import pyvips

from asyncflow.errors import BadFile
from asyncflow.processors import raster
from asyncflow.processors.image import image
from asyncflow.testing.processor import Ran, run_processor
from tests.processors.conftest import Maker

TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".jp2": "image/jp2",
    ".ppm": "image/x-portable-pixmap",
}


def run(path: Path, **options: object) -> Ran:
    out = Path(tempfile.mkdtemp(dir=path.parent))
    kind = TYPES[path.suffix]
    return run_processor(image, path, media_type=kind, options=options, out=out)


def one(path: Path, variant: dict[str, object], **options: object) -> PIL.Image.Image:
    ran = run(path, variants={"it": variant}, **options)
    picture = PIL.Image.open(io.BytesIO(ran.files["it"].read_bytes()))
    picture.load()
    return picture


def near(pixel: object, wanted: tuple[int, ...], tolerance: int = 12) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, wanted, strict=True))


@pytest.mark.parametrize("suffix", TYPES)
def test_every_kind_of_picture_becomes_three_sizes(make: Maker, suffix: str) -> None:
    ran = run(make.picture(f"a{suffix}", size=(2400, 1200)))
    sizes = {}
    for name, path in ran.files.items():
        with PIL.Image.open(path) as picture:
            sizes[name] = (picture.format, *picture.size)
            left = picture.convert("RGB").getpixel((5, picture.height // 2))
            assert near(left, (200, 30, 40)), (name, left)
    assert sizes == {
        "thumbnail": ("JPEG", 200, 200),
        "medium": ("JPEG", 800, 400),
        "large": ("JPEG", 1920, 960),
    }
    assert ran.published == ("thumbnail", "medium", "large")
    assert ran.facts["animated"] is False


def test_facts_describe_what_was_made(make: Maker) -> None:
    ran = run(make.picture("a.jpg"))
    variants = ran.facts["variants"]
    assert isinstance(variants, dict)
    assert variants["thumbnail"] == {
        "width": 200,
        "height": 200,
        "bytes": ran.files["thumbnail"].stat().st_size,
        "mediaType": "image/jpeg",
    }
    colour = bytes.fromhex(str(ran.facts["dominantColor"]).removeprefix("#"))
    assert near((*colour,), (200, 30, 40)) or near((*colour,), (20, 40, 220))
    assert len(base64.b64decode(str(ran.facts["thumbhash"]))) >= 15
    assert ran.percents[-1] == 100


def test_inside_never_enlarges_and_cover_always_fills(make: Maker) -> None:
    path = make.picture("a.png", size=(60, 30))
    assert one(path, {"width": 800, "height": 800, "fit": "inside"}).size == (60, 30)
    assert one(path, {"width": 200, "height": 200, "fit": "cover"}).size == (200, 200)


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (1, 1), (1, 999)])
def test_extreme_shapes_keep_every_size(make: Maker, size: tuple[int, int]) -> None:
    ran = run(make.picture("a.png", size=size))
    with PIL.Image.open(ran.files["thumbnail"]) as picture:
        assert picture.size == (200, 200)
    with PIL.Image.open(ran.files["medium"]) as picture:
        assert picture.size == tuple(
            max(1, round(side * min(1, 800 / max(size)))) for side in size
        )


def test_cover_keeps_the_middle(make: Maker) -> None:
    picture = one(
        make.picture("a.png", size=(900, 300)),
        {"width": 100, "height": 100, "fit": "cover"},
    )
    assert near(picture.getpixel((10, 50)), (200, 30, 40))
    assert near(picture.getpixel((90, 50)), (20, 40, 220))


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (640, 360), (20, 180)),
        (3, (640, 360), (620, 180)),
        (6, (360, 640), (180, 20)),
        (8, (360, 640), (180, 620)),
    ],
)
def test_results_are_upright_and_carry_no_metadata(
    make: Maker, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    path = make.photo("a.jpg", orientation=orientation)
    assert b"Exif" in path.read_bytes()
    for form in ("jpeg", "webp", "png", "avif"):
        picture = one(path, {"width": 900, "height": 900}, format=form)
        assert picture.size == size
        assert near(picture.convert("RGB").getpixel(red), (200, 30, 40), 20)
        assert not picture.getexif()
        assert picture.info.get("exif") is None
        assert picture.info.get("xmp") is None


def screen(colour: tuple[int, ...]) -> pyvips.Image:
    """A plain sRGB picture as libvips holds it."""
    black = pyvips.Image.black(64, 64, bands=3).copy(interpretation="srgb")
    return (black + list(colour)).cast("uchar")


@pytest.mark.parametrize(
    ("name", "space"), [("a.tiff", "lab"), ("a.png", "rgb16"), ("a.tiff", "scrgb")]
)
def test_foreign_colours_become_srgb(make: Maker, name: str, space: str) -> None:
    path = make.folder / name
    screen((200, 30, 40)).colourspace(space).write_to_file(str(path))
    picture = one(path, {"width": 64, "height": 64})
    assert picture.mode == "RGB"
    assert near(picture.getpixel((30, 30)), (200, 30, 40))


def test_an_embedded_profile_is_applied_and_dropped(make: Maker) -> None:
    path = make.folder / "a.jpg"
    wide = screen((200, 30, 40)).icc_transform("p3", input_profile="srgb")
    wide.jpegsave(str(path), profile="p3", Q=98)
    with PIL.Image.open(path) as unconverted:
        assert not near(unconverted.getpixel((30, 30)), (200, 30, 40), 6)
    picture = one(path, {"width": 64, "height": 64}, quality=98)
    assert near(picture.getpixel((30, 30)), (200, 30, 40), 5)
    assert "icc_profile" not in picture.info


def test_cmyk_and_grey_and_palette_pictures_become_ordinary_ones(make: Maker) -> None:
    cmyk = make.picture("a.jpg", mode="CMYK", color=(0, 255, 255, 0))
    assert one(cmyk, {"width": 50, "height": 50}).mode == "RGB"
    grey = make.picture("a.png", mode="L", color=90)
    assert one(grey, {"width": 50, "height": 50}).mode in ("L", "RGB")
    with PIL.Image.open(make.picture("b.png")) as plain:
        plain.convert("P").save(make.folder / "c.png")
    palette = one(make.folder / "c.png", {"width": 50, "height": 50})
    assert near(palette.convert("RGB").getpixel((5, 10)), (200, 30, 40))
    deep = make.picture("a.tiff", mode="I;16", color=40_000)
    assert one(deep, {"width": 50, "height": 50}).mode in ("L", "RGB")


def test_transparency_survives_as_webp(make: Maker) -> None:
    path = make.picture("a.png", mode="RGBA", color=(10, 200, 30, 0))
    picture = one(path, {"width": 50, "height": 50})
    assert (picture.format, picture.mode) == ("WEBP", "RGBA")
    assert picture.getpixel((5, 5))[3] == 0  # type: ignore[index]
    assert one(path, {"width": 50, "height": 50}, format="png").format == "PNG"


def test_an_opaque_alpha_channel_needs_no_other_format(make: Maker) -> None:
    path = make.picture("a.png", mode="RGBA", color=(10, 200, 30, 255))
    assert one(path, {"width": 50, "height": 50}).format == "JPEG"


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize(("form", "kept"), [("jpeg", "WEBP"), ("gif", "GIF")])
def test_an_animation_keeps_moving(
    make: Maker, name: str, form: str, kept: str
) -> None:
    path = make.animation(name, frames=6, size=(120, 60))
    for box in (
        {"width": 60, "height": 60},
        {"width": 40, "height": 40, "fit": "cover"},
        {"width": 200, "height": 200, "fit": "cover"},
    ):
        picture = one(path, dict(box), format=form)
        assert picture.format == kept
        assert picture.n_frames == 6  # type: ignore[attr-defined]
        wanted = (60, 30) if "fit" not in box else (box["width"], box["height"])
        assert picture.size == wanted
    assert run(path).facts["animated"] is True


def test_a_long_animation_stands_still(make: Maker) -> None:
    path = make.animation("a.gif", frames=6, size=(120, 60))
    picture = one(path, {"width": 60, "height": 60}, maxFrames=5)
    assert picture.format == "JPEG"
    assert picture.size == (60, 30)


def test_a_tiff_of_several_pages_shows_its_first(make: Maker) -> None:
    pages = [PIL.Image.new("RGB", (90, 60), c) for c in ("red", "lime", "blue")]
    path = make.folder / "a.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    # the others are never decoded
    picture = one(path, {"width": 50, "height": 50}, maxPixels=90 * 60)
    assert picture.size == (50, 33)
    assert near(picture.getpixel((20, 20)), (255, 0, 0), 20)


@pytest.mark.parametrize(
    ("stored", "dpi", "shown"),
    [
        ((864, 572), (204, 98), (290, 400)),
        ((864, 1143), (204, 196), (290, 400)),
        ((400, 864), (98, 204), (386, 400)),
        # which nobody believes
        ((800, 400), (300, 72), (400, 200)),
        ((800, 400), (1200, 100), (400, 200)),
    ],
)
def test_a_tiff_whose_pixels_are_no_squares_is_shown_undistorted(
    make: Maker,
    stored: tuple[int, int],
    dpi: tuple[int, int],
    shown: tuple[int, int],
) -> None:
    fax = make.picture("fax.tiff", size=stored, mode="L", color=255, dpi=dpi)
    assert one(fax, {"width": 400, "height": 400}).size == shown
    # browsers do not look at what a picture of theirs says of itself
    png = make.picture("a.png", size=(800, 400), mode="L", color=255, dpi=(204, 98))
    assert one(png, {"width": 400, "height": 400}).size == (400, 200)


@pytest.mark.parametrize(("orientation", "shown"), [(1, (400, 300)), (6, (300, 400))])
def test_pixels_that_are_no_squares_are_turned_with_the_picture(
    make: Maker, orientation: int, shown: tuple[int, int]
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    more = {"dpi": (200, 100), "exif": exif}
    fax = make.picture("fax.tiff", size=(400, 150), mode="L", color=255, **more)
    assert one(fax, {"width": 400, "height": 400}).size == shown


def test_a_pipeline_may_ask_for_any_set(make: Maker) -> None:
    ran = run(
        make.picture("a.png"),
        variants={
            "card": {"width": 300, "height": 100, "fit": "cover", "format": "avif"},
            "tiny": {"width": 32, "height": 32, "quality": 30, "format": "webp"},
        },
    )
    assert [(d.name, d.media_type) for d in ran.derivatives] == [
        ("tiny", "image/webp"),
        ("card", "image/avif"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"variants": {}},
        {"variants": "all"},
        {"variants": {"original": {"width": 5, "height": 5}}},
        {"variants": {"a/b": {"width": 5, "height": 5}}},
        {"variants": {"it": {"width": 0, "height": 5}}},
        {"variants": {"it": {"width": 5}}},
        {"variants": {"it": {"width": 5, "height": 20_000}}},
        {"variants": {"it": {"width": 5, "height": 5, "fit": "stretch"}}},
        {"format": "bmp"},
        {"quality": 101},
        {"quality": "best"},
    ],
)
def test_senseless_options_are_the_operators_error(
    make: Maker, options: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"accepted|is missing"):
        run(make.picture("a.png"), **options)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp", ".jp2"])
def test_a_cut_off_picture_fails_and_says_so(make: Maker, suffix: str) -> None:
    path = make.folder / f"a{suffix}"
    noise = PIL.Image.effect_noise((400, 400), 90).convert("RGB")
    noise.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadFile) as caught:
        run(path)
    assert caught.value.reason in ("truncated", "damaged")


def test_too_many_pixels_are_refused_before_decoding(make: Maker) -> None:
    for name in ("a.png", "a.bmp"):
        with pytest.raises(BadFile) as caught:
            run(make.picture(name), maxPixels=1000)
        assert caught.value.reason == "too_many_pixels"


def test_a_kind_that_no_loader_knows_is_refused(make: Maker) -> None:
    with pytest.raises(BadFile) as caught:
        run_processor(image, make.text("a", "x"), media_type="image/svg+xml")
    assert caught.value.reason == "unsupported_type"


def test_a_file_that_is_two_things_is_refused(make: Maker) -> None:
    with pytest.raises(BadFile) as caught:
        raster.measure(make.picture("a.png"), "image/jpeg")
    assert caught.value.reason == "type_mismatch"
