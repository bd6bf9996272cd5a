"""The compiled core against the PyTorch model, over configurations that use every flag."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import all_logits, feed, native, random_arrays, stored, tiny_config

from gptwo.config import ACTIVATIONS, GPTConfig
from gptwo.decoder.reference import ReferenceDecoder


@st.composite
def configs(draw) -> GPTConfig:
    heads = draw(st.integers(1, 4))
    return tiny_config(
        vocab_size=draw(st.integers(20, 130)),
        n_head=heads,
        # A layer norm over two channels says little but which is the larger, and turns a last bit into a large error.
        n_embd=heads * draw(st.integers(-(-8 // heads), 40)),
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
