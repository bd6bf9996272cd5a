"""Models to measure without a download: published shapes, weights drawn from a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptwo.checkpoint import Checkpoint
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.stored import Floats, StoredTensor
from gptwo.config import PUBLISHED_MODELS, GPTConfig
from gptwo.errors import InvalidRequestError, nearest_name

TINY = "tiny"
SHAPES = (*(model.name for model in PUBLISHED_MODELS), TINY)


def shape_config(name: str) -> GPTConfig:
    """The configuration of a published size, or of `tiny`, which only shows that all is well.

    Raises InvalidRequestError for another name.
    """
    if name == TINY:
        return GPTConfig(vocab_size=512, n_positions=256, n_embd=64, n_layer=2, n_head=4)
    if name not in SHAPES:
        raise InvalidRequestError(f"shape {name[:60]!r} is not known{nearest_name(name, SHAPES)}", param="shape")
    return GPTConfig.published(name)


def random_arrays(config: GPTConfig, seed: int = 0) -> Iterator[tuple[str, Floats]]:
    """Weights as GPT-2's are initialised: normal with `initializer_range`, biases 0, layer norms the identity.

    The time of a step does not depend on the values, as long as none is denormal; what greedy decoding says does.
    """
    draw = np.random.default_rng(seed)
    for name, shape in expected_shapes(config):
        if name.endswith(".bias"):
            yield name, np.zeros(shape, dtype=np.float32)
        elif len(shape) == 1:
            yield name, np.ones(shape, dtype=np.float32)
        else:
            values = draw.standard_normal(shape, dtype=np.float32)
            values *= np.float32(config.initializer_range)
            yield name, values


def random_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """A checkpoint in memory of the shape `name`. Raises InvalidRequestError for an unknown shape."""
    config = shape_config(name)
    place = Path(f"random-{name}")
    tensors = {key: StoredTensor(key, place, "F32", array) for key, array in random_arrays(config, seed)}
    return Checkpoint(config=config, tensors=tensors, path=place, format="random", tokenizer_path=None)
