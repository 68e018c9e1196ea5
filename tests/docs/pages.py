"""Reads the documentation as tests see it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "asyncflow"


def page(name: str) -> str:
    """Return the text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def rows(name: str) -> list[tuple[str, ...]]:
    """Return the rows of all tables of a page, as cells; heads are left out."""
    return [
        tuple(cell.strip() for cell in line.strip("|").split(" | "))
        for line in page(name).splitlines()
        if line.startswith("| `")
    ]


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def all_pages() -> list[Path]:
    """Return every page, the readme and the guide for contributors included."""
    built = DOCS / "_build"
    pages = [p for p in DOCS.rglob("*.md") if built not in p.parents]
    return [*pages, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
