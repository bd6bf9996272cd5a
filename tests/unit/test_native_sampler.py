"""The sampler in the core: bit by bit what the definition in numpy says, and an error for whatever makes no sense."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_array_equal

from gptwo import _native
from gptwo.errors import InvalidRequestError, NumericalError
from gptwo.sampling import SamplingParams, native
from gptwo.sampling.arithmetic import MASS_BITS, log, masses, share_of
from gptwo.sampling.counter_random import uniform
from gptwo.sampling.native import Sampler, token_logprobs
from gptwo.sampling.processors import Logits
from gptwo.sampling.sampler import choose, distribution, log_softmax, process_logits, top_logprobs

REMOVED = -np.inf
GPT2_VOCABULARY = 50257


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


def assert_same_choices(logits: Logits, params: SamplingParams, seed: int = 0, draws: int = 1, **options: Any) -> None:
    """The core keeps the definition's tokens, each with its mass, and draws the same; or it raises the same error."""
    prompt_ids, output_ids = options.pop("prompt_ids", [0]), options.pop("output_ids", [0])
    before, mask = logits.tobytes(), options.pop("mask", None)
    sampler = Sampler(params, prompt_ids, seed=seed, **options)
    options["mask"] = mask
    expected, processed = answer_or_error(
        lambda: (
            distribution(processed := process_logits(logits, params, prompt_ids, output_ids, **options), params),
            processed,
        )
    )
    if processed is None:
        assert answer_or_error(lambda: sampler.choose(logits, 0, output_ids, mask)) == (expected, None)
        return
    assert_array_equal(sampler.distribution(logits, output_ids, mask), expected)
    for index in range(draws):
        token = choose(processed, params, uniform(seed, index, len(prompt_ids) + len(output_ids)))
        assert sampler.choose(logits, index, output_ids, mask) == (token, None, [])
    assert logits.tobytes() == before


def answer_or_error(question: Callable[[], Any]) -> Any:
    """The answer, or the error's type and words, and None."""
    try:
        return question()
    except (InvalidRequestError, NumericalError) as error:
        return (type(error), str(error)), None


# ---- the arithmetic


def test_the_mass_of_the_likeliest_is_the_unit_and_impossible_tokens_have_none():
    assert masses(logits_of(0, REMOVED, -1000, -29, -3.4e38)).tolist() == [2**MASS_BITS, 0, 0, 0, 0]


def test_masses_are_exponentials_to_float32():
    logits = -np.linspace(0, 10, 20_001, dtype=np.float32)
    exact = np.array([math.exp(x) for x in logits.tolist()]) * 2.0**MASS_BITS
    assert np.abs(masses(logits) / exact - 1.0).max() < 2.5e-7


@pytest.mark.parametrize("x", [5e-324, 1e-300, 0.1, 0.5, 0.70710678, 0.70710679, 1.0, 1.5, 2.0, 50257.0, 1e300])
def test_the_logarithm_is_the_logarithm(x):
    assert log(x) == pytest.approx(math.log(x), rel=1e-15, abs=0.0 if x == 1.0 else 1e-300)


def test_a_share_is_a_whole_number_from_one_to_all():
    assert [share_of(10, share) for share in (0.0, 0.1, 0.25, 0.7, 1.0)] == [1, 1, 3, 7, 10]
    largest = 2**62 - 1  # which no float64 holds
    assert share_of(largest, 1.0) == largest
    assert share_of(largest, float(np.nextafter(1.0, 0.0))) <= largest


WORD = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])


@given(seed=WORD, text=WORD, position=WORD)
def test_the_core_draws_the_definitions_random_numbers(seed, text, position):
    assert _native.random_bits(seed, text, position) * 2.0**-53 == uniform(seed, text, position)


# ---- the same tokens

