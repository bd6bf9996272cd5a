"""What the smaller formats cost: bounds on the logits, outliers, and the perplexity of the embedded model."""

from __future__ import annotations

import numpy as np
import pytest
from random_model import all_logits, feed, native, random_arrays, tiny_config

from gptwo.checkpoint import load_checkpoint
from gptwo.decoder.native import NativeDecoder
from gptwo.tokenizer import Tokenizer

# The relative error that a format gives to one product, root mean square.
#   bf16: 8 bits of each weight: an error of up to 2^-8 of it, evenly spread: 2^-7 / sqrt(12), over a mantissa's mean.
#   int8: the largest of 64 normal weights is about 2.45 deviations, a step 1/127 of it, the error a step / sqrt(12),
#         and the same again for the activations: sqrt(2) * 2.45 / 127 / sqrt(12).
#   int4: the largest of 32 is about 2.2 deviations, a step 1/8 of it: 2.2 / 8 / sqrt(12). The activations' error, which
#         is int8's, vanishes in that.
# Errors of independent weights add up as the products' terms do, so a sum has the relative error of one term. Each of a
# block's four products, the embedding and the head add theirs, independently: after L layers sqrt(4 L + 2) times it.
# It is less when the stream between the blocks outgrows what one block adds, more in a model with few outputs.
ERROR_OF_A_PRODUCT = {"bf16": 0.0016, "int8": 0.0079, "int4": 0.08}
MEAN_ROW, WORST_ROW = 1.5, 2.5  # times the expected error


