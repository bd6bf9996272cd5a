"""The sampler, and the random numbers it draws with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from gptwo.errors import InvalidRequestError, NumericalError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.counter_random import philox, uniform
from gptwo.sampling.processors import Logits
from gptwo.sampling.sampler import choose, distribution, log_softmax, process_logits, top_logprobs

REMOVED = -np.inf


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


def from_probabilities(*probabilities: float) -> Logits:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities)).astype(np.float32)


def processed(logits, params, prompt_ids=(), output_ids=(), *, bad_words=(), stop_ids=(), vocab_size=None) -> Logits:
    return process_logits(
        logits, params, prompt_ids, output_ids, bad_words=bad_words, stop_ids=stop_ids, vocab_size=vocab_size
    )


# The published answers of Philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(counter, key, words):
    assert philox(counter, key) == words


def test_a_uniform_number_is_the_upper_53_bits_of_two_words():
    assert uniform(0, 0, 0) == (0xE169C58D6627E8D5 >> 11) / 2**53
    assert uniform(-1, 2**64 - 1, 2**64 - 1) == (0x41C83B0E408F276D >> 11) / 2**53


def test_seed_sequence_and_position_each_change_the_number_in_all_their_bits():
    base = (5, 6, 7)
    numbers = {uniform(*base)}
    for place, bit in itertools.product(range(3), range(64)):
        changed = list(base)
        changed[place] ^= 1 << bit
        numbers.add(uniform(*changed))
    assert len(numbers) == 1 + 3 * 64


def test_a_uniform_number_depends_on_its_place_and_not_on_the_order_of_asking():
    places = list(itertools.product([1, 2], range(4), range(16)))
    forwards = {place: uniform(*place) for place in places}
    backwards = {place: uniform(*place) for place in reversed(places)}
    assert forwards == backwards


@pytest.mark.parametrize("along", ["position", "sequence", "seed"])
def test_uniform_numbers_are_uniform_and_unrelated_to_their_neighbours(along):
    count = 4000
    numbers = np.array([uniform(**{"seed": 1, "sequence": 2, "position": 3, along: i}) for i in range(count)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    buckets = np.bincount((numbers * 20).astype(int), minlength=20)
    expected = count / 20
    assert ((buckets - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    correlation = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(correlation) < 3.3 / np.sqrt(count)


@pytest.mark.parametrize("params", [SamplingParams(), BeamParams(), SamplingParams(temperature=0.3, top_k=2, seed=1)])
@given(logits=arrays.arrays(np.float32, 7, elements=st.floats(width=32)))
def test_with_nothing_asked_for_the_logits_stay_the_very_same(params, logits):
    before = logits.tobytes()
    after = processed(logits, params, [1, 2], [3, 3], stop_ids=[6], vocab_size=7)
    assert after is logits
    assert after.tobytes() == before


def test_the_order_is_bias_then_repetition_then_counts_then_masks():
    params = SamplingParams(
        logit_bias={0: 2.0},
        repetition_penalty=2.0,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        no_repeat_ngram_size=2,
        min_tokens=5,
        allowed_token_ids=[0, 1, 2, 3, 4, 5],
    )
    logits = logits_of(2, -1, 1, 1, 1, 1, 1, 9)
    before = logits.copy()
    after = processed(logits, params, [1, 3, 1], [0, 0], bad_words=[[2]], stop_ids=[4], vocab_size=7)
    assert_array_equal(logits, before)
    # 0: (2 + 2) / 2 - 2 * 0.5 - 0.25, but then 0 0 would occur twice. 1: -1 * 2. 2: a bad word. 3: 1 / 2. 4: a stop.
    assert_array_equal(after, [REMOVED, -2, REMOVED, 0.5, REMOVED, 1, REMOVED, REMOVED])
    without_ngrams = processed(logits, SamplingParams(**{**params.to_dict(), "no_repeat_ngram_size": 0}), [1], [0, 0])
    assert without_ngrams[0] == 0.75


def test_stop_tokens_wait_for_min_tokens():
    params = SamplingParams(min_tokens=2)
    logits = logits_of(1, 2)
    assert_array_equal(processed(logits, params, [0, 0, 0], [0], stop_ids=[1]), [1, REMOVED])
    assert processed(logits, params, [0, 0, 0], [0, 0], stop_ids=[1]) is logits


def test_penalties_on_counts_ignore_the_prompt_and_the_repetition_penalty_does_not():
    logits = logits_of(1, 1)
    assert processed(logits, SamplingParams(frequency_penalty=1, presence_penalty=1), [0, 0], []) is logits
    assert_array_equal(processed(logits, SamplingParams(repetition_penalty=2), [0], []), [0.5, 1])


def test_a_bad_word_begun_in_the_prompt_is_not_completed():
    assert_array_equal(processed(logits_of(1, 1), SamplingParams(), [0], [], bad_words=[[0, 1]]), [1, REMOVED])


def test_a_vocabulary_with_nothing_left_is_the_requests_fault():
    with pytest.raises(InvalidRequestError, match="no token is left to choose after 2 tokens"):
        processed(logits_of(1, 2), SamplingParams(allowed_token_ids=[1]), [], [0, 0], bad_words=[[1]])


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ((1, np.nan, 2), "NaN, first at token 1"),
        ((np.nan, np.inf, 2), "NaN, first at token 0"),
        ((1, 2, np.inf), "the logit of token 2 is infinite"),
        ((REMOVED, REMOVED, REMOVED), "every logit is -inf"),
    ],
)
def test_logits_that_are_no_numbers_are_the_models_fault(logits, message):
    logits = logits_of(*logits)
    for attempt in (
        lambda: distribution(logits, SamplingParams()),
        lambda: distribution(logits, SamplingParams(temperature=0)),
        lambda: choose(logits, SamplingParams(top_k=1), 0.5),
        lambda: choose(logits, SamplingParams(temperature=0), 0.5),
        lambda: log_softmax(logits),
        lambda: processed(logits, SamplingParams(allowed_token_ids=[0])),
        lambda: processed(logits, SamplingParams(), bad_words=[[1]]),
    ):
        with pytest.raises(NumericalError, match=message):
            attempt()


def test_a_distribution_worked_out_by_hand():
    logits = from_probabilities(0.1, 0.4, 0.3, 0.2)
    assert_allclose(distribution(logits, SamplingParams()), [0.1, 0.4, 0.3, 0.2], atol=1e-7)
    assert_allclose(distribution(logits, SamplingParams(top_k=2)), [0, 4 / 7, 3 / 7, 0], atol=1e-7)
    assert_allclose(distribution(logits, SamplingParams(top_p=0.8)), [0, 4 / 9, 3 / 9, 2 / 9], atol=1e-7)
    assert_allclose(distribution(logits, SamplingParams(min_p=0.6)), [0, 4 / 7, 3 / 7, 0], atol=1e-7)
    squared = np.array([0.01, 0.16, 0.09, 0.04]) / 0.3
    assert_allclose(distribution(logits, SamplingParams(temperature=0.5)), squared, atol=1e-7)
    # Truncation counts what temperature made: at 0.5 the first two have 0.83 of the whole.
    assert_allclose(distribution(logits, SamplingParams(temperature=0.5, top_p=0.8)), [0, 0.64, 0.36, 0], atol=1e-7)


def test_temperature_zero_takes_the_lowest_of_the_likeliest():
    logits = logits_of(1, 3, 3, REMOVED)
    params = SamplingParams(temperature=0)
    assert_array_equal(distribution(logits, params), [0, 1, 0, 0])
    assert {choose(logits, params, number) for number in (0.0, 0.5, 0.999999)} == {1}


@pytest.mark.parametrize("temperature", [1e-9, 1e-30, 1e-45, 1e-300, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature, scale):
    logits = logits_of(-80 * scale, 30 * scale, 29.999 * scale, REMOVED)
    assert_array_equal(distribution(logits, SamplingParams(temperature=temperature)), [0, 1, 0, 0])


def test_a_tiny_temperature_leaves_equals_equal():
    assert_array_equal(distribution(logits_of(7, 7, 1), SamplingParams(temperature=1e-300)), [0.5, 0.5, 0])


def test_a_huge_temperature_evens_out():
    logits = logits_of(-80, 30, REMOVED)
    assert_allclose(distribution(logits, SamplingParams(temperature=1e300)), [0.5, 0.5, 0])


def test_a_number_picks_the_token_in_whose_stretch_it_falls():
    logits = logits_of(REMOVED, 3, 3, REMOVED, 3, 3, REMOVED)  # four of exactly a quarter each
    expected = {0.0: 1, 0.25: 2, 0.5: 4, 0.75: 5}
    for start, token in expected.items():
        end = float(np.nextafter(start + 0.25, 0))
        assert [choose(logits, SamplingParams(), number) for number in (start, start + 0.1, end)] == [token] * 3


def test_the_largest_number_picks_a_token_whatever_the_rounding_of_the_sum():
    number = float(np.nextafter(1.0, 0))
    for seed in range(200):
        logits = np.random.default_rng(seed).standard_normal(50).astype(np.float32)
        logits[45:] = REMOVED
        assert choose(logits, SamplingParams(), number) == 44


def test_logits_as_large_as_float32_goes_do_not_overflow():
    assert_array_equal(distribution(logits_of(-3e38, 3e38), SamplingParams()), [0, 1])


def test_draws_follow_the_distribution():
    logits = from_probabilities(0.1, 0.4, 0.0, 0.3, 0.2)
    params = SamplingParams(temperature=0.7, top_p=0.95)
    count = 4000
    draws = [choose(logits, params, uniform(seed=3, sequence=0, position=i)) for i in range(count)]
    expected = distribution(logits, params) * count
    seen = np.bincount(draws, minlength=5)
    assert_array_equal(seen[expected == 0], 0)
    possible = expected > 0
    statistic = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001


FINITE = st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-20, 20).map(float)
LOGITS = arrays.arrays(np.float32, st.integers(1, 30), elements=FINITE | st.just(REMOVED)).filter(
    lambda logits: bool((logits > REMOVED).any())
)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-300, 1e-9, 0.3, 1.0, 2.0, 1e30]),
    top_k=st.integers(0, 30),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0, 1, exclude_min=True),
)


@settings(deadline=None)
@example(logits=np.float32([0, 1]), params=SamplingParams(temperature=1e30, top_p=0), number=0.5)
@given(logits=LOGITS, params=PARAMS, number=st.floats(0, 1, exclude_max=True) | st.just(float(np.nextafter(1, 0))))
def test_probabilities_sum_to_one_and_only_possible_tokens_are_chosen(logits, params, number):
    before = logits.copy()
    probabilities = distribution(logits, params)
    assert_array_equal(logits, before)
    assert probabilities.dtype == np.float64
    assert (probabilities >= 0).all()
    assert_allclose(probabilities.sum(), 1.0, atol=1e-12)
    assert_array_equal(probabilities[logits == REMOVED], 0)
    if params.typical_p == 1.0:
        assert probabilities[np.argmax(logits)] == probabilities.max()
    chosen = choose(logits, params, number)
    assert probabilities[chosen] > 0


@settings(deadline=None)
@given(logits=LOGITS)
def test_log_softmax_is_normalised_and_keeps_the_order(logits):
    logprobs = log_softmax(logits)
    assert logprobs.dtype == np.float32
    assert_allclose(np.exp(logprobs.astype(np.float64)).sum(), 1.0, atol=1e-5)
    order = np.argsort(logits, kind="stable")
    assert (np.diff(logprobs[order][logits[order] > REMOVED]) >= 0).all()


def test_log_softmax_of_large_logits_is_exact():
    assert_allclose(log_softmax(logits_of(1e30, 1e30, -1e30)), [-np.log(2), -np.log(2), -2e30], rtol=1e-6)


def test_top_logprobs_are_sorted_and_equals_go_by_id():
    logits = from_probabilities(0.1, 0.3, 0.2, 0.3, 0.1)
    logprobs = log_softmax(logits).tolist()
    assert top_logprobs(logits, 3) == [(1, logprobs[1]), (3, logprobs[3]), (2, logprobs[2])]
    assert top_logprobs(logits, 0) == []
    assert [token for token, _ in top_logprobs(logits, 9)] == [1, 3, 2, 0, 4]


def test_top_logprobs_of_logits_that_differ_by_less_than_the_rounding_are_still_sorted():
    (first, likeliest), (second, larger), (third, smaller) = top_logprobs(logits_of(0.0, 1e-9, 20.0), 3)
    assert (first, second, third) == (2, 1, 0)
    assert likeliest > larger == smaller
