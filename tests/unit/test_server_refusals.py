"""`POST /v1/completions` in this process: what it refuses, before any work."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_tools import SECONDS, App, assert_error, running_app

from gptwo.sampling import grammar

CONTEXT = "context_length_exceeded"
TEXT = "Before we"


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with running_app() as running:
        yield running


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [1, 2.5]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [[1], [None]]}, "prompt"),
        ({"prompt": [[[1]]]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**400]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"n": 10**6}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"typical_p": 0}, "typical_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"logit_bias": {"5": math.nan}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": "x" * 5000}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"echo": "yes"}, "echo"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"suffix": " end"}, "suffix"),
        ({"user": 5}, "user"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [999]}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"min_tokens": 20}, "min_tokens"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"overflow": "wrap"}, "overflow"),
        ({"overflow": "slide", "max_tokens": 65}, "max_tokens"),
        ({"overflow": "slide", "max_tokens": None}, "max_tokens"),
        ({"speculate": 65}, "speculate"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"length_penalty": 1.0}, "length_penalty"),
        ({"use_beam_search": True, "top_p": 0.5}, "top_p"),
        ({"use_beam_search": True, "logprobs": 1}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "foo**"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(" * 60_000}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "((a{1,1000}){1,1000}){1,1000}"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "start: " + "(" * 60_000}}, "structured_outputs"),
        ({"structured_outputs": {"json": {"type": "no such type"}}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"topp": 0.5}, "topp"),
        ({"messages": []}, "messages"),
        ({"model": 5}, "model"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused_by_name_before_any_work(app: App, body: dict[str, Any], param: str) -> None:
    before = app.service.runner.engine.statistics
    whole = body if "prompt" in body or not body else {"prompt": "we", **body}
    message = assert_error(app.post("/v1/completions", whole), 400, param)
    assert len(message) < 300
    assert app.service.runner.engine.statistics == before


@pytest.mark.parametrize(
    ("path", "name", "meant"),
    [
        ("/v1/completions", "top-p", "top_p"),
        ("/v1/completions", "n_predict", "max_tokens"),
        ("/v1/score", "text", "input"),
        ("/tokenize", "content", "prompt"),
    ],
)
def test_an_unknown_parameter_is_answered_with_the_one_that_was_meant(
    app: App, path: str, name: str, meant: str
) -> None:
    assert f"did you mean {meant!r}?" in assert_error(app.post(path, {name: "we"}), 400, name)


@pytest.mark.parametrize("prompt", [[1] * 50, "hear me speak " * 30])
def test_more_than_the_context_names_both_numbers(app: App, prompt: Any) -> None:
    message = assert_error(
        app.post("/v1/completions", {"prompt": prompt, "max_tokens": 20}), 400, "max_tokens", CONTEXT
    )
    assert "20" in message
    assert "64" in message


def test_a_text_far_beyond_the_context_is_refused_by_its_length(app: App) -> None:
    assert_error(app.post("/v1/completions", {"prompt": "a" * 500_000}), 400, "prompt", CONTEXT)


def test_another_models_name_is_not_found(app: App) -> None:
    message = assert_error(
        app.post("/v1/completions", {"prompt": "we", "model": "davinci"}), 404, "model", "model_not_found"
    )
    assert "shakespeare" in message


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3, 4], "max_tokens": 6}, 10),
        ({"prompt": [[1, 2], [1, 2, 3]], "max_tokens": 1}, 7),
        ({"prompt": [1, 2], "max_tokens": 2, "n": 2, "best_of": 3}, 12),
        ({"prompt": [1, 2], "max_tokens": 2, "logprobs": 2}, 12),
        ({"prompt": [1, 2], "max_tokens": 2, "prompt_logprobs": 4, "logprobs": 1}, 20),
        ({"prompt": [1, 2], "max_tokens": None}, 64),
        ({"prompt": [1, 2], "max_tokens": 2, "use_beam_search": True, "best_of": 4}, 16),
    ],
)
def test_all_that_a_request_asks_for_together_is_limited(body: dict[str, Any], tokens: int) -> None:
    with running_app(max_request_tokens=tokens) as app:
        assert app.post("/v1/completions", body).status_code == 200
    with running_app(max_request_tokens=tokens - 1) as app:
        assert f"more than {tokens - 1} tokens" in assert_error(app.post("/v1/completions", body), 400, "max_tokens")


def test_limits_are_the_servers_own() -> None:
    limits = {"max_n": 2, "max_best_of": 3, "max_tokens": 10, "max_stop": 1, "max_logprobs": 1, "max_prompts": 2}
    with running_app(**limits) as app:
        for body, param in (
            ({"n": 3}, "n"),
            ({"best_of": 4}, "best_of"),
            ({"max_tokens": 11}, "max_tokens"),
            ({"stop": ["a", "b"]}, "stop"),
            ({"logprobs": 2}, "logprobs"),
            ({"prompt": ["a", "b", "c"]}, "prompt"),
            ({"use_beam_search": True, "best_of": 4}, "best_of"),
        ):
            message = assert_error(app.post("/v1/completions", {"prompt": "we", "max_tokens": 5, **body}), 400, param)
            assert "this server" in message
        app.complete(prompt=["we", "me"], n=2, best_of=3, max_tokens=10, stop=["a"], logprobs=1)
        assert app.complete(prompt="we", max_tokens=None, ignore_eos=True)["usage"]["completion_tokens"] == 10


def test_a_grammar_that_takes_long_to_compile_keeps_nobody_else_waiting(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, go_on = threading.Event(), threading.Event()
    compile_grammar = grammar.compile_grammar

    def slow(*arguments: Any) -> grammar.Constraint:
        compiling.set()
        assert go_on.wait(SECONDS)
        return compile_grammar(*arguments)

    monkeypatch.setattr("gptwo.sampling.grammar.compile_grammar", slow)
    content = {"prompt": "a", "max_tokens": 3, "structured_outputs": {"choice": ["a"]}}
    waiting = [app.start(app.client.post("/v1/completions", json=content)) for _ in range(4)]
    assert compiling.wait(SECONDS)
    assert app.complete(prompt="a", max_tokens=3)["usage"]["completion_tokens"] == 3
    assert app.post("/tokenize", {"prompt": "a"}).status_code == 200
    assert not any(answer.done() for answer in waiting)
    go_on.set()
    assert [answer.result(SECONDS).status_code for answer in waiting] == [200] * 4
