"""The decoder protocol over the compiled core (csrc/): a CPU, no PyTorch, the same bits everywhere.

C width. The core does the work; here its weights are handed over, and the environment is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gptwo import _native
from gptwo.checkpoint import Packed, StoredTensor
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.packed_format import CACHE_LINE, UNFOLD, is_matrix
from gptwo.checkpoint.stored import Array
from gptwo.config import GPTConfig
from gptwo.cpus import available_cpus
from gptwo.decoder.protocol import Floats, Integers
from gptwo.errors import (
    CheckpointError,
    DecoderError,
    InvalidRequestError,
    NumericalError,
    OutOfMemoryError,
)
from gptwo.options import MOST_THREADS

Weights = Literal["f32", "bf16", "int8", "int4"]
Cache = Literal["auto", "f32", "bf16"]

LAYOUT_VERSION: Final = _native.LAYOUT_VERSION
"""Of packed matrices; a file that was packed in another cannot be read."""

# The numbers are those of the enumerations in csrc/kernels.hpp.
FORMATS: Final[Mapping[str, int]] = {"f32": 0, "bf16": 1, "int8": 2, "int4": 3}
ACTIVATIONS: Final[Mapping[str, int]] = {
    "gelu": 1,
    "gelu_new": 2,
    "gelu_fast": 2,
    "gelu_pytorch_tanh": 2,
    "quick_gelu": 3,
    "relu": 4,
    "silu": 5,
    "swish": 5,
    "tanh": 6,
}


class NativeDecoder:
    """GPT-2 behind the decoder protocol (see there for the methods). Its methods may be called from any thread."""

    exact = True

    def __init__(
        self,
        config: GPTConfig,
        tensors: Mapping[str, StoredTensor],
        *,
        weights: Weights = "f32",
        packed: Packed | None = None,
        cache: Cache = "auto",
        threads: int | None = None,
    ) -> None:
        """Hand the weights to the core, which packs them into its layout, or maps them if they are `packed`.

        tensors: all those of the configuration, by canonical name. weights: f32, bf16, int8 (blocks of 64 inputs) or
        int4 (blocks of 32; embedding and head int8). packed: that of a packed checkpoint, whose format then is the one
        that `weights` must name. cache: how keys and values are kept; `auto` is f32 beside f32 weights, else bf16,
        which halves what a long text reads. threads: None takes GPTWO_THREADS, else the CPUs that this process may use.
        GPTWO_ISA names an instruction set other than the fastest.

        Raises CheckpointError for a tensor that is missing, of another dtype or shape, or packed in another way,
        NumericalError for weights that are not finite, InvalidRequestError for an environment variable that says what
        cannot be and for a configuration that the core cannot run (`unsupported`), OutOfMemoryError.
        """
        reason = unsupported(config)
        if reason is not None:
            raise InvalidRequestError(f"backend 'native' cannot run this model: {reason}", param="backend")
        self.config = config
        self.weights: Weights = weights
        self._packed_in: Path | None = None
        self._core = _empty_core(
            config,
            weights,
            bf16_cache=cache == "bf16" or (cache == "auto" and weights != "f32"),
            threads=threads if threads is not None else default_threads(),
        )
        for name, shape in expected_shapes(config):
            if name not in tensors:
                raise CheckpointError(f"tensor {name} is missing")
            if tensors[name].shape != shape and not (packed and is_matrix(name)):
                raise CheckpointError(f"tensor {name} has shape {tensors[name].shape}, expected {shape}")
        try:
            if packed is None:
                self._pack(tensors, weights)
            else:
                self._map(tensors, packed)
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            raise OutOfMemoryError(f"there is not enough memory for the weights as {weights}") from error
        self._core.check_complete()

    def _pack(self, tensors: Mapping[str, StoredTensor], weights: Weights) -> None:
        folds = _folds(self.config, tensors) if weights in ("int8", "int4") else {}
        for name, tensor in tensors.items():
            try:
                if is_matrix(name):
                    reader = _norm_before(name, self.config)
                    self._core.set(name, tensor.float32(), folds.get(reader) if reader else None)
                else:
                    self._core.set(name, _folded(name, tensor, folds))
            except NumericalError as error:
                raise NumericalError(f"checkpoint {tensor.file}: {error}") from None
            except MemoryError as error:
                raise OutOfMemoryError(f"there is not enough memory for tensor {name} as {weights}") from error
            tensor.release()
        unfold = _unfold(self.config, folds)
        if unfold is not None:
            self._core.set_unfold(unfold)

    def _map(self, tensors: Mapping[str, StoredTensor], packed: Packed) -> None:
        self._packed_in = tensors["wte.weight"].file
        if packed.layout != LAYOUT_VERSION:
            raise CheckpointError(
                f"checkpoint {self._packed_in}: its weights are packed in layout {packed.layout}, and this gptwo reads "
                f"layout {LAYOUT_VERSION}; pack the model again with `gptwo quantize`"
            )
        for name, tensor in tensors.items():
            size = self._core.mapped_bytes(name)
            if name == UNFOLD:
                self._core.set_unfold(_finite(tensor))
            elif size == 0:
                self._core.set(name, _finite(tensor))
            else:
                data = tensor.raw.reshape(-1).view(np.uint8)
                if not size <= data.size < size + CACHE_LINE:
                    raise CheckpointError(
                        f"checkpoint {tensor.file}: tensor {name} has {data.size} bytes, but {packed.weights} weights "
                        f"of this configuration take {size}"
                    )
                self._core.set_mapped(name, data[:size])

    def packed_tensors(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Array]:
        """What `save_packed` writes. tensors: those that this decoder was made of, unpacked.

        Matrices are uint8 (bytes,), views of the core's memory; the rest is float32.
        """
        folds = _folds(self.config, tensors) if self.weights in ("int8", "int4") else {}
        unfold = _unfold(self.config, folds)
        return {
            name: self._core.packed(name) if is_matrix(name) else _folded(name, tensor, folds)
            for name, tensor in tensors.items()
        } | ({} if unfold is None else {UNFOLD: unfold})

    @property
    def tier(self) -> str:
        """The instruction set that is used: portable, avx2, avx512 or avx512vnni."""
        return self._core.tier

    @property
    def threads(self) -> int:
        """How many threads a step runs on."""
        return self._core.threads

    @property
    def weight_bytes(self) -> int:
        """The memory that the weights take."""
        return self._core.weight_bytes

    @property
    def cache_blocks(self) -> int:
        """Blocks of 64 positions that open sequences hold, a shared one counted once."""
        return self._core.blocks_in_use

    def open(self) -> int:
        """Start an empty sequence."""
        return self._core.open()

    def close(self, sequence: int) -> None:
        """Forget a sequence."""
        self._core.close(sequence)

    def fork(self, sequence: int) -> int:
        """A second sequence with the same past; blocks are shared until one of the two writes into them."""
        return self._core.fork(sequence)

    def truncate(self, sequence: int, length: int) -> None:
        """Forget positions from `length` on."""
        self._core.truncate(sequence, length)

    def length(self, sequence: int) -> int:
        """Positions held."""
        return self._core.length(sequence)

    def forward(self, token_ids: Integers, sequence: Integers, positions: Integers, rows: Integers) -> Floats:
        """See the protocol. Raises NumericalError if the logits are not finite, and OutOfMemoryError; then no sequence
        has changed either.
        """
        try:
            logits = np.empty((len(rows), self.config.vocab_size), dtype=np.float32)
            self._core.forward(
                _integers(token_ids, "token ids"),
                _integers(sequence, "sequence numbers"),
                _integers(positions, "positions"),
                _integers(rows, "rows"),
                logits,
            )
        except NumericalError:
            self._explain()
            raise
        except MemoryError as error:
            raise OutOfMemoryError(f"there is not enough memory for a step of {len(token_ids)} tokens") from error
        return logits

    def _explain(self) -> None:
        """Raise a NumericalError that names the tensor, if it is a packed file that holds what is no number.

        Packed weights are mapped, not read, when they are loaded; a number that is none comes out in the logits.
        """
        name = self._core.first_not_finite() if self._packed_in is not None else ""
        if name:
            raise NumericalError(f"checkpoint {self._packed_in}: tensor {name} holds NaN or infinite values")


def packed_sizes(config: GPTConfig, weights: Weights) -> int | None:
    """Bytes of the tensors of a model that is packed (bf16, int8 or int4), without its weights.

    What outliers add (`unfold`, 4 C bytes) is not in it. None if the core cannot run such a model.
    """
    if unsupported(config) is not None:
        return None
    core = _empty_core(config, weights, bf16_cache=True, threads=1)
    return sum(
        -(-core.mapped_bytes(name) // CACHE_LINE) * CACHE_LINE if is_matrix(name) else 4 * math.prod(shape)
        for name, shape in expected_shapes(config)
    )


def _empty_core(config: GPTConfig, weights: Weights, *, bf16_cache: bool, threads: int) -> _native.Model:
    return _native.Model(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        width=config.n_embd,
        inner=config.inner_size,
        heads=config.n_head,
        epsilon=config.layer_norm_epsilon,
        tied=config.tie_word_embeddings,
        activation=ACTIVATIONS[config.activation_function],
        attention_scales=[config.attention_scale(layer) for layer in range(config.n_layer)],
        format=FORMATS[weights],
        bf16_cache=bf16_cache,
        threads=threads,
        tier=chosen_tier(),
    )


def unsupported(config: GPTConfig) -> str | None:
    """Why the core cannot run a model of this configuration; None, which every GPT-2 so far gets, if it can."""
    if config.activation_function not in ACTIVATIONS:
        return f"the core has no activation {config.activation_function!r}"
    return None


def _integers(values: npt.ArrayLike, what: str) -> Integers:
    """As int64 (N,), without a copy if they are. Raises DecoderError for what is not whole numbers of 64 bits."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.dtype.kind == "u" and int(array.max()) >= 1 << 63):
        raise DecoderError(f"{what} must be a row of 64-bit integers")
    return np.ascontiguousarray(array, dtype=np.int64)


