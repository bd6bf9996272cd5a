"""The playground's view of the model's inside: the lens and the attention of the text on screen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from accessibility import serious_faults
from playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

TEXT = "ROMEO:\nO, she doth teach"
SECONDS = 120  # for PyTorch to be loaded where much else runs


@pytest.fixture
def playground(page: Page) -> Playground:
    return Playground(page)


def look(page: Page) -> None:
    """Open the tab and wait until the whole text is shown there."""
    page.locator("#look-inside").click()
    wait(page)


def wait(page: Page) -> None:
    page.wait_for_function(
        """() => {
            const inside = document.getElementById("inside");
            const tokens = [...inside.querySelectorAll(".token")].map((token) => token.textContent).join("");
            return tokens.replaceAll("↵", "\\n") === document.getElementById("text").value && !inside.ariaBusy;
        }""",
        timeout=SECONDS * 1000,
    )


def test_the_lens_and_the_attention_follow_the_text(playground: Playground) -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
    page = playground.page
    playground.write(TEXT)
    look(page)
    scored = page.request.post(page.url + "v1/score", data={"input": TEXT, "logprobs": 1}).json()["data"][0]
    likeliest = max(scored["top_logprobs"][3], key=scored["top_logprobs"][3].get)
    cell = page.locator("#inside .lens td[data-row='0'][data-column='2']")
    assert cell.inner_text() == likeliest.replace(" ", "␣").replace("\n", "↵")
    cell.hover()
    assert page.locator("#tip .bar-line").count() == 5
    page.locator("#inside [data-choice='layer']").select_option("1")
    page.locator("#inside .token").nth(2).click()
    assert page.locator("#inside .bar-line").count() == 3
    playground.write(" me")
    wait(page)
    assert page.locator("#inside [data-choice='layer']").input_value() == "1"
    last = page.locator("#inside .token").count() - 1
    assert page.locator("#inside .token[aria-selected='true']").get_attribute("data-position") == str(last)
    for scheme, width in (("light", 1000), ("dark", 320)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 700})
        assert serious_faults(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_nothing_is_asked_before_the_tab_is_seen_and_a_refusal_is_said_there(playground: Playground) -> None:
    page = playground.page
    asked: list[str] = []

    def refuse(route: object) -> None:
        asked.append("once")
        error = {"message": "looking inside needs PyTorch", "type": "server_error", "param": None, "code": None}
        route.fulfill(status=501, body=json.dumps({"error": error}), content_type="application/json")  # type: ignore[attr-defined]

    page.route("**/v1/inspect", refuse)
    playground.write(TEXT)
    assert asked == []
    page.locator("#look-inside").click()
    page.locator("#inside").get_by_text("looking inside needs PyTorch").wait_for()
    assert page.locator("#look-inside").get_attribute("aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()
    assert page.locator("#look-inside").get_attribute("aria-expanded") == "false"


def test_without_a_text_the_tab_says_what_it_is_for(playground: Playground) -> None:
    page = playground.page
    page.locator("#look-inside").click()
    page.locator("#inside").get_by_text("Write something").wait_for()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => document.activeElement.id") == "tab-history"
