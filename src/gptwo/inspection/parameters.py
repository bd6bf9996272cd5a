"""What a checkpoint is made of: its tensors, the parts they belong to, and what each format would weigh.

Only names, shapes and places are read, so that a file of gigabytes takes no longer than a small one; norms read it all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptwo.checkpoint import TARGETS, Checkpoint, StoredTensor, load_checkpoint
from gptwo.checkpoint.canonical import EMBEDDING, HEAD, LINEAR_WEIGHTS, expected_shapes
from gptwo.checkpoint.packed_format import is_matrix
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError

PARTS: Final = ("embeddings", "attention", "mlp", "norms", "head")

NORMS_UP_TO: Final = 10**9
"""Bytes of weights; of more than these the norms are only read where they are asked for."""

_GGUF_BLOCK: Final = 32  # numbers
_GGUF_BLOCK_BYTES: Final = {"q8_0": 34, "q4_0": 18}  # a scale in f16 and the numbers

_READ_AT_ONCE: Final = 1 << 20  # elements


@dataclass(frozen=True)
class Parameter:
    """One tensor of a checkpoint."""

    name: str
    """The canonical name."""
    part: str
    """One of PARTS."""
    shape: tuple[int, ...]
    """That of the numbers it holds, packed or not."""
    dtype: str
    """safetensors' name of its type (F32, BF16, …), or the packed format (bf16, int8, int4)."""
    bytes: int
    """As it is stored."""
    norm: float | None
    """The square root of the sum of its squares; None where it was not read, and for packed matrices."""

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inventory:
    """All that `gptwo inspect` shows of a checkpoint."""

    path: Path
    format: str
    """The kind of checkpoint: transformers, nanogpt, packed, …"""
    config: GPTConfig
    parameters: tuple[Parameter, ...]
    """In the order of the forward pass."""
    parts: Mapping[str, tuple[int, int]]
    """By part, how many numbers it has and how many bytes they take."""
    formats: Mapping[str, int | None]
    """See `format_sizes`."""
    norms_read: bool

    @property
    def bytes(self) -> int:
        """Of all tensors as they are stored."""
        return sum(parameter.bytes for parameter in self.parameters)


def take_inventory(
    name_or_path: str | Path,
    *,
    norms: bool | None = None,
    revision: str | None = None,
    progress: bool = False,
    on_read: Callable[[float], None] = lambda share: None,
) -> Inventory:
    """What a checkpoint is made of, in any format that `load_checkpoint` takes; errors as there.

    norms: whether to read every number for the norms; None does so up to NORMS_UP_TO bytes. progress: show a bar while
    downloading. on_read: called with the share of the bytes that is read.
    """
    checkpoint = load_checkpoint(name_or_path, revision=revision, progress=progress)
    total = sum(tensor.raw.nbytes for tensor in checkpoint.tensors.values())
    norms_read = total <= NORMS_UP_TO if norms is None else norms
    shapes = dict(expected_shapes(checkpoint.config))
    parameters, read = [], 0
    for name, tensor in checkpoint.tensors.items():
        packed = checkpoint.packed is not None and is_matrix(name)
        parameters.append(
            Parameter(
                name=name,
                part=part_of(name),
                shape=shapes.get(name, tensor.shape),
                dtype=_packed_as(checkpoint, name) if packed else tensor.dtype,
                bytes=tensor.raw.nbytes,
                norm=norm(tensor) if norms_read and not packed else None,
            )
        )
        read += tensor.raw.nbytes
        on_read(read / max(total, 1))
    return Inventory(
        path=checkpoint.path,
        format=checkpoint.format,
        config=checkpoint.config,
        parameters=tuple(parameters),
        parts=_totals(parameters),
        formats=format_sizes(checkpoint.config),
        norms_read=norms_read,
    )


def part_of(name: str) -> str:
    """Which of PARTS a tensor belongs to, by its canonical name.

    Example: "h.3.attn.c_proj.bias" belongs to "attention".
    """
    if name == HEAD:
        return "head"
    for mark, part in ((".ln_", "norms"), (".attn.", "attention"), (".mlp.", "mlp")):
        if mark in f".{name}":
            return part
    return "embeddings"


def norm(tensor: StoredTensor) -> float:
    """The square root of the sum of squares, in float64, read piece by piece; NaN or inf where the tensor holds such.

    What was read is given back to the system.
    """
    rows = len(tensor.raw)
    step = max(1, _READ_AT_ONCE * rows // max(1, tensor.raw.size))
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows, step):
            values = replace(tensor, raw=tensor.raw[start : start + step]).float32().astype(np.float64)
            total += float(np.square(values).sum())
    tensor.release()
    return math.sqrt(total)


def format_sizes(config: GPTConfig) -> dict[str, int | None]:
    """Bytes of the weights by format, the tied head counted once; None for one that cannot hold this model.

    f32 and f16 are what a directory for transformers holds; bf16, int8 and int4 what `gptwo quantize` writes, and q8_0
    and q4_0 a GGUF. In these the matrices are packed with their scales, and vectors and positions are float32: so bf16
    is larger than f16.
    """
    from gptwo.decoder.native import packed_sizes

    return {
        "f32": 4 * config.parameter_count,
        "f16": 2 * config.parameter_count,
        "bf16": packed_sizes(config, "bf16"),
        "int8": packed_sizes(config, "int8"),
        "int4": packed_sizes(config, "int4"),
        "q8_0": _gguf_size(config, "q8_0"),
        "q4_0": _gguf_size(config, "q4_0"),
    }


def _gguf_size(config: GPTConfig, dtype: str) -> int | None:
    """Bytes of a GGUF's tensors in blocks, where the embedding and the head are q8_0 in either type."""
    try:
        TARGETS["gguf"].check(config)
    except CheckpointError:
        return None
    total = 0
    for name, shape in expected_shapes(config):
        if not is_matrix(name):
            total += 4 * math.prod(shape)
            continue
        if (shape[0] if name.endswith(LINEAR_WEIGHTS) else shape[-1]) % _GGUF_BLOCK:  # a row is not made of blocks
            return None
        kind = "q8_0" if name in (EMBEDDING, HEAD) else dtype
        total += math.prod(shape) // _GGUF_BLOCK * _GGUF_BLOCK_BYTES[kind]
    return total


def module_tree(config: GPTConfig) -> dict[str, Any]:
    """The modules and their parameters' shapes, nested as in the model: {"wte": {"weight": (V, C)}, "h": {"0": …}}."""
    tree: dict[str, Any] = {}
    for name, shape in expected_shapes(config):
        *modules, parameter = name.split(".")
        inner = tree
        for module in modules:
            inner = inner.setdefault(module, {})
        inner[parameter] = shape
    return tree


def _packed_as(checkpoint: Checkpoint, name: str) -> str:
    """The format of one packed matrix: in int4 the embedding and the head are int8."""
    assert checkpoint.packed is not None
    weights = checkpoint.packed.weights
    return "int8" if weights == "int4" and name in (EMBEDDING, HEAD) else weights


def _totals(parameters: Iterable[Parameter]) -> dict[str, tuple[int, int]]:
    totals = dict.fromkeys(PARTS, (0, 0))
    for parameter in parameters:
        count, size = totals[parameter.part]
        totals[parameter.part] = count + parameter.count, size + parameter.bytes
    return totals
