"""The upload page, as people use it."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FileChooser, Route, expect

from tests.browser.conftest import Visit
from tests.browser.visitor import (
    SCHEMES,
    Visitor,
    damaged,
    heavy,
    letter,
    photo,
    visiting,
)
from tests.server_process import ServerProcess, serving

pytestmark = pytest.mark.needs("chromium")

SLOW = 400_000
KEPT = "Object.values(localStorage).map((one) => JSON.parse(one))"


def lost_network(text: str) -> bool:
    return "ERR_INTERNET_DISCONNECTED" in text or "WebSocket connection" in text


def test_a_photo_and_a_letter_are_sent_followed_and_shown(
    visitor: Visitor, tmp_path: Path
) -> None:
    said = "Quarterly report\n<b>bold & plain</b>"
    visitor.open()
    visitor.give(photo(tmp_path / "sea.jpg"), letter(tmp_path / "letter.pdf", said))
    sea = visitor.wait("sea.jpg", "COMPLETED")
    picture = sea.locator("img.picture")
    expect(picture).to_have_js_property("naturalWidth", 200)
    links = sea.get_by_role("list", name="Downloads of sea.jpg")
    for name in ("Original", "Thumbnail", "Medium", "Large", "All (zip)"):
        expect(links.get_by_role("link", name=name)).to_be_visible()
    with visitor.page.expect_download() as download:
        links.get_by_role("link", name="All (zip)").click()
    assert download.value.suggested_filename == "sea.zip"
    assert download.value.path().stat().st_size > 1000

    mail = visitor.wait("letter.pdf", "COMPLETED", 40_000)
    text = mail.get_by_role("region", name="Text of letter.pdf")
    expect(text).to_contain_text("Quarterly report")
    expect(text).to_contain_text("bold")
    assert text.locator("b").count() == 0
    mail.get_by_role("searchbox").fill("QUARTERLY")
    expect(text.locator("mark")).to_have_text("Quarterly")
    expect(mail.get_by_role("status")).to_have_text("1 place")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    mail.get_by_role("button", name="Copy text").click()
    expect(mail.get_by_role("button", name="Copied")).to_be_visible()
    assert "Quarterly" in visitor.page.evaluate("navigator.clipboard.readText()")
    expect(visitor.page.locator(".summary p")).to_have_text("2 files · 2 done")


def test_an_upload_goes_on_after_a_reload(visitor: Visitor, tmp_path: Path) -> None:
    file = heavy(tmp_path / "heavy.jpg")
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(file)
    bar = visitor.wait("heavy.jpg", "uploading").locator("progress")
    visitor.until(lambda: bool(bar.evaluate("one => one.value > 20")))
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.reload()
    card = visitor.wait("heavy.jpg", "UPLOADING")
    expect(card.locator(".status")).to_contain_text("Choose the same file to go on")
    expect(card.locator(".status")).not_to_contain_text("0 B of")

    other = photo(tmp_path / "other.jpg")
    card.locator("input").set_input_files(other)
    expect(card.locator(".problem")).to_contain_text("That is another file")
    live = visitor.page.locator("p.live")
    expect(live).to_contain_text("heavy.jpg: That is another file.")

    sent: list[int] = []
    visitor.page.on(
        "request",
        lambda r: (
            sent.append(int(r.headers["upload-offset"]))
            if r.method == "PATCH"
            else None
        ),
    )
    card.locator("input").set_input_files(file)
    visitor.wait("heavy.jpg", "COMPLETED")
    assert sent
    assert sent[0] > 0, "what had arrived was sent again"


def test_files_that_were_not_begun_are_asked_for_after_a_reload(
    visitor: Visitor, tmp_path: Path
) -> None:
    names = [f"{number}.jpg" for number in range(6)]
    files = [heavy(tmp_path / name) for name in names]
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(*files)
    visitor.page.locator('li.card[data-state="uploading"]').nth(2).wait_for()
    ids = f"{KEPT}.filter((one) => one.id).length"
    visitor.until(lambda: bool(visitor.page.evaluate(ids) == 3))
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.reload()
    visitor.page.locator('li.card[data-state="UPLOADING"]').nth(5).wait_for()
    assert visitor.page.locator("h2.name").all_text_contents() == names
    queued = visitor.card("5.jpg")
    expect(queued.locator(".status")).to_contain_text("Choose the file again")

    visitor.card("4.jpg").get_by_role("button", name="Cancel").click()
    expect(visitor.page.locator("li.card")).to_have_count(5)
    visitor.give(files[5])
    visitor.wait("5.jpg", "COMPLETED")
    expect(visitor.page.locator("li.card")).to_have_count(5)
    visitor.page.reload()
    visitor.wait("5.jpg", "COMPLETED")
    left = [name for name in names if name != "4.jpg"]
    assert visitor.page.locator("h2.name").all_text_contents() == left


def test_a_file_that_changes_while_it_is_sent_is_not_sent_for_ever(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    file = heavy(tmp_path / "edited.jpg")
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(file)
    visitor.wait("edited.jpg", "uploading")
    card = visitor.card("edited.jpg")
    expect(card.locator(".status")).to_contain_text("left")
    job = visitor.page.evaluate(f"{KEPT}[0].id")
    card.get_by_role("button", name="Pause").click()
    photo(file, size=(64, 64))
    card.get_by_role("button", name="Resume").click()
    refused = visitor.wait("edited.jpg", "refused")
    expect(refused.locator(".problem")).to_have_text(
        "This file was changed or removed after it was chosen: choose it once more."
    )
    expect(refused.get_by_role("button", name="Retry")).to_have_count(0)
    assert server.status(job)["status"] == "CANCELLED"
    visitor.give(file)
    # as a file of its own
    visitor.wait("edited.jpg", "COMPLETED")
    expect(visitor.page.locator("li.card")).to_have_count(2)
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


def test_a_stalled_connection_is_told_in_plain_words(
    visitor: Visitor, tmp_path: Path
) -> None:
    held: list[Route] = []
    visitor.page.clock.install()
    visitor.open()
    visitor.page.route("**/files/", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright cannot mark a built-in method
    visitor.give(photo(tmp_path / "stuck.jpg", size=(64, 64)))
    visitor.until(lambda: len(held) == 1)
    visitor.page.clock.fast_forward(61_000)
    problem = visitor.card("stuck.jpg").locator(".problem")
    expect(problem).to_have_text("The connection stalled: nothing moved for a minute.")
    visitor.until(lambda: len(held) == 2)
    held[1].continue_()
    visitor.wait("stuck.jpg", "COMPLETED")


def test_a_pause_before_the_next_attempt_can_be_ended(
    visitor: Visitor, tmp_path: Path
) -> None:
    busy = {"status": 503, "headers": {"Retry-After": "600"}}
    visitor.open()
    visitor.page.route("**/files/", lambda route: route.fulfill(**busy), times=1)
    visitor.give(photo(tmp_path / "later.jpg", size=(64, 64)))
    card = visitor.card("later.jpg")
    expect(card.locator(".problem")).to_have_text("The server answered 503.")
    told = "later.jpg: trying again. The server answered 503."
    expect(visitor.page.locator("p.live")).to_contain_text(told)
    card.get_by_role("button", name="Try now: later.jpg").click()
    visitor.wait("later.jpg", "COMPLETED")
    expect(card.get_by_role("button", name="Try now")).to_have_count(0)
    visitor.troubles[:] = [one for one in visitor.troubles if "503" not in one]


def test_an_upload_waits_for_a_network_that_is_away(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(heavy(tmp_path / "train.jpg"))
    card = visitor.wait("train.jpg", "uploading")
    expect(card.locator(".status")).to_contain_text("left")
    visitor.context.set_offline(True)
    expect(visitor.page.get_by_text("You are offline.").first).to_be_visible()
    visitor.context.set_offline(False)
    visitor.wait("train.jpg", "COMPLETED")
    expect(visitor.page.locator(".offline")).to_be_hidden()
    visitor.troubles[:] = [one for one in visitor.troubles if not lost_network(one)]


def test_pause_resume_and_cancel(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(heavy(tmp_path / "slow.jpg"))
    visitor.wait("slow.jpg", "uploading")
    card = visitor.card("slow.jpg")
    expect(card.locator(".status")).to_contain_text("left")
    for _ in range(3):  # faster than any network
        card.get_by_role("button", name="Pause").click()
        card.get_by_role("button", name="Resume").click()
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".status")).to_contain_text("Paused")
    job = visitor.page.evaluate(f"{KEPT}[0].id")
    assert server.status(job)["status"] == "UPLOADING"
    card.get_by_role("button", name="Resume").click()
    visitor.wait("slow.jpg", "uploading")
    with visitor.page.expect_response(lambda r: r.request.method == "DELETE"):
        card.get_by_role("button", name="Cancel").click()
    expect(visitor.page.locator("li.card")).to_have_count(0)
    assert server.status(job)["status"] == "CANCELLED"
    expect(visitor.page.locator("input.files")).to_be_focused()


def test_a_damaged_file_says_why_and_can_be_tried_again(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(damaged(tmp_path / "torn.jpg"))
    card = visitor.page.locator("li.card")
    again = card.get_by_role("button", name="Retry: torn.jpg")
    again.wait_for()
    problem = card.locator(".problem")
    expect(problem).to_have_text(
        re.compile(r"ends (too early|after its first bytes)\.$")
    )
    with visitor.page.expect_response("**/retry") as answer:
        again.click()
    assert answer.value.status == 202
    expect(problem).to_be_visible()
    again.wait_for()
    expect(visitor.page.locator("p.live")).to_contain_text("torn.jpg: failed. ")


def test_what_is_asked_for_in_vain_is_said(visitor: Visitor, tmp_path: Path) -> None:
    visitor.open()
    visitor.give(damaged(tmp_path / "torn.jpg"))
    card = visitor.wait("torn.jpg", "FAILED")
    visitor.page.route("**/retry", lambda route: route.abort())
    card.get_by_role("button", name="Retry: torn.jpg").click()
    told = "The server cannot be reached."
    expect(card.locator(".problem")).to_have_text(told)
    expect(visitor.page.locator("p.live")).to_contain_text(f"torn.jpg: {told}")
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


def test_each_retry_tells_how_it_ends_also_when_it_ends_at_once(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.give(damaged(tmp_path / "torn.jpg"))
    card = visitor.wait("torn.jpg", "FAILED")
    status = card.locator(".status")
    expect(status).not_to_contain_text("try")
    live = visitor.page.locator("p.live")
    expect(live).to_contain_text("failed.")
    for run in (2, 3):
        visitor.page.evaluate(HEAR)
        card.get_by_role("button", name="Retry: torn.jpg").click()
        expect(status).to_have_text(re.compile(rf"Failed · .* · try {run}$"))
        visitor.until(lambda: "failed." in str(visitor.page.evaluate("said.join()")))
        assert "torn.jpg: trying again." in visitor.page.evaluate("said.join()")


HEAR = """() => {
  const root = document.querySelector("asyncflow-uploader").shadowRoot;
  const live = root.querySelector(".live");
  window.said = [];
  new MutationObserver(() => said.push(live.textContent))
    .observe(live, { childList: true });
}"""


def test_a_text_says_when_it_marks_not_all_places(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.page.route(
        "**/files/text", lambda route: route.fulfill(body=2001 * "sea " + "land")
    )
    visitor.open()
    visitor.give(letter(tmp_path / "song.pdf", "Sea"))
    card = visitor.wait("song.pdf", "COMPLETED", 40_000)
    find = card.get_by_role("searchbox")
    told = card.get_by_role("status")
    for wanted, places in (
        ("sea", "2000 or more places"),
        ("land", "1 place"),
        ("ship", "0 places"),
        ("", ""),
    ):
        find.fill(wanted)
        expect(told).to_have_text(places)


def test_everything_can_be_done_with_the_keyboard(
    visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.page
    choosers: list[FileChooser] = []
    # a lambda: Playwright cannot mark a built-in method as its own
    page.on("filechooser", lambda one: choosers.append(one))  # noqa: PLW0108 -- see above
    visitor.open()
    page.keyboard.press("Tab")
    assert visitor.focus("className") == "files"
    ring = "getComputedStyle(document.querySelector('asyncflow-uploader').shadowRoot{})"
    label = ring.format(".activeElement.closest('label')") + ".outlineStyle"
    assert page.evaluate(label) == "solid"
    page.keyboard.press("Enter")
    visitor.until(lambda: bool(choosers))
    choosers[0].set_files(damaged(tmp_path / "keys.jpg"))
    card = page.locator("li.card")
    card.get_by_role("button", name="Retry").wait_for()
    page.keyboard.press("Tab")
    assert visitor.focus("className") == "folder"
    while visitor.focus("tagName") != "BUTTON":
        page.keyboard.press("Tab")
    assert visitor.focus("dataset.action") == "retry"
    button = ring.format(".activeElement") + ".outlineStyle"
    assert page.evaluate(button) == "solid"
    with page.expect_response("**/retry"):
        page.keyboard.press("Space")
    page.locator('li.card[data-run="2"][data-state="FAILED"]').wait_for()
    visitor.until(lambda: visitor.focus("dataset.action") == "retry")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(card).to_have_count(0)
    assert visitor.focus("className") == "files"


@pytest.mark.parametrize("blocked", ["socket", "socket and events"])
def test_a_job_is_followed_where_the_network_is_picky(
    visitor: Visitor, tmp_path: Path, blocked: str
) -> None:
    visitor.page.route_web_socket("**/ws*", lambda socket: socket.close())
    if "events" in blocked:
        visitor.page.route("**/events", lambda route: route.fulfill(status=403))
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    visitor.open()
    name = f"{blocked}.jpg"
    visitor.give(photo(tmp_path / name, seed=len(blocked)))
    visitor.wait(name, "COMPLETED")
    if "events" not in blocked:
        visitor.give(photo(tmp_path / "second.jpg", seed=5))
        visitor.wait("second.jpg", "COMPLETED")
        assert any(one.endswith("/events") for one in asked)
    visitor.troubles[:] = [one for one in visitor.troubles if "403" not in one]


NAMES = [
    "a" * 200 + ".jpg",
    "🌞🏖️ <img src=x onerror=alert(1)>.jpg",
    "صورة من البحر.jpg",
    "👨\u200d👩\u200d👧 family, نمی\u200cشود.jpg",
    "foto \u202egpj.exe.jpg",
]


def test_odd_names_are_shown_as_text_and_stay_inside(
    visit: Visit, tmp_path: Path
) -> None:
    with visit(viewport={"width": 320, "height": 640}) as visitor:
        visitor.open()
        visitor.give(*(photo(tmp_path / name, size=(64, 64)) for name in NAMES))
        visitor.page.locator('li.card[data-state="COMPLETED"]').nth(4).wait_for()
        shown = visitor.page.locator("h2.name").all_text_contents()
        # what cannot be seen and what turns the text around is gone
        assert shown == [*NAMES[:4], "foto gpj.exe.jpg"]
        lines = visitor.card("a" * 200 + ".jpg").locator("h2")
        expect(lines).to_have_attribute("title", "a" * 200 + ".jpg")
        assert lines.evaluate(
            "one => one.clientHeight < 5 * parseFloat(getComputedStyle(one).fontSize)"
        )
        width = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320


def test_many_files_at_once_stay_usable(visitor: Visitor, tmp_path: Path) -> None:
    visitor.open()
    files = [tmp_path / f"{number}.bin" for number in range(200)]
    for file in files:
        file.write_bytes(os.urandom(100))
    visitor.give(*files)
    expect(visitor.page.locator("li.card")).to_have_count(200)
    expect(visitor.page.locator("li.card").first).to_contain_text("0.bin")
    # the page answers while it works
    assert visitor.page.evaluate(FRAME) < 1000
    summary = visitor.page.locator(".summary p")
    expect(summary).to_have_text("200 files · 200 done", timeout=100_000)
    visitor.page.get_by_role("button", name="Remove finished from list").click()
    expect(visitor.page.locator("li.card")).to_have_count(0)


FRAME = """() => new Promise((done) => {
  const began = performance.now();
  const end = () => done(performance.now() - began);
  requestAnimationFrame(() => requestAnimationFrame(end));
})"""

MOTION = """getComputedStyle(
  document.querySelector("asyncflow-uploader").shadowRoot.querySelector(".drop")
).transitionDuration"""


def test_a_refused_upload_says_why_in_plain_words(
    visitor: Visitor, tmp_path: Path
) -> None:
    lying = tmp_path / "lying.jpg"
    lying.write_bytes(b"MZ this is a program" * 100)
    visitor.open()
    visitor.give(lying)
    card = visitor.page.locator("li.card")
    card.get_by_role("button", name="Remove from list").wait_for()
    expect(card.locator(".problem")).not_to_be_empty()
    problem = card.locator(".problem").inner_text()
    assert problem.endswith(".")
    assert "{" not in problem
    # the same file would be refused again
    expect(card.get_by_role("button", name="Retry")).to_have_count(0)
    visitor.troubles[:] = [one for one in visitor.troubles if " 4" not in one]


def test_the_reason_of_a_skipped_step_is_text_on_the_page(
    browser: Browser, tmp_path: Path
) -> None:
    settings = {"workers": "1", "text_languages": "tlh"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        visitor.open()
        visitor.give(letter(tmp_path / "opera.pdf", "Only words"))
        card = visitor.wait("opera.pdf", "COMPLETED", 40_000)
        reasons = card.get_by_role("list", name="Reasons of opera.pdf")
        expect(reasons.get_by_role("listitem")).to_contain_text(
            "Text (skipped): No data for the language tlh is installed"
        )
        assert visitor.violations() == []


def test_leaving_while_something_is_sent_is_asked_about(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    visitor.slow(SLOW)
    visitor.give(heavy(tmp_path / "stay.jpg"))
    visitor.wait("stay.jpg", "uploading")
    visitor.page.locator("body").click(position={"x": 2, "y": 2})
    asked: list[str] = []

    def answer(dialog: object) -> None:
        asked.append(getattr(dialog, "type"))  # noqa: B009 -- an event of any kind
        dialog.accept()  # type: ignore[attr-defined]

    visitor.page.on("dialog", answer)
    visitor.page.goto("about:blank")
    assert asked == ["beforeunload"]


def test_axe_finds_nothing_wrong_in_light_and_dark(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    assert visitor.violations() == []
    visitor.give(
        photo(tmp_path / "fine.jpg"),
        damaged(tmp_path / "torn.jpg"),
        letter(tmp_path / "words.pdf", "Plain words"),
    )
    visitor.wait("fine.jpg", "COMPLETED")
    visitor.wait("words.pdf", "COMPLETED", 40_000)
    visitor.page.get_by_role("region", name="Text of words.pdf").wait_for()
    visitor.page.get_by_role("button", name="Retry").wait_for()
    for scheme in SCHEMES:
        visitor.page.emulate_media(color_scheme=scheme)
        assert visitor.violations() == []


def test_forced_colours_and_reduced_motion_keep_everything_visible(
    visit: Visit, tmp_path: Path
) -> None:
    with visit(forced_colors="active", reduced_motion="reduce") as visitor:
        visitor.open()
        visitor.give(photo(tmp_path / "plain.jpg"))
        visitor.wait("plain.jpg", "COMPLETED")
        expect(visitor.page.locator("label.main")).to_be_visible()
        assert visitor.page.evaluate(MOTION) == "0s"
