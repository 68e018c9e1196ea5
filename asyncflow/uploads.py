"""Uploads: ids, keys, names, and what the first bytes of a file say about it.

Pure: no I/O, no clock, no randomness.

Theory of operation
-------------------
An upload is filled at an offset until its length. What a client may say about a file
(name, type) is cleaned here once and never used as a path. The signature check is a
table of magic numbers, read by Python alone: no C parser sees a file inside the server
process. It only refuses what is plainly not of the declared kind; the full truth comes
from `identify` in a worker.
"""

import enum
import hashlib
import mimetypes
import re
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Protocol

#: how many first bytes the signature check needs to see
SIGNATURE_BYTES = 1024
MAX_NAME = 255
#: so long parts stay that have served, so that a client that lost the answer may ask
KEEP_PARTS_MS = 3_600_000
#: so long nobody gets an id that a client chose and whose job was deleted: whoever had
#: begun to send that file has given up by then
KEEP_SPENT_MS = 30 * 86_400_000
#: kinds whose content must be what the name or type declares
CHECKED_KINDS = frozenset({"image", "video", "audio", "application/pdf"})


class UploadState(enum.StrEnum):
    """Where an upload is."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of a file: name, type, Upload-Metadata and digest, '' if unsaid."""

    file_name: str
    declared_type: str
    raw_metadata: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saying:
    """What is to be said of a file, by somebody who knew of what was said *before*."""

    before: Said
    after: Said


#: state -> {what happens: state}
UPLOAD_TRANSITIONS: Mapping[UploadState, Mapping[str, UploadState]] = {
    UploadState.RECEIVING: {
        "all bytes are there": UploadState.COMPLETE,
        "terminated, expired or refused": UploadState.ENDED,
    },
    UploadState.COMPLETE: {},
    UploadState.ENDED: {},
}

# Ours are UUIDs of version 7; a client's own choice may be a random one, version 4.
_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


def new_id(now_ms: int, random: bytes) -> str:
    """Return a UUIDv7 (RFC 9562 section 5.7) of *now_ms* and 10 random bytes.

    All 74 bits that the layout leaves free are random: ids sort by time, and knowing
    one tells nothing about its neighbours.
    """
    tail = int.from_bytes(random[:10], "big")
    high, low = tail >> 68, tail & ((1 << 62) - 1)
    value = (now_ms & ((1 << 48) - 1)) << 80
    value |= 7 << 76 | (high & 0xFFF) << 64 | 2 << 62 | low
    hexa = f"{value:032x}"
    return f"{hexa[:8]}-{hexa[8:12]}-{hexa[12:16]}-{hexa[16:20]}-{hexa[20:]}"


def is_id(text: str) -> bool:
    """Tell whether *text* could be an id of ours."""
    return _ID.fullmatch(text) is not None


def is_choosable(text: str) -> bool:
    """Tell whether an id is of the kind that clients choose: a random UUID.

    Ours carry the time: one of those that no upload has, had one, or has another use.
    """
    return uuid.UUID(text).version == 4  # noqa: PLR2004 -- RFC 9562 section 5.4


def offset_of(size: int, *, length: int | None, checked_from: int | None) -> int:
    """Return how many of a blob's *size* bytes count as received.

    Not those behind the length, nor those of a chunk whose checksum nobody has seen.
    """
    bounds = (size, length, checked_from)
    return min(bound for bound in bounds if bound is not None)


def raw_key(upload_id: str) -> str:
    """Return the key of the uploaded bytes."""
    return f"raw/{upload_id}"


def derivative_prefix(job_id: str) -> str:
    """Return what the keys of all of a job's derivatives start with."""
    return f"processed/{job_id}"


def attempt_prefix(job_id: str, step: int, token: int) -> str:
    """Return what the keys of one attempt start with: two attempts never meet."""
    return f"processed/{job_id}/{step}-{token}"


_ATTEMPT = re.compile(r"processed/[^/]+/([0-9]{1,18})-([0-9]{1,18})/[^/]+")


def attempt_of(key: str) -> tuple[int, int] | None:
    """Return step and token of a derivative's key; None: it is none."""
    found = _ATTEMPT.fullmatch(key)
    return None if found is None else (int(found[1]), int(found[2]))


def derivative_key(
    job_id: str, step: int, token: int, name: str, media_type: str
) -> str:
    """Return the key of a derivative; the name is reduced to safe characters."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    plain = clean_type(media_type)
    end = EXTENSIONS.get(plain) or mimetypes.guess_extension(plain) or ".bin"
    return f"{attempt_prefix(job_id, step, token)}/{safe}{end}"


#: where the system's table is ambiguous or silent
EXTENSIONS: Mapping[str, str] = {
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/tiff": ".tif",
    "text/plain": ".txt",
    "text/vtt": ".vtt",
    "application/json": ".json",
}


#: the categories of characters that do something instead of showing something
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: these two hold emoji together and shape words of Persian and of India
_JOINERS = "\u200c\u200d"
_JOINED = rf"[^\x00-\x7f\s{_JOINERS}]"
_ASTRAY = re.compile(rf"(?<!{_JOINED})[{_JOINERS}]+|[{_JOINERS}]+(?!{_JOINED})")


def visible(text: str) -> str:
    """Return *text* without what nobody sees and what turns its direction around.

    A joiner stays where it joins: between two characters beyond ASCII, of which no
    file's extension is made.
    """
    shown = (c for c in text if c in _JOINERS or unicodedata.category(c) not in _UNSEEN)
    return _ASTRAY.sub("", "".join(shown))


def clean_name(name: str | None) -> str:
    """Return *name* as it may be shown: one line, no path, at most 255 characters.

    Folders (either slash), control and direction-changing characters go; an empty rest
    becomes `file`, also before an extension. The extension survives the cut.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    # what was apart before may belong together now
    shown = unicodedata.normalize("NFC", visible(last)).strip()
    rest = re.sub(r"^[\s.]+|[\s.]+$", "", shown)
    is_extension = shown.startswith(".") and "." not in rest
    if is_extension and mimetypes.guess_type(f"file.{rest}")[0]:
        rest = f"file.{rest}"
    shown = rest
    if len(shown) > MAX_NAME:
        stem, dot, end = shown.rpartition(".")
        keep = dot + end if dot and len(end) <= 16 else ""  # noqa: PLR2004 -- no real extension is longer
        shown = visible((stem if keep else shown)[: MAX_NAME - len(keep)]) + keep
    return shown or "file"


