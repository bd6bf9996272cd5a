"""Beam search on trees of probabilities small enough to work out by hand, and on logits of any kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.errors import InvalidRequestError, NumericalError
from gptwo.sampling import BeamParams
from gptwo.sampling.beam import BeamSearch, Hypothesis
from gptwo.sampling.processors import Logits
from gptwo.sampling.sampler import log_softmax

STOP = 0
Probabilities = Callable[[tuple[int, ...]], Sequence[float]]


def log(probabilities: Sequence[float]) -> Logits:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities)).astype(np.float32)


def tree(nodes: Mapping[tuple[int, ...], Sequence[float]], otherwise: Sequence[float]) -> Probabilities:
    """What follows a text, where texts that are not named go on as `otherwise`."""
    return lambda text: nodes.get(text, otherwise)


def searched(
    follows: Probabilities, max_length: int, *, stop_ids=(STOP,), prompt=(1,), bad_words=(), vocab_size=None, **params
) -> BeamSearch:
    """Run a search to its end."""
    beam_params = BeamParams(max_tokens=max(max_length, 1), **params)
    search = BeamSearch(beam_params, prompt, stop_ids, bad_words, vocab_size, max_length)
    rows: list[tuple[int, ...]] = [()]
    while not search.done:
        steps = search.advance(np.stack([log(follows(row)) for row in rows]))
        assert bool(steps) != search.done
        rows = [(*rows[row], token) for row, token in steps]
        assert len(set(rows)) == len(rows) <= beam_params.num_beams
    return search


def texts(search: BeamSearch) -> list[tuple[int, ...]]:
    return [text.token_ids for text in search.best()]


# The likeliest first token leads nowhere: 1 has 0.6 but then only halves; 2 has 0.4 and goes on with certainty.
GARDEN_PATH = tree({(): [0, 0.6, 0.4], (1,): [0.5, 0.25, 0.25], (2,): [0.9, 0.05, 0.05]}, otherwise=[0.5, 0.25, 0.25])


def test_two_beams_find_what_greedy_search_misses():
    greedy = searched(GARDEN_PATH, 2, num_beams=1, length_penalty=0.0)
    assert texts(greedy) == [(1, STOP)]
    search = searched(GARDEN_PATH, 2, num_beams=2, num_return_sequences=2, length_penalty=0.0)
    assert texts(search) == [(2, STOP), (1, STOP)]
    np.testing.assert_allclose([text.score for text in search.best()], np.log([0.36, 0.30]), atol=1e-6)
    assert [text.finish_reason for text in search.best()] == ["stop", "stop"]


def test_the_score_divides_by_the_length_with_the_stop_token_but_without_the_prompt():
    for penalty in (-1.0, 0.5, 1.0, 2.0):
        search = searched(GARDEN_PATH, 2, prompt=(1, 2, 1, 2), num_beams=2, length_penalty=penalty)
        assert search.best()[0].score == pytest.approx(math.log(0.36) / 2**penalty, abs=1e-6)


def test_each_step_names_the_row_it_continues_best_first():
    search = BeamSearch(BeamParams(num_beams=3), [1], [STOP], [], None, 5)
    assert search.advance(np.stack([log([0.1, 0.2, 0.3, 0.4])])) == [(0, 3), (0, 2), (0, 1)]
    rows = [[0.1, 0.3, 0.3, 0.3], [0.1, 0.7, 0.1, 0.1], [0.0, 0.0, 0.0, 1.0]]  # times 0.4, 0.3 and 0.2
    assert search.advance(np.stack([log(row) for row in rows])) == [(1, 1), (2, 3), (0, 1)]


def test_equal_continuations_go_by_row_and_then_by_token():
    search = BeamSearch(BeamParams(num_beams=2), [1], [STOP], [], None, 5)
    same = log([0.0, 0.25, 0.25, 0.25, 0.25])
    assert search.advance(same[None]) == [(0, 1), (0, 2)]
    assert search.advance(np.stack([same, same])) == [(0, 1), (0, 2)]


def test_a_stop_below_the_best_beams_completes_nothing():
    # The stop token is third: two beams leave it out, three take it up.
    follows = tree({(): [0.2, 0.45, 0.35]}, otherwise=[0.0, 0.6, 0.4])
    two = searched(follows, 3, num_beams=2, num_return_sequences=2, length_penalty=-1.0)
    assert (STOP,) not in texts(two)
    three = searched(follows, 3, num_beams=3, num_return_sequences=3, length_penalty=-1.0)
    assert (STOP,) in texts(three)


def test_beams_run_on_although_every_stop_token_is_likelier():
    # Three stop tokens lead at each step; the fourth and fifth token must still carry two beams.
    follows = tree({}, otherwise=[0.3, 0.25, 0.2, 0.15, 0.1])
    search = BeamSearch(
        BeamParams(num_beams=2, length_penalty=5.0, early_stopping="never"), [3], [0, 1, 2], [], None, 4
    )
    assert search.advance(log(follows(()))[None]) == [(0, 3), (0, 4)]


# Stopping at once has 0.5; after 1 the text goes on for sure until its end at four tokens.
LONG_OR_SHORT = tree({(): [0.5, 0.4, 0.1], (1,): [0.3, 0.7, 0]}, otherwise=[0.05, 0.95, 0])


def test_length_penalty_favours_long_texts_above_zero_and_short_ones_below():
    assert texts(searched(LONG_OR_SHORT, 4, num_beams=2, length_penalty=2.0)) == [(1, 1, 1, 1)]
    assert texts(searched(LONG_OR_SHORT, 4, num_beams=2, length_penalty=-1.0)) == [(STOP,)]


def test_a_text_of_full_length_ends_by_length_unless_its_last_token_stops():
    search = searched(tree({}, otherwise=[0.4, 0.6]), 1, num_beams=2, num_return_sequences=2)
    assert [(text.token_ids, text.finish_reason) for text in search.best()] == [((1,), "length"), ((STOP,), "stop")]


def test_early_stopping_ends_with_enough_texts_and_otherwise_better_ones_are_waited_for():
    # After two steps the texts (0) and (1, 0) are complete, with -1.20 and -1.00 a token. The running text (2, 1) has
    # -0.83 a token then, which is more, and ends with -0.44 a token at full length; (1, 1, 1, 1) with -0.53.
    follows = tree({(): [0.3, 0.3, 0.2, 0.2], (1,): [0.45, 0.45, 0.05, 0.05]}, otherwise=[0.05, 0.95, 0, 0])
    found = {}
    for early in (True, False, "never"):
        found[early] = texts(searched(follows, 4, num_beams=2, num_return_sequences=2, early_stopping=early))
    assert found[True] == [(1, STOP), (STOP,)]
    assert found[False] == found["never"] == [(2, 1, 1, 1), (1, 1, 1, 1)]


def test_a_running_text_between_the_worst_and_the_best_goes_on():
    # After two steps 0 and 2 0 are complete with 0.5 and 0.1; the running 1 1 has 0.24 and takes the second place.
    follows = tree({(): [0.5, 0.3, 0.2], (1,): [0.1, 0.8, 0.1], (2,): [0.5, 0.5, 0]}, otherwise=[1, 0, 0])
    search = searched(follows, 9, num_beams=2, num_return_sequences=2, length_penalty=0.0)
    assert texts(search) == [(STOP,), (1, 1, STOP)]


def test_a_text_that_was_pushed_out_no_longer_counts():
    # After three steps 0 and 1 1 0 are the best two, with -0.69 and -0.80, and 2 0 with -1.06 is gone. The running
    # 1 1 1 has -0.88 and so ends the search, although it would have had -0.66 one step later.
    nodes = {(): [0.5, 0.3, 0.2], (1,): [0.3, 0.6, 0.1], (2,): [0.6, 0.3, 0.1], (1, 1): [0.5, 0.4, 0.1]}
    search = searched(tree(nodes, otherwise=[1, 0, 0]), 9, num_beams=2, num_return_sequences=2)
    assert texts(search) == [(STOP,), (1, 1, STOP)]


def step_of_the_end(early: bool | str, length_penalty: float, *, prompt: Sequence[int] = (1,)) -> int:
    """How many steps a search of at most ten tokens takes whose only running beam keeps the probability 0.125.

    One beam; the first step completes the text (0) with 0.875 and leaves one with 0.125, which then goes on for sure.
    """
    params = BeamParams(num_beams=1, length_penalty=length_penalty, early_stopping=early, max_tokens=10)
    search = BeamSearch(params, prompt, [STOP], [], None, 10)
    search.advance(log([0.875, 0.125])[None])
    steps = 1
    while not search.done:
        search.advance(log([0.0, 1.0])[None])
        steps += 1
    return steps


def test_the_end_of_the_search_is_where_the_rule_puts_it():
    # Complete: log(0.875) = -0.134. Running: log(0.125) = -2.079, over n ** penalty.
    assert step_of_the_end(True, 1.0) == 1
    assert step_of_the_end(False, 1.0) == 1  # -2.079 at the length it has
    assert step_of_the_end(False, 4.0) == 1
    assert step_of_the_end("never", 1.0) == 1  # -0.208 at ten tokens is still below -0.134
    assert step_of_the_end("never", 2.0) == 10  # -0.021 at ten tokens may win
    assert step_of_the_end("never", -1.0) == 1  # below 0 the present length is the best there is
    assert step_of_the_end("never", 0.0) == 1


def test_the_length_of_the_prompt_makes_no_difference():
    # With penalty 1.1, -2.079 comes to -0.165 at 10 tokens, below -0.134, and to -0.023 at 60, above it.
    for early, penalty in itertools.product((True, False, "never"), (1.0, 1.1, 1.2, 2.0)):
        assert step_of_the_end(early, penalty) == step_of_the_end(early, penalty, prompt=[1] * 50)


def test_never_bounds_by_the_present_length_where_the_penalty_is_negative():
    # After two steps (0) and (1, 0) are complete with -1.20 and -5.32. The running (1, 1) has -0.92 at length two
    # and would have -13.9 at thirty; it must be given its chance, since (1, 1, 0) then scores -1.70.
    follows = tree({(): [0.3, 0.7], (1,): [0.1, 0.9]}, otherwise=[0.9, 0.1])
    search = searched(follows, 30, num_beams=2, num_return_sequences=2, length_penalty=-1.0, early_stopping="never")
    assert texts(search) == [(STOP,), (1, 1, STOP)]


def test_masks_and_penalties_act_on_each_beam_with_its_own_history():
    follows = tree({}, otherwise=[0.0, 0.6, 0.4])
    search = searched(follows, 2, prompt=(), num_beams=2, num_return_sequences=2, no_repeat_ngram_size=1)
    assert texts(search) == [(1, 2), (2, 1)]
    # Log-probabilities are penalised and not normalised again: log 0.6 is doubled where 1 was said, and so on.
    search = searched(follows, 2, prompt=(), num_beams=2, num_return_sequences=2, repetition_penalty=2.0)
    assert texts(search) == [(1, 2), (2, 1)]
    np.testing.assert_allclose([text.score for text in search.best()], [math.log(0.24) / 2] * 2, atol=1e-6)
    search = searched(follows, 2, prompt=(1,), num_beams=2, repetition_penalty=2.0)
    assert search.best()[0].score == pytest.approx((2 * math.log(0.6) + math.log(0.4)) / 2, abs=1e-6)


def test_stop_tokens_wait_for_min_tokens():
    assert texts(searched(GARDEN_PATH, 3, num_beams=2, min_tokens=2, length_penalty=-3.0))[0][-1] == STOP
    assert len(texts(searched(GARDEN_PATH, 3, num_beams=2, min_tokens=2, length_penalty=-3.0))[0]) == 3


def test_padding_and_bad_words_are_never_chosen():
    follows = tree({}, otherwise=[0.1, 0.2, 0.3, 0.4])
    search = searched(follows, 3, num_beams=2, num_return_sequences=2, vocab_size=3, bad_words=[[2, 2]])
    for text in texts(search):
        assert 3 not in text
        assert (2, 2) not in itertools.pairwise(text)


def test_no_tokens_asked_for_is_one_empty_text():
    search = searched(GARDEN_PATH, 0, num_beams=2, num_return_sequences=2)
    assert search.done
    assert search.best() == [Hypothesis((), 0.0, "length")]


def test_fewer_continuations_than_beams_make_fewer_beams_and_fewer_texts():
    search = BeamSearch(BeamParams(num_beams=4, num_return_sequences=4), [2], [], [], None, 2)
    assert search.advance(log([0.0, 1.0, 0.0])[None]) == [(0, 1)]
    assert search.advance(log([0.25, 0.75, 0.0])[None]) == []
    assert search.done
    assert [text.token_ids for text in search.best()] == [(1, 1), (1, 0)]


def test_a_search_whose_beams_all_die_returns_what_is_complete():
    search = searched(lambda text: [0.4, 0.6], 9, prompt=(), num_beams=2, no_repeat_ngram_size=1)
    assert texts(search) == [(1, STOP)]  # 1 0 with log(0.24) / 2, ahead of 0 with log(0.4)


def test_a_search_with_no_way_to_go_on_and_no_text_is_the_requests_fault():
    with pytest.raises(InvalidRequestError, match="no beam can go on after 2 tokens"):
        searched(lambda text: [0.5, 0.5], 9, prompt=(), stop_ids=(), num_beams=2, no_repeat_ngram_size=1)


def test_logits_that_are_no_numbers_are_the_models_fault():
    search = BeamSearch(BeamParams(num_beams=2), [1], [STOP], [], None, 5)
    with pytest.raises(NumericalError, match="NaN"):
        search.advance(np.array([[1, np.nan, 2]], dtype=np.float32))


def test_a_wrong_number_of_rows_is_refused():
    search = BeamSearch(BeamParams(num_beams=2), [1], [], [], None, 1)
    two = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="got 2 rows of logits, expected 1"):
        search.advance(two)
    search.advance(two[:1])
    with pytest.raises(ValueError, match="got 2 rows of logits, expected 0"):
        search.advance(two)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length_penalty=st.sampled_from([-0.5, 0.0, 1.0, 2.0]),
    max_length=st.integers(1, 4),
)
def test_beams_for_every_text_find_the_best_texts_there_are(seed, length_penalty, max_length):
    vocab = 3

    def follows(text: tuple[int, ...]) -> Logits:
        random = np.random.default_rng([seed, len(text), *text])
        return (random.standard_normal(vocab) * 2).astype(np.float32)

    every: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, max_length + 1):
        for text in itertools.product(range(vocab), repeat=length):
            if STOP in text[:-1] or (length < max_length and text[-1] != STOP):
                continue
            logprob = sum(float(log_softmax(follows(text[:i]))[token]) for i, token in enumerate(text))
            every.append((logprob / length**length_penalty, text))
    every.sort(reverse=True)

    params = BeamParams(num_beams=128, num_return_sequences=128, length_penalty=length_penalty, early_stopping="never")
    search = BeamSearch(params, [], [STOP], [], None, max_length)
    rows: list[tuple[int, ...]] = [()]
    while not search.done:
        steps = search.advance(np.stack([follows(row) for row in rows]))
        rows = [(*rows[row], token) for row, token in steps]
    assert texts(search) == [text for _, text in every]
    np.testing.assert_allclose([text.score for text in search.best()], [score for score, _ in every], atol=1e-5)
