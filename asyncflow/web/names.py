"""File names in headers: any name somebody gave, told to any client, by RFC 6266.

Rules
-----
- The name that leaves is the name that came, less what could mislead a person or a
  program: control characters, directions of writing, path separators.
- Old clients get an ASCII likeness in `filename`, others the whole in `filename*`.
"""

import re
from typing import Final
from urllib.parse import quote

from asyncflow.naming import fitted, parted
from asyncflow.uploads import visible

NAMELESS: Final = "file"

_SEPARATORS = re.compile(r"[/\\:]")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 !#$&'()+,.;=@^_`{}~\[\]-]")

#: RFC 8187 attr-char: everything else is percent-encoded
_ATTR_CHARS: Final = "!#$&+-.^_`|~"


def clean_name(name: str) -> str:
    """Return *name* as one harmless path segment of at most 255 bytes of UTF-8."""
    shown = _SEPARATORS.sub("_", visible(name)).strip()
    if not shown.strip("."):
        return NAMELESS
    return fitted(*parted(shown))


def content_disposition(name: str, *, inline: bool = False) -> str:
    """Return a Content-Disposition for *name* (RFC 6266, RFC 8187)."""
    shown = clean_name(name)
    plain = _NOT_PLAIN.sub("_", shown)
    kind = "inline" if inline else "attachment"
    value = f'{kind}; filename="{plain}"'
    if plain == shown:
        return value
    return f"{value}; filename*=UTF-8''{quote(shown, safe=_ATTR_CHARS)}"
