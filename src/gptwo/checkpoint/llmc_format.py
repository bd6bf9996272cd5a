"""The format "llmc": the model.bin that llm.c trains and runs, beside the gpt2_tokenizer.bin of its vocabulary.

A header of 256 int32: a magic number, the version (3 is float32, 5 bfloat16), positions P, vocabulary V, layers L,
heads, width C, padded vocabulary; then the tensors, each kind for all the layers together, linear weights as (out, in).
The activation is GELU by tanh; the head is tied.
Source: https://github.com/karpathy/llm.c, write_model in train_gpt2.py.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from gptwo.checkpoint.canonical import EMBEDDING, LINEAR_WEIGHTS, canonical_tensors, end_of_text_ids, expected_shapes
from gptwo.checkpoint.safetensors_file import write_values
from gptwo.checkpoint.stored import STORED_AS, Array, Checkpoint, StoredTensor
from gptwo.checkpoint.target import GELU_BY_TANH, PUBLISHED, HasVocabulary, Take, Target
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError
from gptwo.vocabulary_files import LLMC_FILE, vocabulary_bytes

FILE: Final = "model.bin"
LOOKS_LIKE: Final = FILE

_MAGIC: Final = 20240326
_HEADER: Final = struct.Struct("<8i992x")  # 256 int32
_DTYPES: Final = {3: "F32", 5: "BF16"}
_PADDED_TO: Final = 128  # rows of the embedding


def detect(path: Path) -> bool:
    """Whether a file in .bin, or model.bin in a directory, begins with llm.c's number."""
    file = path / FILE if path.is_dir() else path
    if not file.name.endswith(".bin") or not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(4) == _MAGIC.to_bytes(4, "little")


def read(path: Path) -> Checkpoint:
    """Map the file, or that in a directory; no element is read. Raises CheckpointError and ConfigError."""
    file = path / FILE if path.is_dir() else path
    mapped, size = _map(file)
    _, version, positions, vocabulary, layers, heads, width, padded = _HEADER.unpack_from(mapped)
    if version not in _DTYPES:
        raise CheckpointError(
            f"checkpoint {file}: it is of version {version}; gptwo reads 3 (float32) and 5 (bfloat16)"
        )
    try:
        config = GPTConfig(
            vocab_size=vocabulary,
            n_positions=positions,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            activation_function=GELU_BY_TANH,
            **end_of_text_ids(vocabulary),
        )
    except ConfigError as error:
        raise ConfigError(f"checkpoint {file}: {error}") from None
    dtype = STORED_AS[_DTYPES[version]]
    elements = config.parameter_count + (padded - vocabulary) * width
    expected = _HEADER.size + elements * dtype.itemsize
    if padded < vocabulary or size != expected:
        raise CheckpointError(
            f"checkpoint {file}: it has {size} bytes, but by its header ({layers} layers, width {width}, vocabulary "
            f"{vocabulary} padded to {padded}, {positions} positions, {_DTYPES[version]}) it has {expected}"
        )
    stored = {}
    at = _HEADER.size
    for name, shape in _file_order(config, padded):
        raw: Array = np.ndarray(shape, dtype, buffer=mapped, offset=at)
        at += math.prod(shape) * dtype.itemsize
        tensor = StoredTensor(name, file, _DTYPES[version], raw)
        stored[name] = tensor.transposed() if name.endswith(LINEAR_WEIGHTS) else tensor
    stored[EMBEDDING] = stored[EMBEDDING].first_rows(vocabulary)
    config, tensors = canonical_tensors(config, stored, file)
    return Checkpoint(config, tensors, path, "llmc", tokenizer_in(file.parent))


def _map(file: Path) -> tuple[mmap.mmap, int]:
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size < _HEADER.size:
            raise CheckpointError(f"checkpoint {file}: it has {size} bytes, too few for llm.c's header")
        return mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ), size


def _file_order(config: GPTConfig, padded: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor in the order of the file, by canonical name and with its shape there."""
    shapes = dict(expected_shapes(config))
    first = [name for name in shapes if name.startswith("h.0.")]
    kinds = [f"h.{layer}.{name.removeprefix('h.0.')}" for name in first for layer in range(config.n_layer)]
    yield EMBEDDING, (padded, config.n_embd)
    for name in ("wpe.weight", *kinds, "ln_f.weight", "ln_f.bias"):
        yield name, shapes[name][::-1] if name.endswith(LINEAR_WEIGHTS) else shapes[name]


def write(directory: Path, config: GPTConfig, take: Take, dtype: str, tokenizer: HasVocabulary | None) -> None:
    """Write model.bin and gpt2_tokenizer.bin into an existing directory.

    The embedding gets rows of zeros up to a multiple of 128. Raises CheckpointError for values beyond the range of
    `dtype`, TokenizerError for a tokenizer that the format cannot hold, and OSError.
    """
    version = next(version for version, name in _DTYPES.items() if name == dtype)
    padded = -(-config.vocab_size // _PADDED_TO) * _PADDED_TO
    sizes = (config.n_positions, config.vocab_size, config.n_layer, config.n_head, config.n_embd, padded)
    if tokenizer is not None:
        (directory / LLMC_FILE).write_bytes(vocabulary_bytes(tokenizer.vocabulary, llmc=True))
    with (directory / FILE).open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, version, *sizes))
        for name, shape in _file_order(config, padded):
            values = take(name)
            write_values(file, values.T if name.endswith(LINEAR_WEIGHTS) else values, dtype, name)
            file.write(bytes((math.prod(shape) - values.size) * STORED_AS[dtype].itemsize))


TARGET: Final = Target(
    "llm.c",
    ("F32", "BF16"),
    write,
    files=(FILE, LLMC_FILE),
    fixed={**PUBLISHED, "activation_function": GELU_BY_TANH},
)
