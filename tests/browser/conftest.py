"""What the tests with a browser share: a server and a Chromium for each module.

Not for longer: while Playwright's loop runs in this thread, no other test's loop can.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import PATIENCE_MS, Visitor, chromium, visiting
from tests.server_process import ServerProcess, serving

expect.set_options(timeout=PATIENCE_MS)

Visit = Callable[..., AbstractContextManager[Visitor]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("browser") / "data"
    with serving(folder, workers="2", workers_min="2") as server:
        yield server


@pytest.fixture
def visit(browser: Browser, server: ServerProcess) -> Visit:
    """Open a page with options of one's own."""
    return partial(visiting, browser, server.url)


@pytest.fixture
def visitor(visit: Visit) -> Iterator[Visitor]:
    with ExitStack() as stack:
        yield stack.enter_context(visit())


@pytest.fixture
def operator(browser: Browser, server: ServerProcess) -> Iterator[Visitor]:
    """Somebody who came by the address with the token."""
    options: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}}
    with visiting(browser, server.url, **options) as visitor:
        visitor.page.goto(f"{server.url}/admin?token={server.token}")
        assert "token" not in visitor.page.url
        yield visitor