SCALES = [1e-30, 1e-6, 0.02, 0.5, 1.0, 3.0, 30.0, 1e4, 1e30]
TRUNCATIONS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.01, 0.7, 0.8, 1.0, 1.3, 5.0, 1e9, 1e300])
    | st.floats(0, 3),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 50, 1000]) | st.integers(0, 200),
    top_p=st.sampled_from([1.0, 0.0, 0.5, 0.9, 0.95, 1 - 2**-53, 5e-324]) | st.floats(0, 1),
    min_p=st.sampled_from([0.0, 0.0, 1.0, 0.05, 5e-324, 1e-30]) | st.floats(0, 1),
    typical_p=st.sampled_from([1.0, 1.0, 0.9, 1e-9, 1 - 2**-53]) | st.floats(0, 1, exclude_min=True),
)
# Coarse values bring ties.
NUMBERS = st.integers(-20, 20).map(float) | st.floats(-(2.0**100), 2.0**100, width=32) | st.just(-0.0)
LOGITS = arrays.arrays(np.float32, st.integers(1, 70), elements=NUMBERS | st.just(REMOVED))


def test_thousands_of_random_rows_have_the_definitions_tokens():
    for seed in range(2000):
        random = np.random.default_rng(seed)
        kind = str(random.choice(["normal", "coarse", "flat", "removed", "peaked"]))
        logits = random_row(int(random.integers(1, 300)), float(random.choice(SCALES)), kind, seed)
        params = SamplingParams(
            temperature=float(random.choice([0.0, 1e-30, 0.3, 1.0, 1.0, random.random() * 2, 1e30])),
            top_k=int(random.choice([0, 0, 1, 2, 10, random.integers(300)])),
            top_p=float(random.choice([1.0, 1.0, 0.0, 0.95, random.random()])),
            min_p=float(random.choice([0.0, 0.0, 1.0, 0.05, random.random()])),
            typical_p=float(random.choice([1.0, 1.0, 1e-9, 0.95, 1.0 - random.random()])),
        )
        assert_same_choices(logits, params, seed, draws=2)


@settings(deadline=None, max_examples=150)
@example(logits=logits_of(0, 1), params=SamplingParams(temperature=1e30, top_p=0), seed=1)
@example(logits=logits_of(-3.4e38, 3.4e38, -0.0), params=SamplingParams(temperature=1e30, typical_p=0.5), seed=1)
@given(logits=LOGITS, params=TRUNCATIONS, seed=WORD)
def test_short_rows_have_the_definitions_tokens(logits, params, seed):
    assert_same_choices(logits, params, seed, draws=2)


@settings(deadline=None, max_examples=100)
@given(
    size=st.sampled_from([1, 3, 15, 16, 17, 1008, 1023, 1024, 1025, 1030, 2048, 5000]),
    scale=st.sampled_from(SCALES),
    kind=st.sampled_from(["normal", "coarse", "flat", "removed", "peaked"]),
    params=TRUNCATIONS,
    seed=st.integers(0, 2**32),
)
def test_long_rows_have_the_definitions_tokens(size, scale, kind, params, seed):
    assert_same_choices(random_row(size, scale, kind, seed), params, seed, draws=3)


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=1000),
        SamplingParams(top_k=40_000, top_p=0.99),
        SamplingParams(min_p=0.02),
        SamplingParams(typical_p=0.3),
        SamplingParams(temperature=1.5, top_k=20_000, top_p=0.9, min_p=0.001, typical_p=0.9),
    ],
)
def test_rows_of_gpt2s_size_have_the_definitions_tokens(params, scale):
    for kind in ("normal", "coarse", "removed"):
        assert_same_choices(random_row(GPT2_VOCABULARY, scale, kind, 5), params, seed=7, draws=4)


@pytest.mark.parametrize("words", [0, 1, 40, 1570, 1571, 1600])
@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(top_k=5, top_p=0.9), SamplingParams(temperature=0)]
)
def test_a_mask_of_any_length_leaves_the_definitions_tokens(params, words):
    random = np.random.default_rng(words)
    for density in ("few", "many", "all", "none"):
        mask = random.integers(0, 2**32, words, dtype=np.uint32)
        if density in ("all", "none"):
            mask[:] = 0xFFFFFFFF if density == "all" else 0
        elif density == "few":
            mask &= np.where(random.random(words) < 0.1, mask, 0).astype(np.uint32)
        assert_same_choices(random_row(GPT2_VOCABULARY, 3.0, "normal", 2), params, seed=1, draws=3, mask=mask)


