"""Long prompts go through the model in chunks, so that nobody waits for more than one chunk of another's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_models import TOKENIZER, ToyDecoder, answer, finish, logits_of, tiny_config

from gptwo.engine import Completion, Engine, Piece
from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams

LONG = tiny_config(n_positions=1000)
PROMPT = [n % 290 for n in range(100)]


def chunked(tokens: int, *, exact: bool = True, **options: int) -> tuple[Engine, ToyDecoder]:
    decoder = ToyDecoder(LONG, exact=exact)
    return Engine(decoder, TOKENIZER, chunk_tokens=tokens, **{"prefix_blocks": 0, **options}), decoder


def steps_of(decoder: ToyDecoder, sequence: int) -> list[int]:
    """How many tokens of one sequence each forward pass had."""
    return [sum(tokens for number, _, tokens in batch if number == sequence) for batch in decoder.batches]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=4, n=2, seed=1, ignore_eos=True, logprobs=2, prompt_logprobs=1),
        SamplingParams(max_tokens=9, seed=1, ignore_eos=True, overflow="slide"),
        BeamParams(num_beams=3, max_tokens=4),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 50, 99, 100, 101])
def test_an_answer_does_not_depend_on_the_chunks(params: SamplingParams | BeamParams, chunk: int) -> None:
    cut, whole = (answer(engine, engine.add(PROMPT, params)) for engine, _ in (chunked(chunk), chunked(1000)))
    assert cut == whole


def test_a_long_prompt_costs_a_running_text_one_chunk_a_step() -> None:
    engine, decoder = chunked(16)
    first = engine.add([1], SamplingParams(max_tokens=30, ignore_eos=True, seed=1))
    engine.step()
    engine.add(PROMPT, SamplingParams(max_tokens=3, ignore_eos=True, seed=2))
    for _ in range(6):
        events = engine.step()
        assert [event.request_id for event in events if isinstance(event, Piece)] == [first]
    assert steps_of(decoder, 2) == [0, *[16] * 6]
    assert len(engine.step()) == 2  # the last four tokens of the prompt, and what follows them
    assert steps_of(decoder, 2)[-1] == 4
    finish(engine)
    assert decoder.held == {}


def test_prompts_are_computed_in_the_order_in_which_they_came() -> None:
    engine, decoder = chunked(10)
    lengths = [25, 3, 12, 8]
    requests = [engine.add([n] * length, SamplingParams(max_tokens=2, seed=0)) for n, length in enumerate(lengths, 1)]
    first_pieces = list(dict.fromkeys(e.request_id for e in finish(engine) if isinstance(e, Piece)))
    assert first_pieces == requests
    # What one prompt leaves of a step's room is the next one's.
    prompts = [[tokens for _, position, tokens in batch if tokens > 1] for batch in decoder.batches]
    assert prompts[:5] == [[10], [10], [5, 3, 2], [10], [8]]


def test_a_text_that_slides_and_prompts_that_keep_coming_do_not_starve_each_other() -> None:
    config = tiny_config(n_positions=32)
    engine = Engine(ToyDecoder(config), TOKENIZER, chunk_tokens=8)
    slides = engine.add([1] * 40, SamplingParams(max_tokens=12, n=2, overflow="slide", ignore_eos=True, seed=1))
    events: list[Any] = []
    asked: list[int] = []
    for step in range(400):
        if step % 3 == 0:
            asked.append(engine.add([step % 200] * 20, SamplingParams(max_tokens=1, seed=1)))
        events.extend(engine.step())
        done = [event.request_id for event in events if isinstance(event, Completion)]
        if slides in done:
            break
    assert slides in done
    # Meanwhile the others were served too, in the order in which they came.
    assert len(done) > 8
    assert [request for request in done if request != slides] == asked[: len(done) - 1]


def test_scoring_a_long_text_never_has_more_rows_at_a_time_than_a_chunk() -> None:
    engine, decoder = chunked(16)
    rows: list[int] = []
    forward = decoder.forward

    def counted(*arrays: np.ndarray) -> np.ndarray:
        rows.append(len(arrays[3]))
        return forward(*arrays)

    decoder.forward = counted  # type: ignore[method-assign]
    found = answer(engine, engine.add(PROMPT, SamplingParams(max_tokens=0, prompt_logprobs=0), keep_logits="all"))
    assert rows == [*[16] * 6, 4]
    assert found.prompt_logprobs is not None
    assert len(found.prompt_logprobs) == 100
    assert found.prompt_logits is not None
    assert_array_equal(found.prompt_logits, [logits_of(PROMPT[: n + 1]) for n in range(100)])


def test_only_the_rows_that_are_wanted_are_computed() -> None:
    engine, decoder = chunked(16)
    rows: list[int] = []
    forward = decoder.forward

    def counted(*arrays: np.ndarray) -> np.ndarray:
        rows.append(len(arrays[3]))
        return forward(*arrays)

    decoder.forward = counted  # type: ignore[method-assign]
    answer(engine, engine.add(PROMPT, SamplingParams(max_tokens=0), keep_logits="last"))
    assert rows == [*[0] * 6, 1]


def test_a_decoder_that_does_not_promise_exactness_has_prompts_whole_and_nothing_is_reused() -> None:
    engine, decoder = chunked(16, exact=False, prefix_blocks=100)
    for _ in range(2):
        engine.add(PROMPT, SamplingParams(max_tokens=30, seed=1, temperature=0, speculate=8, logit_bias={5: 100}))
        finish(engine)
    assert {tokens for batch in decoder.batches for _, _, tokens in batch} == {1, 100}
    assert decoder.held == {}
    assert (engine.statistics.drafted_tokens, engine.statistics.prefix_tokens) == (0, 0)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", range(1, 12))
def test_a_chunk_that_was_interrupted_is_computed_again(step: int, moment: str) -> None:
    every = [
        SamplingParams(max_tokens=4, seed=3, logprobs=2, prompt_logprobs=1, ignore_eos=True),
        SamplingParams(max_tokens=6, seed=3, ignore_eos=True, overflow="slide", n=2),
        SamplingParams(max_tokens=6, temperature=0, seed=1, ignore_eos=True, speculate=3, logit_bias={9: 100.0}),
        BeamParams(num_beams=2, max_tokens=3),
    ]
    config = tiny_config(n_positions=16)
    prompts = [[1, 2, 3] * 4, [1] * 20, [9] * 10, [4] * 13]
    wanted = []
    for prompt, params in zip(prompts, every, strict=True):
        engine = Engine(ToyDecoder(config), TOKENIZER)
        wanted.append(answer(engine, engine.add(prompt, params)))
    decoder = ToyDecoder(config)
    decoder.interrupt = (step, moment)
    engine = Engine(decoder, TOKENIZER, chunk_tokens=9)
    requests = [engine.add(prompt, params) for prompt, params in zip(prompts, every, strict=True)]
    events: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        finish(engine, events)
    said = {e.request_id: e for e in finish(engine, events) if isinstance(e, Completion)}
    assert [said[request] for request in requests] == wanted
    assert decoder.held == {}


def test_a_request_can_be_cancelled_between_two_chunks() -> None:
    for steps, params in itertools.product(range(8), (SamplingParams(n=2), BeamParams(num_beams=2))):
        engine, decoder = chunked(30)
        request = engine.add(PROMPT, params)
        for _ in range(steps):
            engine.step()
        engine.cancel(request)
        assert decoder.held == {}
        assert not engine.has_work()


@pytest.mark.parametrize("name", ["max_sequences", "chunk_tokens", "prefix_blocks"])
def test_an_option_of_the_engine_out_of_range_is_refused(name: str) -> None:
    for value in (-1, 1.5, "8"):
        with pytest.raises(InvalidRequestError, match=f"{name} is .*expected an integer") as caught:
            Engine(ToyDecoder(), TOKENIZER, **{name: value})  # type: ignore[arg-type]
        assert caught.value.param == name
