"""The upload page where something in between takes what it asks and says nothing."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.between import Between, between
from tests.browser.test_upload_page import KEPT
from tests.browser.visitor import (
    SCHEMES,
    Visitor,
    as_operator,
    letter,
    photo,
    visiting,
)
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


@pytest.mark.parametrize("way", ["/ws", "/events"])
def test_what_falls_silent_after_it_has_spoken_is_asked_for_anew(
    browser: Browser, server: ServerProcess, tmp_path: Path, way: str
) -> None:
    port = int(server.url.rpartition(":")[2])
    as_operator(server, "/admin/consumers/text/pause")
    try:
        with (
            between(port, swallow="^$" if way == "/ws" else SOCKET) as router,
            visiting(browser, router.url) as visitor,
        ):
            clock = visitor.page.clock
            clock.install()
            visitor.open()
            visitor.give(letter(tmp_path / "words.pdf", "Words"))
            card = visitor.wait("words.pdf", "PROCESSING")
            follow(visitor, router, way)

            router.forget()
            as_operator(server, "/admin/consumers/text/resume")
            job = visitor.page.evaluate(f"{KEPT}[0].id")
            assert server.finished(job)["status"] == "COMPLETED"
            expect(card).to_be_visible()
            clock.fast_forward(45_000)

            visitor.wait("words.pdf", "COMPLETED")
            drop_socket_troubles(visitor.troubles)
    finally:
        as_operator(server, "/admin/consumers/text/resume")


def follow(visitor: Visitor, router: Between, way: str) -> None:
    """Let the page follow a job in one way, and have heard of it."""

    def is_carried() -> bool:
        visitor.page.clock.fast_forward(1_000)
        return any(way in path for path in router.carried.values())

    asked: list[str] = []

    def hears() -> bool:
        asked.clear()
        visitor.page.clock.run_for(3_000)
        return asked == []

    visitor.until(is_carried)
    visitor.page.on("request", lambda one: asked.append(one.url))
    # while it hears nothing, it polls
    visitor.until(hears)


def test_a_socket_on_which_nothing_happens_but_that_speaks_is_kept(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    page, sockets = visitor.page, []

    def connect(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/ws*", connect)
    page.clock.install()
    as_operator(server, "/admin/consumers/text/pause")
    try:
        visitor.open()
        visitor.give(letter(tmp_path / "words.pdf", "Words"))
        visitor.wait("words.pdf", "PROCESSING")
        for _ in range(4):
            sockets[0].send('{"type":"alive"}')
            page.clock.run_for(20_000)
        assert len(sockets) == 1
    finally:
        as_operator(server, "/admin/consumers/text/resume")
    visitor.wait("words.pdf", "COMPLETED")
    assert len(sockets) == 1


@contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """Let a server do nothing: its kernel still takes what it is sent."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def test_the_admin_page_says_since_when_nobody_answers(
    operator: Visitor, server: ServerProcess
) -> None:
    server.finished(server.upload("note.txt", b"hello"))
    page = operator.page
    page.clock.install()
    page.reload()
    ready, trouble = page.locator("#ready"), page.locator("#trouble")
    expect(ready).to_have_text("ready")
    expect(page.locator("#jobs li")).not_to_have_count(0)
    with stopped(server):
        # it asks every two seconds, and waits for ten
        for _ in range(3):
            page.clock.run_for(4_000)
        expect(ready).to_have_text(re.compile("^no answer since .*[0-9]"))
        said = "The server does not answer. What is shown below is from then."
        expect(trouble).to_have_text(said)
        since = ready.text_content()
        stale = page.locator("#now dd").first
        now = "one => getComputedStyle(one).color"
        greyed = stale.evaluate(now)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert operator.violations() == []
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        page.clock.run_for(13_000)
        # an alert that stays the same is said once
        expect(ready).to_have_text(since or "")
    page.clock.run_for(3_000)
    expect(ready).to_have_text("ready")
    expect(trouble).to_have_text("")
    assert stale.evaluate(now) != greyed


def test_a_button_over_a_silent_network_says_that_nobody_answers(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.page.clock.install()
    visitor.open()
    visitor.give(photo(tmp_path / "sea.jpg"))
    card = visitor.wait("sea.jpg", "COMPLETED")
    really = card.get_by_role("button", name="Delete for good: sea.jpg")
    card.get_by_role("button", name="Delete: sea.jpg").click()
    with stopped(server):
        really.click()
        visitor.page.clock.run_for(10_000)
        silent = "The server does not answer."
        expect(card.locator(".problem")).to_have_text(silent)
        expect(visitor.page.locator("p.live")).to_contain_text(f"sea.jpg: {silent}")
    really.click()
    expect(visitor.page.locator("li.card")).to_have_count(0)
    # what was asked for first has arrived after all
    visitor.troubles[:] = [one for one in visitor.troubles if "404" not in one]


def drop_socket_troubles(troubles: list[str]) -> None:
    """Forget what a browser says of a socket that was given up."""
    troubles[:] = [one for one in troubles if "WebSocket" not in one]
