"""The first gate: finds out what a file is, and refuses what nobody should open.

Two judges must agree: libmagic on the content, and the loader that would open it. The
declared kind (by the name's extension and by the type the client sent) counts only when
it is one that asyncflow processes: a "photo.jpg" that is HTML is refused, an unknown
extension is not. Refusals come from headers alone, before the file is hashed; a picture
whose header is fine but whose data is broken passes here and fails in `image`.

Facts: mediaType, size, sha256; width, height, frames of pictures; pages of PDFs;
durationS of sound and film (absent when unknown).

Options: `maxPixels` (all frames of an animation together, each page of a TIFF alone),
`maxPages` of PDFs and TIFFs.
"""

import hashlib
import mmap
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from asyncflow.errors import BadFile
from asyncflow.jobs import UPLOADED
from asyncflow.processors import duration, pdf, raster, tiff
from asyncflow.processors.base import Options, Result, Work, processor

MAX_PIXELS: Final = 100_000_000
MAX_PAGES: Final = 2000
_HASH_BYTES: Final = 4 << 20
#: more than twice what libmagic takes for a file, with all that it knows
_ROOM_BYTES: Final = 64 << 20
_UNKNOWN: Final = "application/octet-stream"
#: playlists name other files and addresses: no player here may meet one
_PLAYLIST: Final = "application/vnd.apple.mpegurl"
_PLAYLISTS: Final = ("audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl")
#: drawings that run like programs; refused by name too, since some look like text
_DRAWINGS: Final = (".svg", ".svgz", ".mvg", ".msl")
_EXTENSIONS: Final[Mapping[str, str]] = dict.fromkeys(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff",
     ".bmp", ".heic", ".heif", ".avif", ".jp2", ".pbm", ".pgm", ".ppm"), "image",
) | {".pdf": "pdf"} | dict.fromkeys(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv",
     ".flv", ".3gp", ".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".m4a",
     ".aac", ".wma", ".aif", ".aiff"), "media",
)  # fmt: skip
_SIGNATURES: Final = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00",
    b"MM\x00*", b"%PDF-",
)  # fmt: skip


class IdentifyOptions(Options):
    """What can be asked of `identify`."""

    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = MAX_PIXELS
    max_pages: Annotated[int, msgspec.Meta(ge=1)] = MAX_PAGES


@processor(
    "identify",
    accepts=("*",),
    on=UPLOADED,
    gate=True,
    outputs=(),
    wall_s=300.0,
    memory_bytes=2 << 30,
    # libvips keeps its threads
    resident=True,
    options=IdentifyOptions,
)
def identify(work: Work) -> Result:
    """Return what the file is, or refuse it."""
    size = work.source.stat().st_size
    if size == 0:
        raise BadFile("empty_file", "the file has no bytes")
    _check_room()
    media_type = _judged(work)
    facts: dict[str, object] = {"mediaType": media_type, "size": size}
    facts |= _examined(work, media_type)
    facts["sha256"] = _sha256(work, size)
    return Result(facts=facts)


def _check_room() -> None:
    """Raise MemoryError if there is too little to judge any file.

    libmagic does not say so in each case: it may just know no kind of file any more.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, _ROOM_BYTES, flags=flags).close()
    except OSError as error:
        raise MemoryError("no room to look at a file") from error


def _judged(work: Work) -> str:
    """Return the content's media type. Raise BadFile if it is not what it claims."""
    suffix = Path(work.file_name).suffix.lower()
    if suffix in _DRAWINGS or work.media_type == "image/svg+xml":
        raise BadFile("unsupported_type", "drawings such as SVG are refused")
    found = _sniff(work.source)
    claims = {_kind(work.media_type), _EXTENSIONS.get(suffix)} - {None}
    if (
        found in (_UNKNOWN, "text/plain")
        and "media" in claims
        and duration.seconds(work.source)
    ):
        # libmagic does not know every frame header: the second judge does
        found = _claimed_media(work)
    for claim in claims:
        if claim != _kind(found):
            if found == _UNKNOWN:
                _refuse_torso(work)
            raise BadFile(
                "type_mismatch", f"the content is {found}, not what the name says"
            )
    return found


def _claimed_media(work: Work) -> str:
    if _kind(work.media_type) == "media":
        return work.media_type
    return "audio/mpeg"


def _refuse_torso(work: Work) -> None:
    """Raise `truncated` for a file that is nothing but a right beginning."""
    with work.source.open("rb") as file:
        head = file.read(16)
    if head.startswith(_SIGNATURES):
        raise BadFile("truncated", "the file ends after its first bytes")


def _examined(work: Work, media_type: str) -> dict[str, object]:
    """Return the facts of this kind of file, from its header."""
    match _kind(media_type):
        case "image":
            return _picture(work, media_type)
        case "pdf":
            max_pages = work.options.max_pages
            return {"pages": pdf.count_pages(work.source, max_pages=max_pages)}
        case "media":
            seconds = duration.seconds(work.source)
            return {} if seconds is None else {"durationS": round(seconds, 3)}
        case _:
            return {}


def _picture(work: Work, media_type: str) -> dict[str, object]:
    if media_type in raster.HEIC and not raster.has_heic():
        raise BadFile("missing_tool", "this server cannot read HEIC pictures yet")
    if not raster.is_known(media_type):
        raise BadFile("unsupported_type", f"{media_type} is refused")
    shape = raster.measure(work.source, media_type)
    frames = _count_pages(work) if shape.are_pages else shape.frames
    max_pixels = work.options.max_pixels
    if shape.pixels > max_pixels:
        moving = f" x {frames} frames" if frames > 1 else ""
        raise BadFile(
            "too_many_pixels",
            f"{shape.width} x {shape.height}{moving} are more than {max_pixels} pixels",
        )
    return {"width": shape.width, "height": shape.height, "frames": frames}


def _count_pages(work: Work) -> int:
    """Return how many pages a TIFF has.

    Raise BadFile if they are too many, or one of them has too many pixels.
    """
    max_pages, max_pixels = work.options.max_pages, work.options.max_pixels
    number = 1
    for number, page in enumerate(tiff.pages(work.source), 1):
        if number > max_pages:
            raise BadFile(
                "too_many_pages", f"the picture has more than {max_pages} pages"
            )
        if page.width * page.height > max_pixels:
            raise BadFile(
                "too_many_pixels",
                f"page {number}: {page.width} x {page.height} are more than "
                f"{max_pixels} pixels",
            )
    return number


def _kind(media_type: str) -> str | None:
    """Return which of the kinds that we process *media_type* is; None for others."""
    if media_type == "application/pdf":
        return "pdf"
    family = media_type.partition("/")[0]
    if family in ("audio", "video"):
        return "media"
    return "image" if family == "image" else None


@cache
def _magic() -> Any:
    import magic  # noqa: PLC0415 -- a worker needs it, the server that lists us does not

    return magic.Magic(mime=True)


def _sniff(path: Path) -> str:
    found = str(_magic().from_file(str(path)))
    return _PLAYLIST if found in _PLAYLISTS else found


def _sha256(work: Work, size: int) -> str:
    digest = hashlib.sha256()
    done = 0
    with work.source.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while block := file.read(_HASH_BYTES):
            digest.update(block)
            done += len(block)
            work.progress(100 * done / size)
    return digest.hexdigest()
