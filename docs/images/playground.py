"""Draw playground.png, the README's picture of the playground: light, a token looked at; dark, texts to choose from.

    python docs/images/playground.py

Needs the extras server and dev, Debian's chromium, and a serif font that is good to read (here Noto Serif).
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

SIZE = {"width": 780, "height": 700}
SCALE = 1.3
GAP = 24
BEGINNING = "JULIET:\nO Romeo,"
SEED, WORD = 26, " heart"
OTHER_SEED = 8


def open_page(browser: Browser, address: str, scheme: str, **parameters: object) -> Page:
    """The playground with parameters set, a beginning written, and its probabilities shown."""
    page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE, color_scheme=scheme, reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.locator("#panel-toggle").click()
    for name, value in parameters.items():
        page.locator(f"#parameter-{name}").fill(str(value))
        page.locator(f"#parameter-{name}").blur()
    page.locator("#panel-close").click()
    page.locator("#colours").click()
    page.locator("#text").focus()
    page.keyboard.insert_text(BEGINNING)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#go:not(.stops)")
    return page


def picture(page: Page) -> Image.Image:
    """What is seen, once the typed tokens have their colours too."""
    page.wait_for_selector("#perplexity:not(:empty)")
    page.wait_for_timeout(1000)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def point_at(page: Page, word: str) -> None:
    """Put the pointer on a word that the model wrote."""
    x, y = page.evaluate(
        """word => {
            const node = document.getElementById("mirror").firstChild;
            const range = document.createRange();
            const at = node.data.indexOf(word);
            range.setStart(node, at + 1);
            range.setEnd(node, at + 2);
            const box = range.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }""",
        word,
    )
    page.mouse.move(x, y)


def draw(address: str) -> Image.Image:
    """Both pictures side by side."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        light = open_page(browser, address, "light", seed=SEED, temperature=0.7, max_tokens=70)
        point_at(light, WORD)
        light.locator("#alternatives").wait_for(state="visible")
        one = picture(light)
        dark = open_page(browser, address, "dark", seed=OTHER_SEED, temperature=0.7, max_tokens=38, n=2)
        dark.wait_for_selector(".candidate.done:nth-child(2)")
        other = picture(dark)
        browser.close()
    both = Image.new("RGB", (one.width + GAP + other.width, one.height), "white")
    both.paste(one, (0, 0))
    both.paste(other, (one.width + GAP, 0))
    return both


def main() -> None:
    """Write playground.png beside this file."""
    command = [sys.executable, "-m", "gptwo", "serve", "shakespeare", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        announced = re.search(r"http://\S+", server.stdout.readline())
        assert announced
        try:
            both = draw(announced.group() + "/")
        finally:
            server.terminate()
    both.quantize(255).save(Path(__file__).with_name("playground.png"), optimize=True)


if __name__ == "__main__":
    main()