def default_threads() -> int:
    """GPTWO_THREADS if it is set, else the CPUs that this process may use. Raises InvalidRequestError."""
    wanted = os.environ.get("GPTWO_THREADS", "")
    if not wanted:
        return available_cpus()
    if not wanted.isascii() or not wanted.isdecimal() or not 1 <= int(wanted[:6]) <= MOST_THREADS:
        raise InvalidRequestError(
            f"GPTWO_THREADS is {wanted[:20]!r}, expected a number from 1 to {MOST_THREADS}", param="threads"
        )
    return int(wanted)


def chosen_tier() -> str:
    """GPTWO_ISA if it is set, else "", the fastest. Raises InvalidRequestError for one that this machine lacks."""
    wanted = os.environ.get("GPTWO_ISA", "")
    known = _native.tiers()
    if wanted and wanted not in known:
        raise InvalidRequestError(
            f"GPTWO_ISA {wanted[:20]!r} is not an instruction set that this machine has: {', '.join(known)}"
        )
    return wanted


def _norm_before(name: str, config: GPTConfig) -> str | None:
    """The layer norm whose output the matrix `name` reads: `h.3.ln_1` for `h.3.attn.c_attn.weight`; None if none."""
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    if name == head:
        return "ln_f"
    for end, norm in ((".attn.c_attn.weight", ".ln_1"), (".mlp.c_fc.weight", ".ln_2")):
        if name.endswith(end):
            return name.removesuffix(end) + norm
    return None


