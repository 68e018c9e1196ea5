import json
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import structlog
from asyncflow import logs

logs.configure(level="info", as_json=sys.argv[1] == "json")

def fail() -> None:
    secret = "a token" + " in a variable"
    raise ValueError("what went wrong")

try:
    fail()
except ValueError:
    structlog.get_logger().exception("it.failed")
"""


def logged(form: str) -> str:
    command = [sys.executable, "-c", SCRIPT, form]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30
    ).stderr


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_tells_where_but_no_local_variables(form: str) -> None:
    text = logged(form)
    assert "what went wrong" in text
    assert "fail" in text
    assert "a token in a variable" not in text


def test_an_event_is_one_line_of_json() -> None:
    (line,) = logged("json").splitlines()
    assert json.loads(line)["event"] == "it.failed"
