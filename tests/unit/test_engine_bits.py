"""Over the compiled core every bit of an answer is that of the request alone, with nothing cut, shared or guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from random_model import native, random_arrays, tiny_config
from tiny_models import TOKENIZER, VOCABULARY, answer, finish

from gptwo.decoder.native import NativeDecoder
from gptwo.engine import Completion, Engine
from gptwo.sampling import BeamParams, SamplingParams

CONFIG = tiny_config(vocab_size=VOCABULARY, n_positions=140, eos_token_id=VOCABULARY - 1, bos_token_id=VOCABULARY - 1)
ARRAYS = random_arrays(CONFIG, seed=5)
BEGINNINGS = [[int(t) for t in np.random.default_rng(seed).integers(0, 290, 150)] for seed in range(2)]
# A text that goes round in circles, so that its drafts are sometimes right.
BEGINNINGS.append([7, 8, 9, 10, 11] * 30)


@pytest.fixture(scope="module", params=["f32", "int8"])
def decoder(request: pytest.FixtureRequest) -> NativeDecoder:
    return native(CONFIG, ARRAYS, request.param, threads=2)


prompts = st.builds(
    lambda beginning, length, tail: [*BEGINNINGS[beginning][:length], *tail] or [1],
    st.integers(0, len(BEGINNINGS) - 1),
    st.one_of(st.sampled_from([0, 1, 63, 64, 65, 128, 129]), st.integers(0, 150)),
    st.lists(st.integers(0, 289), max_size=20),
)


@st.composite
def any_params(draw: st.DrawFn) -> SamplingParams | BeamParams:
    length = draw(st.integers(0, 24))
    common: dict[str, Any] = {
        "max_tokens": length,
        "min_tokens": draw(st.integers(0, length)),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.2])),
        "bad_words": draw(st.sampled_from([(), ("the", [5, 6])])),
        "logit_bias": draw(st.sampled_from([None, {7: 6.0, 8: 6.0, 9: 6.0}])),
    }
    if draw(st.integers(0, 5)) == 0:
        beams = draw(st.integers(1, 3))
        return BeamParams(num_beams=beams, num_return_sequences=draw(st.integers(1, beams)), **common)
    n = draw(st.integers(1, 3))
    return SamplingParams(
        n=n,
        best_of=draw(st.sampled_from([None, n + 1])),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
        top_k=draw(st.sampled_from([0, 5])),
        top_p=draw(st.sampled_from([1.0, 0.8])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.5])),
        seed=draw(st.integers(0, 99)),
        stop=draw(st.sampled_from([(), (), ("e", "tr")])),
        logprobs=draw(st.sampled_from([None, 0, 2])),
        prompt_logprobs=draw(st.sampled_from([None, None, 1])),
        overflow="slide" if length and draw(st.booleans()) else "error",
        speculate=draw(st.sampled_from([0, 1, 4, 20])),
        **common,
    )


def fitting(prompt: list[int], params: SamplingParams | BeamParams) -> tuple[list[int], SamplingParams | BeamParams]:
    """A request that the context has room for, or that slides."""
    left = CONFIG.n_positions - (params.max_tokens or 0)
    if len(prompt) > left and isinstance(params, SamplingParams) and params.max_tokens:
        params = dataclasses.replace(params, overflow="slide")
        if len(prompt) > CONFIG.n_positions:
            params = dataclasses.replace(params, prompt_logprobs=None)
        return prompt, params
    return prompt[:left], params


def plainly(decoder: NativeDecoder, prompt: list[int], params: SamplingParams | BeamParams) -> Completion:
    """The answer of an engine that does one thing after another."""
    if isinstance(params, SamplingParams):
        params = dataclasses.replace(params, speculate=0)
    engine = Engine(decoder, TOKENIZER, chunk_tokens=10**6, prefix_blocks=0)
    return answer(engine, engine.add(prompt, params, keep_logits="all"))


def assert_same(found: Completion, wanted: Completion) -> None:
    assert found == wanted
    if wanted.prompt_logits is not None and found.prompt_logits is not None:
        assert_array_equal(found.prompt_logits, wanted.prompt_logits[-len(found.prompt_logits) :])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_mix_of_requests_says_what_each_says_alone(decoder: NativeDecoder, data: st.DataObject) -> None:
    check_a_mix(decoder, data)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_any_of_a_thousand_mixes_says_what_each_request_says_alone(decoder: NativeDecoder, data: st.DataObject) -> None:
    check_a_mix(decoder, data)


def check_a_mix(decoder: NativeDecoder, data: st.DataObject) -> None:
    """Requests that come and go at random, each held against its answer alone."""
    engine = Engine(
        decoder,
        TOKENIZER,
        max_sequences=data.draw(st.integers(1, 12)),
        chunk_tokens=data.draw(st.one_of(st.integers(1, 40), st.integers(40, 300))),
        prefix_blocks=data.draw(st.one_of(st.none(), st.integers(0, 4))),
    )
    asked: dict[int, tuple[list[int], SamplingParams | BeamParams]] = {}
    cancelled: set[int] = set()
    events: list[Any] = []
    try:
        for _ in range(data.draw(st.integers(1, 6))):
            prompt, params = fitting(data.draw(prompts), data.draw(any_params()))
            asked[engine.add(prompt, params, keep_logits=data.draw(st.sampled_from(["none", "last", "all"])))] = (
                prompt,
                params,
            )
            for _ in range(data.draw(st.integers(0, 6))):
                events.extend(engine.step())
            if data.draw(st.integers(0, 7)) == 0:
                cancelled.add(data.draw(st.sampled_from(list(asked))))
                for request in cancelled:
                    engine.cancel(request)
        said = {event.request_id: event for event in finish(engine, events) if isinstance(event, Completion)}
        assert said.keys() | cancelled == asked.keys()
        for request, found in said.items():
            assert_same(found, plainly(decoder, *asked[request]))
    finally:
        for request in asked:
            engine.cancel(request)
        engine.clear_prefixes()
    assert decoder.cache_blocks == 0
