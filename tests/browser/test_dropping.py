"""Files that are dropped on the page, or pasted, and folders."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import Visitor, photo

pytestmark = pytest.mark.needs("chromium")

DROP_AND_PASTE = """() => {
  const type = "text/plain";
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["dropped words"], "drop.txt", { type }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, ...options }));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File(["pasted words"], "paste.txt", { type }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, ...options }));
}"""

DRAG_WORDS = """() => {
  const dataTransfer = new DataTransfer();
  dataTransfer.setData("text/plain", "only words");
  const options = { dataTransfer, bubbles: true, cancelable: true };
  return ["dragover", "drop"].map((name) =>
    document.body.dispatchEvent(new DragEvent(name, options)));
}"""


def test_words_that_are_dragged_about_are_left_to_the_browser(visitor: Visitor) -> None:
    visitor.open()
    assert visitor.page.evaluate(DRAG_WORDS) == [True, True]
    drop = visitor.page.locator(".drop")
    expect(drop).not_to_contain_class("over")


def test_dropped_and_pasted_files_are_taken(visitor: Visitor) -> None:
    visitor.open()
    visitor.page.evaluate(DROP_AND_PASTE)
    visitor.wait("drop.txt", "COMPLETED")
    visitor.wait("paste.txt", "COMPLETED")


@contextmanager
def dragged(visitor: Visitor, *paths: Path) -> Iterator[None]:
    """Drag files over the page; drop them at the end."""
    mouse = visitor.context.new_cdp_session(visitor.page)
    box = visitor.page.locator(".drop").bounding_box()
    assert box is not None
    data = {"items": [], "files": [str(one) for one in paths], "dragOperationsMask": 1}
    at = {"x": box["x"] + 5, "y": box["y"] + 5, "data": data}
    for what in ("dragEnter", "dragOver"):
        mouse.send("Input.dispatchDragEvent", {"type": what, **at})
    yield
    mouse.send("Input.dispatchDragEvent", {"type": "drop", **at})


def test_what_cannot_be_read_of_a_drop_is_told(
    visitor: Visitor, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    lost = tmp_path / "lost"
    for folder in (album, lost):
        folder.mkdir()
        photo(folder / f"in {folder.name}.jpg", size=(64, 64))
    secret = tmp_path / "secret.txt"
    visitor.open()
    unread = visitor.page.locator(".unread")
    live = visitor.page.locator("p.live")
    secret.write_text("secret")
    with dragged(visitor, album, secret, lost):
        secret.unlink()
        shutil.rmtree(lost)
    told = "2 files or folders could not be read and were left out."
    expect(unread).to_have_text(told)
    expect(live).to_contain_text(told)
    visitor.wait("in album.jpg", "COMPLETED")
    expect(visitor.page.locator("li.card")).to_have_count(1)
    assert visitor.violations() == []

    secret.write_text("secret")
    with dragged(visitor, secret):
        secret.unlink()
    told = "secret.txt could not be read and was left out."
    expect(unread).to_have_text(told)
    expect(live).to_contain_text(told)
    secret.write_text("secret")
    with dragged(visitor, secret):
        pass
    visitor.wait("secret.txt", "COMPLETED")
    expect(unread).to_be_hidden()


KEEP_ENTRIES = """() => document.addEventListener("drop", (event) => {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry());
  window.kept = entries.map((one) => ({ kind: "file", webkitGetAsEntry: () => one }));
}, true)"""
OPEN_ENTRIES = """async () => {
  const found = await (await import("/assets/drop.js")).dropped({ items: window.kept });
  return [found.files.map((one) => one.path || one.file.name), found.unread];
}"""


def test_what_is_lost_while_a_drop_is_opened_is_told(
    visitor: Visitor, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    files = [tmp_path / "here.txt", tmp_path / "gone.txt", album / "in.txt"]
    for file in files:
        file.write_text("words")
    visitor.open()
    visitor.page.evaluate(KEEP_ENTRIES)
    with dragged(visitor, *files[:2], album):
        pass
    visitor.wait("in.txt", "COMPLETED")
    files[1].unlink()
    shutil.rmtree(album)
    found = visitor.page.evaluate(OPEN_ENTRIES)
    assert found == [["here.txt"], ["gone.txt", "album"]]


def test_a_folder_is_sent_with_what_is_in_it(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "album" / "inner").mkdir(parents=True)
    photo(tmp_path / "album" / "one.jpg", size=(64, 64))
    photo(tmp_path / "album" / "inner" / "two.jpg", size=(64, 64), seed=9)
    visitor.open()
    visitor.page.locator("input.folder").set_input_files(tmp_path / "album")
    visitor.wait("one.jpg", "COMPLETED")
    visitor.wait("two.jpg", "COMPLETED")
