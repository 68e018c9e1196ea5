"""What is cancelled on the upload page, or elsewhere, and what becomes of it."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.browser.test_upload_page import KEPT, lost_network
from tests.browser.visitor import Held, Visitor, as_operator, photo
from tests.server_process import ServerProcess

pytestmark = pytest.mark.needs("chromium")


def begun(visitor: Visitor, file: Path) -> tuple[str, Held]:
    """Give a file whose bytes are held back; return its job and what is held."""
    held = Held(visitor.page, "PATCH")
    visitor.give(file)
    visitor.until(lambda: bool(held.routes))
    return held.routes[0].request.url.rpartition("/")[2], held


def made(visitor: Visitor) -> list[str]:
    """Note each upload that the page creates from now on."""
    posts: list[str] = []

    def note(method: str, url: str) -> None:
        if method == "POST" and url.endswith("/files/"):
            posts.append(url)

    visitor.page.on("request", lambda one: note(one.method, one.url))
    return posts


def test_what_an_operator_cancels_is_not_sent_again(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    posts = made(visitor)
    job, held = begun(visitor, photo(tmp_path / "stop.jpg"))
    as_operator(server, f"/admin/jobs/{job}/cancel")
    held.release()
    card = visitor.wait("stop.jpg", "refused")
    expect(card.locator(".status")).to_contain_text("Cancelled")
    expect(card.locator(".problem")).to_have_text(
        "It was cancelled on the server or in another window."
    )
    assert len(posts) == 1
    live = visitor.page.locator("p.live")
    expect(live).to_contain_text("stop.jpg: cancelled.")
    assert visitor.violations() == []

    card.get_by_role("button", name="Retry: stop.jpg").click()
    visitor.wait("stop.jpg", "COMPLETED")
    assert len(posts) == 2
    assert server.status(job)["status"] == "CANCELLED"
    visitor.page.reload()
    visitor.wait("stop.jpg", "COMPLETED")
    visitor.troubles[:] = [one for one in visitor.troubles if "410" not in one]


def test_what_an_operator_deletes_is_not_sent_again(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    posts = made(visitor)
    job, held = begun(visitor, photo(tmp_path / "away.jpg"))
    server.request("DELETE", f"/jobs/{job}")
    held.release()
    card = visitor.wait("away.jpg", "refused")
    expect(card.locator(".problem")).to_have_text("It was deleted from the server.")
    assert len(posts) == 1
    visitor.troubles[:] = [one for one in visitor.troubles if "404" not in one]


def test_what_another_tab_cancels_is_cancelled_in_all(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    posts = made(visitor)
    job, held = begun(visitor, photo(tmp_path / "both.jpg"))
    other = visitor.context.new_page()
    other.goto(visitor.url)
    other.get_by_role("button", name="Cancel: both.jpg").click()
    expect(other.locator("li.card")).to_have_count(0)
    held.release()
    card = visitor.wait("both.jpg", "refused")
    expect(card.locator(".problem")).to_contain_text("cancelled")
    assert len(posts) == 1
    assert server.status(job)["status"] == "CANCELLED"
    assert visitor.page.evaluate(KEPT) == []
    visitor.troubles[:] = [one for one in visitor.troubles if "410" not in one]


def test_what_is_cancelled_while_it_waits_for_its_file_offers_no_retry(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    job, _held = begun(visitor, photo(tmp_path / "left.jpg"))
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.reload()
    visitor.wait("left.jpg", "UPLOADING")
    as_operator(server, f"/admin/jobs/{job}/cancel")
    card = visitor.wait("left.jpg", "CANCELLED")
    # neither the server nor this page has the file
    expect(card.get_by_role("button")).to_have_text(["Remove from list", "Delete"])


def test_a_cancel_that_is_not_over_goes_on_after_a_reload(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    page = visitor.page
    job, _held = begun(visitor, photo(tmp_path / "later.jpg"))
    page.route("**/files/*", lambda route: route.abort())
    page.get_by_role("button", name="Cancel: later.jpg").click()
    card = page.locator("li.card")
    expect(card.locator(".status")).to_contain_text("Cancelling")
    page.unroute("**/files/*")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    expect(card).to_have_count(0)
    visitor.until(lambda: server.status(job)["status"] == "CANCELLED")
    assert page.evaluate(KEPT) == []
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


def test_an_upload_that_nobody_ended_but_time_begins_anew(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    job, held = begun(visitor, photo(tmp_path / "late.jpg"))
    server.request("DELETE", f"/files/{job}", Tus_Resumable="1.0.0")
    said = server.status(job)
    assert said["error"]["code"] == "terminated"
    said["error"]["code"] = "expired"
    page = visitor.page
    page.route(f"**/status/{job}", lambda route: route.fulfill(body=json.dumps(said)))
    held.release()
    visitor.wait("late.jpg", "COMPLETED")
    assert page.evaluate(f"{KEPT}[0].id") != job
    visitor.troubles[:] = [one for one in visitor.troubles if "410" not in one]


def test_a_cancel_that_comes_behind_the_last_byte_deletes_the_job(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    file = photo(tmp_path / "whole.jpg")
    job, held = begun(visitor, file)
    # all of it is stored, and the answer on its way
    assert held.routes[0].fetch().status == 204
    assert server.finished(job)["status"] == "COMPLETED"
    visitor.page.get_by_role("button", name="Cancel: whole.jpg").click()
    expect(visitor.page.locator("li.card")).to_have_count(0)
    assert server.request("GET", f"/jobs/{job}").status == 404
    expect(visitor.page.locator("p.live")).to_contain_text("whole.jpg cancelled.")
    visitor.troubles[:] = [one for one in visitor.troubles if "403" not in one]


def test_a_cancel_without_a_network_is_done_when_it_is_back(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    job, _held = begun(visitor, photo(tmp_path / "train.jpg"))
    visitor.context.set_offline(True)
    visitor.page.get_by_role("button", name="Cancel: train.jpg").click()
    card = visitor.wait("train.jpg", "cancelled")
    expect(card.locator(".status")).to_contain_text("Cancelling")
    expect(card.locator(".problem")).to_have_text("The server cannot be reached.")
    expect(card.get_by_role("button", name="Try now: train.jpg")).to_be_visible()
    live = visitor.page.locator("p.live")
    expect(live).to_have_text("train.jpg: cancelling. The server cannot be reached.")
    assert visitor.violations() == []
    assert server.status(job)["status"] == "UPLOADING"
    assert visitor.page.evaluate(f"{KEPT}[0].id") == job
    # who leaves now leaves it there
    with visitor.page.expect_event("dialog") as asked:
        visitor.page.evaluate("setTimeout(() => location.assign('about:blank'))")
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    visitor.context.set_offline(False)
    expect(visitor.page.locator("li.card")).to_have_count(0)
    expect(live).to_contain_text("train.jpg cancelled.")
    assert server.status(job)["status"] == "CANCELLED"
    assert visitor.page.evaluate(KEPT) == []
    visitor.troubles[:] = [one for one in visitor.troubles if not lost_network(one)]


class Unanswered:
    """Creations that the server makes, and whose answers get lost until `is_over`."""

    def __init__(self, visitor: Visitor) -> None:
        self.made: list[str] = []
        self.is_over = False
        visitor.page.route("**/files/", self.judge)

    def judge(self, route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        answer = route.fetch()
        self.made.append(answer.headers["asyncflow-job-id"])
        if self.is_over:
            route.fulfill(response=answer)
        else:
            route.abort()


def test_an_upload_whose_creation_is_not_answered_is_created_once(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.open()
    lost = Unanswered(visitor)
    visitor.give(photo(tmp_path / "once.jpg"))
    visitor.until(lambda: bool(lost.made))
    lost.is_over = True
    visitor.wait("once.jpg", "COMPLETED")
    assert {visitor.page.evaluate(f"{KEPT}[0].id")} == set(lost.made)
    assert visitor.page.evaluate(f"{KEPT}[0].once") is None
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


def test_a_cancel_finds_what_a_creation_without_an_answer_has_made(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    lost = Unanswered(visitor)
    visitor.give(photo(tmp_path / "deaf.jpg"))
    visitor.until(lambda: len(lost.made) > 1)
    visitor.page.get_by_role("button", name="Cancel: deaf.jpg").click()
    # as long as nobody knows what the server has, it is not over
    visitor.wait("deaf.jpg", "cancelled")
    lost.is_over = True
    expect(visitor.page.locator("li.card")).to_have_count(0)
    (job,) = set(lost.made)
    assert server.status(job)["status"] == "CANCELLED"
    assert visitor.page.evaluate(KEPT) == []
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


@pytest.mark.parametrize("then", ["CANCELLED", "COMPLETED"])
def test_after_a_reload_a_creation_without_an_answer_is_found(
    visitor: Visitor, server: ServerProcess, tmp_path: Path, then: str
) -> None:
    visitor.open()
    page = visitor.page
    file = photo(tmp_path / "again.jpg")
    lost = Unanswered(visitor)
    visitor.give(file)
    visitor.until(lambda: bool(lost.made))
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    card = visitor.wait("again.jpg", "UPLOADING")
    lost.is_over = True
    if then == "CANCELLED":
        card.get_by_role("button", name="Cancel: again.jpg").click()
        expect(page.locator("li.card")).to_have_count(0)
        assert page.evaluate(KEPT) == []
    else:
        card.locator("input").set_input_files(file)
        visitor.wait("again.jpg", "COMPLETED")
    (job,) = set(lost.made)
    assert server.status(job)["status"] == then
    visitor.troubles[:] = [one for one in visitor.troubles if "ERR_" not in one]


def test_a_cancel_of_what_a_full_server_did_not_take_is_over_at_once(
    visitor: Visitor, tmp_path: Path
) -> None:
    full = json.dumps({"code": "disk_full", "detail": "no room"})
    kind = "application/problem+json"
    visitor.open()
    visitor.page.route(
        "**/files/",
        lambda route: route.fulfill(status=507, body=full, content_type=kind),
    )
    posts = made(visitor)
    visitor.give(photo(tmp_path / "full.jpg"))
    card = visitor.card("full.jpg")
    expect(card.locator(".problem")).to_have_text("No room.")
    asked = len(posts)
    card.get_by_role("button", name="Cancel: full.jpg").click()
    expect(visitor.page.locator("li.card")).to_have_count(0)
    assert len(posts) == asked
    visitor.troubles[:] = [one for one in visitor.troubles if "507" not in one]


def test_an_upload_that_is_cancelled_while_it_is_created_is_ended(
    visitor: Visitor, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.open()
    held = Held(visitor.page, "POST")
    visitor.give(photo(tmp_path / "soon.jpg"))
    visitor.until(lambda: bool(held.routes))
    visitor.page.get_by_role("button", name="Cancel: soon.jpg").click()
    expect(visitor.card("soon.jpg").locator(".status")).to_contain_text("Cancelling")
    with visitor.page.expect_response("**/files/") as answer:
        held.release()
    expect(visitor.page.locator("li.card")).to_have_count(0)
    job = answer.value.headers["asyncflow-job-id"]
    assert server.status(job)["status"] == "CANCELLED"
