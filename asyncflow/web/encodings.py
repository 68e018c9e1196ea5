"""Text sent compressed to whoever takes it so (RFC 9110, sections 8.4 and 12.5.3).

Rules
-----
- Derivatives that are stored compressed leave so, and nothing else does.
- A compressed file is another representation: it has an ETag of its own and knows no
  ranges. Whoever asks for a range gets it from the file itself.
"""

import re
from collections.abc import Mapping

_QUALITY = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)


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
