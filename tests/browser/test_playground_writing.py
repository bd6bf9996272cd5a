"""Writing in the playground: going on, stopping, taking back, choosing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

BEGINNING = "ROMEO:\nO, "


@pytest.fixture
def playground(page: Page) -> Playground:
    return Playground(page)


def test_the_model_goes_on_from_what_was_typed_and_says_how_fast(playground: Playground) -> None:
    playground.write(BEGINNING)
    written = playground.go_on()
    assert playground.value == BEGINNING + written
    assert len(written) > 40
    figures = playground.page.locator("#stats").inner_text()
    assert re.search(r"\d tokens/s", figures)
    assert re.search(r"\d m?s to the first", figures)
    assert "80 tokens" in figures
    assert re.search(r"seed \d+", figures)


def test_the_model_and_its_size_are_visible(playground: Playground) -> None:
    shown = playground.page.locator("#model").inner_text()
    assert "shakespeare" in shown
    assert "2.5M parameters" in shown
    assert "256 tokens" in shown


def test_it_goes_on_from_the_cursor_and_leaves_what_stands_behind_it(playground: Playground) -> None:
    playground.write("ROMEO:\nO\n\nJULIET:\nAy me!")
    end = len("ROMEO:\nO")
    playground.text.evaluate("(field, at) => field.setSelectionRange(at, at)", end)
    playground.go_on()
    assert playground.value.startswith("ROMEO:\nO")
    assert playground.value.endswith("\n\nJULIET:\nAy me!")
    assert len(playground.value) > 60


def test_an_example_of_the_empty_page_begins_to_write(playground: Playground) -> None:
    example = playground.page.locator(".example").first
    example.click()
    playground.page.wait_for_selector("#seed")
    playground.wait()
    assert playground.value.startswith("JULIET:\nO Romeo,")
    assert len(playground.value) > 60
    assert not playground.page.locator("#examples").is_visible()


def endless(playground: Playground) -> None:
    """Begin a continuation that would take minutes, and wait for its first words."""
    playground.set(max_tokens=100000, overflow="slide")
    playground.write(BEGINNING)
    playground.page.keyboard.press("Control+Enter")
    playground.page.wait_for_selector("#go.stops")
    playground.page.wait_for_selector("#stats b")


def test_escape_stops_and_keeps_what_has_come(playground: Playground) -> None:
    endless(playground)
    with playground.page.expect_event("requestfailed") as ended:
        playground.page.keyboard.press("Escape")
    assert ended.value.url.endswith("/v1/completions")
    playground.wait()
    assert playground.value.startswith(BEGINNING)
    assert len(playground.value) > len(BEGINNING)
    kept = playground.value
    playground.page.keyboard.type("So.")
    assert playground.value == kept + "So."


def test_typing_stops_it_too(playground: Playground) -> None:
    endless(playground)
    playground.page.keyboard.press("Control+Home")
    playground.page.keyboard.type("Enter ")
    playground.wait()
    assert playground.value.startswith("Enter " + BEGINNING)


def test_undo_takes_back_the_last_continuation_and_redo_brings_it_again(playground: Playground) -> None:
    playground.write(BEGINNING)
    playground.go_on()
    first = playground.value
    playground.go_on()
    both = playground.value
    playground.page.locator("#undo").click()
    assert playground.value == first
    playground.text.focus()
    playground.page.keyboard.press("Control+z")
    assert playground.value == BEGINNING
    playground.page.keyboard.press("Control+Shift+z")
    playground.page.keyboard.press("Control+Shift+z")
    assert playground.value == both
    for _ in range(3):
        playground.page.keyboard.press("Control+z")
    assert playground.value == ""


def test_again_makes_another_continuation_in_the_same_place(playground: Playground) -> None:
    playground.write(BEGINNING)
    first = playground.go_on()
    playground.page.locator("#again").click()
    playground.wait()
    second = playground.value.removeprefix(BEGINNING)
    assert second != first
    playground.page.locator("#undo").click()
    assert playground.value == BEGINNING + first


def test_several_texts_stand_side_by_side_and_one_is_chosen(playground: Playground) -> None:
    page = playground.page
    playground.write(BEGINNING)
    page.locator("#texts").select_option("3")
    playground.text.focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".candidate:nth-child(3).done")
    playground.wait()
    texts = [card.inner_text() for card in page.locator(".candidate-text").all()]
    assert len(set(texts)) == 3
    assert playground.value == BEGINNING
    lefts = {round(card.bounding_box()["x"]) for card in playground.cards.all()}
    assert len(lefts) == 3
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert playground.value == BEGINNING + texts[1]
    assert not page.locator("#candidates").is_visible()
    page.locator("#undo").click()
    assert playground.value == BEGINNING


def test_none_of_the_texts_leaves_the_page_as_it_was(playground: Playground) -> None:
    playground.write(BEGINNING)
    playground.page.locator("#texts").select_option("2")
    playground.text.focus()
    playground.page.keyboard.press("Control+Enter")
    playground.page.wait_for_selector(".candidate:nth-child(2).done")
    playground.wait()
    playground.page.keyboard.press("Escape")
    assert playground.value == BEGINNING
    assert playground.cards.count() == 0


def test_typing_sends_texts_that_wait_to_be_chosen_away(playground: Playground) -> None:
    playground.write(BEGINNING)
    playground.page.locator("#texts").select_option("2")
    playground.text.focus()
    playground.page.keyboard.press("Control+Enter")
    playground.cards.first.wait_for()
    playground.text.focus()
    playground.page.keyboard.type("and so")
    assert playground.value == BEGINNING + "and so"
    assert playground.cards.count() == 0
    playground.page.keyboard.press("Control+z")
    assert playground.value == BEGINNING


def test_a_seed_of_the_history_replays_its_text(playground: Playground) -> None:
    page = playground.page
    playground.write(BEGINNING)
    written = playground.go_on()
    playground.write("\n\nAnd more of mine")
    page.locator("#panel-toggle").click()
    page.locator("#tab-history").click()
    page.locator(".past").get_by_text("Replay").click()
    page.wait_for_selector(".past:nth-child(2)")
    playground.wait()
    assert playground.value == BEGINNING + written


def test_one_of_several_texts_is_replayed_from_its_seed(playground: Playground) -> None:
    page = playground.page
    playground.write(BEGINNING)
    page.locator("#texts").select_option("3")
    playground.text.focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".candidate:nth-child(3).done")
    playground.wait()
    page.keyboard.press("3")
    chosen = playground.value
    page.locator("#undo").click()
    page.locator("#panel-toggle").click()
    page.locator("#tab-history").click()
    page.locator(".past").get_by_text("Replay").click()
    page.wait_for_selector(".past:nth-child(2)")
    assert playground.value == chosen


def test_a_kept_seed_gives_the_same_text_again(playground: Playground) -> None:
    playground.write(BEGINNING)
    first = playground.go_on()
    playground.page.locator("#seed").click()
    playground.page.locator("#undo").click()
    assert playground.go_on() == first


def test_parameters_are_explained_in_the_servers_words_and_sent(playground: Playground) -> None:
    page = playground.page
    described = {
        spec["name"]: spec for spec in page.request.get(page.url + "playground/parameters.json").json()["parameters"]
    }
    playground.set(max_tokens=5, temperature=0, top_k=3, stop="END\\n\nFin", logit_bias="13: -100")
    for name in ("max_tokens", "temperature", "min_p", "speculate"):
        assert described[name]["help"] in str(page.locator(f"#parameter-{name}-help").text_content())
    shown = {
        label.get_attribute("for").removeprefix("parameter-") for label in page.locator(".parameter-head label").all()
    }
    assert shown == described.keys() - {"prompt_logprobs"}
    playground.write(BEGINNING)
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if request.method == "POST" else None)
    playground.go_on()
    (body,) = [request.post_data_json for request in asked]
    assert body["max_tokens"] == 5
    assert body["temperature"] == 0
    assert body["top_k"] == 3
    assert body["stop"] == ["END\n", "Fin"]
    assert body["logit_bias"] == {"13": -100}
    assert "min_p" not in body


def test_a_value_that_is_out_of_range_is_explained_and_not_taken(playground: Playground) -> None:
    playground.set(top_p=2)
    fault = playground.page.locator("#parameter-top_p-fault")
    assert fault.inner_text() == "A number, 0 to 1."
    assert playground.page.locator("#parameter-top_p").get_attribute("aria-invalid") == "true"
    playground.set(top_p=0.5)
    assert not fault.is_visible()


def test_a_text_that_is_longer_than_the_model_reads_loses_its_beginning_visibly(playground: Playground) -> None:
    page = playground.page
    playground.write("The king doth keep his revels here to-night. " * 40)
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("completions") else None)
    written = playground.go_on()
    assert written
    assert "no longer sees the first" in playground.notice.inner_text()
    prompt = asked[0].post_data_json["prompt"]
    assert playground.value.removesuffix(written).endswith(prompt)
    assert 0 < len(prompt) < 1800
    assert page.evaluate("() => CSS.highlights.get('unseen').size") == 1


def test_a_reload_keeps_the_draft(playground: Playground) -> None:
    playground.write(BEGINNING)
    playground.go_on()
    playground.page.locator("#undo").click()
    playground.page.locator("#redo").click()
    kept = playground.value
    playground.page.reload()
    playground.page.wait_for_selector("html[data-ready]", state="attached")
    assert playground.value == kept


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        ("regex", "(Romeo|Juliet) says 🙂[0-9]{3}", r"(Romeo|Juliet) says 🙂\d{3}"),
        ("choice", "Ay\nNay, good sir", r"Ay|Nay, good sir"),
        (
            "json_schema",
            '{"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"], "additionalProperties": false}',
            r'\{\s*"n"\s*:\s*1\s*\}',
        ),
    ],
)
def test_a_continuation_has_the_structure_that_was_asked_for(
    playground: Playground, kind: str, source: str, pattern: str
) -> None:
    pytest.importorskip("llguidance", reason="needs the extra grammar")
    page = playground.page
    playground.set()
    page.locator("#structured-kind").evaluate("field => (field.closest('details').open = true)")
    page.locator("#structured-kind").select_option(kind)
    page.locator("#structured-source").fill(source)
    playground.write("ROMEO:\n")
    written = playground.go_on()
    assert re.fullmatch(pattern, written), written
    playground.colour()
    assert playground.value == "ROMEO:\n" + written


def test_an_expression_that_is_none_is_refused_in_one_line(playground: Playground) -> None:
    pytest.importorskip("llguidance", reason="needs the extra grammar")
    page = playground.page
    playground.set()
    page.locator("#structured-kind").evaluate("field => (field.closest('details').open = true)")
    page.locator("#structured-kind").select_option("regex")
    page.locator("#structured-source").fill("(never closed")
    playground.write("ROMEO:\n")
    page.keyboard.press("Control+Enter")
    playground.notice.get_by_text("never closed").or_(playground.notice.get_by_text("regex")).first.wait_for()
    assert playground.value == "ROMEO:\n"