def clean_type(text: str | None) -> str:
    """Return *text* as `type/subtype` in lower case without parameters, or ''."""
    plain = (text or "").split(";", 1)[0].strip().lower()
    return (
        plain if re.fullmatch(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", plain) else ""
    )


#: what clients send when nobody told them a type
UNSAID = frozenset(
    {
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }
)


def declared_type(file_name: str, said: str | None) -> str:
    """Return the type a client declares: what it said, else what the name says."""
    plain = clean_type(said)
    if plain and plain not in UNSAID:
        return plain
    guess, packing = mimetypes.guess_type(file_name, strict=False)
    # a scan.pdf.gz is a gzip file: of what is inside, its type says nothing
    return guess if guess and packing is None else "application/octet-stream"


def is_allowed(media_type: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether the operator takes *media_type*; no patterns: everything."""
    return not patterns or any(fnmatch(media_type, pattern) for pattern in patterns)


#: (offset, bytes, type): RFC and vendor documents name each of them
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"II+\x00", "image/tiff"),
    (0, b"MM\x00+", "image/tiff"),
    (0, b"BM", "image/bmp"),
    (0, b"\x00\x00\x01\x00", "image/x-icon"),
    (0, b"\x00\x00\x00\x0cjP  ", "image/jp2"),
    (0, b"\xff\x4f\xff\x51", "image/jp2"),
    (0, b"\xff\x0a", "image/jxl"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "video/x-ms-wmv"),
    (0, b"MThd", "audio/midi"),
    (0, b"FORM", "audio/aiff"),
    (0, b"#!AMR", "audio/amr"),
    (0, b".snd", "audio/basic"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-msdownload"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"#EXTM3U", "application/vnd.apple.mpegurl"),
    (0, b"push graphic-context", "image/x-mvg"),
)
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim")


def signature(head: bytes) -> str | None:
    """Return the type that the first bytes of a file name, or None."""
    for offset, magic, media_type in SIGNATURES:
        if head.startswith(magic, offset):
            return media_type
    if head[4:8] == b"ftyp":
        image = head[8:12] in _IMAGE_BRANDS
        return "image/avif" if image else "video/mp4"
    if head[:2] in {b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9"}:
        return "audio/mpeg"
    if b"%PDF-" in head[:SIGNATURE_BYTES]:
        return "application/pdf"
    if head[4:8] in {b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return "video/quicktime"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<script")):
        return "text/html"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "image/svg+xml"
    return None


def kind_of(media_type: str) -> str:
    """Return the family a type belongs to; audio and video share containers."""
    if media_type == "application/pdf":
        return media_type
    family = media_type.split("/", 1)[0]
    return "audio or video" if family in {"audio", "video"} else family


def contradicts(declared: str, head: bytes) -> str | None:
    """Return what *head* shows if a file declared as *declared* cannot start so.

    None: no contradiction. Only kinds that are processed are checked, and types without
    a known signature (`image/svg+xml`, camera formats) are left to `identify`.
    """
    family = declared.split("/", 1)[0]
    if declared not in KNOWN_TYPES and not (
        family in {"audio", "video"} and signature(head) is not None
    ):
        return None
    if family not in CHECKED_KINDS and declared not in CHECKED_KINDS:
        return None
    found = signature(head)
    if found is None:
        return None if family in {"audio", "video"} else "no known picture or document"
    return None if kind_of(found) == kind_of(declared) else found


KNOWN_TYPES = frozenset(
    {media_type for _offset, _magic, media_type in SIGNATURES}
    | {"image/avif", "image/heic", "image/heif", "video/mp4", "video/quicktime"}
    | {"application/pdf", "audio/mp4", "video/webm"}
)


# ----- checksums


class Hasher(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""
        ...

    def digest(self) -> bytes:
        """Return the checksum of all bytes so far."""
        ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


#: name -> a new hasher. They guard against accidents, not against attackers.
CHECKSUMS: Mapping[str, Callable[[], Hasher]] = {
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "crc32": _Crc32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """What bytes must hash to; `algorithm` is a name of CHECKSUMS."""

    algorithm: str
    value: bytes

    def __str__(self) -> str:
        """Return it as the database keeps it."""
        return f"{self.algorithm}:{self.value.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Checksum":
        """Return what `str` made."""
        algorithm, _colon, value = text.partition(":")
        return cls(algorithm=algorithm, value=bytes.fromhex(value))
