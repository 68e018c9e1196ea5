"""The upload page with thousands of files, folders, and files that shall go again."""

import base64
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Visit
from tests.browser.visitor import Visitor, damaged, heavy, photo, visiting
from tests.server_process import ServerProcess, serving

pytestmark = pytest.mark.needs("chromium")

#: as many as the page remembers, and a few more: the oldest are real
REMEMBERED = 5000
SEEDED = """(count) => {
  const { key } = JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]));
  const base = key.slice(0, key.lastIndexOf(" ") + 1);
  for (let number = 0; number < count; number += 1) {
    const id = `019a0000-0000-7000-8000-${String(number).padStart(12, "0")}`;
    const fake = { key: `${base}zzzzzzzzz${String(number).padStart(5, "0")}`, id };
    const about = { name: `${number}.bin`, type: "", path: "", size: 9, changed: 0 };
    const known = { ...fake, ...about, once: null };
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


@pytest.mark.parametrize("spoilt", ["garbage", "{}", "null", '{"name": 7}'])
def test_one_spoilt_entry_harms_no_other(
    visitor: Visitor, tmp_path: Path, spoilt: str
) -> None:
    visitor.open()
    visitor.give(photo(tmp_path / "kept.jpg", size=(64, 64)))
    visitor.wait("kept.jpg", "COMPLETED")
    visitor.page.evaluate(
        "(text) => localStorage.setItem(`${Object.keys(localStorage)[0]}zz`, text)",
        spoilt,
    )
    visitor.page.reload()
    visitor.wait("kept.jpg", "COMPLETED")
    expect(visitor.page.locator("li.card")).to_have_count(1)
    visitor.give(photo(tmp_path / "next.jpg", size=(64, 64), seed=8))
    visitor.wait("next.jpg", "COMPLETED")
    assert visitor.page.evaluate("Object.keys(localStorage).length") == 2


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


PHOTOSHOP = b"8BPS\0\1" + bytes(7) + b"\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(64)


def test_why_a_file_was_refused_is_told_in_words_and_human_numbers(
    browser: Browser, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.new("1", (2000, 1500)).save(large)
    phone = tmp_path / "phone.heic"
    phone.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    drawing = tmp_path / "drawing.psd"
    drawing.write_bytes(PHOTOSHOP)
    settings = {"workers": "1", "max_pixels": "2000000", "max_upload_bytes": "1 MiB"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        visitor.open()
        limits = visitor.page.locator(".limits")
        expect(limits).to_have_text("Up to 1 MiB each, almost any type.")
        visitor.give(large, heavy(tmp_path / "heavy.jpg"), phone, drawing)
        told = {
            name: visitor.wait(name, state)
            for name, state in (
                ("large.png", "REJECTED"),
                ("heavy.jpg", "refused"),
                ("phone.heic", "REJECTED"),
                ("drawing.psd", "REJECTED"),
            )
        }
        reasons = {name: card.locator(".problem") for name, card in told.items()}
        expect(reasons["drawing.psd"]).to_have_text(
            "This server does not take files of the type image/vnd.adobe.photoshop."
        )
        expect(reasons["large.png"]).to_have_text(
            "2000 \N{MULTIPLICATION SIGN} 1500 are more than 2 megapixels."
        )
        expect(reasons["heavy.jpg"]).to_have_text(
            re.compile(r"A file of \d\.\d MiB is larger than the limit of 1 MiB\.")
        )
        expect(reasons["phone.heic"]).to_have_text(
            "This server cannot read HEIC pictures yet."
        )
        offered = {
            name: card.get_by_role("button", name="Retry").count()
            for name, card in told.items()
        }
        kept = {"large.png": 0, "heavy.jpg": 0, "phone.heic": 1, "drawing.psd": 0}
        assert offered == kept
        visitor.troubles[:] = [one for one in visitor.troubles if "413" not in one]


def test_without_javascript_the_form_takes_files(
    visit: Visit, server: ServerProcess, tmp_path: Path
) -> None:
    with visit(java_script_enabled=False) as visitor:
        visitor.page.goto(server.url)
        names = ["plain.jpg", "<b>bold.jpg"]
        files = [photo(tmp_path / name, size=(64, 64)) for name in names]
        for chosen in (files, files[:1]):
            visitor.page.get_by_label("Files").set_input_files(chosen)
            with visitor.page.expect_navigation() as sent:
                visitor.page.get_by_role("button", name="Upload").click()
            assert sent.value.status == 202
            told = visitor.page.get_by_role("listitem")
            expect(told).to_contain_text([one.name for one in chosen])
            link = told.get_by_role("link", name="Status").first
            job = str(link.get_attribute("href")).rpartition("/")[2]
            assert server.finished(job)["fileName"] == "plain.jpg"
            visitor.page.get_by_role("link", name="Upload more files").click()


def test_people_are_told_on_a_page_why_something_is_refused(
    visit: Visit, tmp_path: Path
) -> None:
    with visit(java_script_enabled=False) as visitor:
        visitor.page.goto(visitor.url)
        lying = tmp_path / "lying.jpg"
        lying.write_bytes(b"MZ this is a program" * 100)
        visitor.page.get_by_label("Files").set_input_files(lying)
        visitor.page.get_by_role("button", name="Upload").click()
        heading = visitor.page.get_by_role("heading", level=1)
        expect(heading).to_have_text("This did not work")
        problem = visitor.page.locator(".problem")
        expect(problem).to_contain_text("is declared image/jpeg")
        missing = "/jobs/019a0000-0000-7000-8000-000000000000/files/original"
        for where in (missing, "/nowhere"):
            visitor.page.goto(visitor.url + where)
            expect(heading).to_have_text("Not found")
        visitor.page.get_by_role("link", name="To the upload page").click()
        expect(heading).to_have_text("asyncflow")
        visitor.troubles[:] = [one for one in visitor.troubles if " 4" not in one]


def test_only_an_operator_sees_the_operators_links(
    visitor: Visitor, server: ServerProcess
) -> None:
    links = visitor.page.get_by_role("navigation").get_by_role("link")
    visitor.open()
    expect(links).to_have_text(["For programs"])
    visitor.open(f"/?token={server.token}")
    expect(links).to_have_text(
        ["For programs", "Admin", "Capabilities", "Readiness", "Metrics"]
    )
    visitor.page.get_by_role("link", name="For programs").click()
    expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("HTTP")


def test_a_form_that_a_browser_sends_is_known_by_what_it_wants_to_see(
    server: ServerProcess,
) -> None:
    part = 'Content-Disposition: form-data; name="file"; filename="a.txt"'
    body = f"--b\r\n{part}\r\n\r\nhello\r\n--b--\r\n".encode()
    kinds = {
        accept: server.request(
            "POST",
            "/upload",
            body,
            Content_Type="multipart/form-data; boundary=b",
            Accept=accept,
        ).headers["content-type"]
        for accept in ("text/html,*/*;q=0.8", "*/*", "application/json")
    }
    assert list(kinds.values()) == [
        "text/html; charset=utf-8",
        "application/json",
        "application/json",
    ]