@pytest.mark.parametrize(
    "mask", [np.zeros(4, np.int64), np.zeros((4, 1), np.uint32), np.zeros(8, np.uint32)[::2], [1, 2]]
)
def test_a_mask_of_another_kind_is_refused(mask):
    with pytest.raises(TypeError):
        Sampler(SamplingParams(), [0], seed=0).choose(np.zeros(100, np.float32), 0, [], mask)


def random_row(size: int, scale: float, kind: str, seed: int) -> Logits:
    random = np.random.default_rng(seed)
    logits = random.standard_normal(size)
    if kind == "coarse":
        logits = np.round(logits * 4) / 4
    elif kind == "flat":
        logits = np.zeros(size)
    elif kind == "removed":
        logits[random.random(size) < 0.5] = REMOVED
        logits[random.integers(size)] = 1.0
    elif kind == "peaked":
        logits[random.integers(size, size=3)] += 40.0
    return (logits * scale).astype(np.float32)


IDS = st.integers(0, 11)
CHANGES = st.builds(
    SamplingParams,
    max_tokens=st.none(),
    temperature=st.sampled_from([0.0, 1.0]),
    top_k=st.sampled_from([0, 3]),
    logit_bias=st.dictionaries(IDS, st.floats(-100, 100), max_size=4),
    repetition_penalty=st.sampled_from([1.0, 1.0, 0.001, 0.7, 1.3, 1000.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0]) | st.floats(-2, 2),
    presence_penalty=st.sampled_from([0.0, 0.0]) | st.floats(-2, 2),
    no_repeat_ngram_size=st.integers(0, 4),
    min_tokens=st.integers(0, 6),
    allowed_token_ids=st.none() | st.lists(IDS, min_size=1),
)
TWELVE = arrays.arrays(np.float32, 12, elements=NUMBERS | st.floats(width=32))


@settings(deadline=None, max_examples=250)
@given(
    logits=TWELVE,
    params=CHANGES,
    prompt_ids=st.lists(IDS, max_size=12),
    output_ids=st.lists(IDS, max_size=12),
    bad_words=st.lists(st.lists(IDS, min_size=1, max_size=3), max_size=4),
    stop_ids=st.sets(IDS, max_size=3),
    vocab_size=st.none() | st.integers(0, 13),
    mask=st.none() | st.lists(st.integers(0, 2**32 - 1) | st.just(0xFFF), max_size=2),
)
def test_biases_penalties_and_masks_are_the_definitions(logits, params, mask, **options):
    if mask is not None:
        options["mask"] = np.array(mask, dtype=np.uint32)
    with np.errstate(over="ignore"):  # a penalty may take a logit to infinity, which is then the same error
        assert_same_choices(logits, params, 3, **options)


def test_the_texts_of_a_request_are_drawn_with_their_own_numbers():
    logits = np.zeros(1000, np.float32)
    sampler = Sampler(SamplingParams(), [0, 0], seed=-1)
    for index in (0, 1, 2**40):
        for output in ([], [4], [4] * 9):
            expected = int(uniform(-1, index, 2 + len(output)) * 1000)
            assert sampler.choose(logits, index, output).token_id == expected


# ---- log-probabilities


@settings(deadline=None)
@given(logits=LOGITS.filter(lambda logits: logits.max() > REMOVED), count=st.integers(0, 80), data=st.data())
def test_log_probabilities_are_the_definitions(logits, count, data):
    token = data.draw(st.integers(0, len(logits) - 1))
    expected = log_softmax(logits)
    assert_array_equal(native.log_softmax(logits), expected)
    assert token_logprobs(logits, token, count) == (token, float(expected[token]), top_logprobs(logits, count))


