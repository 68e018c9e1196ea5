"""Make one folder that holds asyncflow, Python and every library, and try it.

    python packaging/freeze.py [FOLDER]

builds in an environment of its own and leaves the result in FOLDER (`dist/asyncflow`).
Copy that folder to any Linux with the same or a newer C library, and run `asyncflow` in
it; nothing else is needed there. The result is put to work before this ends.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WITHIN_S = 60.0
FINAL = {"COMPLETED", "FAILED", "REJECTED", "CANCELLED"}
#: draws the page that is tried; Pillow is in the environment that builds
SCAN = """
from PIL import Image, ImageDraw, ImageFont
page = Image.new("L", (1240, 500), 255)
font = ImageFont.load_default(60)
ImageDraw.Draw(page).text((80, 100), "Resumable uploads for everybody", 0, font)
page.save(__import__("sys").argv[1], dpi=(150, 150))
"""


def main() -> None:
    """Build and try."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist" / "asyncflow"
    target = Path(wanted).absolute()
    with tempfile.TemporaryDirectory(prefix="asyncflow-freeze-") as name:
        folder = Path(name)
        python = environment(folder)
        made = freeze(python, folder)
        # elsewhere: what only works where it was built must not pass
        moved = folder / "moved" / "asyncflow"
        shutil.copytree(made, moved, symlinks=True)
        shutil.rmtree(made)
        subprocess.run([python, "-c", SCAN, folder / "scan.png"], check=True)
        shutil.rmtree(folder / "venv")
        try_out(moved / "asyncflow", folder)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(moved, target, symlinks=True)
    say(f"it works: {target}")


def environment(folder: Path) -> Path:
    """Return the Python of an environment with asyncflow and PyInstaller."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *pins, str(ROOT), "pyinstaller>=6.16"], check=True)
    return python


def freeze(python: Path, folder: Path) -> Path:
    """Return the folder that PyInstaller made."""
    collected = [
        # modules as files beside the libraries: a confined worker may read those, but
        # not the program file, in which they would lie otherwise
        *("--debug", "noarchive"),
        *("--collect-data", "asyncflow"),  # page, SQL
        *("--collect-submodules", "asyncflow"),  # commands and processors come by name
        *("--collect-all", "magic"),  # libmagic and its database
        *("--collect-all", "pyvips"),
        *("--copy-metadata", "asyncflow-server"),
        *("--add-data", f"{folder / 'venv' / 'share' / 'tessdata'}:share/tessdata"),
    ]
    for module in ("_libvips", "tesserocr", "pypdfium2", "pytesseract", "uvloop"):
        collected += ["--hidden-import", module]
    places = ["--distpath", "dist", "--workpath", "work", "--specpath", "."]
    subprocess.run(
        [
            *(python, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"),
            *("--name", "asyncflow", *places, *collected),
            ROOT / "asyncflow" / "__main__.py",
        ],
        cwd=folder,
        check=True,
    )
    return folder / "dist" / "asyncflow"


def try_out(program: Path, folder: Path) -> None:
    """Serve with an empty environment, and want the page, a thumbnail and a text."""
    with serving(program, folder) as url:
        if b"<html" not in ask(f"{url}/"):
            sys.exit("the page is not there")
        missing = [
            one
            for one in json.loads(ask(f"{url}/capabilities"))["processors"]
            if one.get("missingTool")
        ]
        if missing:
            sys.exit(f"these miss something: {missing}")
        scan = (folder / "scan.png").read_bytes()
        job = json.loads(ask(f"{url}/upload/scan.png", scan))["jobId"]
        found = finished(url, job)
        links = found["downloadUrls"]
        if found["status"] != "COMPLETED" or not ask(url + links["thumbnail"]):
            sys.exit(f"the picture was not processed: {found}")
        if b"Resumable uploads" not in ask(url + links["text"]):
            sys.exit("the text was not read")


@contextmanager
def serving(program: Path, folder: Path) -> Iterator[str]:
    """Run the frozen server and give its address."""
    argv = [str(program), "serve", "--port", "0", "--fill-level", "100"]
    argv += ["--data-dir", str(folder / "data")]
    with subprocess.Popen(
        argv, env={}, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None  # noqa: S101 -- PIPE was asked for
            found = re.search(r"listens on (\S+)", server.stdout.readline())
            if found is None:
                sys.exit("it does not start")
            yield found[1]
        finally:
            server.terminate()
    if server.returncode:
        sys.exit(f"it did not stop cleanly: exit code {server.returncode}")


def finished(url: str, job: str) -> dict[str, Any]:
    """Return the job once it is over."""
    end = time.monotonic() + WITHIN_S
    while (found := json.loads(ask(f"{url}/status/{job}")))["status"] not in FINAL:
        if time.monotonic() > end:
            sys.exit(f"not over within {WITHIN_S:.0f} s: {found}")
        time.sleep(0.1)
    whole: dict[str, Any] = found
    return whole


def ask(url: str, body: bytes | None = None) -> bytes:
    """Return what the server answers to a GET, or to a PUT of *body*."""
    method = "GET" if body is None else "PUT"
    request = urllib.request.Request(url, body, method=method)  # noqa: S310 -- ours
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 -- ours
        content: bytes = answer.read()
        return content


def say(text: str) -> None:
    """Tell the person who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
