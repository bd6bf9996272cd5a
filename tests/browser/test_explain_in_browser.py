"""The page of `gptwo explain` in Chromium, opened from a file: what it shows, what its controls do, for everyone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from accessibility import serious_faults
from made_explanation import HOSTILE, made_explanation

from gptwo.inspection.explanation import Explanation, explain
from gptwo.inspection.page import page_of
from gptwo.sampling import SamplingParams
from gptwo.sampling.sampler import distribution

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

TEXT = "ROMEO:\nO, she doth teach the torches to burn bright!"


@pytest.fixture(scope="module")
def explained() -> Explanation:
    """Of the embedded model."""
    pytest.importorskip("torch", reason="needs the extra torch")
    from gptwo.inspection import Inspector

    return explain(Inspector.load("shakespeare", threads=1), TEXT)


class Reader:
    """One window for all tests, and what went wrong in it."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        self.context.set_default_timeout(60_000)
        self.folder, self.faults = folder, list[str]()
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.on("request", lambda request: self._see(request.url))

    def open(self, explanation: Explanation) -> Page:
        """Show the page of an explanation as somebody who got it as a file."""
        path = self.folder / "explain.html"
        path.write_text(page_of(explanation), encoding="utf-8")
        self.page.set_viewport_size({"width": 1200, "height": 900})
        self.page.emulate_media(color_scheme="light")
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self.page

    def _see(self, url: str) -> None:
        if not url.startswith("file:"):
            self.faults.append(f"asked for {url}")