def test_log_probabilities_of_gpt2s_size_are_the_definitions_and_close_to_exact():
    logits = random_row(GPT2_VOCABULARY, 3.0, "normal", 1)
    expected = log_softmax(logits)
    assert_array_equal(native.log_softmax(logits), expected)
    assert token_logprobs(logits, 77, 900) == (77, float(expected[77]), top_logprobs(logits, 900))
    shifted = logits.astype(np.float64) - logits.max()
    assert np.abs(expected - (shifted - math.log(math.fsum(np.exp(shifted))))).max() < 2e-6  # an ulp at 20 is 1.9e-6


def test_a_choice_tells_what_the_model_thought_before_all_options():
    logits = random_row(100, 2.0, "normal", 1)
    params = SamplingParams(temperature=0, allowed_token_ids=[3], repetition_penalty=2.0)
    chosen = Sampler(params, [3], seed=0, logprobs=4).choose(logits, 0, [])
    assert chosen == (3, float(log_softmax(logits)[3]), top_logprobs(logits, 4))
    assert Sampler(params, [3], seed=0, logprobs=0).choose(logits, 0, []).top == []
    assert len(Sampler(params, [3], seed=0, logprobs=1000).choose(logits, 0, []).top) == 100


# ---- what makes no sense


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, np.nan, 2), "NaN, first at token 1"),
        ((np.nan, np.inf, 2), "NaN, first at token 0"),
        ((1, 2, -np.nan), "NaN, first at token 2"),
        ((1, 2, np.inf), "the logit of token 2 is infinite"),
        ((REMOVED, REMOVED, REMOVED), "every logit is -inf"),
    ],
)
@pytest.mark.parametrize("size", [3, 40, 3000])
def test_logits_that_are_no_numbers_are_the_models_fault(values, message, size):
    rest = REMOVED if "every" in message else 0.0
    logits = np.array([*values, *[rest] * (size - 3)], np.float32)
    for attempt in (
        lambda: Sampler(SamplingParams(), [0], seed=0).choose(logits, 0, []),
        lambda: Sampler(SamplingParams(temperature=0), [0], seed=0).choose(logits, 0, []),
        lambda: Sampler(SamplingParams(allowed_token_ids=[0]), [0], seed=0).choose(logits, 0, []),
        lambda: token_logprobs(logits, 0, 1),
        lambda: native.log_softmax(logits),
    ):
        with pytest.raises(NumericalError, match=message):
            attempt()


@pytest.mark.parametrize(
    ("params", "options"),
    [
        (SamplingParams(logit_bias={5: 1.0}), {}),
        (SamplingParams(allowed_token_ids=[1, 5]), {}),
        (SamplingParams(min_tokens=1), {"stop_ids": [5]}),
        (SamplingParams(), {"bad_words": [[5]]}),
        (SamplingParams(repetition_penalty=2), {"prompt_ids": [5]}),
        (SamplingParams(repetition_penalty=2), {"prompt_ids": [-1]}),
        (SamplingParams(no_repeat_ngram_size=1), {"prompt_ids": [2**62]}),
        (SamplingParams(), {"bad_words": [[-1]]}),
    ],
)
def test_a_token_id_outside_the_row_is_refused(params, options):
    sampler = Sampler(params, options.pop("prompt_ids", [0]), seed=0, **options)
    logits = np.zeros(5, np.float32)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=r"token id -?[0-9]+ is out of range: the logits have 5 tokens"):
            sampler.choose(logits, 0, [])


def test_an_output_token_outside_the_row_is_refused_and_leaves_nothing_behind():
    sampler = Sampler(SamplingParams(frequency_penalty=1, temperature=0), [0], seed=0)
    logits = logits_of(1, 0.5, 0)
    with pytest.raises(InvalidRequestError, match="token id 3 is out of range"):
        sampler.choose(logits, 0, [0, 0, 0, 3])
    assert sampler.choose(logits, 0, []).token_id == 0


@pytest.mark.parametrize("token", [-1, 3, 2**62])
def test_the_log_probability_of_an_unknown_token_is_refused(token):
    with pytest.raises(InvalidRequestError, match="is out of range: the logits have 3 tokens"):
        token_logprobs(logits_of(1, 2, 3), token, 1)


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((2, 3), np.float32),
        np.zeros(3, np.float64),
        np.zeros(3, np.int32),
        np.zeros(6, np.float32)[::2],
        np.array(1.0, np.float32),
        [1.0, 2.0],
        None,
    ],
)
def test_what_is_no_row_of_float32_is_refused(logits):
    with pytest.raises(TypeError):
        Sampler(SamplingParams(), [0], seed=0).choose(logits, 0, [])


