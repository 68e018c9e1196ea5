"""Looks at a PDF without rendering it: pages, sizes, passwords, deflate bombs.

The bomb check inflates what is not a picture, in bounded amounts, and refuses a stream
that grows both far and out of proportion: drawing operators that unpack from 200 KB to
100 MB keep any renderer busy for minutes. Real plans and maps are large too, but shrink
to a tenth at best, not to a five-hundredth.
"""

import contextlib
import mmap
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncflow.errors import BadFile

if TYPE_CHECKING:
    import pypdfium2

#: 200 inches, the largest page that Acrobat makes
MAX_SIDE_PT: Final = 14_400.0
_BOMB_BYTES: Final = 8 << 20
_BOMB_RATIO: Final = 100
_BLOCK_BYTES: Final = 256 << 10
_READ_BYTES: Final = 16 << 10
_MAX_FILTERS: Final = 3
#: the check may not become the work it protects from
_MOST_BYTES: Final = 48 << 20
_MOST_STREAMS: Final = 5000
_MOST_S: Final = 0.5
_DICT_BYTES: Final = 2048
_STREAM: Final = re.compile(rb">>[\s]{0,8}stream\r?\n")
_PICTURE: Final = re.compile(rb"/Subtype\s{0,4}/Image")
_DEFLATE: Final = re.compile(rb"/(?:FlateDecode|Fl)\b")


def count_pages(path: Path, *, max_pages: int) -> int:
    """Return the number of pages. Raise BadFile for what no renderer should meet."""
    import pypdfium2  # noqa: PLC0415 -- 25 ms that most files do not need

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise _unreadable(path, str(error)) from None
    try:
        pages = len(document)
        if pages == 0:
            raise BadFile("damaged", "the document has no pages")
        if pages > max_pages:
            raise BadFile(
                "too_many_pages",
                f"the document has {pages} pages, more than {max_pages}",
            )
        _check_sizes(document, pages)
    finally:
        document.close()
    refuse_bombs(path)
    return pages


def _check_sizes(document: "pypdfium2.PdfDocument", pages: int) -> None:
    import pypdfium2  # noqa: PLC0415 -- as above

    for number in range(pages):
        try:
            width, height = document.get_page_size(number)
        except pypdfium2.PdfiumError:
            # it cannot be drawn either; the other pages may be good
            continue
        if max(width, height) > MAX_SIDE_PT:
            raise BadFile(
                "too_many_pixels",
                f"page {number + 1} measures {width:.0f} x {height:.0f} points, "
                f"more than {MAX_SIDE_PT:.0f}",
            )


def _unreadable(path: Path, text: str) -> BadFile:
    if "password" in text.lower():
        return BadFile("encrypted", "the document needs a password")
    if "security" in text.lower():
        return BadFile("encrypted", "the document's encryption is not supported")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2048))
        ends = b"%%EOF" in file.read()
    if ends:
        return BadFile("damaged", "the document cannot be read")
    return BadFile("truncated", "the document ends too early")


def refuse_bombs(path: Path) -> None:
    """Raise BadFile `too_complex` if a stream that is no picture is a deflate bomb."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        left = _MOST_BYTES
        give_up_at = time.monotonic() + _MOST_S
        for start, filters in _streams(data):
            if left <= 0 or time.monotonic() > give_up_at:
                return
            left -= _inflate(data, start, filters)


def _streams(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield where each deflated stream that is no picture begins, and its depth."""
    for number, found in enumerate(_STREAM.finditer(data)):
        if number >= _MOST_STREAMS:
            return
        start = found.start()
        opened = data.rfind(b"obj", max(0, start - _DICT_BYTES), start)
        if opened < 0:
            opened = max(0, start - _DICT_BYTES)
        described = data[opened:start]
        filters = len(_DEFLATE.findall(described))
        if filters and not _PICTURE.search(described):
            yield found.end(), min(filters, _MAX_FILTERS)


def _inflate(data: mmap.mmap, start: int, filters: int) -> int:
    """Inflate a stream as far as a bomb would show; return the bytes that came out."""
    raw = _Raw(data, start)
    blocks: Iterator[bytes] = raw.blocks()
    for _ in range(filters):
        blocks = _inflated(blocks)
    made = 0
    # an encrypted or damaged stream is not a bomb: renderers skip it too
    with contextlib.suppress(zlib.error):
        for block in blocks:
            made += len(block)
            if made > _BOMB_BYTES and made > _BOMB_RATIO * raw.taken:
                raise BadFile(
                    "too_complex",
                    f"a page unpacks to more than {_BOMB_RATIO} times its size",
                )
            if made > _MOST_BYTES:
                break
    return made


class _Raw:
    """The bytes of a file from one place on, counted as they are taken."""

    def __init__(self, data: mmap.mmap, start: int) -> None:
        self._data = data
        self._start = start
        self.taken = 0

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes up to the end of the file, a little at a time."""
        while True:
            at = self._start + self.taken
            block = self._data[at : at + _READ_BYTES]
            if not block:
                return
            self.taken += len(block)
            yield block


def _inflated(blocks: Iterator[bytes]) -> Iterator[bytes]:
    stage = zlib.decompressobj()
    for block in blocks:
        rest = block
        while rest and not stage.eof:
            yield stage.decompress(rest, _BLOCK_BYTES)
            rest = stage.unconsumed_tail
        if stage.eof:
            return
