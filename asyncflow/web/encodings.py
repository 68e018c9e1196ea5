"""Text sent compressed to whoever takes it so (RFC 9110, sections 8.4 and 12.5.3).

Rules
-----
- Only what we made ourselves and what gets smaller: derivatives that are text, beyond
  one KiB. Originals leave as they came.
- A compressed file is another representation: it has an ETag of its own and knows no
  ranges. Whoever asks for a range gets it from the file itself.
"""

import re
import zlib
from collections.abc import Mapping
from typing import Final

MIN_BYTES: Final = 1024
#: zlib's number for the gzip format with the largest window
_GZIP: Final = 31
_QUALITY = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)


def is_text(media_type: str) -> bool:
    """Tell whether files of *media_type* get much smaller."""
    base = media_type.partition(";")[0].strip().lower()
    return base.startswith("text/") or base == "application/json"


def takes_gzip(headers: Mapping[str, str]) -> bool:
    """Tell whether the sender of *headers* takes gzip for the whole file."""
    if "Range" in headers:
        return False
    weights: dict[str, float] = {}
    for part in headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, parameters = part.partition(";")
        quality = _QUALITY.fullmatch(parameters.strip())
        weights[coding.strip()] = float(quality[1]) if quality else 1.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def gzip_tag(etag: str) -> str:
    """Return the entity tag of the compressed form of what has the tag *etag*."""
    return f"{etag}-gzip"


class Packer:
    """Compresses one file, piece by piece; the same bytes give the same bytes."""

    def __init__(self) -> None:
        self._packing = zlib.compressobj(wbits=_GZIP)

    def add(self, piece: bytes) -> bytes:
        """Return what can be sent after *piece*, perhaps nothing."""
        return self._packing.compress(piece)

    def finish(self) -> bytes:
        """Return the end."""
        return self._packing.flush()