def relative_errors(logits: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """For each row, the root mean square of the difference over the deviation of the row."""
    error = logits.astype(np.float64) - expected
    return np.sqrt(np.mean(error**2, axis=1)) / expected.std(axis=1)


def expected_error(weights: str, layers: int) -> float:
    return ERROR_OF_A_PRODUCT[weights] * float(np.sqrt(4 * layers + 2))


@pytest.mark.parametrize(
    ("layers", "width", "activation", "tied"),
    [
        (1, 64, "gelu_new", True),
        (3, 192, "gelu_new", True),
        (2, 128, "relu", False),
        (4, 96, "silu", False),
        (6, 64, "gelu", True),
    ],
)
def test_smaller_formats_stay_within_the_error_that_their_steps_explain(layers, width, activation, tied):
    config = tiny_config(
        n_layer=layers,
        n_embd=width,
        n_head=4,
        vocab_size=200,
        activation_function=activation,
        tie_word_embeddings=tied,
    )
    arrays = random_arrays(config, 8)
    ids = np.random.default_rng(8).integers(0, config.vocab_size, 120)
    expected = all_logits(native(config, arrays), ids)
    for weights in ERROR_OF_A_PRODUCT:
        errors = relative_errors(all_logits(native(config, arrays, weights), ids), expected)
        assert 0 < np.sqrt(np.mean(errors**2)) < MEAN_ROW * expected_error(weights, layers), weights
        assert errors.max() < WORST_ROW * expected_error(weights, layers), weights


def test_a_cache_in_bf16_costs_no_more_than_weights_in_bf16():
    config = tiny_config(n_embd=96, n_layer=3)
    arrays = random_arrays(config, 10)
    ids = np.random.default_rng(10).integers(0, config.vocab_size, 150)
    errors = relative_errors(
        all_logits(native(config, arrays, cache="bf16"), ids), all_logits(native(config, arrays), ids)
    )
    assert 0 < np.sqrt(np.mean(errors**2)) < expected_error("bf16", config.n_layer)


OUTLIERS = [3, 70, 71]  # two of them share a block
RELU = tiny_config(n_embd=192, n_layer=3, vocab_size=300, tie_word_embeddings=False, activation_function="relu")
PLAIN = random_arrays(RELU, 9)


def planted_in_layer_norms(arrays):
    """Gains and biases x100, the next weights divided by as much: the same function."""
    for h in range(RELU.n_layer):
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            arrays[f"h.{h}.{norm}.weight"][OUTLIERS] *= 100
            arrays[f"h.{h}.{norm}.bias"][OUTLIERS] *= 100
            arrays[f"h.{h}.{reader}.weight"][OUTLIERS] /= 100


def planted_in_the_stream(arrays):
    """As in OpenAI's GPT-2: channels of the stream of about 100 times the rest, whose gains make up for it."""
    arrays["wpe.weight"][:, OUTLIERS] += 100
    norms = [f"h.{h}.ln_{i}" for h in range(RELU.n_layer) for i in (1, 2)] + ["ln_f"]
    for norm in norms:
        gain = arrays[f"{norm}.weight"]
        gain *= 12  # the layer norm divides by the outliers' magnitude
        gain[OUTLIERS] /= 100


def planted_in_the_stream_alone(arrays):
    """The same without gains that make up for it."""
    arrays["wpe.weight"][:, OUTLIERS] += 100


def planted_in_a_bias(arrays):
    """Hidden numbers of 60, in an MLP whose others are about 1."""
    for h in range(RELU.n_layer):
        arrays[f"h.{h}.mlp.c_fc.bias"][OUTLIERS] += 60


def planted_in_the_hidden_layer(arrays):
    """c_fc's outputs x100, c_proj's inputs divided by as much: the same function, and no layer norm to move it to."""
    for h in range(RELU.n_layer):
        arrays[f"h.{h}.mlp.c_fc.weight"][:, OUTLIERS] *= 100
        arrays[f"h.{h}.mlp.c_fc.bias"][OUTLIERS] *= 100
        arrays[f"h.{h}.mlp.c_proj.weight"][OUTLIERS] /= 100


def planted_in_the_values(arrays):
    """The same with attention's values and the projection after them."""
    columns = [2 * RELU.n_embd + channel for channel in OUTLIERS]
    for h in range(RELU.n_layer):
        arrays[f"h.{h}.attn.c_attn.weight"][:, columns] *= 100
        arrays[f"h.{h}.attn.c_attn.bias"][columns] *= 100
        arrays[f"h.{h}.attn.c_proj.weight"][OUTLIERS] /= 100


def error_with(plant, weights: str) -> float:
    arrays = {name: array.copy() for name, array in PLAIN.items()}
    if plant:
        plant(arrays)
    ids = np.random.default_rng(9).integers(0, RELU.vocab_size, 100)
    errors = relative_errors(all_logits(native(RELU, arrays, weights), ids), all_logits(native(RELU, arrays), ids))
    return float(np.sqrt(np.mean(errors**2)))


# How many times the error without outliers int8 and int4 may have. The last two are not in the layer norms, so they
# stay where they are: small weights beside others lose bits, and outliers that share a block get no second term.
PLANTS = [
    (planted_in_layer_norms, 1.2, 1.2),
    (planted_in_the_stream, 1.2, 1.3),
    (planted_in_the_stream_alone, 1.0, 1.0),
    (planted_in_a_bias, 1.2, 1.2),
    (planted_in_the_hidden_layer, 3.0, 1.5),
    (planted_in_the_values, 4.5, 1.5),
]


@pytest.mark.parametrize(("plant", "int8", "int4"), PLANTS)
def test_outlier_channels_cost_little(plant, int8, int4):
    assert error_with(plant, "int8") <= int8 * error_with(None, "int8")
    assert error_with(plant, "int4") <= int4 * error_with(None, "int4")


def mean_loss(decoder: NativeDecoder, ids: np.ndarray, every: int) -> float:
    """Nats per token over windows that lie end to end, each token predicted from those before it in its window."""
    window, losses = decoder.config.n_positions, []
    for start in range(0, len(ids) - 1, every * window):
        chunk = ids[start : start + window + 1]
        sequence = decoder.open()
        logits = feed(decoder, sequence, chunk[:-1]).astype(np.float64)
        decoder.close(sequence)
        logits -= logits.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(chunk) - 1), chunk[1:]])
    return float(np.concatenate(losses).mean())


# A sixth of the text says as much about the differences, to a tenth of each limit; the whole takes half a minute.
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_the_embedded_models_perplexity_hardly_changes(shared_data, every):
    checkpoint = load_checkpoint("shakespeare")
    assert checkpoint.tokenizer_path is not None
    text = (shared_data / "tinyshakespeare.txt").read_text()
    ids = np.array(Tokenizer.load(checkpoint.tokenizer_path).encode(text[len(text) * 9 // 10 :]))
    loss = {
        weights: mean_loss(NativeDecoder(checkpoint.config, checkpoint.tensors, weights=weights), ids, every)
        for weights in ("f32", "bf16", "int8", "int4")
    }
    if every == 1:
        assert loss["f32"] == pytest.approx(3.2164, abs=5e-4)  # as the model's README says
    for weights, limit in (("bf16", 0.001), ("int8", 0.002), ("int4", 0.03)):
        assert np.exp(loss[weights] - loss["f32"]) - 1 < limit, weights
