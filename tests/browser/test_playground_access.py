"""The playground for everyone: keys alone, screen readers, light and dark, small screens, nothing from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from accessibility import serious_faults
from playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture
def playground(page: Page) -> Playground:
    return Playground(page)


def focused(playground: Playground) -> str:
    return str(playground.page.evaluate("() => document.activeElement.id || document.activeElement.className"))


def test_everything_can_be_done_with_keys_alone(playground: Playground) -> None:
    page = playground.page
    press = page.keyboard.press
    assert focused(playground) == "text"
    page.keyboard.type("ROMEO:")
    press("Enter")
    press("Control+Enter")
    page.wait_for_selector("#seed")
    playground.wait()
    written = playground.value
    press("Control+;")
    page.wait_for_selector("#perplexity:not(:empty)")
    press("Alt+ArrowDown")
    playground.alternatives.wait_for(state="visible")
    assert focused(playground) == "alternative"
    last = playground.alternatives.locator("p").inner_text()
    press("ArrowLeft")
    assert playground.alternatives.locator("p").inner_text() != last
    press("ArrowDown")
    press("ArrowUp")
    press("Enter")
    playground.alternatives.wait_for(state="hidden")
    assert focused(playground) == "text"
    playground.wait()
    assert playground.value != written
    press("Control+Shift+Enter")
    playground.wait()
    press("Control+z")
    press("Control+z")
    assert playground.value == written
    press("Control+.")
    assert focused(playground) == "tab-parameters"
    press("ArrowRight")
    assert focused(playground) == "tab-history"
    press("Escape")
    assert not page.locator("#panel").is_visible()
    assert focused(playground) == "panel-toggle"
    press("Control+/")
    assert page.locator("#help-dialog").is_visible()
    press("Escape")
    assert not page.locator("#help-dialog").is_visible()


def test_a_list_that_the_keys_are_in_stays_when_the_text_scrolls(playground: Playground) -> None:
    page = playground.page
    playground.write("ROMEO:\n")
    playground.go_on()
    page.keyboard.press("Control+;")
    page.wait_for_selector("#perplexity:not(:empty)")
    page.keyboard.press("Alt+ArrowDown")
    playground.alternatives.wait_for(state="visible")
    page.evaluate("() => document.getElementById('scroll').dispatchEvent(new Event('scroll'))")
    assert playground.alternatives.is_visible()
    assert focused(playground) == "alternative"


def test_tab_reaches_every_control_and_the_focus_is_seen(playground: Playground) -> None:
    page = playground.page
    playground.write("ROMEO:\n")
    playground.go_on()
    expected = {
        "text",
        "colours",
        "look-inside",
        "copy",
        "session",
        "theme",
        "help",
        "panel-toggle",
        "seed",
        "undo",
        "again",
        "texts",
        "go",
    }
    reached = set()
    for _ in range(len(expected) + 8):
        page.keyboard.press("Tab")
        name = focused(playground)
        reached.add(name)
        if name in expected - {"text"}:
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", name
    assert expected <= reached


def test_a_screen_reader_hears_the_whole_and_not_each_token(playground: Playground) -> None:
    page = playground.page
    page.evaluate(
        """() => {
            window.heard = [];
            const live = document.getElementById("live");
            new MutationObserver(() => live.textContent && window.heard.push(live.textContent))
                .observe(live, { childList: true, characterData: true, subtree: true });
        }"""
    )
    playground.write("ROMEO:\n")
    written = playground.go_on()
    page.locator("#live").get_by_text("Done").wait_for()
    heard = page.evaluate("() => window.heard")
    assert len(heard) <= 2
    assert heard[-1] == f"Done, 80 tokens: {written}"
    assert page.locator("#mirror").get_attribute("aria-hidden") == "true"


def test_axe_finds_nothing_serious_light_and_dark(playground: Playground) -> None:
    page = playground.page
    assert serious_faults(page) == []
    playground.write("ROMEO:\nO, she doth teach")
    playground.colour()
    page.keyboard.press("Control+.")
    page.evaluate("() => document.querySelectorAll('details').forEach((group) => (group.open = true))")
    playground.text.focus()
    page.keyboard.press("Alt+ArrowDown")
    playground.alternatives.wait_for(state="visible")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert serious_faults(page) == []
    page.keyboard.press("Escape")
    page.locator("#panel-close").click()
    page.locator("#texts").select_option("2")
    playground.text.focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".candidate:nth-child(2).done")
    playground.wait()
    assert serious_faults(page) == []
    page.keyboard.press("Control+/")
    assert serious_faults(page) == []


def test_ink_has_contrast_on_every_colour_of_the_scale(playground: Playground) -> None:
    """axe does not see the colours of highlights, so they are computed here: AA wants 4.5 to 1."""
    page = playground.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours = page.evaluate(
            """() => {
                const probe = document.body.appendChild(document.createElement("i"));
                const names = ["paper", "ink", "ink-model", "ink-soft", "under", "under-ink"];
                const colours = {};
                for (const name of [...names, ...[0, 1, 2, 3, 4, 5, 6].map((step) => `p${step}`)]) {
                    probe.style.color = `var(--${name})`;
                    colours[name] = getComputedStyle(probe).color.match(/[0-9]+/g).map(Number);
                }
                probe.remove();
                return colours;
            }"""
        )
        for step in range(7):
            assert contrast(colours["ink"], colours[f"p{step}"]) >= 4.5
        for ink in ("ink", "ink-model", "ink-soft"):
            assert contrast(colours[ink], colours["paper"]) >= 4.5
        assert contrast(colours["under-ink"], colours["under"]) >= 4.5


def contrast(one: list[int], other: list[int]) -> float:
    """The contrast of two colours of red, green and blue, 0 to 255, as WCAG 2 defines it."""

    def luminance(colour: list[int]) -> float:
        channels = [channel / 255 for channel in colour]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_appearance_follows_the_system_until_it_is_switched_and_is_remembered(playground: Playground) -> None:
    page = playground.page

    def is_dark() -> bool:
        return bool(page.evaluate("() => getComputedStyle(document.body).backgroundColor === 'rgb(21, 22, 26)'"))

    assert not is_dark()
    page.emulate_media(color_scheme="dark")
    assert is_dark()
    page.locator("#theme").click()
    assert not is_dark()
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert not is_dark()
    page.locator("#theme").click()
    assert is_dark()


def test_a_phone_of_320_pixels_needs_no_sideways_scrolling(playground: Playground) -> None:
    page = playground.page
    page.set_viewport_size({"width": 320, "height": 640})

    def wide() -> int:
        return int(page.evaluate("() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"))

    assert wide() <= 320
    playground.write("ROMEO:\n" + "Honorificabilitudinitatibus" * 4 + "\n")
    playground.go_on()
    playground.colour()
    assert wide() <= 320
    page.locator("#texts").select_option("2")
    playground.text.focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".candidate:nth-child(2).done")
    playground.wait()
    assert wide() <= 320
    page.keyboard.press("Escape")
    page.locator("#panel-toggle").click()
    assert wide() <= 320
    box = page.locator("#panel").bounding_box()
    assert box is not None
    assert box["width"] == 320
    go = page.locator("#go").bounding_box()
    assert go is not None
    assert go["height"] >= 36


def test_the_policy_lets_the_page_do_all_it_needs_and_nothing_else(playground: Playground) -> None:
    page = playground.page
    response = page.request.get(page.url)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    markup = response.text()
    assert " style=" not in markup
    assert "<style" not in markup
    assert " onclick=" not in markup


def test_a_long_stream_is_shown_whole_and_in_order(playground: Playground) -> None:
    """1,024 tokens, all at once, as they come to a window that was hidden for a while."""
    page = playground.page
    words = [f" w{number}" for number in range(1024)]
    events = []
    for number, word in enumerate(words):
        logprobs = {
            "tokens": [word],
            "token_logprobs": [-(number % 7) - 0.01],
            "top_logprobs": [{word: -(number % 7) - 0.01, " other": -3.0}],
            "text_offset": [0],
        }
        choice = {"index": 0, "text": word, "token_ids": [number], "logprobs": logprobs, "finish_reason": None}
        events.append(f"data: {json.dumps({'choices': [choice]})}\n\n: still here\n\n")
    body = "".join(events) + "data: [DONE]\n\n"
    page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.route("**/v1/score", lambda route: route.abort())
    page.locator("#colours").click()
    playground.write("Begin")
    playground.go_on()
    assert playground.value == "Begin" + "".join(words)
    assert "1,024 tokens" in page.locator("#stats").inner_text()
    assert page.evaluate("() => document.getElementById('mirror').firstChild.data") == playground.value
    assert playground.coloured() > 800
    assert page.locator("#mirror *").count() == 0  # no element for each token
    playground.point_at(len(playground.value) - 2)
    playground.alternatives.get_by_text("␣other").wait_for()
