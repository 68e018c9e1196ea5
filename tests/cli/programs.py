"""How the tests of commands run them as programs, and read what these print."""

import json
import os
import sys
from typing import Any

ARGV = [sys.executable, "-m", "asyncflow"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(sys.path), **more}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
