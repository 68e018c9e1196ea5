"""What may reach a terminal: text without control characters, in the words people use.

A file name is bytes that somebody else chose: it may hold newlines, escape sequences,
or letters that turn the writing direction around. `clean` takes their power away.
"""

import shutil
import unicodedata

# the categories of characters that do something instead of showing something:
# Cc controls, Cf formatting (bidi overrides among them), Cs surrogates,
# Zl and Zp line and paragraph ends
_ACTIVE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # hold emoji together and shape words; harmless

_KIB = 1024
_MINUTE = 60
_HOUR = 3600


def clean(text: str, *, keep_lines: bool = True) -> str:
    """Return *text* with every active character replaced by a visible escape.

    With *keep_lines*, newlines stay: for texts of ours that quote somebody's.
    """
    return "".join(_visible(char, keep_lines=keep_lines) for char in text)


def name_of(text: str) -> str:
    """Return a file name as one harmless line."""
    return clean(text, keep_lines=False)


def _visible(char: str, *, keep_lines: bool) -> str:
    if char in _JOINERS or (keep_lines and char == "\n"):
        return char
    if unicodedata.category(char) not in _ACTIVE:
        return char
    return char.encode("unicode_escape").decode("ascii")


def shorten(text: str, width: int) -> str:
    """Cut *text* in the middle so that it has at most *width* characters."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def size_text(count: float) -> str:
    """Say a number of bytes: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} TiB"


def time_text(seconds: float) -> str:
    """Say a duration: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:  # noqa: PLR2004 -- below ten seconds a tenth matters
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def columns() -> int:
    """Return the terminal's width in characters (80 when nobody knows)."""
    return shutil.get_terminal_size((80, 24)).columns