@pytest.mark.parametrize("size", [0, 2**22 + 1])
def test_a_row_without_tokens_or_with_more_than_can_be_summed_is_refused(size):
    with pytest.raises(InvalidRequestError, match=f"a row of logits has {size} tokens, expected 1 to 4194304"):
        Sampler(SamplingParams(), [0], seed=0).choose(np.zeros(size, np.float32), 0, [])


def test_the_longest_row_is_sampled():
    logits = np.zeros(2**22, np.float32)
    expected = int(uniform(0, 0, 1) * 2**22)
    assert Sampler(SamplingParams(), [0], seed=0).choose(logits, 0, []).token_id == expected


def test_an_output_array_of_another_length_is_refused():
    with pytest.raises(ValueError, match="out must be as long as logits"):
        _native.log_softmax(np.zeros(3, np.float32), np.zeros(4, np.float32))


DEFAULTS: dict[str, Any] = {
    "prompt": [0],
    "seed": 0,
    "vocab_size": None,
    "logit_bias": [],
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "bad_words": [],
    "min_tokens": 0,
    "stop_ids": [],
    "allowed_token_ids": None,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "logprobs": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("temperature", "top_p", "min_p", "typical_p") for value in (-1.0, math.nan)),
        *({name: 2.0} for name in ("top_p", "min_p", "typical_p")),
        {"temperature": math.inf},
        {"typical_p": 0.0},
        {"logprobs": -1},
        {"bad_words": [[1], []]},
    ],
)
def test_the_core_refuses_options_that_its_arithmetic_cannot_take(changes):
    with pytest.raises(InvalidRequestError):
        _native.Sampler(**{**DEFAULTS, **changes})


WILD = st.floats() | st.sampled_from([0.0, 1.0, math.inf, -math.inf, math.nan])
WILD_IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 8)


@settings(deadline=None, max_examples=200)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "vocab_size": st.none() | WILD_IDS,
            "logit_bias": st.lists(st.tuples(WILD_IDS, WILD), max_size=3),
            "repetition_penalty": WILD,
            "frequency_penalty": WILD,
            "presence_penalty": WILD,
            "no_repeat_ngram_size": WILD_IDS,
            "bad_words": st.lists(st.lists(WILD_IDS, max_size=3), max_size=3),
            "min_tokens": WILD_IDS,
            "stop_ids": st.lists(WILD_IDS, max_size=3),
            "allowed_token_ids": st.none() | st.lists(WILD_IDS, max_size=3),
            "temperature": WILD,
            "top_k": WILD_IDS,
            "top_p": WILD,
            "min_p": WILD,
            "typical_p": WILD,
            "logprobs": st.none() | WILD_IDS,
        },
    ),
    logits=arrays.arrays(np.float32, st.integers(0, 8), elements=st.floats(width=32) | NUMBERS),
    output=st.lists(WILD_IDS, max_size=5),
)
def test_whatever_the_core_is_given_it_answers_with_a_token_or_an_error(changes, logits, output):
    try:
        token, _, _ = _native.Sampler(**{**DEFAULTS, **changes}).choose(logits, 0, output)
    except (InvalidRequestError, NumericalError):
        return
    assert 0 <= token < len(logits)


def test_threads_share_a_sampler():
    logits = random_row(GPT2_VOCABULARY, 2.0, "normal", 0)
    sampler = Sampler(SamplingParams(top_p=0.9, repetition_penalty=1.1), list(range(100)), seed=0, logprobs=2)
    expected = [sampler.choose(logits, index, []) for index in range(8)]
    answers: dict[int, list[native.Chosen]] = {}

    def work(number: int) -> None:
        answers[number] = [sampler.choose(logits, index, []) for index in range(8)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in range(4)] == [expected] * 4
