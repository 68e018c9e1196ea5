"""Opens pictures: libvips for what its trusted loaders know, Pillow for a few others.

Rules
-----
- The caller says which media type the content has; exactly that loader is tried, and a
  loader of another kind answering means that the file is two things at once.
- Sizes are those of the upright picture.
- A page of a TIFF is opened as if it were alone: `tiff` says why.
- Every failure is the file's: `BadFile` with the reason, except lack of memory.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asyncflow.errors import BadFile
from asyncflow.processors import tiff

if TYPE_CHECKING:
    import PIL.Image

TIFF: Final = "image/tiff"
#: media type -> the libvips loader that must answer
VIPS: Final[Mapping[str, str]] = {
    "image/jpeg": "jpegload",
    "image/png": "pngload",
    "image/webp": "webpload",
    "image/gif": "gifload",
    TIFF: "tiffload",
    "image/avif": "heifload",
}
#: media type -> the Pillow format that must answer
PILLOW: Final[Mapping[str, str]] = {
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/jp2": "JPEG2000",
    "image/x-portable-bitmap": "PPM",
    "image/x-portable-greymap": "PPM",
    "image/x-portable-pixmap": "PPM",
}
#: opened when pillow-heif is installed
HEIC: Final = ("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence")
#: what may be animated, and then keeps moving
ANIMATED: Final = ("image/gif", "image/webp")

_SIDEWAYS: Final = (5, 6, 7, 8)  # EXIF orientations that swap width and height
#: how sRGB profiles call themselves, in ASCII and in UTF-16
_SRGB: Final = (b"sRGB", "sRGB".encode("utf-16-be"))
_SCREEN: Final = ("srgb", "b-w")
_INCH_MM: Final = 25.4
_BELIEVABLE_DPI: Final = range(75, 1201)
#: coarse faxes have pixels twice as high as wide
_MOST_OBLONG: Final = 4.0
_CUT_OFF: Final = (
    "premature",
    "unexpected end",
    "end of",
    "truncated",
    "eof",
    "too few",
)
#: what is no fault of the picture
_WANTING: Final = (
    "out of memory",
    "insufficient memory",
    "unable to allocate",
    "failed to allocate",
    "creating thread",
)


#: a file, or a page of one
Source = Path | tiff.Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A picture's upright size and its number of frames.

    `are_pages`: each stands for itself, and may have another size than the first.
    `dpi` is the resolution that the file declares, across and down.
    """

    width: int
    height: int
    frames: int
    are_pages: bool = False
    dpi: tuple[float, float] = (0.0, 0.0)

    @property
    def pixels(self) -> int:
        """What may have to be held at once: all frames, or a page."""
        return self.width * self.height * (1 if self.are_pages else self.frames)

    @property
    def believable_dpi(self) -> tuple[float, float] | None:
        """The resolution across and down, if the file declares a likely one."""
        across, down = self.dpi
        if round(across) not in _BELIEVABLE_DPI:
            return None
        is_likely = round(down) in _BELIEVABLE_DPI
        if is_likely and max(across / down, down / across) <= _MOST_OBLONG:
            return across, down
        return across, across

    def squared(self) -> "Shape":
        """Return the shape that shows the picture undistorted, pixels being squares.

        None of its sides is less than it was.
        """
        across, down = self.believable_dpi or (1.0, 1.0)
        return replace(
            self,
            width=round(self.width * max(1.0, down / across)),
            height=round(self.height * max(1.0, across / down)),
        )


