"""The admin page, as an operator uses it."""

import re
import resource
import shutil
import uuid
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, ViewportSize, expect

from tests.browser.conftest import Visit
from tests.browser.visitor import (
    PATIENCE_MS,
    SCHEMES,
    Visitor,
    damaged,
    photo,
    visiting,
)
from tests.faults import watch
from tests.server_process import ServerProcess, serving
from tests.web.chunks import chunk_form

pytestmark = pytest.mark.needs("chromium")

HOSTILE = Path(__file__).parent.parent / "tasks" / "hostile_work.py"
WIDE: ViewportSize = {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def failed(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("files")
    fine = photo(folder / "fine.jpg").read_bytes()
    server.finished(server.upload("beach.jpg", fine))
    job = server.upload("torn.jpg", damaged(folder / "torn.jpg").read_bytes())
    assert server.finished(job)["status"] == "FAILED"
    return job


def test_the_operator_sees_what_goes_on(operator: Visitor, failed: str) -> None:
    page = operator.page
    expect(page.locator("#ready")).to_have_text("ready")
    expect(page.locator("#consumers tr")).to_have_count(4)
    expect(page.locator("#workers tr")).to_have_count(2)
    expect(page.locator("#now")).to_contain_text("Steps waiting")
    chart = page.get_by_role("img")
    expect(chart).to_have_attribute(
        "aria-label", re.compile(r"uploads, [1-9] jobs? completed, [1-9]+ failed")
    )
    assert chart.locator("rect.good").count() >= 1
    assert chart.locator("rect.bad").count() >= 1


def test_a_consumer_is_paused_and_goes_on(operator: Visitor, failed: str) -> None:
    page = operator.page
    page.get_by_role("button", name="Pause Pictures").click()
    expect(page.locator("#live")).to_have_text("Pictures is paused.")
    row = page.locator("#consumers tr", has_text="Pictures")
    expect(row).to_contain_text("paused")
    resume = page.get_by_role("button", name="Resume Pictures")
    expect(resume).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).not_to_contain_text("paused")
    page.get_by_text("Done by hand").click()
    expect(page.locator("#audit li").first).to_contain_text("local let go on image")


def test_refused_files_say_why_and_are_retried(
    operator: Visitor, server: ServerProcess, failed: str
) -> None:
    page = operator.page
    row = page.locator("#consumers tr", has_text="Pictures")
    expect(row.locator("td[data-label=Failed]")).to_have_text("0")
    page.get_by_role("button", name="1 refused file of Pictures").click()
    letters = page.locator("#letter-list li")
    expect(letters).to_have_count(1)
    expect(letters).to_contain_text("torn.jpg")
    expect(letters).to_contain_text("(truncated)")
    expect(page.locator("#letters-title")).to_be_focused()
    before = server.status(failed)["run"]
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/admin/consumers", hold)
    page.get_by_role("button", name="Retry: torn.jpg").first.click()
    expect(page.locator("#live")).to_have_text("The step is tried again.")
    assert server.finished(failed)["run"] == before + 1
    # who goes on before the table is fresh again is not called back
    close = page.get_by_role("button", name="Close")
    close.focus()
    with page.expect_response("**/dead?*"):
        for route in held:
            route.continue_()
    page.unroute("**/admin/consumers")
    expect(letters).to_have_count(1)
    expect(close).to_be_focused()

    # each of them ends the same way: that all are tried again is asked for twice
    page.get_by_role("button", name="Retry all", exact=True).click()
    keep = page.get_by_role("button", name="Leave them")
    expect(keep).to_be_focused()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        assert operator.violations() == []
    page.keyboard.press("Enter")
    expect(page.locator("#letters-title")).to_be_focused()
    page.get_by_role("button", name="Retry all", exact=True).click()
    page.get_by_role("button", name="Retry all refused").click()
    expect(page.locator("#live")).to_have_text("1 step is tried again.")
    assert server.finished(failed)["run"] == before + 2
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#letters")).to_be_hidden()


def test_running_steps_are_seen_and_cancelled(
    operator: Visitor, server: ServerProcess
) -> None:
    page = operator.page
    said = b'{"name": "sample-task"}'
    job = server.request("POST", "/tasks", said).json["taskId"]
    running = page.locator("#running li", has_text="sample-task")
    expect(running).to_contain_text("%")
    running.get_by_role("button").click()
    expect(page.locator("#live")).to_have_text("The step is cancelled.")
    assert server.finished(job)["status"] == "CANCELLED"
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
    page.get_by_role("button", name="sample-task", exact=True).click()
    told = page.locator(".past:visible li")
    expect(told.first).to_contain_text("task given to the server")
    server.request("DELETE", f"/jobs/{job}")


def test_the_server_is_drained_and_goes_on(
    operator: Visitor, server: ServerProcess
) -> None:
    page = operator.page
    page.get_by_role("button", name="Drain").click()
    expect(page.locator("#live")).to_contain_text("No step begins any more")
    expect(page.locator("#ready")).to_have_text("draining")
    expect(page.locator("#draining")).to_contain_text("no step begins")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        assert operator.violations() == []
    job = server.upload("late.txt", b"hello")
    page.get_by_role("button", name="Let steps begin again").click()
    expect(page.locator("#live")).to_have_text("Steps begin again.")
    expect(page.locator("#ready")).to_have_text("ready")
    expect(page.locator("#draining")).to_be_hidden()
    assert server.finished(job)["status"] == "COMPLETED"
    server.request("DELETE", f"/jobs/{job}")


def test_uploads_in_progress_are_seen(operator: Visitor, server: ServerProcess) -> None:
    page = operator.page
    made = server.request(
        "POST",
        "/files/",
        Tus_Resumable="1.0.0",
        Upload_Length="1000",
        Upload_Metadata="filename YmlnLmJpbg==",
    )
    expect(page.locator("#arriving li")).to_contain_text("big.bin")
    expect(page.locator("#arriving li")).to_contain_text("0 B of 1000 B")
    job = made.headers["asyncflow-job-id"]
    server.request("DELETE", f"/files/{job}", Tus_Resumable="1.0.0")
    server.request("DELETE", f"/jobs/{job}")
    expect(page.get_by_text("Nothing arrives.")).to_be_visible()


def test_a_file_that_cannot_be_put_together_says_why(
    operator: Visitor, server: ServerProcess
) -> None:
    page, job = operator.page, str(uuid.uuid4())
    with watch.limit(server, resource.RLIMIT_FSIZE, 16 << 20):
        for n in range(2):
            said = {"jobId": job, "chunkIndex": n, "totalChunks": 2}
            (_, kind), body = chunk_form(bytes(9 << 20), said)
            server.request("POST", "/upload/chunked", body, Content_Type=kind)
        line = page.locator("#arriving li", has_text="All bytes have come")
        expect(line).to_contain_text("The disk has no room for this")
        server.request("DELETE", f"/jobs/{job}")
        expect(page.get_by_text("Nothing arrives.")).to_be_visible()


def test_a_failed_job_tells_why_and_can_be_retried(
    operator: Visitor, server: ServerProcess, failed: str
) -> None:
    page = operator.page
    page.get_by_role("button", name="torn.jpg", exact=True).click()
    past = page.locator(".past:visible")
    expect(past.locator("li").first).to_contain_text("upload begun")
    expect(past).to_contain_text("Pictures: the file's fault: ")
    expect(past).to_contain_text("(truncated)")
    expect(past).to_contain_text("job failed")
    told = past.inner_text()
    assert told.index("the file's fault") < told.index("failed for good")
    assert not re.search(r"[a-z]\.(dead|failed|completed|uploaded)", past.inner_text())
    before = server.status(failed)["run"]
    page.get_by_role("button", name="Retry: torn.jpg").click()
    expect(past).to_contain_text(f"job failed (run {before + 1})")
    assert server.status(failed)["run"] == before + 1


def test_jobs_are_found_by_state_name_and_id(operator: Visitor, failed: str) -> None:
    page = operator.page
    names = page.locator("#jobs .open")
    expect(names).to_have_text(["torn.jpg", "beach.jpg"])
    page.get_by_label("State").select_option("done")
    expect(names).to_have_text(["beach.jpg"])
    page.get_by_label("State").select_option("all")
    page.get_by_label("Part of a file name, or a job id").fill("TORN")
    expect(names).to_have_text(["torn.jpg"])
    page.get_by_label("Part of a file name, or a job id").fill(failed)
    expect(names).to_have_text(["torn.jpg"])
    page.get_by_label("Part of a file name, or a job id").fill("nobody")
    expect(page.get_by_text("No such job.")).to_be_visible()


def test_a_late_page_of_jobs_is_not_mixed_into_another_question(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        serving(tmp_path / "data", workers="1") as server,
        visiting(browser, server.url, viewport=WIDE) as visitor,
    ):
        for number in range(141):
            server.upload(f"{number}.txt", b"hello")
        page = visitor.page
        page.goto(f"{server.url}/admin?token={server.token}")
        rows = page.locator("#jobs > li")
        more = page.locator("#more")
        for shown in (20, 40, 60, 80, 100):
            expect(rows).to_have_count(shown)
            more.click()
        expect(rows).to_have_count(120)
        held: list[Route] = []
        page.route("**/jobs?*after=*", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright cannot mark a built-in method
        more.click()
        more.click()
        visitor.until(lambda: len(held) == 2)
        search = page.get_by_label("Part of a file name, or a job id")
        search.fill("140.txt")
        expect(rows).to_have_count(1)
        for route in held:
            with page.expect_response("**/jobs?*after=*"):
                route.continue_()
        with page.expect_response("**/jobs?*search=*"):
            pass
        expect(rows).to_have_count(1)


def test_jobs_further_back_stay_when_new_ones_come_and_go_when_they_are_deleted(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        serving(tmp_path / "data", workers="1") as server,
        visiting(browser, server.url, viewport=WIDE) as visitor,
    ):
        names = [f"{number}.txt" for number in range(135)]
        for name in names[:110]:
            server.upload(name, b"hello")
        page = visitor.page
        page.goto(f"{server.url}/admin?token={server.token}")
        rows = page.locator("#jobs .open")
        for shown in (20, 40, 60, 80, 100):
            expect(rows).to_have_count(shown)
            page.locator("#more").click()
        expect(rows).to_have_count(110)
        for name in names[110:]:
            server.upload(name, b"hello")
        expect(rows).to_have_text(names[::-1])

        page.get_by_role("button", name="3.txt", exact=True).click()
        page.get_by_role("button", name="Delete: 3.txt").click()
        page.get_by_role("button", name="Delete for good: 3.txt").click()
        names.remove("3.txt")
        expect(rows).to_have_text(names[::-1])


def test_what_is_open_stays_open_and_focus_stays_where_it_is(
    operator: Visitor, failed: str
) -> None:
    page = operator.page
    name = page.get_by_role("button", name="beach.jpg", exact=True)
    name.focus()
    page.keyboard.press("Enter")
    expect(name).to_have_attribute("aria-expanded", "true")
    for _ in range(2):
        with page.expect_response("**/jobs?*"):
            pass
    expect(name).to_be_focused()
    expect(page.locator(".past:visible")).to_contain_text("job done")


def test_a_visitor_without_the_token_is_told_how_to_get_in(
    visit: Visit, server: ServerProcess
) -> None:
    with visit() as visitor:
        answer = visitor.page.goto(f"{server.url}/admin")
        assert answer is not None
        assert answer.status == 401
        heading = visitor.page.get_by_role("heading", level=1)
        expect(heading).to_have_text("This page needs the server's token")
        assert visitor.violations() == []
        visitor.page.get_by_label("Token").fill("certainly not this one")
        visitor.page.get_by_role("button", name="Go on").click()
        expect(visitor.page.locator(".problem")).to_have_text(
            "This is not the server's token."
        )
        visitor.page.get_by_label("Token").fill(server.token)
        visitor.page.get_by_role("button", name="Go on").click()
        expect(visitor.page.locator("#ready")).to_have_text("ready")
        assert visitor.page.url == f"{server.url}/admin"
        visitor.troubles[:] = [one for one in visitor.troubles if "401" not in one]


def test_with_a_token_for_everything_pages_ask_for_it(
    browser: Browser, tmp_path: Path
) -> None:
    settings = {"workers": "1", "token": "one-of-our-own"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        visitor.page.goto(server.url)
        # its style sheet came without the token
        shown = "getComputedStyle(document.querySelector('button')).cursor"
        assert visitor.page.evaluate(shown) == "pointer"
        visitor.page.get_by_label("Token").fill(settings["token"])
        visitor.page.get_by_role("button", name="Go on").click()
        visitor.give(photo(tmp_path / "mine.jpg", size=(64, 64)))
        visitor.wait("mine.jpg", "COMPLETED")
        visitor.troubles[:] = [one for one in visitor.troubles if "401" not in one]


def test_the_history_tells_what_an_exception_said_and_where(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "torn_tasks.py").write_text(
        "from asyncflow import task\n@task('explode', attempts=1)\n"
        "def explode(work): raise ValueError('the reason why ' + 40 * 'is-long-')\n"
    )
    settings = {"workers": "1", "processors": "torn_tasks"}
    with (
        serving(tmp_path / "data", **settings) as server,
        visiting(browser, server.url) as visitor,
    ):
        body = b'{"name": "explode"}'
        server.finished(server.request("POST", "/tasks", body).json["taskId"])
        page = visitor.page
        page.goto(f"{server.url}/admin?token={server.token}")
        page.get_by_role("button", name="explode", exact=True).click()
        past = page.locator(".past:visible")
        expect(past).to_contain_text("ValueError: the reason why")
        expect(past.locator("pre")).to_be_hidden()

        past.locator("summary").click()

        expect(past.locator("pre")).to_contain_text("Traceback")
        assert visitor.violations() == []
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_programs_get_a_problem_document(server: ServerProcess) -> None:
    for accept in ("*/*", "application/json"):
        answer = server.request("GET", "/admin/overview", Accept=accept)
        assert answer.status == 401
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json["code"] == "unauthorized"


def test_axe_finds_nothing_wrong_in_light_and_dark(
    operator: Visitor, failed: str
) -> None:
    operator.page.get_by_role("button", name="torn.jpg", exact=True).click()
    expect(operator.page.locator(".past:visible")).to_contain_text("truncated")
    for scheme in SCHEMES:
        operator.page.emulate_media(color_scheme=scheme)
        assert operator.violations() == []


def test_a_phone_shows_the_whole_page(operator: Visitor, failed: str) -> None:
    operator.page.set_viewport_size({"width": 320, "height": 640})
    expect(operator.page.locator("#workers tr")).to_have_count(2)
    width = operator.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320


@pytest.mark.parametrize("width", [320, 768, 1024, 1280, 1920])
def test_the_consumers_fit_with_their_failures_and_their_buttons(
    operator: Visitor, failed: str, width: int
) -> None:
    page = operator.page
    page.set_viewport_size({"width": width, "height": 900})
    expect(page.locator("#consumers tr")).to_have_count(4)
    frame = page.locator("#consumers").locator("xpath=ancestor::div[1]")
    assert frame.evaluate("one => one.scrollWidth - one.clientWidth") <= 0
    for button in page.locator("#consumers button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    # a name, and for each number what it counts
    expect(page.get_by_role("rowheader", name="Pictures")).to_be_visible()
    assert operator.violations() == []


def test_a_job_is_deleted_and_the_audit_says_by_whom(
    operator: Visitor, server: ServerProcess
) -> None:
    page = operator.page
    job = server.upload("secret.txt", b"not for ever")
    server.finished(job)
    name = page.get_by_role("button", name="secret.txt", exact=True)
    name.click()
    page.get_by_role("button", name="Delete: secret.txt").click()
    keep = page.get_by_role("button", name="Keep: secret.txt")
    expect(keep).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Delete: secret.txt").click()
    page.get_by_role("button", name="Delete for good: secret.txt").click()
    expect(page.locator("#live")).to_have_text("The job is deleted.")
    expect(name).to_have_count(0)
    assert server.request("GET", f"/jobs/{job}").status == 404
    page.get_by_text("Done by hand").click()
    told = page.locator("#audit li").first
    expect(told).to_contain_text(f"local deleted job {job}")


def test_functions_that_do_not_stop_and_earlier_alerts_are_seen(
    browser: Browser, tmp_path: Path
) -> None:
    shutil.copy(HOSTILE, tmp_path)
    settings = {"processors": "hostile_work", "workers": "1", "backlog_limit": "2"}
    settings["grace"] = "1"
    with serving(tmp_path / "data", **settings) as server:
        with visiting(browser, server.url) as operator:
            page = operator.page
            page.goto(f"{server.url}/admin?token={server.token}")
            expect(page.locator("#now")).to_contain_text("Steps waiting")
            expect(page.locator("#now")).not_to_contain_text("Do not stop")
            said = b'{"name": "stay"}'
            job = server.request("POST", "/tasks", said).json["taskId"]
            tile = page.locator("#now div", has_text="Do not stop")
            expect(tile).to_contain_text("their step is over", timeout=PATIENCE_MS)
            expect(page.locator("#strays li")).to_contain_text(f"job {job}")
            # what has no bytes can be tried again, too
            expect(page.get_by_role("button", name="Retry: stay")).to_be_visible()
            # two tasks of later are four fifths of what may wait, and more
            bearer = f"Bearer {server.token}"
            path = "/admin/consumers/sample-task/pause"
            server.request("POST", path, Authorization=bearer)
            for _ in range(2):
                server.request("POST", "/tasks", b'{"name": "sample-task"}')
            expect(page.locator("#trouble")).to_contain_text(
                "Waiting steps have reached"
            )
            page.get_by_text("Earlier alerts").click()
            expect(page.locator("#past-box")).to_contain_text("There were none.")
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert operator.violations() == []
        server.stop()
        server.start()
        with visiting(browser, server.url) as operator:
            page = operator.page
            page.goto(f"{server.url}/admin?token={server.token}")
            page.get_by_text("Earlier alerts").click()
            expect(page.locator("#past li").first).to_contain_text(
                "until the server ended: Waiting steps have reached"
            )


def test_what_belongs_to_no_tenant_is_paused_like_a_tenant(
    operator: Visitor, server: ServerProcess
) -> None:
    page = operator.page
    said = b'{"name": "sample-task", "tenant": "acme"}'
    task = server.request("POST", "/tasks", said).json["taskId"]
    none = page.locator("#tenants li", has_text="Without a tenant")
    expect(page.locator("#tenants li", has_text="acme")).to_be_visible()
    none.get_by_role("button", name="Pause Without a tenant").click()
    expect(page.locator("#live")).to_have_text("The tenant is paused.")
    expect(none).to_contain_text("paused")
    job = server.upload("nobodys.txt", b"hello")
    expect(none).to_contain_text("1 step waits")
    none.get_by_role("button", name="Resume Without a tenant").click()
    assert server.finished(job)["status"] == "COMPLETED"
    for one in (job, task):
        server.request("POST", f"/jobs/{one}/cancel")
        server.request("DELETE", f"/jobs/{one}")
