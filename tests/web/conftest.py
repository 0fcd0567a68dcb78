"""A headless Chromium, the page on a mock server, and what no test of the page may see."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mock_server import WEB, MockServer  # noqa: E402

ARGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI));
"""


def chromium_path() -> str | None:
    """Where Debian's, or another, Chromium is."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; tests that need it skip where it, or Playwright, is not installed.

    Its event loop runs in the tests' own thread, so it ends before tests of others begin, which have loops too.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = chromium_path()
    if not path:
        pytest.skip("no chromium found: apt-get install chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def mock() -> Iterator[MockServer]:
    """A server that does what `mock.script` says."""
    with MockServer() as server:
        yield server


class Tabs:
    """Opens pages and watches them: no script error, no request to elsewhere, no breach of the policy."""

    def __init__(self, browser: Any, home: str) -> None:
        self.browser, self.home = browser, home
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.contexts: list[Any] = []
        self.pages: list[Any] = []

    def context(self, **options: Any) -> Any:
        """A browser profile of its own."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(60_000)
        context.add_init_script(VIOLATIONS)
        context.on("request", lambda request: self.requests.append(request.url))
        self.contexts.append(context)
        return context

    def open(self, path: str = "", *, context: Any = None, wait: bool = True, home: str = "", **options: Any) -> Any:
        """The page, started."""
        page = (context or self.context(**options)).new_page()
        page.on("pageerror", lambda error: self.problems.append(f"{error.message} {error.stack}"))
        self.pages.append(page)
        page.goto((home or self.home) + path)
        if wait:
            page.wait_for_selector("html[data-ready]")
        return page

    def check(self) -> None:
        """What must not have happened did not happen."""
        for page in self.pages:
            if not page.is_closed():
                self.problems += page.evaluate("window.violations ?? []")
        here = "/".join(self.home.split("/")[:3])
        foreign = [url for url in self.requests if not url.startswith((here, "blob:", "http://127.0.0.1:", "data:"))]
        assert not self.problems
        assert not foreign


@pytest.fixture
def tabs(chromium: Any, mock: MockServer) -> Iterator[Tabs]:
    """Pages of the mock server; at the end they must have behaved."""
    tabs = Tabs(chromium, mock.url)
    yield tabs
    try:
        tabs.check()
    finally:
        for context in tabs.contexts:
            context.close()


@pytest.fixture
def page(tabs: Tabs) -> Any:
    """The page in a window of common size."""
    return tabs.open(viewport={"width": 1280, "height": 800})


@pytest.fixture(scope="module")
def lab(chromium: Any) -> Iterator[Any]:
    """An empty page of the server's origin, from which modules can be imported one by one."""
    with MockServer() as server:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(server.url + "ui/icon.svg")
        page.goto(server.url + "health")
        yield page
        context.close()


@pytest.fixture
def ask(page: Any) -> Callable[..., None]:
    """Types a message, sends it and waits for the end of the answer."""

    def send(text: str, wait: bool = True) -> None:
        page.fill("#message", text)
        page.press("#message", "Enter")
        if wait:
            page.wait_for_selector("#send[data-does=send]")
            page.wait_for_selector(".message.last [data-tool=copy]")

    return send


@pytest.fixture(scope="session")
def web() -> Path:
    """The folder of the page's files."""
    return WEB
