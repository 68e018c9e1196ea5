"""Writes down what a document says: plain text, and JSON with the place of each word.

Rules
-----
- Pages are written as they come, so that a long document needs no more memory than a
  short one. Both files are whole only after `close`.
- No control characters and no terminal commands get through, whoever hid them.

The JSON is `{"languages": […], "pages": […]}`. A page has `number` (from 1), `width`,
`height` and `unit` ("pt" or "px"), `source` ("layer", "ocr", "mixed" for both, "none"),
`rotation` (how many degrees clockwise make upright what was read), `skew` (by how many
degrees lines sink to the right after that), and `words`, each with `text`, `box` [x0,
y0, x1, y1] from the top left of the page as it is shown, and `confidence` (0 to 100 of
what was read by OCR; null for the words of the layer). A page that could not be read
has `error` instead of all but its number; one whose layer alone could be had has both.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from asyncflow.processors.layers import Word
from asyncflow.processors.sheets import Sheet

#: CSI, OSC and other commands that terminals obey
_COMMANDS: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]?"
)
#: how PDFium marks a hyphen at the end of a line
_HYPHENS: Final = re.compile("[\x02\ufffe]")
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\uffff]")


def clean(text: str) -> str:
    """Return *text* without commands and control characters but tab and line feed."""
    text = _COMMANDS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROLS.sub("", _HYPHENS.sub("-", text))


class Transcript:
    """The two files, while they are written."""

    def __init__(self, text: Path, table: Path, languages: Sequence[str]) -> None:
        #: how many words have been written
        self.words = 0
        self._pages = 0
        self._text = text.open("w", encoding="utf-8", newline="")
        self._table = table.open("w", encoding="utf-8", newline="")
        self._table.write(f'{{"languages":{json.dumps(list(languages))},"pages":[')

    def add(self, sheet: Sheet) -> None:
        """Write one page."""
        listed = [entry for word in sheet.words if (entry := _entry(word, sheet))]
        self.words += len(listed)
        failure = sheet.failure
        self._write(
            sheet.text,
            {
                "number": sheet.number + 1,
                "width": round(sheet.width, 2),
                "height": round(sheet.height, 2),
                "unit": sheet.unit,
                "source": sheet.source,
                "rotation": sheet.rotation,
                "skew": sheet.skew,
                "words": listed,
                **({} if failure is None else {"error": failure.reason}),
            },
        )

    def add_failed(self, number: int, reason: str) -> None:
        """Write an empty page in place of page *number* (from 0)."""
        self._write("", {"number": number + 1, "error": reason})

    def close(self) -> None:
        """Finish both files; closing twice is not an error."""
        if self._table.closed:
            return
        self._text.close()
        self._table.write("\n]}\n")
        self._table.close()

    def _write(self, text: str, page: dict[str, Any]) -> None:
        if self._pages:
            self._text.write("\f")
            self._table.write(",")
        self._pages += 1
        lines = [line.rstrip() for line in clean(text).split("\n")]
        if text := "\n".join(lines).strip("\n"):
            self._text.write(f"{text}\n")
        entry = json.dumps(page, ensure_ascii=False, separators=(",", ":"))
        self._table.write(f"\n{entry}")


def _entry(word: Word, page: Sheet) -> dict[str, object] | None:
    text = clean(word.text).strip()
    if not text:
        return None
    x0, y0, x1, y1 = word.box
    box = [
        round(min(max(0.0, at), side), 1)
        for at, side in zip(
            (x0, y0, x1, y1), (page.width, page.height) * 2, strict=True
        )
    ]
    confidence = None if word.confidence is None else round(word.confidence, 1)
    return {"text": text, "box": box, "confidence": confidence}
