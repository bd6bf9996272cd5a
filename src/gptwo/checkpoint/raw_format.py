"""The format "raw": all tensors as float32, one after another, for programs that read nothing else.

A directory with parameters.bin: the tensors in C order, little-endian, in the order of the forward pass (wte, wpe, the
blocks, ln_f, and an untied head); parameters.json, the list of them: {"name", "shape", "size"}, the last in elements;
vocabulary.bin: for each id a length byte and the bytes of the token; and config.json, as transformers has it. Names and
shapes are the canonical ones, so that linear weights are (in, out).
"""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np

from gptwo.checkpoint.canonical import canonical_tensors, expected_shapes
from gptwo.checkpoint.json_object import MAX_BYTES, parse_list
from gptwo.checkpoint.safetensors_file import write_values
from gptwo.checkpoint.stored import STORED_AS, Array, Checkpoint, StoredTensor, shown
from gptwo.checkpoint.target import HasVocabulary, Take, Target
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.checkpoint.transformers_format import CONFIG
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError
from gptwo.vocabulary_files import RAW_FILE, vocabulary_bytes

DATA: Final = "parameters.bin"
LIST: Final = "parameters.json"
LOOKS_LIKE: Final = DATA

_DTYPE: Final = "F32"
_MOST_DIMENSIONS: Final = 8


def detect(path: Path) -> bool:
    """Whether a directory holds both files, or a file is named like one of them."""
    if path.is_dir():
        return (path / DATA).is_file() and (path / LIST).is_file()
    return path.name in (DATA, LIST) and path.is_file()


def read(path: Path) -> Checkpoint:
    """Map the tensors of a directory, or of one of its two files; no element is read.

    Raises CheckpointError naming file and tensor, and ConfigError.
    """
    directory = path if path.is_dir() else path.parent
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"checkpoint {path}: there is no {CONFIG} beside it, which says how many heads there are")
    for name in (LIST, DATA):
        if not (directory / name).is_file():  # which a pipe is not either
            raise CheckpointError(f"checkpoint {path}: there is no file {name} beside it")
    config = GPTConfig.load(directory / CONFIG)
    stored = _stored(directory / DATA, _entries(directory / LIST))
    config, tensors = canonical_tensors(config, stored, directory / DATA)
    return Checkpoint(config, tensors, path, "raw", tokenizer_in(directory))


def _entries(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors that the list names, with their shapes, in the order of the data."""
    try:
        with path.open("rb") as file:
            # Asking for more than there is would allocate it.
            entries = parse_list(file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from None
    shapes: dict[str, tuple[int, ...]] = {}
    for number, entry in enumerate(entries):
        name, shape, size = (entry.get(key) for key in ("name", "shape", "size")) if isinstance(entry, dict) else "???"
        if not isinstance(name, str) or not isinstance(shape, list) or not all(_is_count(length) for length in shape):
            raise CheckpointError(f"checkpoint {path}: entry {number} of the list is no name, shape and size")
        if name in shapes or len(shape) > _MOST_DIMENSIONS or size != math.prod(shape):
            raise CheckpointError(
                f"checkpoint {path}: tensor {shown(name)} is there twice, or its size is not that of its shape"
            )
        shapes[name] = tuple(shape)
    return shapes


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _stored(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    try:
        size = path.stat().st_size
        expected = sum(map(math.prod, shapes.values())) * STORED_AS[_DTYPE].itemsize
        if size != expected or not size:
            raise CheckpointError(f"checkpoint {path}: it has {size} bytes, but the tensors of {LIST} take {expected}")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    tensors, at = {}, 0
    for name, shape in shapes.items():
        try:
            raw: Array = np.ndarray(shape, STORED_AS[_DTYPE], buffer=mapped, offset=at)
        except (ValueError, OverflowError) as error:  # a shape such as (0, 2**62), which NumPy cannot express
            raise CheckpointError(f"checkpoint {path}: tensor {shown(name)} has an impossible shape: {error}") from None
        tensors[name] = StoredTensor(name, path, _DTYPE, raw)
        at += raw.nbytes
    return tensors


def write(directory: Path, config: GPTConfig, take: Take, dtype: str, tokenizer: HasVocabulary | None) -> None:
    """Write the files into an existing directory.

    Raises CheckpointError for values beyond float32, TokenizerError for a tokenizer that the format cannot hold, and
    OSError.
    """
    if tokenizer is not None:
        (directory / RAW_FILE).write_bytes(vocabulary_bytes(tokenizer.vocabulary, llmc=False))
    shapes = dict(expected_shapes(config))
    entries = [{"name": name, "shape": shape, "size": math.prod(shape)} for name, shape in shapes.items()]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    (directory / LIST).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    config.save(directory / CONFIG)
    with (directory / DATA).open("wb") as file:
        for name in shapes:
            write_values(file, take(name), dtype, name)


TARGET: Final = Target("the raw form", (_DTYPE,), write, files=(DATA, LIST, RAW_FILE))
