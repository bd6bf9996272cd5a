"""The decoder protocol over the compiled core (csrc/): a CPU, no PyTorch, the same bits everywhere.

C width. The core does the work; here its weights are handed over, and the environment is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from gptwo import _native
from gptwo.checkpoint import StoredTensor
from gptwo.config import GPTConfig
from gptwo.decoder.protocol import Floats, Integers
from gptwo.errors import InvalidRequestError, NumericalError, nearest_name

Weights = Literal["f32", "bf16", "int8", "int4"]

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
        cache: Literal["f32", "bf16"] = "f32",
        threads: int | None = None,
    ) -> None:
        """Pack the weights into the core's layout.

        weights: f32, bf16, int8 (blocks of 64 inputs) or int4 (blocks of 32; embedding and head int8). cache: how keys
        and values are kept. threads: None takes GPTWO_THREADS, else the CPUs that this process may use. GPTWO_ISA names
        an instruction set other than the fastest.

        Raises NumericalError for weights that are not finite, InvalidRequestError for an environment variable that
        says what cannot be.
        """
        self.config = config
        self._core = _native.Model(
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
            bf16_cache=cache == "bf16",
            threads=threads if threads is not None else default_threads(),
            tier=chosen_tier(),
        )
        folds = _folds(config, tensors) if weights in ("int8", "int4") else {}
        for name, tensor in tensors.items():
            values = tensor.float32()
            norm = name.rsplit(".", 1)[0]
            if norm in folds:
                self._core.set(name, values / folds[norm])
            else:
                reader = _norm_before(name, config)
                self._core.set(name, values, folds.get(reader) if reader else None)
        if "ln_f" in folds and config.tie_word_embeddings:
            self._core.set_unfold(1.0 / folds["ln_f"])
        self._core.check_complete()

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
        """See the protocol. Raises NumericalError if the logits are not finite; then no sequence has changed either."""
        logits = np.empty((len(rows), self.config.vocab_size), dtype=np.float32)
        self._core.forward(
            np.ascontiguousarray(token_ids, dtype=np.int64),
            np.ascontiguousarray(sequence, dtype=np.int64),
            np.ascontiguousarray(positions, dtype=np.int64),
            np.ascontiguousarray(rows, dtype=np.int64),
            logits,
        )
        return logits


def default_threads() -> int:
    """GPTWO_THREADS if it is set, else the CPUs that this process may use. Raises InvalidRequestError."""
    wanted = os.environ.get("GPTWO_THREADS", "")
    if not wanted:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not wanted.isascii() or not wanted.isdecimal() or not 1 <= int(wanted[:6]) <= 4096:
        raise InvalidRequestError(
            f"GPTWO_THREADS is {wanted[:20]!r}, expected a number from 1 to 4096", param="threads"
        )
    return int(wanted)


def chosen_tier() -> str:
    """GPTWO_ISA if it is set, else "", the fastest. Raises InvalidRequestError for one that this machine lacks."""
    wanted = os.environ.get("GPTWO_ISA", "")
    known = _native.tiers()
    if wanted and wanted not in known:
        hint = nearest_name(wanted, known)
        raise InvalidRequestError(f"GPTWO_ISA {wanted[:20]!r} is not an instruction set that this machine has{hint}")
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


def _folds(config: GPTConfig, tensors: Mapping[str, StoredTensor]) -> dict[str, Floats]:
    """For each layer norm, what its gain and bias are divided by and the next weights multiplied by: float32 (C,).

    A channel with a gain far above the others would take the scale of its block of activations for itself, and its
    weights, which are small to make up for it, would vanish among their block's. The factors are powers of two, so
    that nothing is rounded, and bring the gains to within a factor of two of their median.
    After SmoothQuant (Xiao et al. 2022), with the gains in place of measured activations.
    """
    folds: dict[str, Floats] = {}
    norms = [f"h.{layer}.{norm}" for layer in range(config.n_layer) for norm in ("ln_1", "ln_2")]
    for norm in [*norms, "ln_f"]:
        gain = np.abs(tensors[f"{norm}.weight"].float32().astype(np.float64))
        if not np.isfinite(gain).all():
            raise NumericalError(f"tensor {norm}.weight cannot be used: it holds NaN or infinite values")
        middle = float(np.median(gain))
        if middle == 0.0:
            continue
        # A tied head's factors come back as rounding errors of the embedding where they are below one.
        least = 0.0 if norm == "ln_f" and config.tie_word_embeddings else -8.0
        exponent = np.rint(np.log2(np.maximum(gain, middle * 2.0**-30) / middle)).clip(least, 16.0)
        folds[norm] = np.exp2(exponent).astype(np.float32)
    return folds
