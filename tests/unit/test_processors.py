"""Logits processors on cases worked out by hand, and what must hold of them for any logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from gptwo.sampling import processors as p
from gptwo.sampling.processors import Logits

REMOVED = -np.inf


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


def from_probabilities(*probabilities: float) -> Logits:
    return np.log(np.array(probabilities)).astype(np.float32)


def softmax(logits: Logits) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def kept(logits: Logits) -> list[int]:
    return np.flatnonzero(logits > REMOVED).tolist()


def test_temperature_sharpens_and_flattens():
    logits = logits_of(1, 2, 4)
    assert_allclose(softmax(logits), [0.0420, 0.1142, 0.8438], atol=5e-5)
    assert_allclose(softmax(p.apply_temperature(logits, 3.0)), [0.1955, 0.2729, 0.5315], atol=5e-5)
    assert_array_equal(p.apply_temperature(logits, 0.5), [2, 4, 8])


def test_the_smallest_temperature_leaves_a_largest_logit_of_zero_alone():
    assert_array_equal(p.apply_temperature(logits_of(-1, 0, -2), 5e-324), [REMOVED, 0, REMOVED])


def test_top_k_keeps_the_likeliest_and_of_equals_the_lower_ids():
    logits = logits_of(1, 3, 2, 3, 2)
    assert kept(p.apply_top_k(logits, 1)) == [1]
    assert kept(p.apply_top_k(logits, 2)) == [1, 3]
    assert kept(p.apply_top_k(logits, 3)) == [1, 2, 3]
    assert_array_equal(p.apply_top_k(logits, 3), [REMOVED, 3, 2, 3, REMOVED])


def test_top_k_of_more_than_are_left_keeps_what_is_left():
    assert kept(p.apply_top_k(logits_of(1, REMOVED, 2, REMOVED), 3)) == [0, 2]


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = from_probabilities(0.2, 0.5, 0.3)
    assert kept(p.apply_top_p(logits, 0.0)) == [1]
    assert kept(p.apply_top_p(logits, 0.49)) == [1]
    assert kept(p.apply_top_p(logits, 0.51)) == [1, 2]
    assert kept(p.apply_top_p(logits, 0.7)) == [1, 2]
    assert kept(p.apply_top_p(logits, 0.81)) == [0, 1, 2]


def test_top_p_of_equal_tokens_keeps_the_lower_ids():
    assert kept(p.apply_top_p(logits_of(1, 1, 1, 1), 0.5)) == [0, 1]
    assert kept(p.apply_top_p(logits_of(1, 1, 1, 1), 0.0)) == [0]
    assert kept(p.apply_top_p(logits_of(1, 1, 1, 1), 0.51)) == [0, 1, 2]


def test_top_p_counts_only_what_can_be_chosen():
    assert kept(p.apply_top_p(logits_of(REMOVED, 1, REMOVED, 1, REMOVED), 0.6)) == [1, 3]


def test_min_p_compares_with_the_likeliest():
    logits = from_probabilities(0.5, 0.3, 0.2)
    assert kept(p.apply_min_p(logits, 0.39)) == [0, 1, 2]
    assert kept(p.apply_min_p(logits, 0.5)) == [0, 1]
    assert kept(p.apply_min_p(logits, 0.61)) == [0]
    assert kept(p.apply_min_p(logits, 1.0)) == [0]


def test_typical_p_keeps_the_most_typical_and_may_remove_the_likeliest():
    logits = from_probabilities(0.5, 0.3, 0.2)  # distances from the entropy: 0.337, 0.174, 0.580
    assert kept(p.apply_typical_p(logits, 0.2)) == [1]
    assert kept(p.apply_typical_p(logits, 0.7)) == [0, 1]
    assert kept(p.apply_typical_p(logits, 0.9)) == [0, 1, 2]


def test_typical_p_takes_a_token_too_unlikely_for_a_float_as_impossible():
    assert kept(p.apply_typical_p(logits_of(0, -1000, 1), 0.999999)) == [0, 2]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    penalised = p.apply_repetition_penalty(logits_of(2, -2, 2, 0, REMOVED), [0, 1, 1, 3, 4], 2.0)
    assert_array_equal(penalised, [1, -4, 2, 0, REMOVED])


def test_frequency_penalty_counts_and_presence_penalty_does_not():
    logits = logits_of(1, 1, 1, REMOVED)
    assert_array_equal(p.apply_frequency_penalty(logits, [0, 0, 1, 3], 0.5), [0, 0.5, 1, REMOVED])
    assert_array_equal(p.apply_presence_penalty(logits, [0, 0, 1, 3], 0.5), [0.5, 0.5, 1, REMOVED])
    assert_array_equal(p.apply_frequency_penalty(logits, [0, 0], -2.0), [5, 1, 1, REMOVED])


def test_no_ngram_is_repeated():
    logits = logits_of(0, 0, 0, 0, 0)
    assert kept(p.apply_no_repeat_ngram(logits, [1, 2, 3, 1, 2], 3)) == [0, 1, 2, 4]
    assert kept(p.apply_no_repeat_ngram(logits, [1, 2, 3, 1, 2, 4, 1, 2], 3)) == [0, 1, 2]
    assert kept(p.apply_no_repeat_ngram(logits, [1, 2, 3, 1, 2], 4)) == [0, 1, 2, 3, 4]
    assert kept(p.apply_no_repeat_ngram(logits, [1, 2, 1], 1)) == [0, 3, 4]
    assert kept(p.apply_no_repeat_ngram(logits, [2, 2], 2)) == [0, 1, 3, 4]
    assert kept(p.apply_no_repeat_ngram(logits, [2], 2)) == [0, 1, 2, 3, 4]
    assert kept(p.apply_no_repeat_ngram(logits, [], 1)) == [0, 1, 2, 3, 4]


def test_logit_bias_is_added():
    assert_array_equal(p.apply_logit_bias(logits_of(1, 2, REMOVED), {0: 5.0, 2: 100.0}), [6, 2, REMOVED])


def test_only_allowed_tokens_stay():
    assert_array_equal(p.apply_allowed_token_ids(logits_of(1, 2, 3), (2, 0)), [1, REMOVED, 3])


def test_suppressed_tokens_go():
    assert_array_equal(p.apply_suppress(logits_of(1, 2, 3), {1}), [1, REMOVED, 3])


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([0, 1, 2], [0, 1, 2, 4]),
        ([2, 1], [0, 1, 2, 3, 4]),
        ([1, 2], [0, 1, 2, 4]),
        ([2], [0, 1, 2, 3, 4]),
        ([1, 2, 0], [0, 1, 2, 3, 4]),
        ([], [0, 1, 2, 3, 4]),
    ],
)
def test_a_bad_word_is_not_completed(history, expected):
    logits = logits_of(0, 0, 0, 0, 0, 0)
    assert kept(p.apply_bad_words(logits, history, [[5], [1, 2, 3]])) == expected


def test_padding_is_never_chosen():
    assert_array_equal(p.apply_vocabulary_size(logits_of(1, 2, 3), 2), [1, 2, REMOVED])


def test_the_largest_come_in_order_and_equals_by_index():
    values = np.array([1, 3, 2, 3, REMOVED])
    assert p.largest(values, 3).tolist() == [1, 3, 2]
    assert p.largest(values, 1).tolist() == [1]
    assert p.largest(values, 99).tolist() == [1, 3, 2, 0, 4]
    assert p.largest(values, 0).tolist() == []


@pytest.mark.parametrize(
    "apply",
    [
        lambda x: p.apply_temperature(x, 1.0),
        lambda x: p.apply_top_k(x, 0),
        lambda x: p.apply_top_k(x, -1),
        lambda x: p.apply_top_k(x, 3),
        lambda x: p.apply_top_p(x, 1.0),
        lambda x: p.apply_min_p(x, 0.0),
        lambda x: p.apply_typical_p(x, 1.0),
        lambda x: p.apply_repetition_penalty(x, [0], 1.0),
        lambda x: p.apply_repetition_penalty(x, [], 2.0),
        lambda x: p.apply_frequency_penalty(x, [0], 0.0),
        lambda x: p.apply_presence_penalty(x, [0], 0.0),
        lambda x: p.apply_no_repeat_ngram(x, [0, 0], 0),
        lambda x: p.apply_logit_bias(x, {}),
        lambda x: p.apply_suppress(x, []),
        lambda x: p.apply_bad_words(x, [0], []),
        lambda x: p.apply_bad_words(x, [0], [[1, 2]]),
        lambda x: p.apply_vocabulary_size(x, 3),
    ],
)
def test_a_processor_with_nothing_to_do_copies_nothing(apply):
    logits = logits_of(1, 2, 3)
    assert apply(logits) is logits


LOGITS = arrays.arrays(
    np.float32,
    st.integers(1, 30),
    # Coarse values bring ties; a few are removed already.
    elements=st.integers(-40, 40).map(lambda v: v / 4) | st.floats(-80, 80, width=32) | st.just(REMOVED),
).filter(lambda logits: bool((logits > REMOVED).any()))

TRUNCATIONS = [
    (p.apply_top_k, st.integers(1, 40)),
    (p.apply_top_p, st.floats(0, 1)),
    (p.apply_min_p, st.floats(0, 1)),
    (p.apply_typical_p, st.floats(0, 1, exclude_min=True)),
]


@settings(deadline=None)
@given(logits=LOGITS, truncation=st.sampled_from(TRUNCATIONS), data=st.data())
def test_a_truncation_keeps_values_and_at_least_one_token_and_its_input(logits, truncation, data):
    apply, amounts = truncation
    before = logits.copy()
    after = apply(logits, data.draw(amounts))
    assert_array_equal(logits, before)
    assert after.dtype == np.float32
    assert set(kept(after)) <= set(kept(logits))
    assert kept(after)
    assert_array_equal(after[kept(after)], logits[kept(after)])
    if apply is not p.apply_typical_p:
        assert after[np.argmax(logits)] == logits.max()


@settings(deadline=None)
@given(logits=LOGITS, truncation=st.sampled_from(TRUNCATIONS), data=st.data())
def test_what_is_kept_shrinks_with_the_amount(logits, truncation, data):
    apply, amounts = truncation
    low, high = sorted([data.draw(amounts), data.draw(amounts)])
    fewer, more = (high, low) if apply is p.apply_min_p else (low, high)
    assert set(kept(apply(logits, fewer))) <= set(kept(apply(logits, more)))


@settings(deadline=None)
@given(logits=LOGITS, top_p=st.floats(0, 1))
def test_top_p_is_the_smallest_set_that_reaches_it(logits, top_p):
    probabilities = softmax(logits)
    stays = kept(p.apply_top_p(logits, top_p))
    assert probabilities[stays].sum() >= top_p - 1e-9
    if len(stays) > 1 and top_p < 1.0:
        assert probabilities[stays].sum() - probabilities[stays].min() < top_p + 1e-9
    goes = set(kept(logits)) - set(stays)
    assert all(probabilities[i] >= probabilities[j] for i in stays for j in goes)


@settings(deadline=None)
@given(logits=LOGITS, top_k=st.integers(1, 40))
def test_top_k_keeps_exactly_k_of_those_there_are(logits, top_k):
    order = sorted(kept(logits), key=lambda i: (-logits[i], i))
    assert kept(p.apply_top_k(logits, top_k)) == sorted(order[:top_k])


@settings(deadline=None)
@given(values=LOGITS, count=st.integers(0, 40))
def test_the_largest_are_the_head_of_a_stable_sort(values, count):
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert p.largest(values, count).tolist() == expected
