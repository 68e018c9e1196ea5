"""What the upload page says when the server does not know it any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.browser.test_upload_page import KEPT
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

TOLD = "This needs the server's token. Reload the page to go on; what was sent is kept."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    settings = {"workers": "1", "token": "one-of-our-own"}
    with serving(tmp_path / "data", **settings) as server:
        yield server


@pytest.fixture
def visitor(browser: Browser, server: ServerProcess) -> Iterator[Visitor]:
    with visiting(browser, server.url) as visitor:
        visitor.open("/?token=one-of-our-own")
        yield visitor
        unknown = ("401", "WebSocket connection")
        visitor.troubles[:] = [
            one for one in visitor.troubles if not any(word in one for word in unknown)
        ]


def test_jobs_of_which_nothing_is_told_any_more_say_why(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    page = visitor.page
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/ws*", connect)
    as_operator(server, "/admin/consumers/text/pause")
    visitor.give(letter(tmp_path / "slow.pdf", "Words"))
    visitor.wait("slow.pdf", "PROCESSING")
    known = visitor.context.cookies()
    visitor.context.clear_cookies()
    sockets[0].close()
    barred = page.locator(".barred")
    expect(barred).to_have_text(TOLD)
    expect(page.locator("p.live")).to_contain_text(TOLD)
    assert visitor.violations() == []

    visitor.context.add_cookies(known)  # type: ignore[arg-type]  # what it gave
    as_operator(server, "/admin/consumers/text/resume")
    visitor.wait("slow.pdf", "COMPLETED")
    expect(barred).to_be_hidden()


def test_an_upload_without_the_token_goes_on_with_it(
    visitor: Visitor, tmp_path: Path
) -> None:
    held = Held(visitor.page, "PATCH")
    file = photo(tmp_path / "half.jpg")
    visitor.give(file)
    visitor.until(lambda: bool(held.routes))
    job = visitor.page.evaluate(f"{KEPT}[0].id")
    known = visitor.context.cookies()
    visitor.context.clear_cookies()
    held.release()
    card = visitor.wait("half.jpg", "refused")
    expect(card.locator(".problem")).to_have_text("This needs the server's token.")
    visitor.context.add_cookies(known)  # type: ignore[arg-type]  # what it gave
    visitor.page.reload()
    asks = visitor.page.get_by_label("Choose the file: half.jpg")
    asks.set_input_files(file)
    visitor.wait("half.jpg", "COMPLETED")
    assert visitor.page.evaluate(f"{KEPT}[0].id") == job
