"""What leaves the playground and comes back: requests as commands, sessions as files; and what a server may answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

BEGINNING = 'ROMEO:\nIt\'s the "east", $HOME \\ and'


@pytest.fixture
def playground(page: Page) -> Playground:
    return Playground(page)


def history(playground: Playground, action: str) -> None:
    page = playground.page
    if not page.locator("#panel").is_visible():
        page.locator("#panel-toggle").click()
    page.locator("#tab-history").click()
    page.locator(".past").first.get_by_text(action).click()
    playground.notice.get_by_text("on the clipboard").wait_for()


def test_the_text_is_copied_as_it_is(playground: Playground) -> None:
    playground.write("O 🙂\n\n\tspeak ")
    playground.colour()
    playground.page.locator("#copy").click()
    playground.page.locator("#copy-text").click()
    playground.notice.get_by_text("on the clipboard").wait_for()
    assert playground.clipboard() == "O 🙂\n\n\tspeak "


def test_a_continuation_copied_as_curl_gives_the_same_text(playground: Playground) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    playground.set(max_tokens=20, top_k=40, stop="Never said\\n")
    playground.write(BEGINNING)
    written = playground.go_on()
    history(playground, "Copy as curl")
    done = subprocess.run(["bash", "-c", playground.clipboard()], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["text"] == written


def test_a_continuation_copied_as_python_gives_the_same_text(playground: Playground) -> None:
    pytest.importorskip("openai", reason="needs OpenAI's client")
    playground.set(max_tokens=20, top_k=40, min_p=0.01, logit_bias="13: -100", ignore_eos=True)
    playground.write(BEGINNING)
    written = playground.go_on()
    history(playground, "Copy as Python")
    done = subprocess.run([sys.executable, "-c", playground.clipboard()], capture_output=True, text=True, check=True)
    assert done.stdout == written + "\n"


def test_the_menu_copies_what_continue_would_send(playground: Playground) -> None:
    playground.set(seed=5, max_tokens=7)
    playground.write("ROMEO:")
    playground.page.locator("#copy").click()
    playground.page.locator("#copy-python").click()
    playground.notice.get_by_text("on the clipboard").wait_for()
    copied = playground.clipboard()
    assert 'prompt="ROMEO:"' in copied
    assert "seed=5" in copied
    assert "max_tokens=7" in copied


def test_a_key_is_never_copied(playground: Playground) -> None:
    playground.page.evaluate("() => sessionStorage.setItem('gptwo-api-key', 'secret-1')")
    body = {"model": "shakespeare", "prompt": "O"}
    for name in ("curl", "python"):
        copied = playground.call("snippets.js", f"return m.{name}(a[0]);", body)
        assert "secret-1" not in copied
        assert "GPTWO_API_KEY" in copied


def saved(playground: Playground, folder: Path) -> Path:
    with playground.page.expect_download() as download:
        playground.page.keyboard.press("Control+s")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_saved_session_comes_back_whole(playground: Playground, tmp_path: Path) -> None:
    page = playground.page
    playground.set(temperature=0.65, bad_words="thou")
    playground.write("JULIET:\nAy me! 🙂")
    playground.go_on()
    playground.colour()
    text, colours = playground.value, playground.coloured()
    path = saved(playground, tmp_path)
    assert path.name == "juliet-ay-me.gptwo.json" or path.name.startswith("juliet-ay-me")
    page.locator("#session").click()
    page.locator("#session-new").click()
    assert playground.value == ""
    playground.set(temperature=1)
    page.locator("#session-file").set_input_files(path)
    playground.notice.get_by_text("is open").wait_for()
    assert playground.value == text
    assert playground.coloured() == colours
    assert page.locator("#parameter-temperature").input_value() == "0.65"
    assert page.locator("#parameter-bad_words").input_value() == "thou"
    history(playground, "Copy as curl")


def test_a_broken_session_is_one_sentence_and_changes_nothing(playground: Playground, tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "format": "gptwo playground session",
        "version": 1,
        "text": "ab",
        "made": [],
        "tokens": [],
        "parameters": {"temperature": 0.1},
        "continuations": [],
    }
    sentences = {
        '{"format": "gptwo playgr': "no session: it is not JSON, or not all of it.",
        "[1]": "no session of this playground.",
        json.dumps(good | {"version": 9}): "a session of another version (9) than this page reads (1).",
        json.dumps(good | {"text": None}): "a damaged session: its text cannot be read.",
        json.dumps(good | {"tokens": [[0, 99, []]]}): "a damaged session: its tokens cannot be read.",
        json.dumps(good | {"made": [[1, 0]]}): "a damaged session: its spans cannot be read.",
        json.dumps(good | {"continuations": [{}]}): "a damaged session: its history cannot be read.",
        json.dumps(good | {"parameters": {"stop": 5}}): "a damaged session: its parameters cannot be read.",
    }
    playground.write("mine")
    for number, (content, sentence) in enumerate(sentences.items()):
        path = tmp_path / f"broken-{number}.json"
        path.write_text(content, encoding="utf-8")
        playground.page.locator("#session-file").set_input_files(path)
        playground.notice.get_by_text(f"{path.name} is {sentence}", exact=True).wait_for()
        assert playground.value == "mine"


def refuse_once(playground: Playground, status: int, message: str, **headers: str) -> list[int]:
    """Let the next completion be refused; the list grows with each request."""
    seen: list[int] = []
    error = {"error": {"message": message, "type": "error", "param": None, "code": None}}

    def answer(route: Route) -> None:
        seen.append(status)
        if len(seen) == 1:
            route.fulfill(status=status, json=error, headers=headers)
        else:
            route.continue_()

    playground.page.route("**/v1/completions", answer)
    return seen


@pytest.mark.parametrize(("status", "message"), [(429, "the queue is full"), (503, "the server is shutting down")])
def test_a_busy_server_is_asked_again_when_it_says(timed_page: Page, status: int, message: str) -> None:
    playground, clock = Playground(timed_page), timed_page.clock
    seen = refuse_once(playground, status, message, **{"Retry-After": "20"})
    playground.write("ROMEO:\n")
    timed_page.keyboard.press("Control+Enter")
    playground.notice.get_by_text(f"{message}. Trying again in 20 s.").wait_for()
    clock.run_for(1000)
    playground.notice.get_by_text(f"{message}. Trying again in 19 s.").wait_for()
    clock.run_for(20_000)
    playground.wait()
    assert len(seen) == 2
    assert len(playground.value) > 30
    assert not playground.notice.is_visible()


def test_a_server_that_is_gone_is_one_line_with_another_try(playground: Playground) -> None:
    page = playground.page
    page.route("**/v1/completions", lambda route: route.abort("connectionrefused"))
    playground.write("ROMEO:\n")
    page.keyboard.press("Control+Enter")
    playground.notice.get_by_text("The server does not answer. Is it still running?").wait_for()
    assert playground.value == "ROMEO:\n"
    page.unroute("**/v1/completions")
    page.locator("#notice-action").click()
    page.wait_for_selector("#seed")
    playground.wait()
    assert len(playground.value) > 30
    assert not playground.notice.is_visible()


def test_a_stream_that_breaks_keeps_what_had_come(playground: Playground) -> None:
    choice = {"index": 0, "text": "But soft", "finish_reason": None, "token_ids": [1], "logprobs": None}
    event = "data: " + json.dumps({"choices": [choice]}) + "\n\n"
    playground.page.route(
        "**/v1/completions", lambda route: route.fulfill(body=event, content_type="text/event-stream")
    )
    playground.write("ROMEO:\n")
    playground.page.keyboard.press("Control+Enter")
    playground.notice.get_by_text("The connection broke; what had come is kept.").wait_for()
    assert playground.value == "ROMEO:\nBut soft"


def test_what_the_server_refuses_is_said_in_its_words_and_shown(playground: Playground) -> None:
    playground.set(logit_bias="99999: 1")
    playground.page.locator("#panel-close").click()
    playground.write("ROMEO:\n")
    playground.page.keyboard.press("Control+Enter")
    playground.notice.get_by_text("99999").wait_for()
    assert playground.value == "ROMEO:\n"
    playground.page.locator("#notice-action").click()
    assert playground.page.evaluate("() => document.activeElement.id") == "parameter-logit_bias"


def test_a_key_is_asked_for_where_the_server_wants_one_and_kept_in_the_tab(page: Page, server: str) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "no", "type": "x", "param": None, "code": None}})

    page.route("**/v1/**", guard)
    page.goto(server)
    playground = Playground(page)
    playground.notice.get_by_text("The server wants an API key.").wait_for()
    page.locator("#notice-action").click()
    page.locator("#api-key").fill("wrong")
    page.keyboard.press("Enter")
    playground.notice.get_by_text("The server does not know this API key.").wait_for()
    page.locator("#api-key").fill("open sesame")
    page.keyboard.press("Enter")
    page.locator("#model-name").get_by_text("shakespeare").wait_for()
    playground.notice.wait_for(state="hidden")
    playground.write("ROMEO:\n")
    assert len(playground.go_on()) > 20
    page.reload()
    page.locator("#model-name").get_by_text("shakespeare").wait_for()
