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
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the extra dev has")
    if not CHROMIUM.exists():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
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


@pytest.fixture
def context(browser: Browser, server: str) -> Iterator[BrowserContext]:
    """A fresh visitor, who may use the clipboard. What the page asks of others than its server fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, locale="en")
    context.set_default_timeout(20_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.rstrip("/"))
    outside: list[str] = []
    context.on("request", lambda request: None if _own(request.url, server) else outside.append(request.url))
    yield context
    context.close()
    assert outside == [], "the page asks nobody but its own server"


@pytest.fixture
def page(context: BrowserContext, server: str) -> Iterator[Page]:
    """The playground, ready to write in. An exception in it, or what its policy forbids, fails the test."""
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Security Policy" in message.text else None)
    open_playground(page, server)
    yield page
    assert faults == []


def open_playground(page: Page, server: str) -> None:
    """Load the page and wait until it can be written in."""
    page.goto(server)
    page.wait_for_selector("html[data-ready]", state="attached")


def _own(url: str, server: str) -> bool:
    return url.startswith((server, "blob:", "data:"))
