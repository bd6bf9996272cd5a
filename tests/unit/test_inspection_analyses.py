"""The analyses: lens, attribution, attention, induction, loss by position, sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import TOKENIZER, random_arrays, tiny_config

from gptwo.config import GPTConfig
from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.inspection import (
    Inspector,
    ablate,
    attention_patterns,
    explain,
    induction_scores,
    logit_attribution,
    logit_attributions,
    logit_lens,
    loss_by_position,
    sampling_spread,
)
from gptwo.inspection.prediction import DEFAULT_SETTINGS
from gptwo.model import GPT2
from gptwo.sampling import SamplingParams

TEXT = "Before we proceed"


def inspector(**changes: object) -> Inspector:
    config = tiny_config(**changes)
    return Inspector(GPT2.from_arrays(config, random_arrays(config)), TOKENIZER)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


# ---- logit lens


def test_the_last_row_of_the_lens_is_what_the_model_says() -> None:
    one = inspector()
    lens = logit_lens(one, TEXT, top=3)
    logits = one.run(TEXT)["logits"]
    tokens = len(lens.token_ids)
    assert lens.layers == ("embeddings", "h.0", "h.1")
    assert lens.top_ids.shape == lens.top_probabilities.shape == (3, tokens, 3)
    assert lens.target_ranks.shape == lens.target_probabilities.shape == lens.entropies.shape == (3, tokens)
    assert_array_equal(lens.top_ids[-1], np.argsort(-logits, axis=1, kind="stable")[:, :3])
    shares = softmax(logits)
    assert_allclose(lens.top_probabilities[-1], np.sort(shares, axis=1)[:, :-4:-1], rtol=1e-4)
    assert_allclose(lens.entropies[-1], -(shares * np.log(shares)).sum(axis=1), rtol=1e-4)


def test_the_target_of_the_lens_is_the_next_token_and_at_the_end_the_likeliest() -> None:
    one = inspector()
    lens = logit_lens(one, TEXT)
    assert_array_equal(lens.target_ids[:-1], lens.token_ids[1:])
    assert lens.target_ranks[-1, -1] == 1
    shares = softmax(one.run(TEXT)["logits"])
    places = np.arange(len(lens.token_ids))
    assert_allclose(lens.target_probabilities[-1], shares[places, lens.target_ids], rtol=1e-4)
    assert_array_equal(lens.target_ranks[-1], 1 + (shares > shares[places, lens.target_ids][:, None]).sum(axis=1))


def test_a_row_of_the_lens_is_what_the_model_says_when_the_blocks_behind_it_add_nothing() -> None:
    one = inspector()
    lens = logit_lens(one, TEXT, top=300)
    change: dict[str, object] = {}
    for layer in (1, 0):
        change |= {f"h.{layer}.attn.out": ablate(), f"h.{layer}.mlp.out": ablate()}
        shares = softmax(one.run(TEXT, change=change)["logits"])
        assert_allclose(lens.top_probabilities[layer], np.sort(shares, axis=1)[:, ::-1], rtol=1e-4)


def test_the_lens_of_the_last_positions_is_the_end_of_that_of_all() -> None:
    one = inspector()
    whole, end = logit_lens(one, TEXT), logit_lens(one, TEXT, last=2)
    assert_array_equal(end.positions, whole.positions[-2:])
    assert_array_equal(end.top_ids, whole.top_ids[:, -2:])
    assert_array_equal(end.target_ids, whole.target_ids[-2:])
    assert logit_lens(one, TEXT, last=1000).positions.shape == whole.positions.shape
    assert logit_lens(one, [7], top=1000).top_ids.shape == (3, 1, 300)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"top": 1.5}, {"last": 0}, {"last": "all"}])
def test_numbers_of_the_lens_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match="expected an integer from 1"):
        logit_lens(inspector(), TEXT, **wrong)


# ---- attribution


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "n_layer": 3}, {"n_layer": 1, "n_head": 16}])
@pytest.mark.parametrize(("target", "other"), [(None, None), (5, None), (5, 6), ("e", "B")])
@pytest.mark.parametrize("position", [-1, 0, 2])
def test_the_parts_add_up_to_the_logit_difference(
    changes: dict[str, object], target: int | str | None, other: int | str | None, position: int
) -> None:
    one = inspector(**changes)
    found = logit_attribution(one, TEXT, target, other, position=position)
    logits = one.run(TEXT)["logits"][position].astype(np.float64)
    base = logits.mean() if other is None else logits[one.token_id(other)]
    expected = logits[found.target_id] - base
    assert found.heads.shape == (one.config.n_layer, one.config.n_head)
    assert found.mlps.shape == found.attentions.shape == (one.config.n_layer,)
    assert found.difference == pytest.approx(expected, abs=1e-4)
    assert found.total == pytest.approx(expected, abs=1e-4)
    assert found.target_id == (logits.argmax() if target is None else one.token_id(target))


def test_what_a_head_adds_is_what_is_lost_without_it_at_the_same_scale() -> None:
    one = inspector(n_layer=1)
    found = logit_attribution(one, TEXT, 5, 6)
    run = one.run(TEXT, keep=["h.0.attn.heads", "h.0.resid_post"])
    stream = run["h.0.resid_post"][-1].astype(np.float64)
    scale = math.sqrt(stream.var() + one.config.layer_norm_epsilon)
    head = run["h.0.attn.heads"][1, -1].astype(np.float64)
    direction = one.weight("wte.weight")[5].astype(np.float64) - one.weight("wte.weight")[6]
    expected = ((head - head.mean()) / scale * one.weight("ln_f.weight")) @ direction
    assert found.heads[0, 1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": "Before we"}, "expected one"),
        ({"target": 300}, "out of range"),
        ({"position": 99}, "position is 99, expected -"),
        ({"position": 0.5}, "position is 0.5"),
        ({"target": 1.5}, "expected"),
    ],
)
def test_what_is_attributed_is_checked(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        logit_attribution(inspector(), TEXT, **wrong)


# ---- attention


def test_patterns_are_shares_of_what_came_before() -> None:
    one = inspector()
    found = attention_patterns(one, TEXT)
    tokens = len(found.token_ids)
    assert found.patterns.shape == (2, 2, tokens, tokens)
    assert_allclose(found.patterns.sum(axis=-1), 1.0, rtol=1e-5)
    assert not np.triu(found.patterns, 1).any()
    assert_array_equal(found.patterns[1], one.run(TEXT, keep="h.1.attn.pattern")["h.1.attn.pattern"])


VOCABULARY, POSITIONS = 8, 16


def model_with_an_induction_head() -> Inspector:
    """Two layers of attention, made by hand: head 0 of layer 0 looks at the token before, head 1 of layer 1 induces.

    The residual stream has a place for each token (8), for each position (16) and for each previous token (8). The
    layer norms are set so that they undo themselves: a stream with n ones among 32 numbers has mean n / 32.
    """
    config = GPTConfig(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=2 * VOCABULARY + POSITIONS,
        n_layer=2,
        n_head=2,
        n_inner=1,
        scale_attn_weights=False,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-12,
    )
    width, size = config.n_embd, config.head_size  # 32, 16
    token, place, previous = slice(0, 8), slice(8, 24), slice(24, 32)
    arrays = {name: np.zeros_like(array) for name, array in random_arrays(config).items()}
    arrays["wte.weight"][:, token] = np.eye(VOCABULARY)
    arrays["wpe.weight"][:, place] = np.eye(POSITIONS)
    for layer, ones in ((0, 2), (1, 3)):
        mean = ones / width
        arrays[f"h.{layer}.ln_1.weight"][:] = math.sqrt(mean - mean**2)
        arrays[f"h.{layer}.ln_1.bias"][:] = mean
    query, key, value = (slice(start, start + size) for start in (0, width, 2 * width))  # of head 0
    looks_back = arrays["h.0.attn.c_attn.weight"]
    looks_back[place, query] = 30.0 * np.eye(POSITIONS)
    looks_back[place, key] = np.eye(POSITIONS, k=1)
    looks_back[token, value] = np.eye(VOCABULARY, size)
    arrays["h.0.attn.c_proj.weight"][:size, previous] = np.eye(size, VOCABULARY)
    query, key, value = (slice(start + size, start + 2 * size) for start in (0, width, 2 * width))  # of head 1
    induces = arrays["h.1.attn.c_attn.weight"]
    induces[token, query] = 30.0 * np.eye(VOCABULARY, size)
    induces[previous, key] = np.eye(VOCABULARY, size)
    induces[token, value] = 30.0 * np.eye(VOCABULARY, size)
    arrays["h.1.attn.c_proj.weight"][size:, place] = np.eye(size, POSITIONS)
    arrays["ln_f.weight"][:] = 1.0
    arrays["lm_head.weight"][:, 8:16] = 10.0 * np.eye(VOCABULARY)
    return Inspector(GPT2.from_arrays(config, arrays))


def test_a_planted_induction_head_is_found() -> None:
    found = induction_scores(model_with_an_induction_head())
    assert np.unravel_index(found.induction.argmax(), found.induction.shape) == (1, 1)
    assert found.induction[1, 1] > 0.9
    assert np.delete(found.induction.ravel(), 3).max() < 0.3
    assert np.unravel_index(found.previous_token.argmax(), found.previous_token.shape) == (0, 0)
    assert found.previous_token[0, 0] > 0.99
    assert found.second_loss < 0.2 < 1.0 < found.first_loss


def test_without_its_induction_head_the_model_does_not_see_the_repetition() -> None:
    one = model_with_an_induction_head()
    ids = [6, 3, 1, 4, 0, 5, 2, 3]
    assert one.run(ids)["logits"][-1].argmax() == 1
    assert logit_attribution(one, ids, 1, 2).heads.ravel().argmax() == 3
    without = one.run(ids, change={"h.1.attn.z": ablate(1)})["logits"][-1]
    assert without[1] == pytest.approx(without[2], abs=1e-3)


def test_a_random_model_has_no_induction_head_and_scores_are_the_same_each_time() -> None:
    one = inspector()
    found = induction_scores(one, sequences=2)
    assert found.induction.shape == found.previous_token.shape == found.duplicate_token.shape == (2, 2)
    assert found.induction.max() < 0.5
    assert_array_equal(found.induction, induction_scores(one, sequences=2).induction)
    assert not np.array_equal(found.induction, induction_scores(one, sequences=2, seed=1).induction)


@pytest.mark.parametrize("wrong", [{"length": 33}, {"length": 1}, {"sequences": 0}, {"seed": -1}, {"length": 2.5}])
def test_numbers_of_the_induction_scores_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match="expected an integer"):
        induction_scores(inspector(), **wrong)


def test_a_model_that_is_too_short_for_induction_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="at least 4 positions"):
        induction_scores(inspector(n_positions=3))


# ---- loss by position


def test_the_loss_of_each_position_is_that_of_its_token() -> None:
    one = inspector()
    found = loss_by_position(one, TEXT)
    ids = torch.tensor([found.token_ids])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(one.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert math.isnan(found.losses[0])
    assert_allclose(found.losses[1:], expected, rtol=1e-5)
    assert_array_equal(found.seen, np.arange(len(found.token_ids)))
    assert_allclose(found.mean[: len(expected)], expected, rtol=1e-5)
    assert np.isnan(found.mean[len(expected) :]).all()
    assert found.counts.sum() == len(expected)


def test_a_long_text_is_read_in_windows_and_each_token_is_predicted_once() -> None:
    one = inspector()
    ids = np.random.default_rng(0).integers(0, 299, 2 * 64 + 10).tolist()
    found = loss_by_position(one, ids)
    assert np.isfinite(found.losses[1:]).all()
    assert found.seen.tolist() == [0, *range(1, 65), *range(1, 65), *range(1, 10)]
    assert found.counts.tolist() == [3] * 9 + [2] * 55
    assert_allclose(found.losses[65:129], loss_by_position(one, ids[64:129]).losses[1:])
    assert found.mean[20] == pytest.approx((found.losses[21] + found.losses[21 + 64]) / 2)


def test_a_single_token_has_no_loss() -> None:
    with pytest.raises(InvalidRequestError, match="two tokens or more"):
        loss_by_position(inspector(), [5])


# ---- sampling


def test_the_spread_is_what_sampling_draws_from() -> None:
    one = inspector()
    settings = [SamplingParams(), SamplingParams(temperature=0), SamplingParams(temperature=2.0, top_k=3)]
    found = sampling_spread(one, TEXT, [*settings, SamplingParams(top_p=0.5)], top=7)
    shares = softmax(one.run(TEXT)["logits"][-1].astype(np.float64))
    order = np.argsort(-shares)[:7]
    assert_array_equal(found.top_ids, order)
    assert found.labels == ("temperature 1", "temperature 0", "temperature 2, top-k 3", "top-p 0.5")
    assert found.probabilities.shape == (4, 7)
    assert_allclose(found.probabilities[0], shares[order], rtol=1e-5)
    assert found.probabilities[1].tolist() == [1.0] + [0.0] * 6
    flat = np.sqrt(shares[order[:3]])
    assert_allclose(found.probabilities[2], [*(flat / flat.sum()), 0, 0, 0, 0], rtol=1e-5)
    assert found.kept[:3].tolist() == [300, 1, 3]
    assert found.kept[3] == 1 + np.searchsorted(np.cumsum(np.sort(shares)[::-1]), 0.5)
    assert_allclose(found.entropies[:2], [-(shares * np.log(shares)).sum(), 0.0], rtol=1e-5, atol=1e-12)


def test_tokens_that_no_setting_cuts_are_kept_however_unlikely_they_are() -> None:
    one = inspector()
    with torch.no_grad():
        one.model.wte.weight *= 50
    found = sampling_spread(one, TEXT, SamplingParams(temperature=0.1), top=300)
    assert found.labels == ("temperature 0.1",)
    assert found.kept.tolist() == [300]
    assert (found.probabilities == 0).any()
    assert sampling_spread(one, TEXT, SamplingParams(temperature=0.1, min_p=0.9)).kept[0] < 10
    assert len(sampling_spread(one, TEXT).settings) == len(DEFAULT_SETTINGS) == 7


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    one = inspector(vocab_size=320)
    found = sampling_spread(one, TEXT, top=1000)
    assert found.top_ids.max() < 300
    assert len(found.top_ids) == len(found.top_tokens) == 300
    assert found.kept[0] <= 300


def test_settings_that_are_none_are_told() -> None:
    with pytest.raises(InvalidRequestError, match=r"settings hold 0\.5, expected SamplingParams"):
        sampling_spread(inspector(), TEXT, [0.5])
    with pytest.raises(InvalidRequestError, match="settings hold 5, expected SamplingParams"):
        sampling_spread(inspector(), TEXT, 5)  # type: ignore[arg-type]
    assert sampling_spread(inspector(), TEXT, []).probabilities.shape == (0, 20)


@pytest.mark.parametrize(
    "analysis",
    [
        logit_lens,
        logit_attribution,
        logit_attributions,
        attention_patterns,
        loss_by_position,
        sampling_spread,
        explain,
        lambda inspector, _: induction_scores(inspector),
    ],
)
def test_what_is_no_inspector_is_told(analysis: Any) -> None:
    for wrong in ("shakespeare", inspector().model, None):
        with pytest.raises(InvalidRequestError, match=r"expected an Inspector, which Inspector\.load\(name\) gives"):
            analysis(wrong, TEXT)


@pytest.mark.parametrize(
    "analysis", [logit_lens, logit_attribution, attention_patterns, loss_by_position, sampling_spread]
)
def test_every_analysis_refuses_what_is_no_text_of_the_model(analysis: object) -> None:
    one = inspector()
    for prompt in ("", [300], None):
        with pytest.raises(InvalidRequestError):
            analysis(one, prompt)
    if analysis is not loss_by_position:
        with pytest.raises(ContextLengthError):
            analysis(one, [1] * 65)
