"""Programs as people write them, run as programs of their own."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncflow.processes import tree
from tests.docs.pages import ROOT
from tests.web.live import until

#: no `if __name__ == "__main__"`: a worker that ran this again would start servers
UNGUARDED = """
from pathlib import Path
from aiohttp import web
import asyncflow

print("the script runs", flush=True)
settings = asyncflow.Settings(data_dir=Path("data"), workers=1, fill_level=100)
app = asyncflow.create_app(settings)
web.run_app(app, host="127.0.0.1", port=0)
"""


@contextmanager
def running(script: Path, folder: Path, **env: str) -> Iterator[tuple[str, int]]:
    """Run a script until it says where it listens; yield its address and process."""
    said = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=folder,
            env={**said, **env},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"http://[^ )]+", line)
            if found:
                yield found[0], process.pid
                break
        else:
            raise AssertionError((folder / "log").read_text()[-3000:])
        family = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        rest = process.stdout.read()
        assert "the script runs" not in rest
        until(lambda: not any(map(is_alive, family)))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has buried yet does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def fetch(url: str) -> bytes:
    """Return what the program answers."""
    with urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310 -- our own
        return bytes(page.read())


def client(*arguments: str, url: str, folder: Path) -> str:
    """Run our command against the program's server; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ASYNCFLOW_URL": url,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(UNGUARDED)
    (tmp_path / "notes.txt").write_text("some notes")
    with running(script, tmp_path) as (url, _pid):
        said = client("upload", "--wait", "notes.txt", url=url, folder=tmp_path)
        assert "COMPLETED" in said
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_example_of_a_host_application_works(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes")
    script = ROOT / "examples" / "embed_in_aiohttp_app.py"
    with running(script, tmp_path, PORT="0", DATA=str(tmp_path / "data")) as (url, _):
        assert b"Sign in" in fetch(url)
        arguments = ("upload", "--wait", "--token", "anna", "notes.txt")
        said = client(*arguments, url=f"{url}/uploads", folder=tmp_path)
        assert "COMPLETED" in said
        assert until(lambda: fetch(f"{url}/ready")) == b"notes.txt of anna\n"


def test_a_person_signs_in_at_the_example_and_is_at_the_uploads(tmp_path: Path) -> None:
    script = ROOT / "examples" / "embed_in_aiohttp_app.py"
    with running(script, tmp_path, PORT="0", DATA=str(tmp_path / "data")) as (url, _):
        jar = urllib.request.HTTPCookieProcessor()
        browser = urllib.request.build_opener(jar)
        browser.addheaders = [("Accept", "text/html")]
        # whoever opens the page is brought to where they sign in
        assert b"Sign in" in browser.open(f"{url}/uploads/", timeout=10).read()
        wrong = b"name=anna&password=bert"
        assert b"Sign in" in browser.open(f"{url}/sign-in", wrong, timeout=10).read()

        right = b"name=anna&password=anna"
        page = browser.open(f"{url}/sign-in", right, timeout=10)

        assert page.url == f"{url}/uploads/"
        assert b"asyncflow" in page.read()
