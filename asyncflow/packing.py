"""What a derivative is stored as: text compressed, everything with its hash.

Rules
-----
- Only what gets smaller is compressed: text and JSON beyond one KiB, with gzip (RFC
  1952), since every client that takes a coding takes this one.
- The same bytes give the same compressed bytes: no time, no name.
- Packing ends with the file as long as it was at the beginning, however it grows
  meanwhile, or as soon as nobody waits for it any more.
- Unpacking is bounded: a piece that is given out is at most `PIECE_BYTES` long, however
  much a compressed one would make.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from asyncflow.errors import StoreError
from asyncflow.orders import GivenUp

GZIP: Final = "gzip"
MIN_BYTES: Final = 1024
PIECE_BYTES: Final = 256 << 10
#: zlib's number for the gzip format with the largest window
_FORMAT: Final = 31
#: a larger share of the size is not worth the work of unpacking
_WORTH: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A file as it is to be stored; hashes are SHA-256 in hexadecimal.

    *file*: where it is compressed, for the caller to close; None: as it is.
    *length* and *plain_sha256* are those of the file itself.
    """

    file: IO[bytes] | None
    coding: str
    length: int
    sha256: str
    plain_sha256: str


def is_text(media_type: str) -> bool:
    """Tell whether files of *media_type* get much smaller."""
    base = media_type.partition(";")[0].strip().lower()
    return base.startswith("text/") or base == "application/json"


def pack(
    fd: int, media_type: str, scratch: Path, is_over: Callable[[], bool]
) -> Packed:
    """Hash the whole file behind *fd* and, if it is text, compress it into *scratch*.

    It blocks. Raises OSError if there is no room, GivenUp once *is_over*.
    """
    if not is_text(media_type) or os.fstat(fd).st_size <= MIN_BYTES:
        return _as_it_is(_pieces(fd, is_over))
    target = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 -- the caller closes it
    try:
        found = _compress(_pieces(fd, is_over), target)
    except BaseException:
        target.close()
        raise
    if os.fstat(target.fileno()).st_size <= found.length * _WORTH:
        return found
    target.close()
    return _as_it_is(_pieces(fd, is_over))


def _compress(pieces: Iterator[bytes], target: IO[bytes]) -> Packed:
    plain, stored, length = hashlib.sha256(), hashlib.sha256(), 0
    packing = zlib.compressobj(wbits=_FORMAT)

    def put(data: bytes) -> None:
        stored.update(data)
        target.write(data)

    for piece in pieces:
        plain.update(piece)
        length += len(piece)
        put(packing.compress(piece))
    put(packing.flush())
    target.flush()
    return Packed(
        file=target,
        coding=GZIP,
        length=length,
        sha256=stored.hexdigest(),
        plain_sha256=plain.hexdigest(),
    )


def _as_it_is(pieces: Iterator[bytes]) -> Packed:
    found, length = hashlib.sha256(), 0
    for piece in pieces:
        found.update(piece)
        length += len(piece)
    digest = found.hexdigest()
    return Packed(
        file=None, coding="", length=length, sha256=digest, plain_sha256=digest
    )


def _pieces(fd: int, is_over: Callable[[], bool]) -> Iterator[bytes]:
    at, end = 0, os.fstat(fd).st_size
    while piece := os.pread(fd, min(PIECE_BYTES, end - at), at):
        if is_over():
            raise GivenUp
        at += len(piece)
        yield piece


async def unpacked(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what was packed into *pieces*. Raise StoreError if it is damaged."""
    unpacking = zlib.decompressobj(wbits=_FORMAT)
    async for piece in pieces:
        left = piece
        while left:
            try:
                data = unpacking.decompress(left, PIECE_BYTES)
            except zlib.error as error:
                raise StoreError(f"a compressed blob is damaged: {error}") from None
            left = unpacking.unconsumed_tail
            if data:
                yield data
    if not unpacking.eof:
        raise StoreError("a compressed blob is cut off")
