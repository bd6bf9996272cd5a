"""Draw explain.png, the picture of a page of `gptwo explain` in docs/explain.md: its top in light, more of it in dark.

    python docs/images/explain.py

Needs the extras torch and dev, Debian's chromium, and a serif font that is good to read (here Noto Serif).
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from gptwo.inspection import Inspector, explain, page_of

SIZE = {"width": 820, "height": 900}
GAP = 24
TEXT = "JULIET:\nO Romeo, Romeo! wherefore art thou Romeo?\nDeny thy father and refuse thy name;"


def picture(browser: Browser, address: str, scheme: str, section: str) -> Image.Image:
    """What is seen from a section on, with the tip of a cell of the lens where that is in sight."""
    page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.locator("[data-choice='layer']").select_option("3")
    page.locator("[data-choice='head']").select_option("3")
    page.locator(section).evaluate("(heading) => window.scrollTo(0, heading.getBoundingClientRect().top - 24)")
    if section == ".top":
        page.locator("#lens td[data-row='1'][aria-selected]").hover()
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main() -> None:
    """Write the picture beside this file."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(page_of(explain(Inspector.load("shakespeare"), TEXT)), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        both = [
            picture(browser, path.as_uri(), "light", ".top"),
            picture(browser, path.as_uri(), "dark", "#h-attention"),
        ]
        browser.close()
    whole = Image.new("RGB", (2 * both[0].width + GAP, both[0].height), "white")
    for number, one in enumerate(both):
        whole.paste(one, (number * (one.width + GAP), 0))
    whole.quantize(128).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
