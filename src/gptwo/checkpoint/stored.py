"""What every format is read into: tensors as they lie in their files, and the checkpoint they belong to."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gptwo import options
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# How the elements of each dtype lie in memory, little-endian whatever the host. NumPy has no bfloat16 and no 8-bit
# floats: those are read as unsigned integers of their width.
STORED_AS: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
    "C64": np.dtype("<c8"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E4M3FNUZ": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E5M2FNUZ": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
}

WEIGHT_DTYPES: Final = ("F32", "F16", "BF16", "F64")
"""The dtypes that weights may have; every other one is readable as `raw` only."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor as it lies in a file. The file is mapped: nothing is read until an element is asked for."""

    name: str
    """The canonical name, or the name in the file where no canonical one was given yet."""
    file: Path
    dtype: str
    """safetensors' name: F32, F16, BF16, F64, I64, …"""
    raw: Array
    """The stored array, read-only, perhaps unaligned or not contiguous; its type is STORED_AS[dtype]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.raw.shape

    @property
    def is_floats(self) -> bool:
        """Whether `float32` gives its values."""
        return self.dtype in WEIGHT_DTYPES

    def float32(self) -> Floats:
        """The values as float32, in the tensor's shape.

        F32 is a read-only view of the mapped file, copied only where the bytes are unaligned or of the other byte
        order; F16 and BF16 are widened, exactly; F64 is rounded to the nearest. Neither a view nor a copy need be
        contiguous. Raises CheckpointError for a dtype that is not one of WEIGHT_DTYPES.
        """
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            widened: npt.NDArray[np.uint32] = np.left_shift(self.raw, 16, dtype=np.uint32)
            return widened.view(np.float32)
        if self.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"checkpoint {self.file}: tensor {shown(self.name)} is {self.dtype}, "
                f"expected {', '.join(WEIGHT_DTYPES)}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # an F64 beyond float32 becomes infinite
            return np.require(self.raw, np.float32, "A")

    def release(self) -> None:
        """Let the system have back the memory of what was read of the tensor's file; it is read again when needed."""
        base: object = self.raw
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)

    def renamed(self, name: str) -> StoredTensor:
        """The same tensor under another name."""
        return replace(self, name=name)

    def first_rows(self, count: int) -> StoredTensor:
        """The first `count` rows, a view."""
        return replace(self, raw=self.raw[:count])

    def transposed(self) -> StoredTensor:
        """The tensor with its axes reversed, a view."""
        return replace(self, raw=self.raw.T)


@dataclass(frozen=True)
class Packed:
    """How the matrices of a packed checkpoint lie in its file: as the core reads them, and nothing else can."""

    weights: str
    """Their format: bf16, int8 or int4."""
    layout: int
    """The version of the core's layout."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk: its configuration, and its tensors by canonical name, each checked against it.

    Canonical names are transformers' without any prefix: wte.weight (V, C), wpe.weight (n_positions, C),
    h.N.attn.c_attn.weight (C, 3C), …, ln_f.bias (C,); lm_head.weight (V, C) is there only if it is not tied.
    Linear weights are (in, out).
    """

    config: GPTConfig
    tensors: Mapping[str, StoredTensor]
    path: Path
    """The directory or file that was read."""
    format: str
    """The name of its row in the table of formats."""
    tokenizer_path: Path | None
    """What Tokenizer.load takes, if the checkpoint brings a tokenizer."""
    packed: Packed | None = None
    """Set if the matrices are packed: then they are U8 (bytes,), and the rest is F32 (packed_format.py)."""


def shown(name: str) -> str:
    """A tensor's name for a message: as it is if it is plain and not long, else quoted and cut short."""
    plain = name.isascii() and name.isprintable() and 0 < len(name) <= 80
    return name if plain else options.shown(name)