@pytest.fixture(scope="module")
def reader(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(browser, tmp_path_factory.mktemp("explain"))
    yield reader
    reader.context.close()


@pytest.fixture(autouse=True)
def no_faults(reader: Reader) -> Iterator[None]:
    """No error, no message in the console, no request, no dialog."""
    reader.faults.clear()
    yield
    assert reader.faults == []


def shown(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "↵")


def test_the_page_shows_the_text_and_what_comes_next_and_both_follow_the_choice(
    reader: Reader, explained: Explanation
) -> None:
    page = reader.open(explained)
    tokens = page.locator("#prompt .token")
    assert "".join(tokens.all_text_contents()).replace("↵", "\n") == TEXT
    last = len(explained.token_ids) - 1
    first = page.locator("#predictions .bar-line").first
    assert first.locator("code").inner_text() == shown(explained.names[int(explained.lens.top_ids[-1, last, 0])])
    tokens.nth(3).click()
    for place in ("#prompt", "#attention"):
        assert page.locator(f"{place} [aria-selected='true'].token").get_attribute("data-position") == "3"
    assert page.locator("#where").inner_text() == f"4 of {last + 1}"
    assert first.locator("code").inner_text() == shown(explained.names[int(explained.lens.top_ids[-1, 3, 0])])
    assert page.locator("#lens td[aria-selected]").count() == len(explained.lens.layers)
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").inner_text() == f"5 of {last + 1}"
    page.locator("#before").click()
    assert page.locator("#where").inner_text() == f"4 of {last + 1}"


def test_a_cell_of_the_lens_tells_its_five_likeliest_by_pointer_and_by_keys(
    reader: Reader, explained: Explanation
) -> None:
    page = reader.open(explained)
    layer, position = 2, 5
    row = len(explained.lens.layers) - 1 - layer
    page.locator(f"#lens td[data-row='{row}'][data-column='{position}']").hover()
    ids = [int(token) for token in explained.lens.top_ids[layer, position]]
    codes = page.locator("#tip code")
    assert codes.all_text_contents() == [shown(explained.names[token]) for token in ids]
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.locator("#lens td[tabindex='0']").focus()
    page.keyboard.press("Home")
    assert page.locator("#tip").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#where").inner_text().startswith("1 of")
    before = page.locator("#lens td").first.get_attribute("class")
    page.locator("#lens").get_by_label("how likely the text's next token is").check()
    assert page.locator("#lens td.p0").count() > 0
    assert before is not None


def test_attention_is_shown_for_the_layer_and_head_that_are_chosen(reader: Reader, explained: Explanation) -> None:
    page = reader.open(explained)
    layer, head, position = 3, 4, 9
    page.locator("[data-choice='layer']").select_option(str(layer))
    page.locator("[data-choice='head']").select_option(str(head))
    page.locator("#prompt .token").nth(position).click()
    weights = explained.attention.patterns[layer, head, position]
    strongest = int(weights.argmax())
    line = page.locator("#attention .bar-line").first
    assert line.locator("code").inner_text() == shown(explained.lens.tokens[strongest])
    percent = float(line.locator(".percent").inner_text().rstrip("%"))
    assert percent == pytest.approx(100 * float(weights[strongest]), abs=0.45)
    for place in ("#attention", "#attribution", "#induction"):
        cell = page.locator(f"{place} td[aria-selected='true']")
        assert (cell.get_attribute("data-row"), cell.get_attribute("data-column")) == ("3", "4")
    page.locator("#attribution td[data-row='1'][data-column='2']").click()
    assert page.locator("[data-choice='layer']").input_value() == "1"
    assert page.locator("[data-choice='head']").input_value() == "2"
    amount = page.locator("#attribution td[data-row='1'][data-column='2']").inner_text().replace("−", "-")
    assert float(amount) == pytest.approx(explained.attributions[position].heads[1, 2], abs=0.006)
    assert page.locator("#induction .caption").first.inner_text() == explained.induction.summary


def test_the_settings_of_sampling_are_computed_in_the_page_as_gptwo_does(
    reader: Reader, explained: Explanation
) -> None:
    page = reader.open(explained)

    def move(**settings: float) -> list[str]:
        page.locator("#spread").get_by_role("button", name="Reset").click()
        for name, value in settings.items():
            slider = page.locator(f"input[name='{name}']")
            slider.evaluate(
                "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })); }", str(value)
            )
        return page.locator("#spread .bar-line .percent:not(.soft)").all_text_contents()

    vocabulary = len(explained.next_logits)
    order = np.argsort(-explained.next_logits, kind="stable")[:16]
    for settings, params in (
        ({}, SamplingParams()),
        ({"temperature": 0.5}, SamplingParams(temperature=0.5)),
        ({"temperature": 0}, SamplingParams(temperature=0.0)),
        ({"top-p": 0.6}, SamplingParams(top_p=0.6)),
        ({"top-k": 0.2, "temperature": 1.5}, SamplingParams(top_k=round(vocabulary**0.2), temperature=1.5)),
        ({"top-k": 0.3, "temperature": 0.7, "top-p": 0.8}, SamplingParams(top_k=8, temperature=0.7, top_p=0.8)),
    ):
        expected = distribution(explained.next_logits, params)[order]
        found = move(**settings)
        for said, share in zip(found, expected, strict=True):
            number = 0.0 if said == "cut" else 0.05 if said == "<0.1%" else float(said.rstrip("%"))
            assert (said == "cut") == (share == 0)
            assert number == pytest.approx(100 * share, abs=0.06)
    move(temperature=0.05)
    assert page.locator("#spread .caption").inner_text().startswith("1,024 of 1,024 tokens can be drawn")


def test_axe_finds_nothing_serious_and_no_width_needs_sideways_scrolling(
    reader: Reader, explained: Explanation
) -> None:
    page = reader.open(explained)
    for scheme, width in (("light", 1200), ("dark", 320)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.locator("#prompt .token").first.focus()
        assert page.locator("#tip").is_visible()
        assert serious_faults(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    page.locator("#theme").click()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 246)"


def test_a_hostile_prompt_is_shown_as_the_text_that_it_is(reader: Reader) -> None:
    page = reader.open(made_explanation(HOSTILE))
    assert page.locator("#prompt img").count() == 0
    said = "".join(page.locator("#prompt .token").all_text_contents())
    assert "</script><img" in said
    assert "😀" in said
    assert "\x00" not in said
    page.locator("#prompt .token").first.hover()
    assert "onerror" not in page.locator("#tip").inner_html()
    assert "$data" in said


@pytest.mark.slow
def test_one_token_and_many_have_a_page_too(reader: Reader) -> None:
    page = reader.open(made_explanation("alone", layers=1, heads=1))
    assert "One token alone" in page.locator("#losses").inner_text()
    assert page.locator("#next").is_disabled()
    assert page.locator("#before").is_disabled()
    told = made_explanation("far from it", layers=1, heads=1)
    assert told.losses is not None
    page = reader.open(replace(told, losses=replace(told.losses, losses=told.losses.losses * 1e6)))
    assert 1 < page.locator("#losses .rule").count() <= 6
    words: Any = " ".join(f"w{i}\n" if i % 9 == 0 else "w" * (i % 13) for i in range(256))
    page = reader.open(made_explanation(words, layers=6, heads=8))
    assert page.locator("#attention .heads canvas").count() == 48
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1200
    for inner, outer in (
        ("#lens td[aria-selected='true']", ".lens"),
        (".attention-words .token >> nth=-1", ".attention-words"),
    ):
        box, home = page.locator(inner).first.bounding_box(), page.locator(outer).bounding_box()
        assert box
        assert home
        assert box["x"] + box["width"] <= home["x"] + home["width"] + 1
        assert box["y"] + box["height"] <= home["y"] + home["height"] + 1
