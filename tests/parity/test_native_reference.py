"""The compiled core against the PyTorch model, over configurations that use every flag."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import all_logits, feed, native, random_arrays, stored, tiny_config

from gptwo.config import ACTIVATIONS, GPTConfig
from gptwo.decoder.reference import ReferenceDecoder

# What quantising may do to the logits of models of this kind, as a share of their standard deviation: the root mean
# square of the difference. bf16 keeps 8 bits of each weight (relative error up to 2^-9), int8 about 6.5 bits of each
# block's largest, int4 three; the errors of independent weights add up like the square root of their number, as the
# logits do, and grow with the few layers between.
BOUNDS = {"bf16": 0.02, "int8": 0.06, "int4": 0.5}


@st.composite
def configs(draw) -> GPTConfig:
    heads = draw(st.integers(1, 4))
    return tiny_config(
        vocab_size=draw(st.integers(20, 130)),
        n_head=heads,
        n_embd=heads * draw(st.integers(2, 40)),
        n_layer=draw(st.integers(1, 3)),
        n_inner=draw(st.none() | st.integers(1, 150)),
        activation_function=draw(st.sampled_from(ACTIVATIONS)),
        layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-6, 1e-3])),
        scale_attn_weights=draw(st.booleans()),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
        reorder_and_upcast_attn=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(config=configs(), seed=st.integers(0, 1000))
def test_logits_equal_the_reference(config, seed):
    arrays = random_arrays(config, seed)
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, 100)
    expected = all_logits(ReferenceDecoder(config, stored(arrays)), ids)
    np.testing.assert_allclose(all_logits(native(config, arrays), ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_greedy_tokens_equal_the_reference(activation):
    config = tiny_config(activation_function=activation, n_layer=3, n_embd=48)
    arrays = random_arrays(config, 7)
    texts = []
    for decoder in (ReferenceDecoder(config, stored(arrays)), native(config, arrays)):
        sequence = decoder.open()
        text = [1, 2, 3]
        logits = feed(decoder, sequence, text, rows=[2])
        for _ in range(60):
            text.append(int(logits[0].argmax()))
            logits = feed(decoder, sequence, text[-1:])
        texts.append(text)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("weights", BOUNDS)
@pytest.mark.parametrize("tied", [True, False])
def test_smaller_formats_stay_within_their_bounds(weights, tied):
    config = tiny_config(n_embd=192, n_layer=3, vocab_size=300, tie_word_embeddings=tied)
    arrays = random_arrays(config, 8)
    ids = np.random.default_rng(8).integers(0, config.vocab_size, 150)
    expected = all_logits(native(config, arrays), ids)
    error = all_logits(native(config, arrays, weights), ids) - expected
    assert 0 < np.sqrt(np.mean(error**2)) / expected.std() < BOUNDS[weights]


def test_outlier_channels_cost_int8_at_most_twice_the_error():
    config = tiny_config(n_embd=192, n_layer=3, vocab_size=300, tie_word_embeddings=False)
    arrays = random_arrays(config, 9)
    planted = {name: array.copy() for name, array in arrays.items()}
    channels = [3, 70, 71]
    for h in range(config.n_layer):
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            planted[f"h.{h}.{norm}.weight"][channels] *= 100
            planted[f"h.{h}.{norm}.bias"][channels] *= 100
            planted[f"h.{h}.{reader}.weight"][channels] /= 100
    ids = np.random.default_rng(9).integers(0, config.vocab_size, 150)
    expected = all_logits(native(config, arrays), ids)
    error = {
        name: np.sqrt(np.mean((all_logits(native(config, values, "int8"), ids) - expected) ** 2))
        for name, values in (("plain", arrays), ("planted", planted))
    }
    assert error["planted"] <= 2 * error["plain"]


def test_a_cache_in_bf16_stays_near_one_in_f32():
    config = tiny_config(n_embd=96, n_layer=3)
    arrays = random_arrays(config, 10)
    ids = np.random.default_rng(10).integers(0, config.vocab_size, 150)
    expected = all_logits(native(config, arrays), ids)
    error = all_logits(native(config, arrays, cache="bf16"), ids) - expected
    assert 0 < np.sqrt(np.mean(error**2)) / expected.std() < BOUNDS["bf16"]
