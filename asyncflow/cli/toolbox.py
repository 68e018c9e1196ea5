"""Checks the libraries and programs that the server uses, with their versions.

A bundled library stays as old as its wheel: the versions are shown so that somebody who
reads about a hole in one of them can tell whether it is here.
"""

import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from asyncflow.cli.findings import Finding, missing, ok, stop, warn
from asyncflow.processors.ocr import lacking

# 3.7.0 to 3.51.2 can corrupt a database when a log is reset while another connection
# writes; we write on one connection only, so this is a warning and no more
_WAL_RESET_FIXED = (3, 51, 3)
_PROGRAM_WITHIN_S = 10
_FORMATS = {
    "JPEG": "jpegload",
    "PNG": "pngload",
    "WebP": "webpload",
    "GIF": "gifload",
    "TIFF": "tiffload",
    "AVIF": "heifload",
}
_REINSTALL = "install asyncflow-server again, in a fresh environment"


def tools() -> Iterator[Finding]:
    """Check everything that is installed, or not."""
    yield ok(
        "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    )
    yield sqlite()
    yield _library("libvips", "pyvips", _vips)
    yield _library("Pillow", "PIL", _pillow)
    yield _library("pdfium", "pypdfium2", _pdfium, needed=False)
    yield _library("libmagic", "magic", _magic)
    yield _library("tesseract", "tesserocr", _tesseract, needed=False)
    yield _heic()
    yield _uvloop()


def languages(wanted: Sequence[str]) -> Finding:
    """Check that there are data for the languages that text is read in."""
    unread = lacking(wanted)
    if not unread:
        return ok("languages", ", ".join(wanted))
    what = f"no data to read {', '.join(unread)}"
    hint = "install tessdata-fast-CODE by pip, or tesseract-ocr-CODE of the system"
    if len(unread) == len(wanted):
        return warn("languages", f"{what}: nothing is read by OCR", hint)
    return warn("languages", f"{what}: such text is read as the others", hint)


def sqlite(found: tuple[int, ...] = sqlite3.sqlite_version_info) -> Finding:
    """Check SQLite's version."""
    text = ".".join(map(str, found))
    if found >= _WAL_RESET_FIXED:
        return ok("SQLite", text)
    return warn(
        "SQLite",
        f"{text} has the WAL-reset bug (fixed in 3.51.3)",
        "never open the database with another program while the server runs",
    )


def _library(
    name: str, module: str, look: Callable[[Any], str], *, needed: bool = True
) -> Finding:
    try:
        return ok(name, look(import_module(module)))
    # a native library fails in many ways, and each of them means: it cannot be used
    except Exception as error:  # noqa: BLE001 -- see above
        text = f"cannot be used: {error}".splitlines()[0]
    if needed:
        return stop(name, text, _REINSTALL)
    return missing(name, text, _REINSTALL)


def _vips(pyvips: Any) -> str:
    number = ".".join(str(pyvips.version(part)) for part in range(3))
    there = [
        name for name, load in _FORMATS.items() if pyvips.type_find("VipsForeign", load)
    ]
    return f"{number}: {', '.join(there)}"


def _pillow(_module: Any) -> str:
    features = import_module("PIL.features")
    names = {"jpg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpg_2000": "JPEG 2000"}
    there = [text for key, text in names.items() if features.check(key)]
    return f"{version('pillow')}: {', '.join(there)}"


def _pdfium(module: Any) -> str:
    return f"{module.PDFIUM_INFO}"


def _magic(module: Any) -> str:
    kind = module.from_buffer(b"%PDF-1.7\n", mime=True)
    if kind != "application/pdf":
        raise RuntimeError(f"it takes a PDF for {kind}")
    number = module.version()
    return f"{number // 100}.{number % 100:02}"


def _tesseract(module: Any) -> str:
    first = str(module.tesseract_version()).splitlines()[0]
    system = shutil.which("tesseract")
    return first + (f"; also {system}" if system else "")


def _heic() -> Finding:
    if find_spec("pillow_heif") is not None:
        return ok("HEIC", f"pillow-heif {_version_of('pillow-heif')}")
    return missing(
        "HEIC",
        "photos of iPhones are refused",
        "install the extra: asyncflow-server[heic] (its wheel is under the GPL)",
    )


def _uvloop() -> Finding:
    if find_spec("uvloop") is not None:
        return ok("uvloop", _version_of("uvloop"))
    return warn("uvloop", "not installed", "start with --loop asyncio, or install it")


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- argv is built from constants
            argv, capture_output=True, text=True, timeout=_PROGRAM_WITHIN_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.partition("\n")[0][:60]
