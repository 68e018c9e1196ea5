"""How Sphinx builds these pages: `./run docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import asyncflow  # noqa: E402 -- found by the line above

project = "asyncflow"
author = "asyncflow contributors"
project_copyright = "2026, asyncflow contributors"
version = release = asyncflow.__version__

extensions = ["myst_parser", "generated"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"asyncflow {release}"
html_copy_source = False
html_show_sphinx = False
