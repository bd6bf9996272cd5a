"""The playground in Debian's Chromium, before the server that it belongs to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

CHROMIUM = Path("/usr/bin/chromium")
VIEWPORT: ViewportSize = {"width": 1000, "height": 700}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


# Not for the session: while it runs, Playwright has an event loop in this thread, where other tests start their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the extra dev has")
    if not CHROMIUM.exists():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[str]:
    """The address of `gptwo serve shakespeare`."""
    pytest.importorskip("fastapi", reason="needs the extra server")
    settings = ["--port", "0", "--threads", "1", "--max-tokens", "1000000"]
    command = [sys.executable, "-m", "gptwo", "serve", "shakespeare", *settings]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPTWO_")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        announced = re.search(r"http://\S+", process.stdout.readline())
        assert announced, "the server says where it listens"
        try:
            yield announced.group() + "/"
        finally:
            process.terminate()


class Visitor:
    """A person at a browser, who may use its clipboard, and what went wrong on the pages."""

    def __init__(self, browser: Browser, server: str) -> None:
        self.context = browser.new_context(viewport=VIEWPORT, reduced_motion="reduce")
        self.context.set_default_timeout(20_000)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.rstrip("/"))
        self.server = server
        self.faults: list[str] = []
        self.context.on("request", lambda request: self._see_request(request.url))
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self._see_message(message.text))

    def arrive(self) -> None:
        """Come to the playground for the first time, and wait until it can be written in."""
        self.page.unroute_all()
        self.page.set_viewport_size(VIEWPORT)
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        self.page.goto(self.server + "playground/icon.svg")
        self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        self.faults.clear()
        self.page.goto(self.server)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def _see_request(self, url: str) -> None:
        if not url.startswith((self.server, "blob:", "data:")):
            self.faults.append(f"asked another than its own server: {url}")

    def _see_message(self, text: str) -> None:
        if "Security Policy" in text:
            self.faults.append(text)


@pytest.fixture(scope="module")
def visitor(browser: Browser, server: str) -> Iterator[Visitor]:
    """One for all tests of a file, who forgets everything between them: a new window each time would take longer."""
    visitor = Visitor(browser, server)
    yield visitor
    visitor.context.close()


@pytest.fixture
def page(visitor: Visitor) -> Iterator[Page]:
    """The playground as one finds it. An exception in it, a request to elsewhere, or what its policy forbids fails."""
    visitor.arrive()
    yield visitor.page
    assert visitor.faults == []


@pytest.fixture
def timed_page(browser: Browser, server: str) -> Iterator[Page]:
    """The same, with a clock that stands still until it is told to go on."""
    visitor = Visitor(browser, server)
    visitor.page.clock.install()
    visitor.arrive()
    yield visitor.page
    visitor.context.close()
    assert visitor.faults == []