def has_heic() -> bool:
    """Tell whether the optional HEIC decoder is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_known(media_type: str) -> bool:
    """Tell whether a trusted loader opens *media_type* here."""
    return (
        media_type in VIPS
        or media_type in PILLOW
        or (media_type in HEIC and has_heic())
    )


def measure(source: Source, media_type: str) -> Shape:
    """Read the size of the picture from its header."""
    if isinstance(source, Path) and media_type not in VIPS:
        with _pillow(source, media_type, max_pixels=None) as picture:
            width, height = picture.size
            if picture.getexif().get(0x0112) in _SIDEWAYS:
                width, height = height, width
            return Shape(width=width, height=height, frames=1)
    with explained(), _header(source) as image:
        loader = str(image.get("vips-loader"))
        shape = _shape(image, are_pages=media_type == TIFF)
    if not loader.startswith(VIPS[media_type]):
        raise BadFile("type_mismatch", f"the content is both {media_type} and another")
    return shape


def shrink(
    source: Source,
    media_type: str,
    *,
    width: int,
    height: int,
    frames: int,
    max_pixels: int,
) -> Any:
    """Decode the picture once into memory: upright, sRGB, *width* x *height*.

    *frames* 1 takes the first frame only. Returns a libvips image; raises BadFile.
    """
    wanted: dict[str, object] = {"height": height, "size": "force"}
    with explained():
        if media_type in VIPS or not isinstance(source, Path):
            with _header(source) as header:
                if _needs_colours(header):
                    wanted["export_profile"] = "srgb"
            small = _thumbnail(source, width, frames=frames, **wanted)
        else:
            whole = _from_pillow(source, media_type, max_pixels)
            if _needs_colours(whole):
                wanted["export_profile"] = "srgb"
            small = whole.thumbnail_image(width, no_rotate=True, **wanted)
        if small.interpretation not in _SCREEN:
            small = small.colourspace("srgb")
        small = small.copy_memory()
    small = small.copy()
    if small.get_typeof("icc-profile-data") != 0:
        small.remove("icc-profile-data")  # it is sRGB now
    return small


@contextlib.contextmanager
def _header(source: Source) -> Iterator[Any]:
    """Open a picture of which nothing but the header is read."""
    if isinstance(source, Path):
        yield _vips().Image.new_from_file(str(source), access="sequential")
        return
    with _stream(source) as stream:
        yield _vips().Image.new_from_source(stream, "", access="sequential")


def _thumbnail(source: Source, width: int, *, frames: int, **wanted: object) -> Any:
    """Decode the picture once, into memory: nobody can read a sequential one twice."""
    shrink = _vips().Image
    if isinstance(source, Path):
        name = f"{source}[n=-1]" if frames > 1 else str(source)
        small = shrink.thumbnail(name, width, fail_on="error", **wanted)
        return small.copy_memory()
    with _stream(source) as stream:
        # libvips keeps `fail_on` to itself here, and hands this on to the loader
        strict = {"option_string": "fail_on=error"}
        small = shrink.thumbnail_source(stream, width, **strict, **wanted)
        return small.copy_memory()


@contextlib.contextmanager
def _stream(page: tiff.Page) -> Iterator[Any]:
    with page.opened() as alone:
        stream = _vips().SourceCustom()
        stream.on_read(alone.read)
        stream.on_seek(alone.seek)
        yield stream


def _needs_colours(image: Any) -> bool:
    """Tell whether colours must be converted, which costs more than all the rest."""
    if image.get_typeof("icc-profile-data") == 0:
        return bool(image.interpretation == "cmyk")
    profile = bytes(image.get("icc-profile-data"))
    return not any(name in profile for name in _SRGB)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn libvips errors inside the block into BadFile or MemoryError."""
    try:
        yield
    except _vips().Error as error:
        text = str(error.detail or error.message).lower()
        if any(word in text for word in _WANTING):
            raise MemoryError(text) from None
        raise _bad(text) from None


def _bad(text: str) -> BadFile:
    if any(word in text for word in _CUT_OFF):
        return BadFile("truncated", "the picture ends too early")
    return BadFile("damaged", "the picture cannot be decoded")


def _vips() -> Any:
    """Import libvips when it is first needed: never before a worker has forked."""
    import pyvips  # noqa: PLC0415 -- see above

    pyvips.cache_set_max(0)
    return pyvips


def _shape(image: Any, *, are_pages: bool) -> Shape:
    frames = 1
    height = image.height
    if image.get_typeof("n-pages") != 0:
        frames = max(1, image.get("n-pages"))
    width = image.width
    # libvips counts in millimetres
    dpi = image.xres * _INCH_MM, image.yres * _INCH_MM
    if image.get_typeof("orientation") != 0 and image.get("orientation") in _SIDEWAYS:
        width, height, dpi = height, width, dpi[::-1]
    return Shape(
        width=width, height=height, frames=frames, are_pages=are_pages, dpi=dpi
    )


@contextlib.contextmanager
def _pillow(
    path: Path, media_type: str, *, max_pixels: int | None
) -> Iterator["PIL.Image.Image"]:
    """Open *path* with the one Pillow format that belongs to *media_type*."""
    import PIL.Image  # noqa: PLC0415 -- only few files need it

    if media_type in HEIC:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 -- an extra

        pillow_heif.register_heif_opener()
        kind = "HEIF"
    else:
        kind = PILLOW[media_type]
    # our own limit below replaces Pillow's, which only warns at first
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        with PIL.Image.open(path, formats=(kind,)) as picture:
            if max_pixels is not None and picture.width * picture.height > max_pixels:
                raise BadFile(
                    "too_many_pixels", f"the picture has more than {max_pixels} pixels"
                )
            yield picture
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _bad(str(error).lower()) from None


def _from_pillow(path: Path, media_type: str, max_pixels: int) -> Any:
    import PIL.ImageOps  # noqa: PLC0415 -- only few files need it

    with _pillow(path, media_type, max_pixels=max_pixels) as picture:
        profile = picture.info.get("icc_profile")
        upright = PIL.ImageOps.exif_transpose(picture)
        alpha = upright.has_transparency_data
        plain = upright.convert("RGBA" if alpha else "RGB")
    image = (
        _vips()
        .Image.new_from_memory(
            plain.tobytes(), plain.width, plain.height, 4 if alpha else 3, "uchar"
        )
        .copy(interpretation="srgb")
    )
    if profile and picture.mode in ("RGB", "RGBA"):
        image.set_type(_vips().GValue.blob_type, "icc-profile-data", profile)
    return image
