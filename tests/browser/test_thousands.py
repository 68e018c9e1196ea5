"""The upload page with thousands of files at once: it answers, and it holds little."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, WebSocket, expect

from tests.browser.visitor import PATIENCE_MS, Visitor, photo, visiting
from tests.server_process import serving

pytestmark = pytest.mark.needs("chromium")

MANY = 5000
#: for thousands, or for five files on a machine that does other things as well
LONG_MS = 2 * PATIENCE_MS
#: chooses files that are made in the page, and notes how many cards each frame shows
CHOOSE = """([count, content, type]) => {
  const root = document.querySelector("asyncflow-uploader").shadowRoot;
  const input = root.querySelector("input.files");
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const chosen = new DataTransfer();
  for (let n = 0; n < count; n += 1) {
    const about = { type, lastModified: n };
    chosen.items.add(new File([bytes], `${n}.${type.split("/")[1]}`, about));
  }
  const live = root.querySelector(".live");
  const cards = root.querySelector(".cards").children;
  window.said = [];
  window.frames = [];
  window.running = new Set();
  new MutationObserver(() => said.push(live.textContent))
    .observe(live, { childList: true });
  const frame = () => {
    frames.push(cards.length);
    if (cards.length < count) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  input.files = chosen.files;
  input.dispatchEvent(new Event("change"));
}"""


def choose(visitor: Visitor, count: int, content: str, kind: str) -> Locator:
    """Choose many files at once; return their cards."""
    visitor.open()
    visitor.page.evaluate(CHOOSE, [count, content, kind])
    return visitor.page.locator("li.card")


def test_thousands_of_files_are_added_piece_by_piece(visitor: Visitor) -> None:
    cards = choose(visitor, MANY, "aGVsbG8=", "text/plain")
    # the page hears keys before all of them are there
    visitor.page.locator("input.files").focus()
    visitor.page.keyboard.press("Tab")
    assert visitor.focus("className") == "folder"
    expect(cards).to_have_count(MANY, timeout=LONG_MS)
    between = {n for n in visitor.page.evaluate("frames") if 0 < n < MANY}
    assert len(between) > 10
    expect(visitor.page.locator(".summary")).to_contain_text(
        f"{MANY} files", timeout=LONG_MS
    )

    def told() -> Any:
        return [one for one in visitor.page.evaluate("said") if "added" in one]

    visitor.until(lambda: bool(told()))
    assert len(told()) == 1
    assert told()[0].startswith(f"{MANY} files added.")
    # files go on their way before the last is on the list; all are remembered
    expect(visitor.page.locator('li.card[data-state="waiting"]').first).to_be_visible()
    assert visitor.page.evaluate("Object.keys(localStorage).length") == MANY

    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.reload()
    expect(cards).to_have_count(MANY, timeout=LONG_MS)
    names = cards.locator("h2").all_text_contents()
    assert names == [f"{n}.plain" for n in range(MANY)]


def test_files_that_are_chosen_again_after_a_reload_find_their_cards(
    visitor: Visitor,
) -> None:
    count = 300
    cards = choose(visitor, count, "aGVsbG8=", "text/plain")
    expect(cards).to_have_count(count, timeout=LONG_MS)
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.reload()
    expect(cards).to_have_count(count, timeout=LONG_MS)
    # the server has said of each whether it is whole
    unknown = visitor.page.locator("li.card:not([data-state])")
    expect(unknown).to_have_count(0, timeout=LONG_MS)
    visitor.page.evaluate(CHOOSE, [count, "aGVsbG8=", "text/plain"])
    unsent = visitor.page.locator('li.card[data-state="UPLOADING"]')
    expect(unsent).to_have_count(0, timeout=LONG_MS)
    # only what was whole before the reload has a second card now
    assert cards.count() < 2 * count


def test_only_cards_that_are_looked_at_hold_pictures(
    visitor: Visitor, tmp_path: Path
) -> None:
    count, held = 300, 50
    data = photo(tmp_path / "one.jpg", size=(64, 64)).read_bytes()
    visitor.open()
    encoded = visitor.page.evaluate(
        "(bytes) => btoa(String.fromCharCode(...bytes))", list(data)
    )
    cards = choose(visitor, count, encoded, "image/jpeg")
    expect(cards).to_have_count(count, timeout=LONG_MS)
    pictures = visitor.page.locator("li.card img[src]")
    expect(cards.first.locator("img[src]")).to_be_visible()
    assert pictures.count() < held
    for n in range(0, count, 5):
        cards.nth(n).scroll_into_view_if_needed()
        expect(cards.nth(n).locator("img[src]")).to_be_visible()
    assert pictures.count() < 2 * held
    cards.first.scroll_into_view_if_needed()
    expect(cards.first.locator("img[src]")).to_be_visible()


def test_no_connection_stays_open_for_files_that_are_done(
    browser: Browser, tmp_path: Path
) -> None:
    sockets: list[WebSocket] = []

    def opened(socket: WebSocket) -> None:
        sockets.append(socket)

    # of its own: the others leave much to do behind
    settings = {"workers": "2", "workers_min": "2"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        visitor.page.on("websocket", opened)
        visitor.open()
        visitor.give(*(photo(tmp_path / f"{n}.jpg", size=(64, 64)) for n in range(5)))
        for n in range(5):
            visitor.wait(f"{n}.jpg", "COMPLETED", LONG_MS)
        visitor.until(lambda: all(one.is_closed() for one in sockets))
        assert sockets


SAY = """async (changes) => {
  const { Announcer } = await import("/assets/announcer.js");
  const place = document.createElement("p");
  const announcer = new Announcer(place, () => "many");
  const said = new Promise((done) => {
    const listener = new MutationObserver(() => done(place.textContent));
    listener.observe(place, { childList: true });
  });
  for (const [what, text] of changes) announcer.change(what, text);
  return said;
}"""


def test_two_files_that_change_often_are_still_said_one_by_one(
    visitor: Visitor,
) -> None:
    visitor.open()
    ends = [["a", "a: done."], ["b", "b: failed."]]
    changes = [["a", "a: uploaded."], ["b", "b: uploaded."], *ends]
    assert visitor.page.evaluate(SAY, changes) == "a: done. b: failed."
    more = [[name, f"{name}: done."] for name in ("c", "d")]
    assert visitor.page.evaluate(SAY, [*changes, *more]) == "many"
