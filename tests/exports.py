"""Tiny checkpoints to export, and what the reference says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import random_arrays, tiny_config

from gptwo.checkpoint import Checkpoint, StoredTensor
from gptwo.config import GPTConfig
from gptwo.model import GPT2

# Every field of the configuration that changes what is computed.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unscaled": {"scale_attn_weights": False},
    "by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "upcast": {"reorder_and_upcast_attn": True},
    "untied": {"tie_word_embeddings": False},
    "inner": {"n_inner": 40},
    "epsilon": {"layer_norm_epsilon": 0.3},
    "one_head": {"n_head": 1, "n_layer": 1},
    **{
        name: {"activation_function": name}
        for name in ("gelu", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")
    },
}

# All at once, for what is made from model.py itself and so has its fields.
ALL = {
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
    "tie_word_embeddings": False,
    "n_inner": 40,
    "layer_norm_epsilon": 0.3,
    "activation_function": "quick_gelu",
}


def random_checkpoint(config: GPTConfig | None = None, seed: int = 0, deviation: float = 0.2) -> Checkpoint:
    config = tiny_config() if config is None else config
    arrays = random_arrays(config, seed, deviation)
    stored = {name: StoredTensor(name, Path("FILE"), "F32", array) for name, array in arrays.items()}
    return Checkpoint(config, stored, Path("FILE"), "random", None)


def reference(checkpoint: Checkpoint) -> GPT2:
    return GPT2.from_arrays(checkpoint.config, {name: t.float32() for name, t in checkpoint.tensors.items()})


def reference_logits(checkpoint: Checkpoint, ids: Any, mask: Any = None) -> np.ndarray:
    """ids (B, T), mask (B, T) -> (B, T, V)."""
    with torch.inference_mode():
        given = None if mask is None else torch.tensor(mask)
        return reference(checkpoint)(torch.tensor(ids), mask=given).logits.numpy()


def greedy(checkpoint: Checkpoint, prompt: list[int], tokens: int) -> list[int]:
    """The reference's greedy text, each token from all before it anew."""
    model, ids = reference(checkpoint), list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def greedy_with(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """The greedy text of an exported model, through its cache."""
    logits, made = model.start(prompt)[-1], []
    while len(made) < tokens:
        if made:
            logits = model.step(made[-1])
        made.append(int(logits.argmax()))
    return made


def prompts(vocab_size: int, count: int = 10) -> list[list[int]]:
    """Token ids, 1 to `count` of them."""
    draw = np.random.default_rng(3)
    return [draw.integers(0, vocab_size, 1 + length).tolist() for length in range(count)]
