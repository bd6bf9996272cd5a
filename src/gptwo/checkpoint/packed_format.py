"""The format "packed": weights as the compiled core reads them, which maps them into memory and copies none.

One safetensors file. Matrices are U8 (bytes,), in the core's layout and filled up to whole cache lines; they come
first, so that each begins on one. The other tensors are F32 under their usual names and shapes. Where int8 or int4
moved outliers from a layer norm into the matrix behind it (`_folds` in decoder/native.py), gains, biases and matrices
are stored as they are after that; `unfold` (C,) then turns rows of the tied head back into those of the embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptwo.checkpoint.canonical import EMBEDDING, HEAD, LINEAR_WEIGHTS, expected_shapes
from gptwo.checkpoint.json_object import parse_object
from gptwo.checkpoint.safetensors_file import read_with_metadata, write_as_stored
from gptwo.checkpoint.stored import Array, Checkpoint, Packed, StoredTensor, shown
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.checkpoint.transformers_format import CONFIG
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError

WEIGHTS_FILE: Final = "model.packed.safetensors"
LOOKS_LIKE: Final = WEIGHTS_FILE

PACKED_WEIGHTS: Final = ("bf16", "int8", "int4")
UNFOLD: Final = "unfold"
CACHE_LINE: Final = 64

_SUFFIX: Final = ".packed.safetensors"
_POSITIONS: Final = "wpe.weight"
_LAYOUT, _WEIGHTS, _CONFIG = "gptwo.layout", "gptwo.weights", "gptwo.config"

# What the file repeats of the configuration: all that changes what the weights mean.
_REPEATED: Final = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "inner_size",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
)


def detect(path: Path) -> bool:
    """Whether a directory holds the file, or a file is named like it."""
    return (path / WEIGHTS_FILE).is_file() or (path.name.endswith(_SUFFIX) and path.is_file())


def is_matrix(name: str) -> bool:
    """Whether the tensor of this canonical name is one of those that are packed."""
    return name in (EMBEDDING, HEAD) or name.endswith(LINEAR_WEIGHTS)


def read(path: Path) -> Checkpoint:
    """Map a directory's packed weights, or one such file with its config.json beside it; no element is read.

    Raises ConfigError, and CheckpointError naming file and tensor for whatever does not fit. What only the core can
    know, the version of the layout and the size of a matrix, it checks when it takes them.
    """
    directory, file = (path, path / WEIGHTS_FILE) if path.is_dir() else (path.parent, path)
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"checkpoint {file}: there is no {CONFIG} beside it")
    config = GPTConfig.load(directory / CONFIG)
    stored, metadata = read_with_metadata(file)
    packed = _packed(file, metadata)
    _check_config(file, config, metadata)
    tensors = {}
    for name, shape in expected_shapes(config):
        if name not in stored:
            raise CheckpointError(f"checkpoint {file}: tensor {name} is missing")
        tensors[name] = _checked(stored.pop(name), None if is_matrix(name) else shape)
    if UNFOLD in stored:
        tensors[UNFOLD] = _checked(stored.pop(UNFOLD), (config.n_embd,))
    if stored:
        raise CheckpointError(f"checkpoint {file}: tensor {shown(next(iter(stored)))} belongs to no packed GPT-2")
    return Checkpoint(config, tensors, path, "packed", tokenizer_in(directory), packed)


def write(directory: Path, config: GPTConfig, tensors: Mapping[str, Array], packed: Packed) -> None:
    """Write config.json and the weights into an existing directory.

    tensors: by canonical name, matrices as uint8 (bytes,) from the core, the rest float32. Raises OSError.
    """
    matrices = {name: _filled_up(array) for name, array in tensors.items() if is_matrix(name)}
    rest = {name: tensors[name] for name in sorted(tensors.keys() - matrices.keys(), key=lambda n: n != _POSITIONS)}
    metadata = {
        _LAYOUT: str(packed.layout),
        _WEIGHTS: packed.weights,
        _CONFIG: json.dumps(_repeated(config), sort_keys=True),
    }
    write_as_stored(directory / WEIGHTS_FILE, {**matrices, **rest}, metadata)
    config.save(directory / CONFIG)


def _packed(file: Path, metadata: Mapping[str, str]) -> Packed:
    layout, weights = metadata.get(_LAYOUT, ""), metadata.get(_WEIGHTS, "")
    if not (layout.isascii() and layout.isdecimal() and len(layout) <= 6):
        raise CheckpointError(f"checkpoint {file}: it does not say which layout its weights have; it is not packed")
    if weights not in PACKED_WEIGHTS:
        raise CheckpointError(
            f"checkpoint {file}: its weights are said to be {shown(weights)}, expected {', '.join(PACKED_WEIGHTS)}"
        )
    return Packed(weights, int(layout))


def _repeated(config: GPTConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _REPEATED}


def _check_config(file: Path, config: GPTConfig, metadata: Mapping[str, str]) -> None:
    try:
        packed_with = parse_object(metadata.get(_CONFIG, "").encode("utf-8", "replace"))
    except ValueError as error:
        raise CheckpointError(f"checkpoint {file}: the configuration in it cannot be read: {error}") from None
    for name, value in _repeated(config).items():
        if packed_with.get(name) != value:
            raise CheckpointError(
                f"checkpoint {file}: {CONFIG} says {name} is {shown(str(value))}, but the weights were packed with "
                f"{shown(str(packed_with.get(name)))}"
            )


def _checked(tensor: StoredTensor, shape: tuple[int, ...] | None) -> StoredTensor:
    """The tensor, if it is F32 of this shape, or, for None, U8 of one dimension."""
    said = f"checkpoint {tensor.file}: tensor {tensor.name}"
    expected = "U8" if shape is None else "F32"
    if tensor.dtype != expected:
        raise CheckpointError(f"{said} is {tensor.dtype}, expected {expected}")
    if len(tensor.shape) != 1 if shape is None else tensor.shape != shape:
        raise CheckpointError(f"{said} has shape {tensor.shape}, expected {shape or 'one dimension'}")
    mapped = shape is None or tensor.name == _POSITIONS
    if mapped and tensor.raw.__array_interface__["data"][0] % CACHE_LINE:
        raise CheckpointError(f"{said} does not begin on a cache line; pack the model again with `gptwo quantize`")
    return tensor


def _filled_up(array: Array) -> Array:
    """Bytes, with zeros up to the end of a cache line."""
    missing = -array.size % CACHE_LINE
    return np.concatenate([array, np.zeros(missing, np.uint8)]) if missing else array
