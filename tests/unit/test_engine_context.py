"""Prompts and the context of a model: what may be asked, where it ends, and how it slides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tiny_models import (
    VOCABULARY,
    ToyDecoder,
    answer,
    logits_of,
    plain_loop,
    reference_decoder,
    said_by,
    say,
    script,
    tiny_config,
)

from gptwo.engine import Engine
from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.sampler import log_softmax

END = VOCABULARY - 1


def test_an_empty_prompt_begins_a_text() -> None:
    assert say([], max_tokens=3, seed=1).prompt_token_ids == (END,)
    other = ToyDecoder(tiny_config(bos_token_id=4))
    assert said_by(other, [], SamplingParams(max_tokens=1)).prompt_token_ids == (4,)


@pytest.mark.parametrize("unknown", [None, 50256])
def test_the_tokenizer_knows_the_end_of_text_where_the_configuration_does_not(unknown: int | None) -> None:
    config = tiny_config(bos_token_id=unknown, eos_token_id=unknown)
    decoder = ToyDecoder(config, script([5, END]))
    found = said_by(decoder, [], SamplingParams(temperature=0, max_tokens=9))
    assert (found.prompt_token_ids, found.token_ids, found.finish_reason) == ((END,), (5, END), "stop")
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        said_by(ToyDecoder(config), [], SamplingParams(), tokenizer=None)
    # Nothing ends the text there, and min_tokens has nothing to put off.
    found = said_by(ToyDecoder(config), [1], SamplingParams(max_tokens=9, min_tokens=5), tokenizer=None)
    assert (len(found.token_ids), found.text) == (9, "")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, 300], "token id 300 is out of range: the vocabulary has 300 tokens"),
        ([-1], "token id -1 is out of range"),
        ([1.0], "the prompt holds 1.0, expected token ids"),
        ([True], "the prompt holds True, expected token ids"),
        ([10**50], "token id an integer of over 40 digits is out of range"),
        (["1"], "the prompt holds '1'"),
    ],
)
def test_a_prompt_is_of_token_ids_in_the_vocabulary(prompt: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        say(prompt)
    assert caught.value.param == "prompt"


def test_what_needs_a_tokenizer_says_so() -> None:
    for params, param in ((SamplingParams(stop="a"), "stop"), (SamplingParams(bad_words=["a"]), "bad_words")):
        with pytest.raises(InvalidRequestError, match="need a tokenizer") as caught:
            said_by(ToyDecoder(), [1], params, tokenizer=None)
        assert caught.value.param == param


def test_the_full_context_can_be_used_and_one_more_token_names_both_numbers() -> None:
    config = tiny_config(n_positions=1024)
    for prompt, tokens in ((1023, 1), (1000, 24), (1024, 0), (1, 1023)):
        found = said_by(ToyDecoder(config), [1] * prompt, SamplingParams(max_tokens=tokens, ignore_eos=True, seed=1))
        assert len(found.token_ids) == tokens
        sentence = f"{prompt} tokens? and max_tokens is {tokens + 1}.*1024"
        with pytest.raises(ContextLengthError, match=sentence) as caught:
            said_by(ToyDecoder(config), [1] * prompt, SamplingParams(max_tokens=tokens + 1))
        assert caught.value.param == "max_tokens"
        both = f"{prompt + 1} tokens and max_tokens is {tokens}.*1024" if tokens else "1025 tokens, more than .* 1024"
        with pytest.raises(ContextLengthError, match=both):
            said_by(ToyDecoder(config), [1] * (prompt + 1), BeamParams(max_tokens=tokens))
    with pytest.raises(ContextLengthError, match="1024 tokens, the model 1024 positions: nothing is left"):
        said_by(ToyDecoder(config), [1] * 1024, SamplingParams(max_tokens=None))


def test_at_the_last_position_the_model_says_what_it_says_in_one_pass() -> None:
    decoder = reference_decoder(tiny_config(n_positions=1024, n_embd=8, n_head=1, n_layer=1))
    draw = random.Random(0)
    prompt = [draw.randrange(300) for _ in range(1020)]
    engine = Engine(decoder)
    found = answer(engine, engine.add(prompt, SamplingParams(max_tokens=4, logprobs=1, seed=1, ignore_eos=True)))
    whole = [*prompt, *found.token_ids]
    assert len(whole) == 1024
    said = answer(engine, engine.add(whole, SamplingParams(max_tokens=0, prompt_logprobs=1)))
    assert found.logprobs is not None
    assert said.prompt_logprobs is not None
    for one, other in zip(found.logprobs, said.prompt_logprobs[-4:], strict=True):
        assert other is not None
        assert (one.token_id, one.top[0].token_id) == (other.token_id, other.top[0].token_id)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_sliding_is_recomputing_each_token_over_the_last_window() -> None:
    config = tiny_config(n_positions=8)
    for prompt in (3, 7, 8, 9, 30):
        ids = list(range(10, 10 + prompt))
        params = SamplingParams(max_tokens=20, overflow="slide", seed=prompt, logprobs=0, ignore_eos=True)
        found = said_by(ToyDecoder(config), ids, params)
        assert list(found.token_ids) == plain_loop(ids, params, window=8)
        for place, token in enumerate(found.logprobs or (), prompt):
            seen = [*ids, *found.token_ids][max(0, place - 8) : place]
            assert token.logprob == float(log_softmax(logits_of(seen))[token.token_id])


def test_a_text_that_slides_may_ask_for_everything_about_its_prompt() -> None:
    config, prompt = tiny_config(n_positions=8), [1, 2, 3, 4, 5]
    params = SamplingParams(max_tokens=9, overflow="slide", seed=1, prompt_logprobs=1, ignore_eos=True)
    engine = Engine(ToyDecoder(config))
    found = answer(engine, engine.add(prompt, params, keep_logits="all"))
    assert list(found.token_ids) == plain_loop(prompt, params, window=8)
    assert found.prompt_logits is not None
    assert len(found.prompt_logits) == len(found.prompt_logprobs or ()) == 5


def test_a_context_that_is_just_full_is_not_computed_anew() -> None:
    decoder = ToyDecoder(tiny_config(n_positions=8))
    said_by(decoder, [1, 2, 3], SamplingParams(max_tokens=8, overflow="slide", seed=1, ignore_eos=True))
    assert [tokens for ((_, _, tokens),) in decoder.batches] == [3, 1, 1, 1, 1, 1, 8, 8]


def test_sliding_with_the_real_decoder_gives_the_bits_of_each_window() -> None:
    decoder = reference_decoder(tiny_config(n_positions=8))
    engine = Engine(decoder)
    prompt = [5, 6, 7, 8, 9, 10]
    params = SamplingParams(max_tokens=12, overflow="slide", seed=1, logprobs=0, ignore_eos=True)
    found = answer(engine, engine.add(prompt, params))
    for place in range(9, 6 + 12):
        window = [*prompt, *found.token_ids][place - 8 : place]
        alone = answer(engine, engine.add(window, SamplingParams(max_tokens=0), keep_logits="last"))
        token = (found.logprobs or ())[place - 6]
        assert alone.prompt_logits is not None
        assert token.logprob == float(log_softmax(alone.prompt_logits[-1])[token.token_id])


def test_what_sliding_cannot_do_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="goes on for ever without max_tokens") as caught:
        say([1], overflow="slide", max_tokens=None)
    assert caught.value.param == "max_tokens"
    with pytest.raises(InvalidRequestError, match="within the model's 64 positions, got 65") as caught:
        say([1] * 65, overflow="slide", prompt_logprobs=1)
    assert caught.value.param == "prompt_logprobs"
