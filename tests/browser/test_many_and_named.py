"""The upload page with thousands of files, folders, and files that shall go again."""

import base64
import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import Visitor, damaged, photo
from tests.server_process import ServerProcess

pytestmark = pytest.mark.needs("chromium")

#: as many as the page remembers, and a few more: the oldest are real
REMEMBERED = 5000
SEEDED = """(count) => {
  const { key } = JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]));
  const base = key.slice(0, key.lastIndexOf(" ") + 1);
  for (let number = 0; number < count; number += 1) {
    const id = `019a0000-0000-7000-8000-${String(number).padStart(12, "0")}`;
    const fake = { key: `${base}zzzzzzzzz${String(number).padStart(5, "0")}`, id };
    const known = { ...fake, name: `${number}.bin`, path: "", size: 9, changed: 0 };
    localStorage.setItem(known.key, JSON.stringify(known));
  }
}"""


def test_two_thousand_files_are_there_after_a_reload(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(photo(tmp_path / "oldest.jpg", size=(64, 64)))
    visitor.wait("oldest.jpg", "COMPLETED")
    visitor.page.evaluate(SEEDED, 2000)
    streams: list[str] = []
    visitor.page.on(
        "request",
        lambda one: streams.append(one.url) if one.url.endswith("/events") else None,
    )
    visitor.page.reload()
    visitor.wait("oldest.jpg", "COMPLETED")
    expect(visitor.page.locator("li.card")).to_have_count(2001)
    # all of them were asked for on one socket
    expect(visitor.page.locator('li.card[data-state="gone"]')).to_have_count(2000)
    assert streams == []
    visitor.troubles[:] = [one for one in visitor.troubles if "404" not in one]


def test_the_page_says_when_it_forgets_the_oldest(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(photo(tmp_path / "first.jpg", size=(64, 64)))
    visitor.wait("first.jpg", "COMPLETED")
    told = visitor.page.locator(".forgotten")
    expect(told).to_be_hidden()
    visitor.page.evaluate(SEEDED, REMEMBERED)
    visitor.give(photo(tmp_path / "next.jpg", size=(64, 64), seed=8))
    expect(told).to_contain_text("remembers the latest 5000 files")
    visitor.wait("next.jpg", "COMPLETED")
    kept = visitor.page.evaluate("Object.keys(localStorage).length")
    assert kept == REMEMBERED


def test_files_of_one_name_are_told_apart_by_their_folders(
    visitor: Visitor, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    (album / "inner").mkdir(parents=True)
    for number, place in enumerate((album, album / "inner")):
        photo(place / "same.jpg", size=(64, 64), seed=number)
    said: list[str] = []
    visitor.page.on(
        "request",
        lambda one: (
            said.append(one.headers["upload-metadata"])
            if one.method == "POST" and one.url.endswith("/files/")
            else None
        ),
    )
    visitor.open()
    visitor.page.locator("input.folder").set_input_files(album)
    cards = visitor.page.locator('li.card[data-state="COMPLETED"]')
    expect(cards).to_have_count(2)
    folders = visitor.page.locator("li.card .folder")
    assert sorted(folders.all_text_contents()) == ["in album", "in album/inner"]
    visitor.page.get_by_role(
        "button", name="Remove from list: album/same.jpg"
    ).wait_for()
    paths = {
        base64.b64decode(value).decode()
        for one in said
        for key, value in (pair.split(" ") for pair in one.split(","))
        if key == "relativePath"
    }
    assert paths == {"album/same.jpg", "album/inner/same.jpg"}


def test_a_path_that_climbs_is_only_text(server: ServerProcess) -> None:
    pairs = {"filename": "a.txt", "relativePath": "../../../../tmp/climbed/a.txt"}
    encoded = {k: base64.b64encode(v.encode()).decode() for k, v in pairs.items()}
    made = server.request(
        "POST",
        "/files/",
        b"hello",
        Tus_Resumable="1.0.0",
        Upload_Length="5",
        Content_Type="application/offset+octet-stream",
        Upload_Metadata=",".join(f"{k} {v}" for k, v in encoded.items()),
    )
    job = made.headers["asyncflow-job-id"]
    assert server.finished(job)["fileName"] == "a.txt"
    assert not Path("/tmp/climbed").exists()
    said = server.request("GET", f"/jobs/{job}/files/original")
    assert "climbed" not in json.dumps(dict(said.headers))


def test_a_finished_file_is_deleted_from_the_server_when_asked_twice(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(
        photo(tmp_path / "private.jpg", size=(64, 64)), damaged(tmp_path / "bad.jpg")
    )
    card = visitor.wait("private.jpg", "COMPLETED")
    visitor.wait("bad.jpg", "FAILED")
    kept = "Object.values(localStorage).map((one) => JSON.parse(one))"
    jobs = {one["name"]: one["id"] for one in visitor.page.evaluate(kept)}
    card.get_by_role("button", name="Delete: private.jpg").focus()
    visitor.page.keyboard.press("Enter")
    expect(card).to_contain_text("Delete it from the server, with its results?")
    assert visitor.focus("textContent") == "Keep"
    assert visitor.violations() == []
    visitor.page.keyboard.press("Enter")
    assert visitor.focus("textContent") == "Remove from list"
    assert server.status(jobs["private.jpg"])["status"] == "COMPLETED"

    for name in ("private.jpg", "bad.jpg"):
        visitor.page.get_by_role("button", name=f"Delete: {name}").click()
        visitor.page.get_by_role("button", name=f"Delete for good: {name}").click()
        expect(visitor.card(name)).to_have_count(0)
        assert server.request("GET", f"/jobs/{jobs[name]}").status == 404
    expect(visitor.page.locator("p.live")).to_contain_text(
        "bad.jpg deleted from the server."
    )
    visitor.page.reload()
    visitor.page.locator("input.files").wait_for(state="attached")
    assert visitor.page.locator("li.card").count() == 0