def _folded(name: str, tensor: StoredTensor, folds: Mapping[str, Floats]) -> Floats:
    """A tensor that is no matrix, divided by its layer norm's factors if it is a gain or bias that has some."""
    fold = folds.get(name.rsplit(".", 1)[0])
    values = tensor.float32()
    return values if fold is None else values / fold


def _unfold(config: GPTConfig, folds: Mapping[str, Floats]) -> Floats | None:
    """What turns rows of the tied, folded head back into the embedding's."""
    return 1.0 / folds["ln_f"] if "ln_f" in folds and config.tie_word_embeddings else None


def _finite(tensor: StoredTensor) -> Floats:
    values = tensor.float32()
    if not np.isfinite(values).all():
        raise NumericalError(f"checkpoint {tensor.file}: tensor {tensor.name} holds NaN or infinite values")
    return values


def _folds(config: GPTConfig, tensors: Mapping[str, StoredTensor]) -> dict[str, Floats]:
    """For each layer norm, what its gain and bias are divided by and the next weights multiplied by: float32 (C,).

    In the integer formats the weights of an output share a scale in blocks of inputs. A channel with small weights, to
    make up for large activations, would vanish in its block, and its activations take their block's scale for
    themselves. The factors bring the mean magnitude of every channel's weights to that of the median channel, to within
    a factor of two; they are powers of two, so that nothing is rounded. A channel with large activations and weights
    like the others' is left to the second integer term of its block.
    After SmoothQuant (Xiao et al. 2022), with weights in place of measured activations.
    """
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    readers = {"ln_f": head}
    for layer in range(config.n_layer):
        readers |= {f"h.{layer}.ln_1": f"h.{layer}.attn.c_attn.weight", f"h.{layer}.ln_2": f"h.{layer}.mlp.c_fc.weight"}
    folds: dict[str, Floats] = {}
    for norm, reader in readers.items():
        sizes = _channel_sizes(tensors[reader].float32().T if reader == head else tensors[reader].float32())
        middle = float(np.median(sizes))
        if middle == 0.0:
            continue
        # A tied head's factors come back as rounding errors of the embedding where they are below one.
        least = 0 if norm == "ln_f" and config.tie_word_embeddings else -8
        fraction, exponent = np.frexp(middle / np.maximum(sizes, middle * 2.0**-30))
        exponent -= fraction < 0.5**0.5  # the nearest power of two, by comparisons that are the same on every machine
        folds[norm] = np.ldexp(np.float32(1.0), exponent.clip(least, 16))
    return folds


def _channel_sizes(weights: Floats) -> npt.NDArray[np.float64]:
    """The mean magnitude of each channel's weights (C, outputs), to 24 bits: float64 (C,). Zeros if not all are finite.

    Whole numbers are added up, which is exact in any order: the result is the same on every machine.
    """
    some = np.abs(weights[:, :: max(1, weights.shape[1] // 8192)])  # enough of a large vocabulary
    peak = float(some.max(initial=0.0))
    if not np.isfinite(peak):
        return np.zeros(len(weights))  # the core refuses them, by name
    shift = 24 - int(np.frexp(peak)[1])
    whole = np.trunc(np.ldexp(some, shift))
    sizes: npt.NDArray[np.float64] = np.ldexp(whole.sum(axis=1, dtype=np.float64), -shift) / some.shape[1]
    return sizes
