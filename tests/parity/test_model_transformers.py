"""The reference model says what transformers' GPT-2 says: logits, hidden states, keys and values, gradients."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gptwo.config import ACTIVATIONS, GPTConfig
from gptwo.model import GPT2

TOLERANCE = 1e-4
SWITCHES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings")


def random_configs(count: int) -> list[dict[str, Any]]:
    """Tiny shapes: every activation, each combination of the switches, and odd sizes, all of them more than once."""
    draw = random.Random(20261122)
    switches = list(itertools.product([False, True], repeat=len(SWITCHES)))
    configs = []
    for number in range(count):
        heads = draw.choice([1, 2, 3, 4, 5])
        configs.append(
            {
                "vocab_size": draw.choice([11, 50, 64, 129]),
                "n_positions": draw.choice([16, 24, 33]),
                "n_embd": heads * draw.choice([4, 7, 8, 16]),
                "n_layer": draw.choice([1, 2, 3, 4]),
                "n_head": heads,
                "n_inner": draw.choice([None, None, 1, 20, 75]),
                "activation_function": ACTIVATIONS[number % len(ACTIVATIONS)],
                "layer_norm_epsilon": draw.choice([1e-5, 1e-3]),
                "bos_token_id": 0,
                "eos_token_id": 0,
                **dict(zip(SWITCHES, switches[number % len(switches)], strict=True)),
            }
        )
    return configs


CONFIGS = random_configs(48)


def pair(values: dict[str, Any], seed: int, deviation: float = 0.25) -> tuple[transformers.GPT2LMHeadModel, GPT2]:
    """The same weights, spread wide enough that a mistake shows, in transformers' model and in ours."""
    torch.manual_seed(seed)
    # Only transformers' plain attention looks at this switch.
    attention = "eager" if values["reorder_and_upcast_attn"] else "sdpa"
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation=attention, **values)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, deviation)
    arrays = {
        name.removeprefix("transformer."): tensor.detach().numpy()
        for name, tensor in theirs.state_dict().items()
        if name != "lm_head.weight" or not values["tie_word_embeddings"]
    }
    return theirs, GPT2.from_arrays(GPTConfig.from_dict(theirs.config.to_dict()), arrays)


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_logits_hidden_states_keys_and_values_are_those_of_transformers(number: int) -> None:
    values = CONFIGS[number]
    theirs, ours = pair(values, number)
    token_ids = torch.randint(values["vocab_size"], (2, values["n_positions"]))
    with torch.inference_mode():
        expected = theirs(token_ids, output_hidden_states=True, use_cache=True)
        found = ours(token_ids, return_hidden_states=True, return_past=True)
        if largest_difference(expected.logits, found.logits) > TOLERANCE:  # noise, or a mistake: float64 tells
            expected = theirs.double()(token_ids, output_hidden_states=True, use_cache=True)
            found = ours.double()(token_ids, return_hidden_states=True, return_past=True)
    assert found.hidden_states is not None
    assert found.past is not None
    assert largest_difference(expected.logits, found.logits) <= TOLERANCE
    assert len(found.hidden_states) == len(expected.hidden_states) == values["n_layer"] + 1
    for one, other in zip(expected.hidden_states, found.hidden_states, strict=True):
        assert largest_difference(one, other) <= TOLERANCE
    for layer, kept in zip(expected.past_key_values.layers, found.past, strict=True):
        assert largest_difference(layer.keys, kept.keys) <= TOLERANCE
        assert largest_difference(layer.values, kept.values) <= TOLERANCE


@pytest.mark.parametrize("number", range(0, len(CONFIGS), 5))
def test_a_left_padded_batch_is_that_of_transformers(number: int) -> None:
    values = CONFIGS[number]
    theirs, ours = pair(values, number)
    length = values["n_positions"]
    token_ids = torch.randint(values["vocab_size"], (3, length))
    mask = torch.ones_like(token_ids)
    mask[0, : length // 2] = 0
    mask[1, :3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        expected = theirs(token_ids, attention_mask=mask, position_ids=positions).logits
        found = ours(token_ids, mask=mask).logits
    assert largest_difference(expected[mask.bool()], found[mask.bool()]) <= TOLERANCE


@pytest.mark.parametrize("number", range(0, len(CONFIGS), 5))
def test_gradients_are_those_of_transformers(number: int) -> None:
    values = CONFIGS[number] | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs, ours = pair(values, number, deviation=0.1)
    token_ids = torch.randint(values["vocab_size"], (2, values["n_positions"]))
    losses = []
    for logits in (theirs(token_ids).logits, ours(token_ids).logits):
        losses.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten()))
        losses[-1].backward()
    assert abs(losses[0].item() - losses[1].item()) <= 1e-5
    gradients = {name.removeprefix("transformer."): p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected, found = gradients[name], parameter.grad
        assert expected is not None
        assert found is not None
        assert largest_difference(expected, found) <= 1e-5 * max(1.0, float(expected.abs().max())), name


@pytest.mark.parametrize("number", [0, 7])
def test_dropout_falls_where_it_falls_in_transformers(number: int) -> None:
    theirs, ours = pair(CONFIGS[number] | {"embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3}, number)
    token_ids = torch.randint(CONFIGS[number]["vocab_size"], (2, CONFIGS[number]["n_positions"]))
    drawn = []
    for model in (theirs.train(), ours.train()):
        torch.manual_seed(1)
        drawn.append(model(token_ids).logits.detach())
    assert largest_difference(*drawn) <= TOLERANCE
    assert largest_difference(drawn[0], theirs.eval()(token_ids).logits.detach()) > 0.1


def test_logits_are_those_of_transformers_at_the_124m_shape(record_property: Any) -> None:
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    arrays = {
        name.removeprefix("transformer."): tensor.detach().numpy()
        for name, tensor in theirs.state_dict().items()
        if name != "lm_head.weight"
    }
    ours = GPT2.from_arrays(GPTConfig.published("gpt2"), arrays)
    token_ids = torch.from_numpy(np.random.default_rng(0).integers(50257, size=(1, 128)))
    with torch.inference_mode():
        difference = largest_difference(theirs(token_ids).logits, ours(token_ids).logits)
    record_property("largest_difference", difference)
    print(f"largest difference of a logit at the 124M shape: {difference:.2e}")
    assert difference <= TOLERANCE
