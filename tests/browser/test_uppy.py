"""Uppy in a page of another origin, as many sites have it."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.test_embedding import site
from tests.browser.visitor import Visitor, chromium, visiting
from tests.conftest import ROOT
from tests.server_process import ServerProcess, serving

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]

INSTALL_S = 100
SIZE = 3_000_000
CHUNK = {"chunkSize": 300_000}


def content(name: str) -> bytes:
    return bytes((n * 31 + len(name)) & 255 for n in range(SIZE))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the page outside the repository and serve it."""
    folder = tmp_path_factory.mktemp("uppy")
    for name in ("package.json", "page.js"):
        shutil.copy(ROOT / "tests" / "js" / "uppy" / name, folder)
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    for command in (
        ["npm", "install", *quiet],
        ["node_modules/.bin/esbuild", "page.js", "--bundle", "--outfile=www/page.js"],
    ):
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S
        )
    page = (
        '<!doctype html><html lang="en"><title>x</title><script src="page.js"></script>'
    )
    (folder / "www" / "index.html").write_text(page)
    with site(folder / "www") as url:
        yield url


@pytest.fixture(scope="module")
def server(
    pages: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder / "data", allowed_origins=pages, workers="1") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visitor(browser: Browser, pages: str, server: ServerProcess) -> Iterator[Visitor]:
    with visiting(browser, pages) as found:
        found.page.goto(pages)
        yield found
        # what the network cut, the console says
        found.troubles[:] = [one for one in found.troubles if "ERR_" not in one]
        found.addresses = {
            one for one in found.addresses if not one.startswith(server.url)
        }


def begin(visitor: Visitor, server: ServerProcess, *names: str, **options: Any) -> None:
    visitor.page.evaluate(
        "([where, names, options]) => uploads.begin(where, names, options)",
        [f"{server.url}/files/", list(names), options],
    )


def end(visitor: Visitor, server: ServerProcess, *names: str) -> None:
    """Wait for the end, and compare what the server has."""
    result = visitor.page.evaluate("uploads.end()")
    assert result["failed"] == []
    jobs = [str(url).rpartition("/")[2] for url in result["urls"]]
    found = {server.finished(job)["fileName"]: job for job in jobs}
    assert set(found) == set(names)
    for name, job in found.items():
        kept = server.request("GET", f"/jobs/{job}/files/original").body
        assert kept == content(name)


def half_sent(visitor: Visitor) -> None:
    visitor.until(lambda: visitor.page.evaluate("uploads.sent()") > SIZE // 4)


def heard(visitor: Visitor) -> list[str]:
    return [str(one) for one in visitor.page.evaluate("uploads.heard")]


def test_one_file_is_uploaded(visitor: Visitor, server: ServerProcess) -> None:
    begin(visitor, server, "one.bin")

    end(visitor, server, "one.bin")


def test_several_files_are_uploaded_in_chunks(
    visitor: Visitor, server: ServerProcess
) -> None:
    names = ("a.bin", "bb.bin", "ccc.bin")
    begin(visitor, server, *names, **CHUNK)

    end(visitor, server, *names)
    assert len([one for one in heard(visitor) if one.startswith("PATCH")]) >= 30


def test_an_upload_is_paused_and_goes_on(
    visitor: Visitor, server: ServerProcess
) -> None:
    visitor.slow(2_000_000)
    begin(visitor, server, "pause.bin", **CHUNK)
    half_sent(visitor)
    visitor.page.evaluate("uploads.pause()")
    visitor.page.wait_for_timeout(300)
    visitor.page.evaluate("uploads.resume()")

    end(visitor, server, "pause.bin")
    # it asked where the server is
    assert "HEAD" in heard(visitor)


def test_an_upload_goes_on_after_a_reload(
    visitor: Visitor, server: ServerProcess
) -> None:
    visitor.slow(2_000_000)
    begin(visitor, server, "reload.bin", **CHUNK)
    half_sent(visitor)
    visitor.page.reload()
    begin(visitor, server, "reload.bin", **CHUNK)

    end(visitor, server, "reload.bin")
    first, second = heard(visitor)[:2]
    assert first == "HEAD"
    assert second.startswith("PATCH ")
    assert second != "PATCH 0"


def test_an_upload_outlives_a_cut_of_the_network(
    visitor: Visitor, server: ServerProcess
) -> None:
    visitor.slow(2_000_000)
    begin(visitor, server, "cut.bin", **CHUNK)
    half_sent(visitor)
    visitor.context.set_offline(True)
    visitor.page.wait_for_timeout(500)
    visitor.context.set_offline(False)

    end(visitor, server, "cut.bin")
