"""Elements that share a page, and elements that are taken out of one."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from tests.browser.test_embedding import site
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

PASTE = """(where) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File(["words"], "paste.txt", { type: "text/plain" }));
  const options = { bubbles: true, composed: true, cancelable: true };
  document.querySelector(where)
    .dispatchEvent(new ClipboardEvent("paste", { clipboardData, ...options }));
}"""
DROP = """(where) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["words"], "drop.txt", { type: "text/plain" }));
  const options = { bubbles: true, composed: true, cancelable: true };
  const host = document.querySelector(where);
  host.shadowRoot.querySelector(".drop")
    .dispatchEvent(new DragEvent("drop", { dataTransfer, ...options }));
}"""
TAKE_OUT = "window.one = document.querySelector('asyncflow-uploader'); one.remove()"
PUT_BACK = "document.body.append(window.one)"
ANOTHER = "document.body.append(document.createElement('asyncflow-uploader'))"


@contextmanager
def page_with(
    browser: Browser, folder: Path, *elements: str
) -> Iterator[tuple[Visitor, ServerProcess]]:
    """Open a page of another site that holds *elements*."""
    (folder / "site").mkdir()
    with site(folder / "site") as elsewhere:
        settings = {"workers": "1", "allowed_origins": elsewhere}
        with serving(folder / "data", **settings) as server:
            script = f'<script type="module" src="{server.url}/assets/uploader.js">'
            (folder / "site" / "index.html").write_text(
                f"<!doctype html>{script}</script>{''.join(elements)}"
            )
            with visiting(browser, elsewhere) as visitor:
                visitor.page.goto(elsewhere)
                visitor.page.locator("input.files").nth(len(elements) - 1).wait_for(
                    state="attached"
                )
                yield visitor, server
                visitor.addresses.clear()


def names(page: Page, element: str) -> list[str]:
    return page.locator(f"{element} h2.name").all_text_contents()


def test_two_elements_on_a_page_have_lists_of_their_own(
    browser: Browser, tmp_path: Path
) -> None:
    first = '<asyncflow-uploader class="first" whole-page></asyncflow-uploader>'
    second = '<asyncflow-uploader id="second"></asyncflow-uploader>'
    third = '<asyncflow-uploader class="third"></asyncflow-uploader>'
    with page_with(browser, tmp_path, first, second, third) as (visitor, _server):
        page = visitor.page
        page.evaluate(PASTE, "body")
        page.evaluate(DROP, "#second")
        third_input = page.locator(".third input.files")
        third_input.set_input_files(photo(tmp_path / "chosen.jpg"))
        done = page.locator('li.card[data-state="COMPLETED"]')
        expect(done).to_have_count(3)
        expected = {
            ".first": ["paste.txt"],
            "#second": ["drop.txt"],
            ".third": ["chosen.jpg"],
        }
        assert {one: names(page, one) for one in expected} == expected
        # where somebody is at work, there a paste goes
        page.evaluate(PASTE, "#second")
        expect(page.locator("#second li.card")).to_have_count(2)
        expect(done).to_have_count(4)
        expected["#second"].insert(0, "paste.txt")
        page.reload()
        expect(done).to_have_count(4)
        assert {one: names(page, one) for one in expected} == expected


def test_an_element_that_is_moved_goes_on(browser: Browser, tmp_path: Path) -> None:
    elements = ("<asyncflow-uploader></asyncflow-uploader><main></main>",)
    with page_with(browser, tmp_path, *elements) as (visitor, _server):
        asked: Counter[str] = Counter()
        visitor.page.on("request", lambda one: asked.update([one.method]))
        held = Held(visitor.page, "PATCH")
        visitor.give(photo(tmp_path / "moved.jpg"))
        visitor.until(lambda: bool(held.routes))
        visitor.page.evaluate(f"{TAKE_OUT}; document.querySelector('main').append(one)")
        held.release()
        visitor.wait("moved.jpg", "COMPLETED")
        assert asked["PATCH"] == 1


def test_an_element_that_is_taken_out_rests_until_it_is_put_back(
    browser: Browser, tmp_path: Path
) -> None:
    element = "<asyncflow-uploader></asyncflow-uploader>"
    with page_with(browser, tmp_path, element) as (visitor, server):
        page = visitor.page
        held = Held(page, "PATCH")
        visitor.give(photo(tmp_path / "rest.jpg"))
        visitor.until(lambda: bool(held.routes))
        job = held.routes[0].request.url.rpartition("/")[2]
        with page.expect_event("requestfailed"):
            page.evaluate(TAKE_OUT)
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        page.evaluate(PASTE, "body")
        page.goto(f"{page.url}#still-here")
        assert asked == []
        assert server.status(job)["status"] == "UPLOADING"

        held.release()
        page.evaluate(PUT_BACK)
        visitor.wait("rest.jpg", "COMPLETED")
        assert server.status(job)["status"] == "COMPLETED"
        assert names(page, "asyncflow-uploader") == ["rest.jpg"]


def test_an_element_leaves_its_list_to_the_next(
    browser: Browser, tmp_path: Path
) -> None:
    element = "<asyncflow-uploader></asyncflow-uploader>"
    with page_with(browser, tmp_path, element) as (visitor, _server):
        page = visitor.page
        held = Held(page, "PATCH")
        file = photo(tmp_path / "handed.jpg")
        visitor.give(file)
        visitor.until(lambda: bool(held.routes))
        page.evaluate(f"{TAKE_OUT}; one.className = 'old'")
        page.evaluate(ANOTHER)
        asks = page.get_by_label("Choose the file: handed.jpg")
        asks.wait_for(state="attached")
        held.release()
        # nobody else sends it meanwhile
        page.evaluate(PUT_BACK)
        expect(page.locator(".old .limits")).to_contain_text("Up to")
        expect(page.locator("li.card")).to_have_count(1)
        asks.set_input_files(file)
        visitor.wait("handed.jpg", "COMPLETED")
        page.reload()
        visitor.wait("handed.jpg", "COMPLETED")


def test_what_an_element_has_begun_to_create_is_not_created_by_the_next(
    browser: Browser, tmp_path: Path
) -> None:
    element = "<asyncflow-uploader></asyncflow-uploader>"
    with page_with(browser, tmp_path, element) as (visitor, server):
        page = visitor.page
        held = Held(page, "POST")
        answers: list[str] = []

        def note(answer: Response) -> None:
            if answer.request.method == "POST" and answer.url.endswith("/files/"):
                answers.append(answer.headers["asyncflow-job-id"])

        page.on("response", note)
        file = photo(tmp_path / "early.jpg")
        visitor.give(file)
        visitor.until(lambda: len(held.routes) == 1)
        page.evaluate(TAKE_OUT)
        page.evaluate(ANOTHER)
        asks = page.get_by_label("Choose the file: early.jpg")
        asks.set_input_files(file)
        visitor.until(lambda: len(held.routes) == 2)
        held.release()
        visitor.wait("early.jpg", "COMPLETED")
        visitor.until(lambda: len(answers) == 2)
        (job,) = set(answers)
        assert server.status(job)["status"] == "COMPLETED"


def polled(page: Page) -> list[str]:
    """Note each question about a job from now on."""
    polls: list[str] = []

    def note(url: str) -> None:
        if "/status/" in url:
            polls.append(url)

    page.on("request", lambda one: note(one.url))
    return polls


def pass_by(page: Page) -> None:
    """Let a few seconds of the page pass, and what it asks then be seen."""
    page.clock.run_for(5_000)
    with page.expect_response("**/index.html"):
        page.evaluate("fetch('index.html', { cache: 'no-store' })")


def test_an_element_that_is_taken_out_asks_for_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    element = "<asyncflow-uploader></asyncflow-uploader>"
    with page_with(browser, tmp_path, element) as (visitor, server):
        page = visitor.page
        page.clock.install()
        polls = polled(page)
        page.route_web_socket("**/ws*", lambda socket: socket.close())
        page.route("**/events", lambda route: route.abort())
        as_operator(server, "/admin/consumers/text/pause")
        visitor.give(letter(tmp_path / "long.pdf", "Words"))
        while len(polls) < 6:
            pass_by(page)
        visitor.wait("long.pdf", "PROCESSING")
        page.evaluate(TAKE_OUT)
        pass_by(page)
        polls.clear()
        for _ in range(5):
            pass_by(page)
        assert polls == []

        as_operator(server, "/admin/consumers/text/resume")
        page.evaluate(PUT_BACK)
        done = page.locator('li.card[data-state="COMPLETED"]')
        while not done.count():
            pass_by(page)
        visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]
