"""Whatever a body holds, the server answers it or says what is wrong with it; it never fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_tools import App, events_of, running_app

from gptwo.server.schemas import CompletionRequest, DetokenizeRequest, ScoreRequest, TokenizeRequest

FIELDS = sorted({*CompletionRequest.model_fields} - {"prompt", "structured_outputs", "response_format"})


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with running_app(max_n=4, max_best_of=4) as running:
        yield running


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.sampled_from([-(2**70), 2**31, 2**63, 10**300, 299, 300, 0.5, -0.0, 1e308, float("nan"), float("inf")])
    | st.sampled_from(["", "a", "\x00", "é", "😀", "All: ", "<|endoftext|>", "slide", "never", "a" * 5000, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["5", "x", "299"]), inner, max_size=2),
    max_leaves=6,
)
# Such as many requests have, so that the hostile values come beside good ones.
good = {
    "max_tokens": st.integers(0, 6) | st.none(),
    "temperature": st.sampled_from([0, 0.7, 1, 5]),
    "top_p": st.sampled_from([0, 0.5, 1]),
    "top_k": st.sampled_from([-1, 0, 1, 50, 1000]),
    "n": st.integers(1, 3),
    "best_of": st.integers(1, 4),
    "logprobs": st.integers(0, 3),
    "prompt_logprobs": st.integers(0, 3),
    "echo": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([{"include_usage": True}, {"continuous_usage_stats": True}]),
    "stop": st.sampled_from(["e", ["a", "é"], []]),
    "seed": st.integers(0, 2**64 - 1),
    "logit_bias": st.sampled_from([{}, {"65": 100}, {"299": -100}]),
    "use_beam_search": st.booleans(),
    "return_token_ids": st.booleans(),
    "truncate_prompt_tokens": st.sampled_from([-1, 1, 5]),
    "overflow": st.sampled_from(["error", "slide"]),
    "bad_words": st.sampled_from([["a"], [[65]], []]),
    "allowed_token_ids": st.sampled_from([[65], [0, 1, 299]]),
    "speculate": st.integers(0, 4),
    "min_tokens": st.integers(0, 3),
}
prompts = st.sampled_from(["", "All: ", [5], ["a", ""], [[1, 2], []], "hear me speak " * 9, [299] * 70])


def bodies(hostile: int) -> st.SearchStrategy[dict[str, Any]]:
    """Requests with at most so many fields of any value."""
    wild = st.dictionaries(st.sampled_from([*FIELDS, "prompt"]), anything, max_size=hostile)
    plain = st.fixed_dictionaries({"prompt": prompts}, optional=good)
    return st.builds(lambda one, other: {**one, **other}, plain, wild)


def check(app: App, path: str, body: dict[str, Any]) -> None:
    response = app.post(path, json.dumps(body).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):
            assert events_of(response.text)[-1] == "[DONE]"
        else:
            json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


@pytest.mark.parametrize("hostile", [0, 1])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_completion_is_answered_or_refused(app: App, hostile: int, data: st.DataObject) -> None:
    check(app, "/v1/completions", data.draw(bodies(hostile)))
    assert app.service.state == "ready"


@pytest.mark.parametrize(
    ("path", "schema"),
    [("/v1/score", ScoreRequest), ("/tokenize", TokenizeRequest), ("/detokenize", DetokenizeRequest)],
)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_anything_else_is_answered_or_refused(app: App, path: str, schema: Any, data: st.DataObject) -> None:
    check(app, path, data.draw(st.dictionaries(st.sampled_from(sorted(schema.model_fields)), anything, max_size=3)))
