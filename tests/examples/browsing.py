"""A real browser, and what goes wrong in its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

from tests.servers.availability import ServerUnavailableError

FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    # Nothing but the pages under test is to be asked for.
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
#: Milliseconds that a page has for what a test waits for.
PATIENCE = 20_000


def chromium_path() -> Path:
    """Return where Debian's Chromium is."""
    found = shutil.which("chromium")
    if found is None:
        raise ServerUnavailableError("Chromium is not installed (Debian's package: chromium)")
    return Path(found)


@contextmanager
def chromium(path: Path) -> Iterator[Browser]:
    """Run the browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, headless=True)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page, and everything that went wrong in it."""

    def __init__(self, page: Page, home: str) -> None:
        self.page = page
        self.home = home
        self.complaints: list[str] = []
        self.is_to_miss_pages = False
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complain(f"error: {error}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complain(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self._complain(f"{response.status} {response.url}")

    def _complain(self, words: str) -> None:
        if not (self.is_to_miss_pages and "404" in words):
            self.complaints.append(words)

    def place(self, **fields: str) -> None:
        """Fill in the form and send it."""
        self.page.goto(self.home)
        for name, value in fields.items():
            self.page.locator(f"[name={name.replace('_', '-')}]").fill(value)
        self.send()

    def send(self) -> None:
        self.page.get_by_role("button", name="Order", exact=True).click()

    def step(self, name: str, state: str) -> str:
        """Wait until a step of the journey has this state, and return what the page says of it."""
        found = self.page.locator(f"[data-step={name}][data-state={state}]")
        found.wait_for()
        return " ".join(found.inner_text().split())
