"""Tiny checkpoints, made by hand, for the tests of the readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.stored import StoredTensor
from gptwo.config import GPTConfig

CONFIG = GPTConfig(vocab_size=11, n_positions=6, n_embd=4, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)


def random_arrays(config: GPTConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in expected_shapes(config)}


def stored(arrays: Mapping[str, np.ndarray], file: str = "FILE", dtype: str = "F32") -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, Path(file), dtype, array) for name, array in arrays.items()}


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header, as JSON or as raw bytes, and this data; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def arrays_as_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The safetensors file of float32 arrays, written as plainly as can be."""
    header, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return safetensors_bytes(header, data)


def write_directory(directory: Path, arrays: Mapping[str, np.ndarray], config: GPTConfig = CONFIG) -> Path:
    """A transformers directory of float32 arrays."""
    directory.mkdir(parents=True, exist_ok=True)
    config.save(directory / "config.json")
    (directory / "model.safetensors").write_bytes(arrays_as_bytes(arrays))
    return directory
