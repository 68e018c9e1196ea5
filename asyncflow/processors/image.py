"""Makes the sizes of a picture that pages and apps need.

The picture is decoded once, to the largest size wanted; each smaller size is made from
the next larger one, and the smallest is written and published first. Everything is
upright, sRGB and free of metadata (no GPS). A picture with transparency becomes WebP
where JPEG was asked for. GIF and WebP animations keep moving, as WebP unless GIF is
asked for, up to `maxFrames`; beyond it, and in other formats, the first frame stands.
A TIFF whose pixels are no squares, such as a coarse fax, is shown undistorted.

A picture whose header is fine but whose data is cut off or broken fails here, with
`truncated` or `damaged`: the gate before looks at headers only.

Options
-------
`variants`: name -> {width, height, fit: "cover" | "inside"}; optional per variant:
`format`, `quality`. `format`: jpeg, webp, avif, png or gif. `quality`: 1 to 100.
`maxFrames`, `maxPixels`. "inside" never enlarges; "cover" always fills its box.
"""

import base64
import collections
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import msgspec

from asyncflow.errors import BadFile
from asyncflow.processors import raster, thumbhash
from asyncflow.processors.base import Derivative, Options, Result, Work, processor

MAX_FRAMES: Final = 100
MAX_PIXELS: Final = 100_000_000
#: WebP effort 2: 5 % more bytes than 4, in half the time. AVIF effort 0: a fifth of it
_SAVERS: Final[Mapping[str, tuple[str, str, str, Mapping[str, object]]]] = {
    "jpeg": ("jpegsave", "jpg", "image/jpeg", {}),
    "webp": ("webpsave", "webp", "image/webp", {"effort": 2}),
    "avif": ("heifsave", "avif", "image/avif", {"compression": "av1", "effort": 0}),
    "png": ("pngsave", "png", "image/png", {}),
    "gif": ("gifsave", "gif", "image/gif", {}),
}
_HAS_QUALITY: Final = ("jpeg", "webp", "avif")
#: an animation of more pixels than this, all frames together, becomes a still
_MOVING_PIXELS: Final = 40_000_000
_MAX_SIDE: Final = 16_383  # the most that WebP and AVIF hold
_HASH_SIDE: Final = 32
_COLOUR_BITS: Final = 4
_OPAQUE: Final = 255


