"""Attributes of the element that a page sets anew while somebody uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.browser.test_embedding import TOKEN, example, site
from tests.browser.visitor import (
    Held,
    Visitor,
    as_operator,
    letter,
    photo,
    visiting,
)
from tests.server_process import ServerProcess, serving

pytestmark = pytest.mark.needs("chromium")

SET = """attributes => {
  const element = document.querySelector("asyncflow-uploader");
  Object.entries(attributes).forEach((one) => element.setAttribute(...one));
}"""
NOBODY = "http://127.0.0.1:1/"


@contextmanager
def embedded(
    browser: Browser, folder: Path, **attributes: str
) -> Iterator[tuple[Visitor, ServerProcess]]:
    """Open another site's page with the element; its server demands a token."""
    (folder / "site").mkdir()
    with site(folder / "site") as elsewhere:
        settings = {"workers": "1", "allowed_origins": elsewhere, "token": TOKEN}
        with serving(folder / "data", **settings) as server:
            page = example(server.url, **attributes)
            (folder / "site" / "index.html").write_text(page)
            with visiting(browser, elsewhere) as visitor:
                visitor.page.goto(elsewhere)
                yield visitor, server
                visitor.addresses.clear()
                expected = ("401", "WebSocket", "ERR_CONNECTION_REFUSED", "ERR_UNSAFE")
                visitor.troubles[:] = [
                    one
                    for one in visitor.troubles
                    if not any(word in one for word in expected)
                ]


def test_what_waits_for_a_token_goes_on_with_a_new_one(
    browser: Browser, tmp_path: Path
) -> None:
    with embedded(browser, tmp_path, token="an-old-one") as (visitor, server):
        page = visitor.page
        sockets: list[WebSocketRoute] = []

        def connect(socket: WebSocketRoute) -> None:
            socket.connect_to_server()
            sockets.append(socket)

        page.route_web_socket("**/ws*", connect)
        visitor.give(photo(tmp_path / "early.jpg"))
        visitor.wait("early.jpg", "refused")
        limits = page.locator(".limits")
        expect(limits).to_contain_text("token")

        page.evaluate(SET, {"token": TOKEN})
        visitor.wait("early.jpg", "COMPLETED")
        expect(limits).to_contain_text("Up to")

        as_operator(server, "/admin/consumers/text/pause")
        visitor.give(letter(tmp_path / "slow.pdf", "Words"))
        visitor.wait("slow.pdf", "PROCESSING")
        page.evaluate(SET, {"token": "expired"})
        sockets[-1].close()
        barred = page.locator(".barred")
        expect(barred).to_contain_text("token")
        page.evaluate(SET, {"token": TOKEN})
        expect(barred).to_be_hidden()
        as_operator(server, "/admin/consumers/text/resume")
        card = visitor.wait("slow.pdf", "COMPLETED")
        with page.expect_download():
            card.get_by_role("link", name="Text", exact=True).click()


def test_another_endpoint_has_its_own_list_and_hears_no_other_token(
    browser: Browser, tmp_path: Path
) -> None:
    told: list[str] = []
    with embedded(browser, tmp_path, token="not-for-others") as (visitor, server):
        page = visitor.page
        page.on(
            "request",
            lambda one: told.append(f"{one.url} {one.headers.get('authorization')}"),
        )
        page.evaluate(SET, {"endpoint": NOBODY, "token": "for-nobody"})
        limits = page.locator(".limits")
        expect(limits).to_contain_text("cannot be reached")

        page.evaluate(SET, {"endpoint": f"{server.url}/", "token": TOKEN})
        expect(limits).to_contain_text("Up to")
        visitor.give(photo(tmp_path / "photo.jpg"))
        visitor.wait("photo.jpg", "COMPLETED")
        page.evaluate(SET, {"endpoint": NOBODY, "token": "for-nobody"})
        expect(page.locator("li.card")).to_have_count(0)
        page.evaluate(SET, {"endpoint": f"{server.url}/", "token": TOKEN})
        visitor.wait("photo.jpg", "COMPLETED")
        assert [one for one in told if one.startswith(NOBODY) and TOKEN in one] == []
        assert [one for one in told if server.url in one and "for-nobody" in one] == []


WRONG = "This is not the server's token."


def test_a_cancel_that_was_refused_for_want_of_the_token_goes_on_with_a_new_one(
    browser: Browser, tmp_path: Path
) -> None:
    with embedded(browser, tmp_path, token=TOKEN) as (visitor, server):
        page = visitor.page
        held = Held(page, "PATCH")
        visitor.give(photo(tmp_path / "half.jpg"))
        visitor.until(lambda: bool(held.routes))
        job = held.routes[0].request.url.rpartition("/")[2]
        page.evaluate(SET, {"token": "expired"})
        page.get_by_role("button", name="Cancel: half.jpg").click()
        card = visitor.card("half.jpg")
        expect(card.locator(".problem")).to_have_text(WRONG)
        # whoever does something else meanwhile is not called back
        page.evaluate("document.activeElement.blur()")

        page.evaluate(SET, {"token": TOKEN})

        expect(card).to_have_count(0)
        assert page.evaluate("document.activeElement.localName") == "body"
        bearer = f"Bearer {TOKEN}"
        found = server.request("GET", f"/status/{job}", Authorization=bearer)
        assert found.json["status"] == "CANCELLED"


def test_a_cancel_of_a_job_goes_on_with_a_new_token_and_a_deletion_does_not(
    browser: Browser, tmp_path: Path
) -> None:
    with embedded(browser, tmp_path, token=TOKEN) as (visitor, server):
        page = visitor.page
        as_operator(server, "/admin/consumers/text/pause")
        visitor.give(letter(tmp_path / "slow.pdf", "Words"))
        slow = visitor.wait("slow.pdf", "PROCESSING")
        slow.get_by_role("button", name="Cancel: slow.pdf").click()
        done = visitor.wait("slow.pdf", "CANCELLED")
        visitor.give(letter(tmp_path / "slower.pdf", "More words"))
        slower = visitor.wait("slower.pdf", "PROCESSING")
        page.evaluate(SET, {"token": "expired"})
        slower.get_by_role("button", name="Cancel: slower.pdf").click()
        done.get_by_role("button", name="Delete: slow.pdf").click()
        done.get_by_role("button", name="Delete for good: slow.pdf").click()
        for card in (slower, done):
            expect(card.locator(".problem")).to_have_text(WRONG)

        page.evaluate(SET, {"token": TOKEN})

        visitor.wait("slower.pdf", "CANCELLED")
        expect(done.locator(".problem")).not_to_have_text(WRONG)
        expect(done.get_by_role("button", name="Delete for good")).to_be_visible()


def test_an_upload_that_goes_on_with_a_bad_token_says_so_in_words(
    browser: Browser, tmp_path: Path
) -> None:
    with embedded(browser, tmp_path, token=TOKEN) as (visitor, _server):
        page = visitor.page
        held = Held(page, "PATCH")
        visitor.give(photo(tmp_path / "half.jpg"))
        visitor.until(lambda: bool(held.routes))
        page.get_by_role("button", name="Pause: half.jpg").click()
        held.release()
        page.evaluate(SET, {"token": "expired"})
        page.get_by_role("button", name="Resume: half.jpg").click()
        card = visitor.wait("half.jpg", "refused")
        said = "The server's token is missing, or it is another one."
        expect(card.locator(".problem")).to_have_text(said)

        page.evaluate(SET, {"token": TOKEN})

        visitor.wait("half.jpg", "COMPLETED")
