"""How the tests of text read a file, and what of it they look at."""

import json
from pathlib import Path
from typing import Any

from asyncflow.processors.text import text
from asyncflow.testing.processor import Ran, run_processor


def read(path: Path, *, attempt: int = 1, **options: object) -> Ran:
    """Read a PDF in this process."""
    kind = "application/pdf"
    return run_processor(text, path, media_type=kind, options=options, attempt=attempt)


def words_of(ran: Ran) -> list[str]:
    """Return the words of the text."""
    return ran.files["text"].read_text().split()


def page_of(ran: Ran) -> dict[str, Any]:
    """Return what is known of the first page."""
    found: dict[str, Any] = json.loads(ran.files["textJson"].read_text())["pages"][0]
    return found
