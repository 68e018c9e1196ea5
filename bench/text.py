"""Pages a minute and CPU time of reading scans, by each engine that is installed.

The page is A4 at 300 dpi with 560 words; finding out which way it is turned, levelling
its lines and writing the searchable PDF are part of what is measured, loading the
libraries is not. It runs in this process, on one core, as in a worker. Beside it, what
a page costs that carries its text, and has a letterhead and a small photograph on it.
"""

import ctypes
import os
import random
import resource
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pypdfium2
import pypdfium2.raw as pdfium

from asyncflow.errors import Skip
from asyncflow.processors import ocr
from asyncflow.processors.text import text
from asyncflow.testing.processor import Ran, run_processor
from bench.rows import Row

T = TypeVar("T")

_MOST_CPU_S: Final = 2.3
_MOST_GLANCE_S: Final = 0.5
_MOST_TYPED_MS: Final = 100.0
_SIZE: Final = (2480, 3508)
_DPI: Final = 300
_WORDS: Final = (
    "upload server streams every chunk to disk and answers as soon as the last byte is "
    "there while workers read pages of letters invoices and books in another process"
)
_WORDS_A_PAGE: Final = 560
_LINE: Final = 82
#: what Tesseract does by itself slows it down on every machine with few cores
_ONE_THREAD: Final = {"OMP_THREAD_LIMIT": "1", "VIPS_CONCURRENCY": "1"}


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Return CPU seconds a page and pages a minute, and the cost of a photograph."""
    os.environ.update(_ONE_THREAD)
    pages = 1 if quick else 4
    folder.mkdir(parents=True, exist_ok=True)
    scan = _scan(folder / "scan.pdf", pages)
    rows = []
    for engine in filter(ocr.is_installed, ocr.ENGINES):
        rows += _reading(scan, pages, engine)
    rows += _typed(folder, pages=4 if quick else 40)
    return [*rows, *_glance(folder, times=1 if quick else 10)]


def _reading(scan: Path, pages: int, engine: str) -> list[Row]:
    options: dict[str, object] = {"engine": engine}

    def read() -> Ran:
        return run_processor(text, scan, media_type="application/pdf", options=options)

    read()
    wall, cpu, ran = _timed(read)
    words = ran.facts["words"]
    return [
        Row(
            what=f"A4 page by {engine}, CPU",
            value=cpu / pages,
            unit="s",
            most=_MOST_CPU_S if engine == ocr.ENGINES[0] else None,
            note=f"of {pages}; {words} of {_WORDS_A_PAGE * pages} words",
        ),
        Row(
            what=f"pages by {engine} on one core",
            value=60 * pages / wall,
            unit="/min",
        ),
    ]


def _typed(folder: Path, *, pages: int) -> list[Row]:
    path = _letter(folder, pages)

    def read() -> Ran:
        return run_processor(text, path, media_type="application/pdf")

    read()
    _wall, cpu, ran = _timed(read)
    if ran.facts["layerPages"] != pages or ran.facts["ocrPages"] != pages:
        raise RuntimeError("the letterhead was not read, or the text read again")
    return [
        Row(
            what="typed page with a letterhead and a photograph, CPU",
            value=1000 * cpu / pages,
            unit="ms",
            most=_MOST_TYPED_MS,
            note=f"of {pages}; {_WORDS_A_PAGE} words each",
        )
    ]


def _glance(folder: Path, *, times: int) -> list[Row]:
    path = folder / "photo.jpg"
    noise = PIL.Image.effect_noise((960, 540), 90).resize((3840, 2160))
    noise.convert("RGB").save(path, quality=90)

    def look() -> str:
        try:
            run_processor(text, path, media_type="image/jpeg")
        except Skip as skipped:
            return skipped.detail
        raise RuntimeError("the photograph was taken for a page")

    look()
    taken = min(_timed(look)[1] for _ in range(times))
    return [
        Row(
            what="4K photograph: seeing that it is no text, CPU",
            value=taken,
            unit="s",
            most=_MOST_GLANCE_S,
            note=f"best of {times}",
        )
    ]


def _timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Return wall and CPU seconds of *work*, children included, and its result."""
    began, before = time.perf_counter(), _cpu_s()
    result = work()
    return time.perf_counter() - began, _cpu_s() - before, result


def _cpu_s() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _scan(path: Path, pages: int) -> Path:
    """Write a PDF of *pages* pictures of pages, some askew, some upside down."""
    first, *rest = [_page(number) for number in range(pages)]
    first.save(path, save_all=True, append_images=rest, resolution=_DPI)
    return path


def _letter(folder: Path, pages: int) -> Path:
    """Write a PDF of *pages* typed pages, each with two small pictures on it."""
    letterhead, photo = folder / "letterhead.jpg", folder / "portrait.jpg"
    head = PIL.Image.new("L", (900, 120), 255)
    font = PIL.ImageFont.load_default(size=48)
    PIL.ImageDraw.Draw(head).text((20, 30), "North Coast Trading", font=font, fill=0)
    head.save(letterhead)
    PIL.Image.effect_noise((60, 80), 90).resize((240, 320)).save(photo)
    pdf = pypdfium2.PdfDocument.new()
    for number in range(pages):
        page = pdf.new_page(595, 842)
        words = random.Random(number).choices(_WORDS.split(), k=_WORDS_A_PAGE)  # noqa: S311 -- test data
        for at, line in enumerate(textwrap.wrap(" ".join(words), _LINE)):
            drawn = pdfium.FPDFPageObj_NewTextObj(pdf, b"Helvetica", 9.0)
            said = (line + "\0").encode("utf-16-le")
            units = (ctypes.c_ushort * (len(said) // 2)).from_buffer_copy(said)
            pdfium.FPDFText_SetText(drawn, units)
            pdfium.FPDFPageObj_Transform(drawn, 1, 0, 0, 1, 50, 700 - 12 * at)
            pdfium.FPDFPage_InsertObject(page, drawn)
        for picture, box in ((letterhead, (216, 29)), (photo, (60, 80))):
            image = pypdfium2.PdfImage.new(pdf)
            image.load_jpeg(picture, inline=True)
            place = pypdfium2.PdfMatrix().scale(*box).translate(2 * box[0], 740)
            image.set_matrix(place)
            page.insert_obj(image)
        page.gen_content()
        page.close()
    path = folder / "letter.pdf"
    pdf.save(path)
    pdf.close()
    return path


def _page(number: int) -> PIL.Image.Image:
    words = random.Random(number).choices(_WORDS.split(), k=_WORDS_A_PAGE)  # noqa: S311 -- test data
    page = PIL.Image.new("L", _SIZE, 255)
    PIL.ImageDraw.Draw(page).multiline_text(
        (220, 260),
        textwrap.fill(" ".join(words), _LINE),
        font=PIL.ImageFont.load_default(size=44),
        fill=0,
        spacing=18,
    )
    askew = page.rotate(2 * (number % 2), PIL.Image.Resampling.BICUBIC, fillcolor=255)
    return askew.rotate(180 * (number // 2 % 2))
