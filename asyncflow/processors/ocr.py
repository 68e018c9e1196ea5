"""Reads the words in a picture of a page, with one of two engines around Tesseract.

`tesserocr` carries the library inside its wheel and keeps it loaded from page to page;
`pytesseract` starts the program `tesseract` anew for each. Both read the same data and
answer alike; which one is used is an option, "auto" takes the first that is there.

Rules
-----
- Words come in reading order, in pixels from the top left.
- A page may take so many seconds and no more: `PageTimeout`.
- What is missing (program, language) is `Skip`, and its text names what there is.
"""

import contextlib
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from asyncflow.errors import Skip
from asyncflow.processors.clock import PageTimeout
from asyncflow.processors.matrix import Box

ENGINES: Final = ("tesserocr", "pytesseract")
#: what OSD is worth nothing without
_OSD: Final = "osd"
#: Debian and others keep the program's data here
_SHARED: Final = ("/usr/share", "/usr/local/share", "/opt/homebrew/share")
_LINE, _WORD = 4, 5  # levels in Tesseract's table
_COLUMNS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A grey picture of a page: one byte a pixel, row after row."""

    width: int
    height: int
    pixels: bytes
    dpi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A word in a picture.

    `line` is the box of the line it stands in; `place` names block, paragraph and line.
    `confidence` is 0 to 100.
    """

    text: str
    box: Box
    line: Box
    place: tuple[int, int, int]
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How far to turn a picture clockwise until it is upright, and how sure that is."""

    degrees: int
    certainty: float


class Engine(Protocol):
    """Something that reads pictures of pages."""

    name: str

    def turn(self, scan: Scan, *, within_s: float) -> Turn | None:
        """Return how to turn the page upright; None if it has too little text."""

    def read(self, scan: Scan, *, within_s: float) -> list[Seen]:
        """Return the words of an upright page. Raise PageTimeout."""

    def close(self) -> None:
        """Free what the engine holds."""


def choose(engine: str, languages: Sequence[str]) -> Engine:
    """Return the engine called *engine*, or for "auto" the first that is there.

    It reads those of *languages* whose data are installed.
    Raise Skip if there is no engine, or no data for any of them.
    """
    wanted = ENGINES if engine == "auto" else (engine,)
    found = next((name for name in wanted if is_installed(name)), None)
    if found is None:
        raise Skip(f"{' and '.join(wanted)} cannot be used: not installed")
    data, usable = _data_folder(languages)
    if found == "tesserocr":
        return _Library(data, usable)
    return _Program(data, usable)


def missing(engine: str, languages: Sequence[str]) -> str | None:
    """Return what must be installed before anything can be read; None: nothing."""
    wanted = ENGINES if engine == "auto" else (engine,)
    if not any(is_installed(name) for name in wanted):
        return " or ".join(wanted)
    if len(lacking(languages)) == len(languages):
        return f"data to read {', '.join(languages)}"
    return None


def lacking(languages: Sequence[str]) -> tuple[str, ...]:
    """Return those of *languages* that cannot be read here for want of data."""
    try:
        _folder, usable = _data_folder(languages)
    except Skip:
        return tuple(languages)
    return tuple(one for one in languages if one not in usable)


def is_installed(engine: str) -> bool:
    """Tell whether *engine* and all that it needs but data are there."""
    if importlib.util.find_spec(engine) is None:
        return False
    return engine != "pytesseract" or _program() is not None


def _program() -> str | None:
    """Return the path of `tesseract`, also when the environment is not activated."""
    return shutil.which("tesseract") or shutil.which(
        "tesseract", path=str(Path(sys.prefix, "bin"))
    )


def _data_folders() -> list[Path]:
    folders = [Path(sys.prefix, "share", "tessdata")]
    if named := os.environ.get("TESSDATA_PREFIX"):
        folders.insert(0, Path(named))
    for shared in map(Path, _SHARED):
        folders += [shared / "tessdata", *shared.glob("tesseract-ocr/*/tessdata")]
    return [folder for folder in folders if folder.is_dir()]


def _data_folder(languages: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with data of most of *languages*, and of which.

    Raise Skip if there are data of none.
    """
    best: tuple[Path, tuple[str, ...]] | None = None
    installed: set[str] = set()
    for folder in _data_folders():
        here = {path.stem for path in folder.glob("*.traineddata")}
        usable = tuple(one for one in languages if one in here)
        if usable and (best is None or len(usable) > len(best[1])):
            best = folder, usable
        installed |= here
    if best is not None:
        return best
    known = ", ".join(sorted(installed - {_OSD})) or "none"
    raise Skip(
        f"no data for the language {', '.join(languages)} is installed; "
        f"installed: {known}"
    )


