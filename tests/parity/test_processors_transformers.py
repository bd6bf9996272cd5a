"""Each logits processor against transformers' on random logits: the same set kept, the same values to 1e-6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.generation import logits_process as theirs  # noqa: E402

from gptwo.sampling import SamplingParams, processors  # noqa: E402
from gptwo.sampling.processors import Logits  # noqa: E402
from gptwo.sampling.sampler import distribution, process_logits  # noqa: E402

VOCABULARY = 211


def cases() -> Iterator[tuple[Logits, np.random.Generator]]:
    """Logits from flat to peaked, in every other case with a tenth of them removed already, and more randomness."""
    for seed in range(25):
        random = np.random.default_rng(seed)
        logits = (random.standard_normal(VOCABULARY) * random.choice([0.3, 1.0, 4.0])).astype(np.float32)
        if seed % 2:
            logits[random.choice(VOCABULARY, VOCABULARY // 10, replace=False)] = -np.inf
        yield logits, random


def their_answer(processor, logits: Logits, history: Sequence[int] = ()) -> Logits:
    ids = torch.tensor([list(history)], dtype=torch.int64)
    return processor(ids, torch.from_numpy(logits)[None].clone())[0].numpy()


def assert_same(ours: Logits, expected: npt.NDArray[np.float32]) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 1.3, 30.0])
def test_temperature_is_theirs(temperature):
    for logits, _ in cases():
        expected = their_answer(theirs.TemperatureLogitsWarper(temperature), logits)
        assert_same(processors.apply_temperature(logits, temperature), expected)


@pytest.mark.parametrize("top_k", [1, 2, 5, 50, VOCABULARY, 1000])
def test_top_k_is_theirs(top_k):
    for logits, _ in cases():
        assert_same(processors.apply_top_k(logits, top_k), their_answer(theirs.TopKLogitsWarper(top_k), logits))


@pytest.mark.parametrize("top_p", [0.0, 0.01, 0.2, 0.5, 0.9, 0.99, 0.999])
def test_top_p_is_theirs(top_p):
    for logits, _ in cases():
        assert_same(processors.apply_top_p(logits, top_p), their_answer(theirs.TopPLogitsWarper(top_p), logits))


@pytest.mark.parametrize("min_p", [0.0, 0.001, 0.05, 0.3, 1.0])
def test_min_p_is_theirs(min_p):
    for logits, _ in cases():
        assert_same(processors.apply_min_p(logits, min_p), their_answer(theirs.MinPLogitsWarper(min_p), logits))


@pytest.mark.parametrize("typical_p", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_typical_p_is_theirs(typical_p):
    for logits, _ in cases():
        expected = their_answer(theirs.TypicalLogitsWarper(typical_p), logits)
        assert_same(processors.apply_typical_p(logits, typical_p), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_repetition_penalty_is_theirs(penalty):
    for logits, random in cases():
        history = random.integers(VOCABULARY, size=40).tolist()
        expected = their_answer(theirs.RepetitionPenaltyLogitsProcessor(penalty), logits, history)
        assert_same(processors.apply_repetition_penalty(logits, history, penalty), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 60])
def test_no_repeat_ngram_is_theirs(size, length):
    for logits, random in cases():
        history = random.integers(4, size=length).tolist()  # few different tokens, so that runs do repeat
        expected = their_answer(theirs.NoRepeatNGramLogitsProcessor(size), logits, history)
        assert_same(processors.apply_no_repeat_ngram(logits, history, size), expected)


def test_bad_words_are_theirs():
    for logits, random in cases():
        history = random.integers(3, size=5).tolist()
        words = [random.integers(3, size=length).tolist() for length in (1, 2, 2, 3, 3, 4, 7)]
        expected = their_answer(theirs.NoBadWordsLogitsProcessor(words), logits, history)
        assert_same(processors.apply_bad_words(logits, history, words), expected)


def test_logit_bias_is_their_sequence_bias_of_single_tokens():
    for logits, random in cases():
        ids = random.choice(VOCABULARY, 9, replace=False).tolist()
        bias = dict(zip(ids, random.uniform(-100, 100, size=9).tolist(), strict=True))
        expected = their_answer(theirs.SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()]), logits)
        assert_same(processors.apply_logit_bias(logits, bias), expected)


def test_suppressed_tokens_are_theirs():
    for logits, random in cases():
        ids = random.choice(VOCABULARY, 9, replace=False).tolist()
        expected = their_answer(theirs.SuppressTokensLogitsProcessor(ids), logits)
        assert_same(processors.apply_suppress(logits, ids), expected)


def test_allowed_tokens_are_their_prefix_constraint():
    for logits, random in cases():
        ids = random.choice(VOCABULARY, 9, replace=False).tolist()
        expected = their_answer(theirs.PrefixConstrainedLogitsProcessor(lambda batch, prefix, ids=ids: ids, 1), logits)
        assert_same(processors.apply_allowed_token_ids(logits, ids), expected)


def test_the_whole_chain_gives_their_probabilities():
    for logits, random in cases():
        history = random.integers(VOCABULARY, size=30).tolist()
        prompt, output = history[:20], history[20:]
        bias = {3: 2.5, 7: -4.0}
        chain = transformers.LogitsProcessorList(
            [
                theirs.SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()]),
                theirs.RepetitionPenaltyLogitsProcessor(1.3),
                theirs.NoRepeatNGramLogitsProcessor(2),
                theirs.NoBadWordsLogitsProcessor([[5], [history[-1], 6]]),
                theirs.MinNewTokensLengthLogitsProcessor(len(prompt), 20, [0, 1]),
                theirs.TemperatureLogitsWarper(0.8),
                theirs.TopKLogitsWarper(60),
                theirs.TopPLogitsWarper(0.95),
                theirs.MinPLogitsWarper(0.01),
                theirs.TypicalLogitsWarper(0.9),
            ]
        )
        expected = torch.from_numpy(their_answer(chain, logits, history)).double().softmax(-1).numpy()
        params = SamplingParams(
            max_tokens=None,
            logit_bias=bias,
            repetition_penalty=1.3,
            no_repeat_ngram_size=2,
            min_tokens=20,
            temperature=0.8,
            top_k=60,
            top_p=0.95,
            min_p=0.01,
            typical_p=0.9,
        )
        processed = process_logits(
            logits, params, prompt, output, bad_words=[[5], [history[-1], 6]], stop_ids=[0, 1], vocab_size=None
        )
        ours = distribution(processed, params)
        np.testing.assert_array_equal(ours > 0, expected > 0)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
