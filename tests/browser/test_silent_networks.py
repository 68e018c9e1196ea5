"""The upload page where something in between takes what it asks and says nothing."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.between import between
from tests.browser.visitor import as_operator, letter, photo, visiting
from tests.server_process import ServerProcess

pytestmark = pytest.mark.needs("chromium")

SOCKET = r"^/ws"
STREAM = r"/events$"


@pytest.mark.parametrize("swallow", [SOCKET, f"{SOCKET}|{STREAM}"])
def test_a_connection_that_is_swallowed_holds_up_no_job(
    browser: Browser, server: ServerProcess, tmp_path: Path, swallow: str
) -> None:
    port = int(server.url.rpartition(":")[2])
    with (
        between(port, swallow=swallow) as silent,
        visiting(browser, silent.url) as visitor,
    ):
        visitor.open()
        files = [photo(tmp_path / f"{n}.jpg", seed=n) for n in range(4)]
        visitor.give(*files)
        for file in files:
            visitor.wait(file.name, "COMPLETED")
        assert any(path.startswith("/ws") for path in silent.met)
        drop_socket_troubles(visitor.troubles)


def test_a_socket_that_opens_and_says_nothing_is_left_for_a_stream(
    browser: Browser, server: ServerProcess, tmp_path: Path
) -> None:
    port = int(server.url.rpartition(":")[2])
    as_operator(server, "/admin/consumers/text/pause")
    try:
        with (
            between(port, mute=SOCKET) as silent,
            visiting(browser, silent.url) as visitor,
        ):
            visitor.open()
            with visitor.page.expect_response("**/events"):
                visitor.give(letter(tmp_path / "words.pdf", "Words"))
            visitor.wait("words.pdf", "PROCESSING")
            as_operator(server, "/admin/consumers/text/resume")
            visitor.wait("words.pdf", "COMPLETED")
            assert silent.met
            drop_socket_troubles(visitor.troubles)
    finally:
        as_operator(server, "/admin/consumers/text/resume")


def drop_socket_troubles(troubles: list[str]) -> None:
    """Forget what a browser says of a socket that was given up."""
    troubles[:] = [one for one in troubles if "WebSocket" not in one]