Side = Annotated[int, msgspec.Meta(ge=1, le=_MAX_SIDE)]
Quality = Annotated[int, msgspec.Meta(ge=1, le=100)]
Format = Literal["jpeg", "webp", "avif", "png", "gif"]
#: `original` is the upload
_NAME: Final = re.compile(r"(?!original$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Size(Options):
    """One size as an operator asks for it; None: as for all."""

    width: Side
    height: Side
    fit: Literal["cover", "inside"] = "inside"
    format: Format | None = None
    quality: Quality | None = None


DEFAULT_VARIANTS: Final[Mapping[str, Size]] = {
    "thumbnail": Size(width=200, height=200, fit="cover"),
    "medium": Size(width=800, height=800),
    "large": Size(width=1920, height=1920),
}


class ImageOptions(Options):
    """What can be asked of `image`."""

    variants: Annotated[Mapping[str, Size], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: DEFAULT_VARIANTS
    )
    format: Format = "jpeg"
    quality: Quality = 80
    max_frames: Annotated[int, msgspec.Meta(ge=1)] = MAX_FRAMES
    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse names that no file of a job can have."""
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"variants has {name!r}; accepted as a name: letters, digits, -,"
                    " _ and . but not original"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One wanted size."""

    name: str
    width: int
    height: int
    fills: bool
    format: str
    quality: int

    def scale(self, shape: raster.Shape) -> float:
        """Return the factor from the picture to this variant, before cropping."""
        x, y = self.width / shape.width, self.height / shape.height
        return max(x, y) if self.fills else min(x, y, 1.0)


def _missing() -> str | None:
    return None if importlib.util.find_spec("pyvips") else "pyvips"


@processor(
    "image",
    accepts=(*raster.VIPS, *raster.PILLOW, *raster.HEIC),
    wall_s=60.0,
    memory_bytes=3 << 30,
    # libvips keeps its threads
    resident=True,
    ready=_missing,
    options=ImageOptions,
)
def image(work: Work) -> Result:
    """Make every variant, the smallest first."""
    if not raster.is_known(work.media_type):
        raise BadFile("unsupported_type", f"{work.media_type} cannot be opened here")
    options: ImageOptions = work.options
    wanted, max_pixels = variants(options), options.max_pixels
    shape = raster.measure(work.source, work.media_type)
    if shape.pixels > max_pixels:
        raise BadFile(
            "too_many_pixels",
            f"{shape.pixels} pixels are more than {max_pixels} pixels",
        )
    if shape.are_pages:
        # as faxes do: browsers show no TIFF, and nobody expects their way with others
        shape = shape.squared()
    wanted = sorted(wanted, key=lambda v: v.scale(shape), reverse=True)
    frames = _frames(work, shape, wanted)
    chain = _Chain(work, shape, frames, max_pixels)
    pictures = [(variant, chain.next(variant)) for variant in wanted]
    work.progress(60)
    made: dict[str, object] = {}
    # the smallest first: it is what people wait for
    pictures.sort(key=lambda pair: pair[0].width * pair[0].height)
    for number, (variant, picture) in enumerate(pictures, 1):
        made[variant.name] = _write(work, variant, picture, frames=frames)
        work.progress(60 + 40 * number / len(pictures))
    small, hashed = _hash(chain.picture, frames)
    facts = {"variants": made, "thumbhash": hashed, "dominantColor": _colour(small)}
    return Result(facts={**facts, "animated": frames > 1})


class _Chain:
    """Shrinks a picture step by step, each size from the one before."""

    def __init__(
        self, work: Work, shape: raster.Shape, frames: int, max_pixels: int
    ) -> None:
        self.picture: Any = None
        self._work = work
        self._shape = shape
        self._frames = frames
        self._max_pixels = max_pixels

    def next(self, variant: Variant) -> Any:
        """Return *variant*'s picture; its scale may not exceed the last one's."""
        scale = variant.scale(self._shape)
        self._shrink(min(1.0, scale))
        if not variant.fills:
            return self.picture
        with raster.explained():
            filled = self.picture
            if scale > 1.0:
                filled = self._resized(filled, scale)
            return _crop(filled, variant, self._frames).copy_memory()

    def _shrink(self, scale: float) -> None:
        width, height = self._size(scale)
        if self.picture is None:
            self.picture = raster.shrink(
                self._work.source,
                self._work.media_type,
                width=width,
                height=height,
                frames=self._frames,
                max_pixels=self._max_pixels,
            )
        elif (self.picture.width, _page_height(self.picture)) != (width, height):
            with raster.explained():
                self.picture = self._resized(self.picture, scale).copy_memory()

    def _resized(self, picture: Any, scale: float) -> Any:
        width, height = self._size(scale)
        return picture.thumbnail_image(width, height=height, size="force")

    def _size(self, scale: float) -> tuple[int, int]:
        width = round(self._shape.width * scale)
        return max(1, width), max(1, round(self._shape.height * scale))


def variants(options: ImageOptions) -> list[Variant]:
    """Return the sizes that *options* ask for."""
    return [
        Variant(
            name=name,
            width=size.width,
            height=size.height,
            fills=size.fit == "cover",
            format=size.format or options.format,
            quality=size.quality or options.quality,
        )
        for name, size in options.variants.items()
    ]


def _frames(work: Work, shape: raster.Shape, wanted: list[Variant]) -> int:
    """Return how many frames the variants keep: all of a modest animation, or one."""
    if shape.frames == 1 or work.media_type not in raster.ANIMATED:
        return 1
    scale = min(1.0, wanted[0].scale(shape))
    heavy = shape.pixels * scale * scale > _MOVING_PIXELS
    too_many = shape.frames > work.options.max_frames
    return 1 if heavy or too_many else shape.frames


def _page_height(picture: Any) -> int:
    if picture.get_typeof("page-height") == 0:
        return int(picture.height)
    return int(picture.get("page-height"))


def _crop(picture: Any, variant: Variant, frames: int) -> Any:
    """Cut *variant*'s box out of the middle of each frame."""
    left = max(0, (picture.width - variant.width) // 2)
    top = max(0, (_page_height(picture) - variant.height) // 2)
    box = (left, top, variant.width, variant.height)
    if frames == 1:
        return picture.crop(*box)
    pages = [page.crop(*box) for page in picture.pagesplit()]
    roll = type(picture).arrayjoin(pages, across=1).copy()
    roll.set("page-height", variant.height)
    return roll


def _write(
    work: Work, variant: Variant, picture: Any, *, frames: int
) -> dict[str, object]:
    """Encode one picture, publish it, and return its facts."""
    variant = replace(variant, format=_fitting(variant.format, picture, frames))
    method, suffix, media_type, settings = _SAVERS[variant.format]
    if variant.format in _HAS_QUALITY:
        settings = {**settings, "Q": variant.quality}
    path = work.out / f"{variant.name}.{suffix}"
    with raster.explained():
        getattr(picture, method)(str(path), keep="none", **settings)
    facts: dict[str, object] = {
        "width": picture.width,
        "height": _page_height(picture),
        "bytes": path.stat().st_size,
    }
    work.publish(
        Derivative(name=variant.name, path=path, media_type=media_type, facts=facts)
    )
    return {**facts, "mediaType": media_type}


def _fitting(form: str, picture: Any, frames: int) -> str:
    """Return *form*, or WebP where it cannot show what the picture has."""
    if frames > 1:
        return form if form == "gif" else "webp"
    if form == "jpeg" and picture.hasalpha() and picture[-1].min() < _OPAQUE:
        return "webp"
    return form


def _hash(picture: Any, frames: int) -> tuple[bytes, str]:
    """Return a tiny RGBA version of the picture and its thumbhash in base64."""
    with raster.explained():
        first = picture.crop(0, 0, picture.width, _page_height(picture))
        if frames > 1:
            first = first.copy()
            first.set("page-height", first.height)
        tiny = first.thumbnail_image(_HASH_SIDE, height=_HASH_SIDE, size="down")
        tiny = tiny.colourspace("srgb").cast("uchar")
        if not tiny.hasalpha():
            tiny = tiny.bandjoin(_OPAQUE)
        pixels = bytes(tiny.write_to_memory())
    code = thumbhash.encode(tiny.width, tiny.height, pixels)
    return pixels, base64.b64encode(code).decode("ascii")


def _colour(rgba: bytes) -> str:
    """Return the mean of the most frequent colour range, as #rrggbb."""
    shift = 8 - _COLOUR_BITS
    seen: dict[tuple[int, ...], list[tuple[int, ...]]] = collections.defaultdict(list)
    pixels = zip(rgba[0::4], rgba[1::4], rgba[2::4], rgba[3::4], strict=True)
    for *colour, alpha in pixels:
        if alpha > _OPAQUE // 2:
            seen[tuple(c >> shift for c in colour)].append(tuple(colour))
    if not seen:
        return "#000000"
    most = max(seen.values(), key=len)
    means = (round(sum(band) / len(most)) for band in zip(*most, strict=True))
    return "#" + "".join(f"{mean:02x}" for mean in means)
