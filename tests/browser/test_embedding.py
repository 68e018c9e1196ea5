"""The element in a page of somebody else's site, as docs/howto describes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import chromium, photo, visiting
from tests.docs.pages import blocks, page as read
from tests.server_process import serving

pytestmark = pytest.mark.needs("chromium")

EXAMPLE = "https://files.example.org"
TOKEN = "only-for-this-test"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        """Say nothing."""


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve *folder* as another site."""
    handler = partial(Quiet, directory=str(folder))
    # browsers ask for it unasked
    (folder / "favicon.ico").touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def example(url: str, **attributes: str) -> str:
    """Return the page of the guide, for the server at *url*."""
    (text,) = blocks(read("howto/embed-the-uploader.md"), "html")
    more = "".join(f' {name}="{value}"' for name, value in attributes.items())
    whole = text.replace(EXAMPLE, url).replace(
        "<asyncflow-uploader", f"<asyncflow-uploader{more}"
    )
    assert whole.count(url) >= 2
    return whole


@pytest.mark.parametrize("needs_token", [False, True])
def test_the_example_of_the_guide_works_from_another_origin(
    browser: Browser,
    tmp_path: Path,
    needs_token: bool,  # noqa: FBT001 -- a table of two
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    with site(folder) as elsewhere:
        settings = {"workers": "1", "allowed_origins": elsewhere}
        if needs_token:
            settings["token"] = TOKEN
        with serving(tmp_path / "data", **settings) as server:
            more = {"token": TOKEN} if needs_token else {}
            (folder / "index.html").write_text(example(server.url, **more))
            with visiting(browser, elsewhere) as visitor:
                visitor.open("/")
                expect(visitor.page.locator(".limits")).to_contain_text("Up to")
                visitor.give(photo(tmp_path / "guest.jpg"))
                card = visitor.wait("guest.jpg", "COMPLETED")
                picture = card.locator("img.picture")
                expect(picture).to_have_js_property("naturalWidth", 200)
                styled = visitor.page.locator("label.main")
                expect(styled).to_have_css("cursor", "pointer")
                expect(visitor.page.locator("#thanks")).to_contain_text("guest.jpg")
                with visitor.page.expect_download() as download:
                    card.get_by_role("link", name="Medium").click()
                assert download.value.suggested_filename.startswith("guest-medium.")
                assert visitor.addresses
                asked = {
                    one for one in visitor.addresses if not one.startswith(server.url)
                }
                assert asked == set()
                visitor.addresses.clear()


def test_a_site_that_is_not_listed_gets_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    with (
        site(folder) as elsewhere,
        serving(tmp_path / "data", workers="1") as server,
        visiting(browser, elsewhere) as visitor,
    ):
        (folder / "index.html").write_text(example(server.url))
        visitor.page.goto(elsewhere)
        visitor.until(lambda: bool(visitor.troubles))
        assert "CORS" in visitor.troubles[0]
        assert visitor.page.locator("input").count() == 0
        visitor.troubles.clear()
        visitor.addresses.clear()


def test_the_element_keeps_the_methods_that_every_element_has(
    browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    with site(folder) as elsewhere:
        settings = {"workers": "1", "allowed_origins": elsewhere}
        with (
            serving(tmp_path / "data", **settings) as server,
            visiting(browser, elsewhere) as visitor,
        ):
            (folder / "index.html").write_text(example(server.url))
            visitor.open("/")
            expect(visitor.page.locator(".limits")).to_contain_text("Up to")
            own = visitor.page.evaluate(OWN)
            assert own == [
                "attributeChangedCallback",
                "connectedCallback",
                "constructor",
                "disconnectedCallback",
            ]
            visitor.page.evaluate(
                "document.querySelector('asyncflow-uploader').remove()"
            )
            expect(visitor.page.locator("asyncflow-uploader")).to_have_count(0)
            visitor.addresses.clear()


OWN = """() => {
  const element = document.querySelector("asyncflow-uploader");
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(element));
  return [...names, ...Object.getOwnPropertyNames(element)].sort();
}"""