class _Library:
    """Tesseract as a library."""

    name = "tesserocr"

    def __init__(self, data: Path, languages: Sequence[str]) -> None:
        self._data = data
        self.languages = tuple(languages)
        self._language = "+".join(languages)
        self._reader: Any = None
        self._compass: Any = None

    def turn(self, scan: Scan, *, within_s: float) -> Turn | None:  # noqa: ARG002 -- the library sets no limit here
        import tesserocr  # noqa: PLC0415 -- few workers need it

        if not (self._data / f"{_OSD}.traineddata").exists():
            return None
        if self._compass is None:
            self._compass = self._open(_OSD, tesserocr.PSM.OSD_ONLY)
        _show(self._compass, scan)
        found = self._compass.DetectOrientationScript()
        self._compass.Clear()
        if not found:
            return None
        return Turn(
            degrees=-int(found["orient_deg"]) % 360,
            certainty=float(found["orient_conf"]),
        )

    def read(self, scan: Scan, *, within_s: float) -> list[Seen]:
        import tesserocr  # noqa: PLC0415 -- few workers need it

        if self._reader is None:
            self._reader = self._open(self._language, tesserocr.PSM.AUTO)
        _show(self._reader, scan)
        try:
            until = time.monotonic() + within_s
            if not self._reader.Recognize(max(1, round(within_s * 1000))):
                if time.monotonic() >= until:
                    raise PageTimeout
                return []  # too small to hold a letter
            return list(_seen(self._reader.GetTSVText(0).splitlines()))
        finally:
            self._reader.Clear()

    def close(self) -> None:
        for api in (self._reader, self._compass):
            if api is not None:
                api.End()
        self._reader = self._compass = None

    def _open(self, language: str, mode: int) -> Any:
        import tesserocr  # noqa: PLC0415 -- few workers need it

        api = tesserocr.PyTessBaseAPI(path=str(self._data), lang=language, psm=mode)
        # its remarks on every page would fill the log
        api.SetVariable("debug_file", os.devnull)
        return api


def _show(api: Any, scan: Scan) -> None:
    api.SetImageBytes(scan.pixels, scan.width, scan.height, 1, scan.width)
    api.SetSourceResolution(scan.dpi)


class _Program:
    """Tesseract as a program."""

    name = "pytesseract"

    def __init__(self, data: Path, languages: Sequence[str]) -> None:
        self._data = data
        self.languages = tuple(languages)
        self._language = "+".join(languages)

    def turn(self, scan: Scan, *, within_s: float) -> Turn | None:
        import pytesseract  # noqa: PLC0415 -- few workers need it

        if not (self._data / f"{_OSD}.traineddata").exists():
            return None
        with _timed():
            try:
                found = self._tool().image_to_osd(
                    _drawn(scan),
                    config=self._config(scan, mode=0),
                    output_type=pytesseract.Output.DICT,
                    timeout=within_s,
                )
            except pytesseract.TesseractError:
                return None  # its way to say that there are too few letters
        return Turn(
            degrees=int(found["rotate"]), certainty=float(found["orientation_conf"])
        )

    def read(self, scan: Scan, *, within_s: float) -> list[Seen]:
        with _timed():
            table = self._tool().image_to_data(
                _drawn(scan),
                lang=self._language,
                config=self._config(scan, mode=3),
                timeout=within_s,
            )
        return list(_seen(str(table).splitlines()[1:]))

    def close(self) -> None:
        """Nothing is kept between pages."""

    def _tool(self) -> Any:
        import pytesseract  # noqa: PLC0415 -- few workers need it

        pytesseract.pytesseract.tesseract_cmd = _program()
        return pytesseract

    def _config(self, scan: Scan, *, mode: int) -> str:
        data = shlex.quote(str(self._data))
        return f"--tessdata-dir {data} --dpi {scan.dpi} --psm {mode}"


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "timeout" not in str(error):
            raise
        raise PageTimeout from None


def _drawn(scan: Scan) -> Any:
    import PIL.Image  # noqa: PLC0415 -- few workers need it

    picture = PIL.Image.frombytes("L", (scan.width, scan.height), scan.pixels)
    # what it is handed over as: PNG, the default, takes half a second to pack
    picture.format = "BMP"
    return picture


def _seen(table: Sequence[str]) -> Iterator[Seen]:
    """Yield the words of Tesseract's table, given without its first line."""
    line: Box = (0, 0, 0, 0)
    for row in table:
        cells = row.split("\t", _COLUMNS - 1)
        if len(cells) < _COLUMNS - 1:
            continue
        level, _page, block, paragraph, number, _word, left, top, width, height = map(
            int, cells[: _COLUMNS - 2]
        )
        box = (left, top, left + width, top + height)
        if level == _LINE:
            line = box
        text = cells[-1].strip() if len(cells) == _COLUMNS else ""
        if level == _WORD and text:
            yield Seen(
                text=text,
                box=box,
                line=line,
                place=(block, paragraph, number),
                confidence=float(cells[_COLUMNS - 2]),
            )
