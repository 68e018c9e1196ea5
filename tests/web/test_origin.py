"""Requests as browsers send them from pages that are not ours.

Any page that somebody visits can make the browser send requests to this machine, and
can let a name of its own point here. None of that may read, change or start anything.
"""

from collections.abc import Iterator

import pytest

from tests.server_process import ServerProcess
from tests.web.frames import handshake
from tests.web.live import (
    CHUNK,
    TUS,
    Header,
    Line,
    code_of,
    create,
    form,
    healthy_server,
    jobs,
)

EVIL: Header = ("Origin", "https://evil.example")
CROSS: Header = ("Sec-Fetch-Site", "cross-site")
LISTED = "https://app.example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("origin")
    with healthy_server(folder, allowed_origins=LISTED) as found:
        yield found


@pytest.fixture(scope="module")
def upload(server: ServerProcess) -> str:
    return create(server, 5)


Change = tuple[str, str, tuple[Header, ...], bytes]

#: what a page can make a browser send: method, path, headers, body
CHANGES: list[Change] = [
    ("POST", "/upload", (form()[0],), form(("a.txt", b"hello"))[1]),
    ("POST", "/upload?name=a.txt", (("Content-Type", "text/plain"),), b"hello"),
    ("PUT", "/upload/a.txt", (), b"hello"),
    ("POST", "/files", (TUS, ("Upload-Length", "5")), b""),
    ("PATCH", "/files/{}", (TUS, CHUNK, ("Upload-Offset", "0")), b"hello"),
    ("DELETE", "/files/{}", (TUS,), b""),
    ("POST", "/jobs/{}/retry", (), b""),
    ("POST", "/jobs/{}/cancel", (), b""),
    ("DELETE", "/jobs/{}", (), b""),
]
#: how browsers say that a page of somebody else is asking
FOREIGN: list[tuple[Header, ...]] = [
    (EVIL, CROSS),
    (EVIL,),
    (CROSS,),
    (("Sec-Fetch-Site", "same-site"),),
    (("Origin", "null"), CROSS),
    (("Origin", "null"),),
    (("Origin", "http://127.0.0.1"), CROSS),
    (("Origin", "http://localhost:1"), ("Sec-Fetch-Site", "same-site")),
    (("Origin", "file://"),),
    (("Origin", ""),),
    (("Origin", LISTED + ".evil.example"), CROSS),
    (("Origin", LISTED), EVIL),
]


@pytest.mark.parametrize("page", FOREIGN)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(change[:2]))
def test_a_page_of_somebody_else_changes_nothing(
    server: ServerProcess,
    upload: str,
    change: Change,
    page: tuple[Header, ...],
) -> None:
    method, path, headers, body = change
    before = jobs(server)
    with Line(server) as line:
        target = path.format(upload)
        answer = line.ask(method, target, *headers, *page, body=body)
    assert (answer.status, code_of(answer)) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers or page[0][1] == LISTED
    assert jobs(server) == before
    assert server.status(upload)["status"] == "UPLOADING"
    assert server.status(upload)["uploadedBytes"] == 0


@pytest.mark.parametrize("page", FOREIGN)
def test_a_page_of_somebody_else_opens_no_socket(
    server: ServerProcess, upload: str, page: tuple[Header, ...]
) -> None:
    with Line(server) as line:
        line.head("GET", f"/ws?job={upload}", *handshake(), *page)
        answer = line.answer()
    assert (answer.status, code_of(answer)) == (403, "foreign_origin")


REBOUND = [
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil",
]


@pytest.mark.parametrize("host", REBOUND)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/jobs"),
        ("GET", "/status/{}"),
        ("HEAD", "/files/{}"),
        ("GET", "/metrics"),
        ("GET", "/ws?job={}"),
        *((method, path) for method, path, _headers, _body in CHANGES),
    ],
)
def test_a_name_that_was_made_to_point_here_reaches_nothing(
    server: ServerProcess, upload: str, method: str, path: str, host: str
) -> None:
    before = jobs(server)
    with Line(server) as line:
        # to the browser the page is of the same origin: it sends what it likes
        origin = ("Origin", f"http://{host}"), ("Sec-Fetch-Site", "same-origin")
        bearer = ("Authorization", f"Bearer {server.token}")
        target = path.format(upload)
        answer = line.ask(method, target, TUS, bearer, *origin, host=host)
    assert answer.status == 421
    assert answer.body == b"" or code_of(answer) == "misdirected_host"
    assert jobs(server) == before
    assert server.status(upload)["status"] == "UPLOADING"


def test_a_target_in_absolute_form_does_not_hide_the_name(
    server: ServerProcess,
) -> None:
    with Line(server) as line:
        answer = line.ask("GET", "http://evil.example/jobs")
    assert (answer.status, code_of(answer)) == (421, "misdirected_host")


def test_a_foreign_preflight_is_refused(server: ServerProcess) -> None:
    with Line(server) as line:
        asks = ("Access-Control-Request-Method", "PATCH")
        answer = line.ask("OPTIONS", "/files", EVIL, asks)
    assert (answer.status, code_of(answer)) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers


def test_a_foreign_page_can_read_nothing(server: ServerProcess, upload: str) -> None:
    # the browser sends the request, and keeps the answer from the page
    with Line(server) as line:
        answer = line.ask("GET", f"/status/{upload}", EVIL, CROSS)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_our_own_page_may_do_everything(
    server: ServerProcess, upload: str, site: str | None
) -> None:
    with Line(server) as line:
        ours: list[Header] = [("Origin", server.url)]
        if site is not None:
            ours.append(("Sec-Fetch-Site", site))
        kind, body = form(("a.txt", b"hello"))
        assert line.ask("POST", "/upload", kind, *ours, body=body).status == 202
        line.head("GET", f"/ws?job={upload}", *handshake(), *ours)
        assert line.answer().status == 101


def test_a_listed_page_may_upload_and_watch(server: ServerProcess, upload: str) -> None:
    page = ("Origin", LISTED), CROSS
    with Line(server) as line:
        answer = line.ask("POST", "/files", TUS, ("Upload-Length", "5"), *page)
        assert answer.status == 201
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert "access-control-allow-credentials" not in answer.headers
        line.head("GET", f"/ws?job={upload}", *handshake(), *page)
        assert line.answer().status == 101
