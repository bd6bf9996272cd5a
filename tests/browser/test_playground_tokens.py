"""Probabilities in the playground: colours, what else could stand there, and characters of several tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

BEGINNING = "ROMEO:\nO, "


@pytest.fixture
def playground(page: Page) -> Playground:
    return Playground(page)


def test_every_token_has_a_colour_the_typed_ones_too(playground: Playground) -> None:
    playground.write("ROMEO:\nO, she doth teach the torches to burn bright!\n")
    playground.go_on()
    assert playground.coloured() == 0
    playground.colour()
    assert playground.coloured() > 15
    playground.page.locator("#colours").click()
    assert playground.coloured() == 0


def test_the_colours_are_those_of_the_servers_scores(playground: Playground) -> None:
    page = playground.page
    text = "ROMEO:\nO, she doth teach"
    scored = page.request.post(page.url + "v1/score", data={"input": text}).json()["data"][0]
    playground.write(text)
    playground.colour()
    places = []
    offset = 0
    for token, logprob in zip(scored["tokens"], scored["token_logprobs"], strict=True):
        places.append((offset, token, logprob))
        offset += len(token)
    for offset, token, logprob in places[3:6]:
        playground.point_at(offset + len(token) - 1)
        head = page.locator("#alternatives p")
        head.get_by_text(token.replace(" ", "␣").replace("\n", "↵"), exact=True).wait_for()
        percent = float(head.inner_text().rpartition("%")[0].split()[-1].removeprefix("<"))
        assert percent == pytest.approx(100 * 2.718281828**logprob, abs=0.11)


def test_an_alternative_under_the_pointer_is_taken_and_the_model_goes_on_from_there(playground: Playground) -> None:
    page = playground.page
    playground.write(BEGINNING)
    written = playground.go_on()
    playground.colour()
    place = next(at for at in range(len(BEGINNING) + 12, len(playground.value)) if playground.value[at].isalpha())
    playground.point_at(place)
    playground.alternatives.wait_for(state="visible")
    other = playground.alternatives.locator(".alternative:not([aria-current])").first
    words = other.locator("code").inner_text().replace("␣", " ").replace("↵", "\n")
    other.click()
    playground.wait()
    start = next(at for at in range(place, len(BEGINNING) - 1, -1) if playground.value.startswith(words, at))
    assert playground.value[:start] == (BEGINNING + written)[:start]
    assert playground.value != BEGINNING + written
    assert not playground.alternatives.is_visible()
    page.locator("#undo").click()
    assert playground.value == BEGINNING + written


def test_the_list_closes_when_the_pointer_leaves(playground: Playground) -> None:
    playground.write(BEGINNING + "Romeo")
    playground.colour()
    playground.point_at(3)
    playground.alternatives.wait_for(state="visible")
    playground.page.mouse.move(5, 400)
    playground.alternatives.wait_for(state="hidden")


def test_a_character_of_several_tokens_is_one_place(playground: Playground) -> None:
    text = "Good 🙂 my liege, naïve"
    playground.write(text)
    playground.colour()
    assert playground.value == text
    playground.point_at(text.index("🙂"))
    head = playground.alternatives.locator("p")
    head.get_by_text("🙂").wait_for()
    assert "tokens" in head.inner_text()


def test_a_character_is_shown_once_its_last_byte_has_come(playground: Playground) -> None:
    units = playground.call(
        "tokens.js",
        """
        const builder = new m.UnitBuilder(3);
        const token = (text) => ({ id: 1, text, logprob: -1, top: [] });
        const shown = ({ start, end, text, tokens }) => [start, end, text, tokens.length];
        return a[0].map((text) => builder.push(token(text)).map(shown));
        """,
        [" a", "bytes: \\xf0\\x9f", "bytes:\\x99", "bytes:\\x82", "b", "bytes:\\xe2", "c"],
    )
    assert units == [
        [[3, 5, " a", 1]],
        [],
        [],
        [[5, 8, " 🙂", 3]],
        [[8, 9, "b", 1]],
        [],
        [[9, 10, "\ufffd", 1], [10, 11, "c", 1]],
    ]


def test_half_a_character_at_the_end_is_not_kept(playground: Playground) -> None:
    text = playground.call(
        "run.js",
        """
        const run = new m.Run(0);
        const logprobs = { tokens: ["a", "bytes:\\\\xf0\\\\x9f"], token_logprobs: [-1, -1], top_logprobs: [{}, {}] };
        run.add({ text: "a", logprobs, token_ids: [1, 2] });
        run.add({ text: "\\ufffd", finish_reason: "length" });
        run.end();
        return run.text;
        """,
    )
    assert text == "a"


def test_an_edit_forgets_what_was_known_of_the_tokens_behind_it(playground: Playground) -> None:
    state = playground.call(
        "document.js",
        """
        const unit = (start, end) => ({ start, end, text: "", tokens: [] });
        const state = { text: "one two three", units: [unit(0, 3), unit(3, 7), unit(7, 13)], made: [[3, 13]] };
        return m.replaced(state, 5, 6, "xyz");
        """,
    )
    assert state["text"] == "one txyzo three"
    assert [unit["end"] for unit in state["units"]] == [3]
    assert state["made"] == [[3, 5], [8, 15]]


def test_what_was_typed_is_found_by_the_cursor(playground: Playground) -> None:
    cases = [["abc", "abxc", 3], ["aaa", "aaaa", 2], ["abc", "ac", 1], ["", "new", 3]]
    found = playground.call("document.js", "return a[0].map((texts) => m.difference(...texts));", cases)
    assert found == [[2, 2, "x"], [1, 1, "a"], [1, 2, ""], [0, 0, "new"]]
