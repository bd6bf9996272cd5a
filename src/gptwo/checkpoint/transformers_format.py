"""The format "transformers": a directory with config.json and the weights, as `save_pretrained` writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from gptwo.checkpoint.canonical import HEAD, canonical_tensors, expected_shapes
from gptwo.checkpoint.json_object import MAX_BYTES, parse_object
from gptwo.checkpoint.safetensors_file import WRITTEN_DTYPES, read_safetensors, write_taken
from gptwo.checkpoint.stored import Checkpoint, StoredTensor, shown
from gptwo.checkpoint.target import SavesTokenizer, Take, Target
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.checkpoint.torch_pickle import load_pickle, stored_tensors
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError

CONFIG: Final = "config.json"
WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The files that hold the weights or list those that do; the first that is there is read."""

LOOKS_LIKE: Final = f"{CONFIG}, {WEIGHTS[0]}"

_PREFIX: Final = "transformer."
_INDEX: Final = ".index.json"
_SAFETENSORS: Final = ".safetensors"
_PICKLE: Final = ".bin"
_POINTER: Final = b"version https://git-lfs"
_TORCH_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def detect(path: Path) -> bool:
    """Whether a directory holds one of WEIGHTS, or a file is named like one."""
    if path.is_dir():
        return weights_file(path) is not None
    return path.is_file() and path.name.endswith((_SAFETENSORS, _PICKLE, _INDEX))


def weights_file(directory: Path) -> Path | None:
    """The first of WEIGHTS that a directory holds."""
    return next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)


def read(path: Path) -> Checkpoint:
    """Read a directory, or one weights file or index with its config.json beside it.

    Raises ConfigError for a configuration that is not a GPT-2's, CheckpointError for anything else that is wrong.
    """
    directory = path if path.is_dir() else path.parent
    weights = weights_file(directory) if path.is_dir() else path
    if weights is None:
        raise CheckpointError(f"checkpoint {path}: no weights there, expected one of {', '.join(WEIGHTS)}")
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"checkpoint {weights}: there is no {CONFIG} beside it")
    config = GPTConfig.load(directory / CONFIG)
    stored = _read_sharded(weights) if weights.name.endswith(_INDEX) else _read_file(weights)
    config, tensors = canonical_tensors(config, stored, weights)
    return Checkpoint(config, tensors, path, "transformers", tokenizer_in(directory))


def read_index(path: Path) -> dict[str, list[str]]:
    """The shards that an index lists, and the tensors in each: {file name: [tensor name, …]}.

    Raises CheckpointError if it is no such index, or names a file that is not in its own directory.
    """
    try:
        with path.open("rb") as file:
            # Asking for more than there is would allocate it.
            index = parse_object(file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"checkpoint {path}: it has no weight_map, which says which file holds which tensor")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith((_SAFETENSORS, _PICKLE)) or not _is_plain_name(shard):
            said = shown(shard) if isinstance(shard, str) else f"a {type(shard).__name__}"
            raise CheckpointError(
                f"checkpoint {path}: tensor {shown(tensor)} is said to be in {said}, which is no shard"
            )
        shards.setdefault(shard, []).append(tensor)
    return shards


def _is_plain_name(name: str) -> bool:
    return len(name) <= 255 and name.isprintable() and not set(name) & set("/\\:")


def _read_sharded(index: Path) -> dict[str, StoredTensor]:
    tensors = {}
    for shard, names in read_index(index).items():
        file = index.with_name(shard)
        if not file.is_file():
            raise CheckpointError(f"checkpoint {index}: its shard {shown(shard)} is not there")
        there = _read_file(file)
        for name in names:
            if name not in there:
                raise CheckpointError(
                    f"checkpoint {file}: tensor {shown(name)} is missing, though {index.name} lists it"
                )
            tensors[name] = there[name]
    return tensors


def _read_file(path: Path) -> dict[str, StoredTensor]:
    _refuse_pointer(path)
    if path.name.endswith(_SAFETENSORS):
        return read_safetensors(path)
    return stored_tensors(path, load_pickle(path))


def _refuse_pointer(path: Path) -> None:
    """A clone made without Git LFS holds short texts in place of the weights."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    if is_pointer:
        raise CheckpointError(f"checkpoint {path}: only a Git LFS pointer, not the weights; run `git lfs pull` there")


def write(directory: Path, config: GPTConfig, take: Take, dtype: str, tokenizer: SavesTokenizer | None) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into an existing directory.

    Raises CheckpointError for values beyond the range of `dtype`, and OSError.
    """
    # The names that save_pretrained gives: all but the head's lie under `transformer.`.
    shapes = {name if name == HEAD else _PREFIX + name: shape for name, shape in expected_shapes(config)}
    write_taken(directory / WEIGHTS[0], shapes, lambda name: take(name.removeprefix(_PREFIX)), dtype)
    # transformers would load in the dtype that the configuration names, not in that of the file.
    extra = {key: value for key, value in config.extra.items() if key != "torch_dtype"}
    config.replace(extra={**extra, "dtype": _TORCH_DTYPES[dtype]}).save(directory / CONFIG)
    if tokenizer is not None:
        tokenizer.save(directory)


TARGET: Final = Target("a transformers directory", WRITTEN_DTYPES, write, files=WEIGHTS)
