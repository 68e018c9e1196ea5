"""A font of boxes, for text that can be found and copied but is never drawn.

Every character has the same glyph, a box half as wide as it is high; the character
codes are UTF-16 units, so that any script can be written with this one font. Whoever
writes with it says that it is not to be drawn. A glyph without any outline would need
no such word, but PDFium finds no text without an extent: words that run upwards would
have no width.

Sources: the OpenType specification (tables and checksums), ISO 32000-2, 9.10.3.
"""

import struct
from typing import Final

#: width of each character as a share of the font's size
ADVANCE: Final = 0.5
#: how far the line reaches below the baseline, as a share of the font's size
DESCENT: Final = 0.2
_UNITS: Final = 1000
_WIDE, _UP, _DOWN = round(ADVANCE * _UNITS), 800, round(-DESCENT * _UNITS)

#: says that each code is the character itself
TO_UNICODE: Final = b"""/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
1 beginbfrange
<0000> <FFFF> <0000>
endbfrange
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""
#: says that each code is drawn by glyph 1
GLYPHS: Final = b"\x00\x01" * 0x10000


def font() -> bytes:
    """Return the font as a TrueType file of two glyphs: nothing, and a box."""
    tables = _tables()
    slack = struct.pack(
        ">IHHHH", 0x00010000, len(tables), 128, 3, len(tables) * 16 - 128
    )
    start = len(slack) + 16 * len(tables)
    entries, body = b"", b""
    for tag, table in sorted(tables.items()):
        padded = table + bytes(-len(table) % 4)
        words = struct.unpack(f">{len(padded) // 4}I", padded)
        at = start + len(body)
        entries += struct.pack(">4sIII", tag, sum(words) & 0xFFFFFFFF, at, len(table))
        body += padded
    return slack + entries + body


def _tables() -> dict[bytes, bytes]:
    """Return the tables that readers of TrueType insist on."""
    whole, none, box = 0x00010000, 0, _box()
    return {
        b"OS/2": struct.pack(
            ">HhHHH11h10B4I4sHHHhhhHHIIhhHHH",
            *(4, _WIDE, 400, 5, 0, *[0] * 11, *[0] * 10, *[0] * 4, b"ASYN", 0x40),
            *(0x20, 0xFFFF, _UP, _DOWN, 0, _UP, -_DOWN, 1, 0, 500, 700, 0, 0x20, 1),
        ),
        b"glyf": box,
        b"head": struct.pack(
            ">IIIIHHqqhhhhHHhhh",
            *(whole, whole, none, 0x5F0F3CF5, 0, _UNITS, 0, 0),
            *(0, _DOWN, _WIDE, _UP, 0, 8, 2, 0, 0),
        ),
        b"hhea": struct.pack(
            ">I3hH11hH", whole, _UP, _DOWN, 0, _WIDE, 0, 0, _WIDE, 1, *[0] * 7, 2
        ),
        b"hmtx": struct.pack(">HhHh", _WIDE, 0, _WIDE, 0),
        b"loca": struct.pack(">3H", 0, 0, len(box) // 2),
        b"maxp": struct.pack(">IH13H", whole, 2, 4, 1, *[0] * 11),
        b"name": struct.pack(">HHH", 0, 0, 6),
        b"post": struct.pack(">IIhhIIIII", 0x00030000, 0, 0, 0, 1, 0, 0, 0, 0),
    }


def _box() -> bytes:
    """Return the glyph whose only contour goes once around a character's place."""
    on_the_curve = 1
    head = struct.pack(">5h2H", 1, 0, _DOWN, _WIDE, _UP, 3, 0)
    flags = bytes([on_the_curve] * 4)
    across = struct.pack(">4h", 0, 0, _WIDE, 0)
    upwards = struct.pack(">4h", _DOWN, _UP - _DOWN, 0, _DOWN - _UP)
    return head + flags + across + upwards
