"""Random GPT-2s for the tests of the compiled core; numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gptwo.checkpoint.stored import StoredTensor
from gptwo.config import GPTConfig
from gptwo.decoder.native import NativeDecoder, Weights


def tiny_config(**changes: object) -> GPTConfig:
    values = {"vocab_size": 61, "n_positions": 160, "n_embd": 24, "n_layer": 2, "n_head": 3} | changes
    return GPTConfig(**values)


def random_arrays(config: GPTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a size at which a text's logits depend on all of it, under the checkpoint's names."""
    draw = np.random.default_rng(seed)
    width, inner = config.n_embd, config.inner_size
    shapes = {"wte.weight": (config.vocab_size, width), "wpe.weight": (config.n_positions, width)}
    for h in range(config.n_layer):
        for name, ins, outs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            shapes |= {f"h.{h}.{name}.weight": (ins, outs), f"h.{h}.{name}.bias": (outs,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    arrays = {name: draw.normal(0.0, width**-0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in [f"h.{h}.ln_{i}" for h in range(config.n_layer) for i in (1, 2)] + ["ln_f"]:
        arrays[f"{norm}.weight"] = draw.uniform(0.5, 1.5, width).astype(np.float32)
        arrays[f"{norm}.bias"] = draw.normal(0.0, 0.1, width).astype(np.float32)
    return arrays


def stored(arrays: dict[str, np.ndarray]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, Path("random"), "F32", array) for name, array in arrays.items()}


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTWO_ISA", name)
        yield


def native(
    config: GPTConfig, arrays: dict[str, np.ndarray], weights: Weights = "f32", **options: object
) -> NativeDecoder:
    return NativeDecoder(config, stored(arrays), weights=weights, **options)


def feed(decoder, sequence: int, ids, rows=None) -> np.ndarray:
    """Append tokens to one sequence; the logits of all of them, or of `rows`."""
    ids = np.asarray(ids, np.int64)
    start = decoder.length(sequence)
    return decoder.forward(
        ids,
        np.full(len(ids), sequence, np.int64),
        np.arange(start, start + len(ids)),
        np.arange(len(ids)) if rows is None else np.asarray(rows, np.int64),
    )


def all_logits(decoder, ids) -> np.ndarray:
    """The logits of a text, run alone and at once."""
    sequence = decoder.open()
    try:
        return feed(decoder, sequence, ids)
    finally:
        decoder.close(sequence)
