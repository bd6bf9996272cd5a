"""`POST /v1/inspect` in this process: what a text does inside the model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_tools import SECONDS, App, assert_error, running_app

from gptwo.errors import InvalidRequestError, MissingDependencyError, OutOfMemoryError
from gptwo.inspection import Inspector
from gptwo.inspection.explanation import explain
from gptwo.server import inspections
from gptwo.server.settings import ServerSettings

ADDRESS = "/v1/inspect"


@pytest.fixture(scope="module")
def opened(tiny_checkpoint: Path) -> Iterator[App]:
    """An app that has opened its model itself."""
    app = App(ServerSettings(model=str(tiny_checkpoint), served_model_name="tiny", max_inspect_tokens=20), None)
    try:
        app.run(app.service.loaded())
        yield app
    finally:
        app.close()


def test_the_answer_is_the_data_of_the_page(opened: App, tiny_checkpoint: Path) -> None:
    answer = opened.post(ADDRESS, {"prompt": "hear me", "model": "tiny"}).json()
    assert answer.pop("id").startswith("inspect-")
    assert (answer.pop("object"), answer.pop("left_out")) == ("inspection", 0)
    expected = json.loads(json.dumps(explain(Inspector.load(tiny_checkpoint), "hear me").as_dict()))
    expected["model"]["name"] = "tiny"
    assert answer == expected


def test_a_long_text_is_refused_unless_its_beginning_may_be_left_out(opened: App) -> None:
    text = "hear me speak " * 30
    answer = opened.post(ADDRESS, {"prompt": text})
    assert_error(answer, 400, "prompt", "context_length_exceeded")
    found = opened.post(ADDRESS, {"prompt": text, "truncate_prompt_tokens": -1}).json()
    assert len(found["token_ids"]) == 20
    count = opened.post("/tokenize", {"prompt": text}).json()["count"]
    assert found["left_out"] == count - 20
    some = opened.post(ADDRESS, {"prompt": text, "truncate_prompt_tokens": 3}).json()
    assert some["token_ids"] == found["token_ids"][-3:]
    assert "20" in assert_error(opened.post(ADDRESS, {"prompt": [5] * 21}), 400, "prompt", "context_length_exceeded")


def test_a_text_without_tokens_is_the_end_of_a_text(opened: App) -> None:
    end = opened.get("/tokenizer_info").json()["eos_token_id"]
    assert opened.post(ADDRESS, {"prompt": ""}).json()["token_ids"] == [end]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": [[1], [2]]}, 400, "prompt"),
        ({"prompt": [10**400]}, 400, "prompt"),
        ({"prompt": "a", "model": "other"}, 404, "model"),
        ({"prompt": "a", "truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens"),
        ({"prompt": "a", "truncate_prompt_tokens": True}, 400, "truncate_prompt_tokens"),
        ({"promt": "a"}, 400, "promt"),
        (b"nothing", 400, None),
    ],
)
def test_a_body_that_is_wrong_is_refused_in_the_servers_form(opened: App, body: Any, status: int, param: Any) -> None:
    code = "model_not_found" if status == 404 else None
    assert_error(opened.post(ADDRESS, body), status, param, code)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-(2**70), -1, 0, 1, 299, 300, 0.5, float("nan"), "", "é😀\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["prompt", "model", "truncate_prompt_tokens"]), anything, max_size=3))
def test_anything_is_answered_or_refused(opened: App, body: dict[str, Any]) -> None:
    answer = opened.post(ADDRESS, json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404), answer.text
    json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_while_a_text_is_looked_into_others_are_answered_and_few_wait(
    opened: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert gate.wait(SECONDS)
        return explain(*arguments, **options)

    monkeypatch.setattr(inspections, "explain", slow)
    monkeypatch.setattr(inspections, "MOST_WAITING", 2)
    headers = {"Content-Type": "application/json"}

    async def ask() -> Any:
        return await opened.client.post(ADDRESS, content=b'{"prompt": "a"}', headers=headers)

    under_way = [opened.start(ask())]
    assert entered.wait(SECONDS)
    assert opened.get("/health").status_code == 200
    assert opened.complete(prompt="a", max_tokens=2)["choices"]
    under_way.append(opened.start(ask()))
    opened.wait_until(lambda: opened.app.state.inspections.waiting == 2)
    assert_error(opened.post(ADDRESS, {"prompt": "a"}), 429, None, "rate_limit_exceeded")
    gate.set()
    assert [one.result(SECONDS).status_code for one in under_way] == [200, 200]


@pytest.mark.parametrize(("seconds", "statuses"), [(SECONDS, [200, 200]), (0.01, [503, 503])])
def test_a_server_that_ends_waits_for_the_texts_that_are_looked_into(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, statuses: list[int]
) -> None:
    gate = threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        assert gate.wait(SECONDS)
        return explain(*arguments, **options)

    monkeypatch.setattr(inspections, "explain", slow)
    app = App(ServerSettings(model=str(tiny_checkpoint), drain_timeout=seconds), None)
    try:
        app.run(app.service.loaded())
        headers = {"Content-Type": "application/json"}

        async def ask() -> Any:
            return await app.client.post(ADDRESS, content=b'{"prompt": "a"}', headers=headers)

        under_way = [app.start(ask()) for _ in statuses]
        app.wait_until(lambda: app.app.state.inspections.waiting == len(statuses))
        drain = app.start(app.service.drain())
        app.wait_until(lambda: app.service.state == "draining")
        assert_error(app.post(ADDRESS, {"prompt": "a"}), 503)
        if seconds < SECONDS:
            drain.result(SECONDS)
        else:
            assert not drain.done()
        gate.set()
        drain.result(SECONDS)
        assert [one.result(SECONDS).status_code for one in under_way] == statuses
    finally:
        gate.set()
        app.close()


def test_what_is_not_to_be_had_is_said_in_one_sentence() -> None:
    with running_app() as app:
        assert "checkpoint" in assert_error(app.post(ADDRESS, {"prompt": "a"}), 501)
        assert_error(app.post(ADDRESS, {"prompt": 5}), 400, "prompt")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MissingDependencyError("torch"), 501, "'.[torch]'"),
        (ImportError("torch"), 501, "'.[torch]'"),
        (InvalidRequestError("/secret/path is packed as int8"), 501, "log"),
        (OutOfMemoryError("no memory for the weights"), 503, "memory"),
    ],
)
def test_a_model_that_pytorch_cannot_open_is_not_looked_into(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(Inspector, "load", fail)
    app = App(ServerSettings(model=str(tiny_checkpoint)), None)
    try:
        app.run(app.service.loaded())
        said = assert_error(app.post(ADDRESS, {"prompt": "a"}), status)
        assert words in said
        assert "secret" not in said
        monkeypatch.undo()  # what is lacking stays so until the server is started again, what is busy does not
        assert app.post(ADDRESS, {"prompt": "a"}).status_code == (501 if status == 501 else 200)
        assert app.complete(prompt="a", max_tokens=1)["choices"]
    finally:
        app.close()


def test_a_server_may_look_into_no_texts(tiny_checkpoint: Path) -> None:
    app = App(ServerSettings(model=str(tiny_checkpoint), max_inspect_tokens=0), None)
    try:
        app.run(app.service.loaded())
        assert "--max-inspect-tokens" in assert_error(app.post(ADDRESS, {"prompt": "a"}), 501)
    finally:
        app.close()
