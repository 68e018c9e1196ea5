"""A person at a browser: pages of a real Chromium, and what went wrong on them."""

import io
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    sync_playwright,
)

from tests.server_process import ServerProcess

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCHEMES: Final[tuple[Literal["light"], Literal["dark"]]] = ("light", "dark")
#: a shared machine has slow moments
PATIENCE_MS = 40_000
#: what a page says of a policy that it broke
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the Chromium that this machine has."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)  # no slots: Playwright hangs its own on whose methods it calls
class Visitor:
    """One person with one page, on one server."""

    url: str
    context: BrowserContext
    page: Page
    #: errors on the console and breaches of the content policy
    troubles: list[str] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)

    def watch(self) -> None:
        """Collect what goes wrong and where the page asks."""
        self.context.add_init_script(REPORT_VIOLATIONS)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._note)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.troubles.append(message.text)

    def _note(self, request: Request) -> None:
        if not request.url.startswith(("blob:", "data:", self.url)):
            self.addresses.add(request.url)

    # ----- the upload page

    def open(self, path: str = "/") -> None:
        """Go to a page and wait until its element is there."""
        self.page.goto(self.url + path)
        self.page.locator("input.files").wait_for(state="attached")

    def give(self, *files: Path) -> None:
        """Choose files."""
        self.page.locator("input.files").set_input_files(files)

    def card(self, name: str) -> Locator:
        """Return the card of the file called *name*."""
        return self.page.locator("li.card").filter(
            has=self.page.get_by_role("heading", name=name, exact=True)
        )

    def wait(self, name: str, state: str, timeout_ms: float = PATIENCE_MS) -> Locator:
        """Wait until a card is in *state*."""
        card = self.page.locator(f'li.card[data-state="{state}"]').filter(
            has=self.page.get_by_role("heading", name=name, exact=True)
        )
        card.wait_for(timeout=timeout_ms)
        return card

    def until(self, ask: Callable[[], bool]) -> None:
        """Ask again and again, as the page's own policy forbids to wait inside it."""
        left = PATIENCE_MS // 50
        while not ask():
            left -= 1
            assert left, "it never came"
            self.page.wait_for_timeout(50)

    def focus(self, what: str) -> Any:
        """Return something of the element that has the focus, such as `className`."""
        return self.page.evaluate(
            "document.querySelector('asyncflow-uploader').shadowRoot.activeElement."
            + what
        )

    def slow(self, bytes_per_s: int) -> None:
        """Make the network slow from now on."""
        network = self.context.new_cdp_session(self.page)
        limits = {"latency": 0, "downloadThroughput": -1, "offline": False}
        limits["uploadThroughput"] = bytes_per_s
        network.send("Network.emulateNetworkConditions", limits)

    # ----- judgement

    def violations(self) -> list[str]:
        """Return what axe finds wrong with the page as it is now."""
        before = self.troubles.copy()
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        # axe puts styles of its own into the page, which the policy forbids
        self.troubles[:] = before
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visitor]:
    """Open a page of one's own; nothing may go wrong on it, nothing leave the server.

    What a test expects to go wrong it takes out of `troubles` itself.
    """
    with browser.new_context(**options) as context:
        visitor = Visitor(url=url, context=context, page=context.new_page())
        visitor.watch()
        yield visitor
        assert not visitor.troubles, visitor.troubles
        assert not visitor.addresses, visitor.addresses


@dataclass
class Held:
    """Requests of one method on uploads, kept back until somebody lets them go."""

    page: Page
    method: str
    routes: list[Route] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        for address in ("**/files/", "**/files/*"):
            self.page.route(address, self.judge)

    def judge(self, route: Route) -> None:
        if route.request.method == self.method and not self.is_over:
            self.routes.append(route)
        else:
            route.continue_()

    def release(self) -> None:
        self.is_over = True
        for route in self.routes:
            route.continue_()


def as_operator(server: ServerProcess, path: str) -> None:
    """Let the operator ask *server* for something."""
    bearer = f"Bearer {server.settings.get('token') or server.token}"
    assert server.request("POST", path, Authorization=bearer).status == 200


# ----- files


def photo(path: Path, *, size: tuple[int, int] = (640, 480), seed: int = 7) -> Path:
    """Write a JPEG with a lot in it."""
    noise = random.Random(seed).randbytes(size[0] * size[1] // 16 * 3)
    small = Image.frombytes("RGB", (size[0] // 4, size[1] // 4), noise)
    small.resize(size).save(path, "JPEG", quality=95)
    return path


def heavy(path: Path) -> Path:
    """Write a JPEG of about 2 MB, for a slow network."""
    noise = random.Random(3).randbytes(900 * 900 * 3)
    Image.frombytes("RGB", (900, 900), noise).save(path, "JPEG", quality=97)
    return path


def letter(path: Path, text: str) -> Path:
    """Write a PDF with one scanned page that says *text*."""
    page = Image.new("L", (1240, 700), "white")
    font = ImageFont.load_default(size=48)
    ImageDraw.Draw(page).multiline_text((100, 100), text, fill="black", font=font)
    data = io.BytesIO()
    page.save(data, "PDF", resolution=150)
    path.write_bytes(data.getvalue())
    return path


def damaged(path: Path) -> Path:
    """Write a JPEG whose second half is missing."""
    whole = photo(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    return path
