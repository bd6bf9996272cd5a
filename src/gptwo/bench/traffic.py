"""What one step must read from memory: the weights once, and the keys and values that it attends to.

At batch 1 this is what decoding costs, so bytes divided by time against the machine's read bandwidth say how much there
is left to gain. C width, I inner width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gptwo.config import GPTConfig

BYTES_PER_WEIGHT: Final[Mapping[str, float]] = {
    "f32": 4.0,
    "bf16": 2.0,
    "int8": 1.0 + 4.0 / 64,  # a float32 scale for 64 weights
    "int4": 0.5 + 2.0 / 32,  # a float16 scale for 32 weights
}


def weight_bytes(config: GPTConfig, weights: str) -> int:
    """The bytes of weights that a step reads, however many rows it has: all of them but the position embedding.

    weights: f32, bf16, int8 or int4, whose head is int8. Biases and layer norms are float32. The rows of the token
    embedding that are looked up are not counted: the head is the same matrix, or, if it is not, is what is read.

    Example: the 124M model in f32 reads (124,439,808 - 1024 * 768) * 4 = 494,613,504 bytes.
    """
    width, inner = config.n_embd, config.inner_size
    matrices = config.n_layer * (4 * width * width + 2 * width * inner)
    vectors = config.n_layer * (9 * width + inner) + 2 * width
    head = config.vocab_size * width
    head_format = "int8" if weights == "int4" else weights
    read = matrices * BYTES_PER_WEIGHT[weights] + head * BYTES_PER_WEIGHT[head_format]
    return round(read) + 4 * vectors


def cache_bytes(config: GPTConfig, positions: int, bytes_per_number: int = 4) -> int:
    """The bytes of keys and values that attending to `positions` positions reads, all layers together."""
    return 2 * config.n_layer * config.n_embd * positions * bytes_per_number


def step_bytes(config: GPTConfig, weights: str, *, context: int, sequences: int = 1) -> int:
    """The bytes that one decoding step of `sequences` sequences reads, each at `context` positions (float32 cache)."""
    return weight_bytes(config, weights) + sequences * cache_bytes(config, context)


def pass_operations(config: GPTConfig, tokens: int, heads: int = 1) -> int:
    """Additions and multiplications of a pass over `tokens` tokens from position 0 on, logits of `heads` of them."""
    width, inner = config.n_embd, config.inner_size
    products = config.n_layer * (4 * width * width + 2 * width * inner)
    attention = config.n_layer * 2 * width * (tokens + 1) // 2  # scores and weighted values of half of the square
    return 2 * (tokens * (products + attention) + heads * config.vocab_size * width)
