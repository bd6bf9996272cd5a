"""What a language model says of a text without continuing it: scores, logits, the likeliest next tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tiny_models import TOKENIZER, ToyDecoder, logits_of, random_arrays, reference_decoder, tiny_config

from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.language_model import LanguageModel
from gptwo.model import GPT2
from gptwo.sampling.sampler import log_softmax
from gptwo.scoring import Score

END = 299


@pytest.fixture
def lm() -> LanguageModel:
    return LanguageModel(ToyDecoder(), TOKENIZER)


# ---- scores


def scored_by_hand(ids: list[int], window: int) -> list[float | None]:
    """Each token's log-probability given as many tokens before it as the windows that overlap by half allow.

    In windows of 8: tokens 1 to 7 see all before them; tokens 8 to 11 see from token 4 on, tokens 12 to 15 from 8.
    """
    logprobs: list[float | None] = [None]
    stride = window // 2
    for place in range(1, len(ids)):
        start = max(0, math.ceil((place + 1 - window) / stride) * stride)  # of the first window that holds it
        logprobs.append(float(log_softmax(logits_of(ids[start:place]))[ids[place]]))
    return logprobs


@pytest.mark.parametrize("window", [8, 7, 2, 64])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 40])
def test_a_text_longer_than_the_context_is_scored_in_windows_each_token_once(window: int, length: int) -> None:
    toy = ToyDecoder(tiny_config(n_positions=window))
    ids = [(7 * i + i * i) % 300 for i in range(length)]
    score = LanguageModel(toy, TOKENIZER).score(ids)
    assert score.token_ids == tuple(ids)
    assert list(score.logprobs) == scored_by_hand(ids, window)
    assert score.total == pytest.approx(sum(value for value in score.logprobs if value is not None))
    assert toy.held == {}
    assert all(tokens <= window for batch in toy.batches for _, _, tokens in batch)


def test_a_score_says_how_likely_a_text_is(lm: LanguageModel) -> None:
    text = "speak, é 😀"
    score = lm.score(text)
    ids = TOKENIZER.encode(text)
    expected = [float(log_softmax(logits_of(ids[:i]))[ids[i]]) for i in range(1, len(ids))]
    assert score == Score(tuple(ids), (None, *expected), len(text.encode()) - len(TOKENIZER.token_bytes(ids[0])))
    assert score.scored == len(ids) - 1
    assert score.total == pytest.approx(sum(expected))
    assert score.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)))
    assert score.bits_per_byte == pytest.approx(-sum(expected) / math.log(2) / (score.bytes or 0))
    assert lm.score([text, ids, text]) == [score] * 3
    assert lm.score([]) == []


def test_a_score_of_one_token_has_nothing_to_count(lm: LanguageModel) -> None:
    score = lm.score([5])
    assert (score.logprobs, score.total, score.scored, score.bytes, score.bits_per_byte) == ((None,), 0.0, 0, 0, None)
    assert math.isnan(score.perplexity)


def test_a_text_as_unlikely_as_can_be_has_an_infinite_perplexity() -> None:
    score = Score((1, 2), (None, -1000.0), 1)
    assert score.perplexity == math.inf
    assert score.bits_per_byte == pytest.approx(1000 / math.log(2))


def test_what_cannot_be_scored_says_why(lm: LanguageModel) -> None:
    for nothing in ("", [[]]):
        with pytest.raises(InvalidRequestError, match="nothing to score: the text has no tokens") as caught:
            lm.score(nothing)
        assert caught.value.param == "text"
    with pytest.raises(InvalidRequestError, match="stride is 65, expected an integer from 1 to 64"):
        lm.score([1, 2], stride=65)


def test_a_model_of_one_position_predicts_each_token_from_the_one_before() -> None:
    single = LanguageModel(ToyDecoder(tiny_config(n_positions=1)), TOKENIZER)
    assert list(single.score([1, 2, 3]).logprobs) == [
        None,
        float(log_softmax(logits_of([1]))[2]),
        float(log_softmax(logits_of([2]))[3]),
    ]
    assert single.score([1]).logprobs == (None,)


def test_a_stride_says_how_far_apart_the_windows_are() -> None:
    lm = LanguageModel(ToyDecoder(tiny_config(n_positions=8)), TOKENIZER)
    ids = [(7 * i + i * i) % 300 for i in range(30)]
    shares: list[float] = []
    for stride in (1, 3, 7):
        logprobs: list[float | None] = [None]
        for place in range(1, 30):
            start = max(0, math.ceil((place + 1 - 8) / stride) * stride)
            logprobs.append(float(log_softmax(logits_of(ids[start:place]))[ids[place]]))
        assert list(lm.score(ids, stride=stride, progress=shares.append).logprobs) == logprobs
        assert shares.pop() == 1.0
    whole = lm.score(ids, stride=8).logprobs
    assert whole[9] == float(log_softmax(logits_of([ids[8]]))[ids[9]])
    assert whole[8] == float(log_softmax(logits_of(ids[:8]))[ids[8]])


def test_ids_of_a_padded_vocabulary_are_scored_and_count_no_bytes() -> None:
    lm = LanguageModel(ToyDecoder(tiny_config(vocab_size=320)), TOKENIZER)
    score = lm.score([5, 310, 6])
    assert score.scored == 2
    assert score.bytes == 1


# ---- logits, likeliest tokens


def test_logits_are_those_of_the_model() -> None:
    config = tiny_config()
    lm = LanguageModel(reference_decoder(config), TOKENIZER)
    ids = TOKENIZER.encode("speak, All")
    with torch.inference_mode():
        expected = GPT2.from_arrays(config, random_arrays(config))(torch.tensor([ids])).logits[0].numpy()
    for prompt in ("speak, All", ids, np.array(ids)):
        found = lm.logits(prompt)
        assert found.dtype == np.float32
        assert_array_equal(found, expected)
    found[:] = 0
    assert_array_equal(lm.logits(ids), expected)
    assert lm.logits([1] * 64).shape == (64, 300)
    with pytest.raises(ContextLengthError, match=r"65 tokens.*64 positions"):
        lm.logits([1] * 65)
    for nothing in ("", []):
        with pytest.raises(InvalidRequestError, match="at least one token"):
            lm.logits(nothing)


def test_top_gives_the_likeliest_next_tokens_with_their_probabilities(lm: LanguageModel) -> None:
    ids = TOKENIZER.encode("speak")
    probabilities = np.exp(log_softmax(logits_of(ids)).astype(np.float64))
    order = np.argsort(-probabilities, kind="stable")[:7].tolist()
    found = lm.top("speak", k=7)
    assert [(text, token) for text, token, _ in found] == [(TOKENIZER.token_text(i), i) for i in order]
    assert [share for _, _, share in found] == pytest.approx(probabilities[order])
    assert len(lm.top(ids)) == 5
    assert sum(share for _, _, share in lm.top(ids, k=300)) == pytest.approx(1)
    assert lm.top("") == lm.top([END])
    for k in (0, 301, -1, 2.0, True, None, "5"):
        with pytest.raises(InvalidRequestError, match="expected 1 to 300") as caught:
            lm.top("speak", k=k)  # type: ignore[arg-type]
        assert caught.value.param == "k"
