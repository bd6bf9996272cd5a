"""Activations by name are those of transformers' GPT-2: its outputs, and what its modules read and write."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose

from gptwo.config import GPTConfig
from gptwo.inspection import Inspector
from gptwo.model import GPT2

SWITCHES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings")
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu", "quick_gelu", "tanh")
TOKENS = 9


def configuration(number: int, switches: tuple[bool, ...]) -> dict[str, Any]:
    heads = 1 + number % 3
    return {
        "vocab_size": 50,
        "n_positions": TOKENS + number % 2,
        "n_embd": 6 * heads,
        "n_layer": 1 + number % 3,
        "n_head": heads,
        "n_inner": (None, 7)[number % 2],
        "activation_function": ACTIVATIONS[number % len(ACTIVATIONS)],
        "layer_norm_epsilon": (1e-5, 1e-3)[number % 2],
        "bos_token_id": 0,
        "eos_token_id": 0,
        **dict(zip(SWITCHES, switches, strict=True)),
    }


CONFIGS = [configuration(*pair) for pair in enumerate(itertools.product([False, True], repeat=len(SWITCHES)))]


def theirs_and_ours(values: dict[str, Any]) -> tuple[transformers.GPT2LMHeadModel, Inspector]:
    torch.manual_seed(values["n_layer"])
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager", **values)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, 0.25)
    arrays = {
        name.removeprefix("transformer."): tensor.detach().numpy()
        for name, tensor in theirs.state_dict().items()
        if name != "lm_head.weight" or not values["tie_word_embeddings"]
    }
    return theirs, Inspector(GPT2.from_arrays(GPTConfig.from_dict(theirs.config.to_dict()), arrays))


def expected_activations(theirs: transformers.GPT2LMHeadModel, ids: list[int]) -> dict[str, np.ndarray]:
    """By our names: what transformers returns, and what hooks on its modules see."""
    seen: dict[str, torch.Tensor] = {}

    def output(name: str) -> Any:
        return lambda module, read, wrote: seen.__setitem__(name, (wrote[0] if isinstance(wrote, tuple) else wrote)[0])

    def read(name: str) -> Any:
        return lambda module, read: seen.__setitem__(name, read[0][0])

    body = theirs.transformer
    handles = [body.wte.register_forward_hook(output("wte")), body.wpe.register_forward_hook(output("wpe"))]
    for layer, block in enumerate(body.h):
        at = f"h.{layer}."
        handles += [
            block.ln_1.register_forward_hook(output(f"{at}ln_1")),
            block.attn.c_proj.register_forward_pre_hook(read(f"{at}attn.z")),
            block.attn.register_forward_hook(output(f"{at}attn.out")),
            block.ln_2.register_forward_pre_hook(read(f"{at}resid_mid")),
            block.ln_2.register_forward_hook(output(f"{at}ln_2")),
            block.mlp.c_fc.register_forward_hook(output(f"{at}mlp.pre")),
            block.mlp.c_proj.register_forward_pre_hook(read(f"{at}mlp.post")),
            block.mlp.register_forward_hook(output(f"{at}mlp.out")),
            block.register_forward_hook(output(f"{at}resid_post")),
        ]
    with torch.inference_mode():
        found = theirs(torch.tensor([ids]), output_hidden_states=True, output_attentions=True, use_cache=True)
    for handle in handles:
        handle.remove()
    heads = theirs.config.n_head
    for layer in range(theirs.config.n_layer):
        at = f"h.{layer}."
        seen[f"{at}resid_pre"] = found.hidden_states[layer][0]
        seen[f"{at}attn.pattern"] = found.attentions[layer][0]
        seen[f"{at}attn.k"] = found.past_key_values.layers[layer].keys[0]
        seen[f"{at}attn.v"] = found.past_key_values.layers[layer].values[0]
        seen[f"{at}attn.z"] = seen[f"{at}attn.z"].unflatten(1, (heads, -1)).transpose(0, 1)
    seen["ln_f"] = found.hidden_states[-1][0]
    seen["logits"] = found.logits[0]
    return {name: tensor.numpy() for name, tensor in seen.items()}


@pytest.mark.parametrize("values", CONFIGS, ids=map(str, range(len(CONFIGS))))
def test_activations_by_name_are_those_of_transformers(values: dict[str, Any]) -> None:
    theirs, ours = theirs_and_ours(values)
    ids = torch.randint(values["vocab_size"], (TOKENS,)).tolist()
    run = ours.run(ids, keep="*")
    expected = expected_activations(theirs, ids)
    kinds = {name.rpartition(".")[2] for name in ours.names} - {name.rpartition(".")[2] for name in expected}
    assert kinds == {"q", "scores", "heads"}  # which transformers shows nowhere; below they follow from the others
    for name, array in expected.items():
        assert_allclose(run[name], array, atol=1e-4, rtol=1e-4, err_msg=name)
    for layer in range(values["n_layer"]):
        at = f"h.{layer}.attn."
        future = np.triu(np.ones((TOKENS, TOKENS), bool), 1)
        scale = ours.config.attention_scale(layer)
        scores = np.where(future, -np.inf, run[f"{at}q"] @ run[f"{at}k"].swapaxes(1, 2) * scale)
        assert_allclose(run[f"{at}scores"], scores, atol=1e-4, rtol=1e-4)
        bias = theirs.transformer.h[layer].attn.c_proj.bias.detach().numpy()
        assert_allclose(run[f"{at}heads"].sum(axis=0) + bias, expected[f"{at}out"], atol=1e-4, rtol=1e-4)
