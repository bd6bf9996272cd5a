"""What a line of a batch asks for, and what may be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptwo.batch.settings import BatchModel, BatchSettings, Work, line_seed
from gptwo.batch.source import Line
from gptwo.batch.task import Task, read_task
from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams


def task_of(data: Any, index: int = 0, *, score: bool = False, seed: int = 0, **parameters: Any) -> Task:
    work = Work(model=BatchModel(), score=score, parameters=parameters, seed=seed, token_ids=False)
    raw = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
    return read_task(Line(index, index + 1, raw), work)


def test_a_line_has_a_prompt_an_id_and_parameters_that_come_before_those_of_the_run() -> None:
    task = task_of({"prompt": "a", "id": 7, "temperature": 0.5, "seed": 3}, temperature=0.1, top_k=4)
    assert (task.error, task.id, task.prompt) == (None, 7, "a")
    assert task.params(None) == SamplingParams(max_tokens=100, temperature=0.5, top_k=4, seed=3)


def test_a_line_with_num_beams_searches() -> None:
    assert task_of({"prompt": [1, 2], "num_beams": 2}).params(50) == BeamParams(max_tokens=50, num_beams=2)


def test_what_is_generated_is_as_long_as_the_context_allows() -> None:
    task = task_of({"prompt": "a", "min_tokens": 120})
    assert task.params(None).max_tokens == 120
    assert task_of({"prompt": "a"}).params(30).max_tokens == 30
    assert task_of({"prompt": "a"}).params(-1).max_tokens == 100  # which the engine refuses, with both numbers


def test_a_lines_seed_depends_on_the_runs_seed_and_the_lines_place_only() -> None:
    seeds = {task_of({"prompt": str(index)}, index, seed=seed).values["seed"] for index in range(50) for seed in (1, 2)}
    assert len(seeds) == 100
    assert task_of({"prompt": "another"}, 5, seed=1).values["seed"] == line_seed(1, 5) == 791500129687269252
    assert task_of({"prompt": "a", "seed": None}, 5, seed=1).values["seed"] == line_seed(1, 5)
    assert line_seed(-1, 0) == line_seed(2**64 - 1, 0)  # as everywhere


def test_a_line_of_openais_batch_file_is_taken() -> None:
    body = {"model": "gpt2", "prompt": "Once", "user": "me", "stream": False, "echo": False, "temperature": 0}
    line = {"custom_id": "request-1", "method": "POST", "url": "/v1/completions", "body": body}
    task = task_of(line)
    assert (task.error, task.id, task.prompt, task.model) == (None, "request-1", "Once", "gpt2")
    assert task.params(None).max_tokens == 16  # OpenAI's default
    assert task_of({**line, "body": {**body, "max_tokens": 3}}).params(None).max_tokens == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8 (byte 0xE9)"),
        (None, "the line is longer than"),
        (["a"], "expected an object"),
        ({}, "the line has no prompt"),
        ({"prompts": "a"}, "the line has no prompt, but 'prompts'"),
        ({"text": "a"}, "the line has no prompt; texts are scored with --score"),
        ({"prompt": None}, "the prompt is None, expected text or a list of token ids"),
        ({"prompt": ["a", "b"]}, "expected text or a list of token ids"),
        ({"prompt": [1, True]}, "expected text or a list of token ids"),
        ({"prompt": "a\ud800"}, "the prompt is not Unicode"),
        ({"prompt": "a", "id": 1.5}, "the id is 1.5, expected text or an integer"),
        ({"prompt": "a", "id": True}, "the id is True"),
        ({"prompt": "a", "id": 1, "custom_id": 2}, "both id and custom_id"),
        ({"prompt": "a", "temprature": 1}, "'temprature' is no parameter; did you mean 'temperature'?"),
        ({"prompt": "a", "temperature": -1}, "temperature is -1"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens is 'many'"),
        ({"prompt": "a", "min_tokens": "x"}, "min_tokens is 'x'"),
        (
            {"prompt": "a", "length_penalty": 1},
            "'length_penalty' is no parameter of sampling; beam search needs num_beams",
        ),
        ({"prompt": "a", "num_beams": 2, "top_p": 0.5}, "'top_p' is no parameter of beam search"),
        ({"custom_id": "a", "url": "/v1/chat/completions", "body": {}}, "expected '/v1/completions'"),
        ({"custom_id": "a", "method": "GET", "body": {}}, "method is 'GET', expected 'POST'"),
        ({"custom_id": "a", "body": []}, "the body is [], expected an object"),
        ({"custom_id": "a", "prompt": "b", "body": {}}, "'prompt' beside its body"),
        ({"custom_id": "a", "body": {"prompt": "b", "stream": True}}, "stream is True, which a batch does not do"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_a_sentence(data: Any, message: str) -> None:
    assert message in str(task_of(data).error)


def test_the_answer_to_a_wrong_line_says_what_could_be_read_of_it() -> None:
    task = task_of({"id": "seven", "prompt": "a", "n": 0})
    assert (task.id, task.prompt) == ("seven", "a")
    assert task.error is not None
    assert task_of({"id": "\ud800", "prompt": "a\udfff"}).prompt == "a?"


def test_parameters_that_no_file_could_remember_are_refused() -> None:
    parameters = {"logit_bias": {1: 2}, "stop": ("a",)}
    BatchSettings(source=Path("in"), out=Path("out.jsonl"), parameters=parameters)
    with pytest.raises(InvalidRequestError, match="the parameters are no plain values"):
        BatchSettings(source=Path("in"), out=Path("out.jsonl"), parameters={"bad_words": [np.array([1])]})


def test_a_line_to_be_scored_has_a_text_and_whatever_else() -> None:
    task = task_of({"text": "a", "id": "x", "meta": {"source": "web"}}, score=True)
    assert (task.error, task.id, task.prompt) == (None, "x", "a")
    assert "no text; prompts are continued without --score" in str(task_of({"prompt": "a"}, score=True).error)
    assert "not for scoring" in str(task_of({"body": {}}, score=True).error)
