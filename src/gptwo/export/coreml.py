"""GPT-2 as a Core ML package whose keys and values are the model's own state.

T new positions, S cached + new positions, N positions of the model, L layers, H heads, D head size, V vocabulary.

An input names the new tokens and a mask (1, 1, T, S), 0 where a new position may look and -inf (or a number far
below zero) elsewhere; its sizes say where in the cache the new positions go. A new state is an empty cache.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.checkpoint import Checkpoint
from gptwo.checkpoint.stored import Floats
from gptwo.errors import ExportError, MissingDependencyError, NumericalError, one_line
from gptwo.model import GPT2, KeysValues

PACKAGE: Final = "model.mlpackage"

INPUT_IDS, CAUSAL_MASK, LOGITS = "input_ids", "causal_mask", "logits"
STATES: Final = ("key_cache", "value_cache")

_HALF_LARGEST: Final = 65504.0
_CLUSTERED: Final = {"pal8": 8, "pal6": 6, "pal4": 4}  # bits of an index into a palette


class StatefulGPT2(nn.Module):
    """GPT-2 that writes keys and values into buffers of its own, which Core ML keeps as states."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        config = model.config
        self.model = model
        for name in STATES:
            shape = (config.n_layer, 1, config.n_head, config.n_positions, config.head_size)
            self.register_buffer(name, torch.zeros(shape))  # (L, 1, H, N, D)

    def forward(self, input_ids: Tensor, causal_mask: Tensor) -> Tensor:
        """Int (1, T) and float (1, 1, T, S) -> logits (1, T, V)."""
        end = causal_mask.shape[3]
        begin = end - input_ids.shape[1]
        positions = torch.arange(begin, end)  # (T,)
        x = self.model.wte(input_ids) + self.model.wpe(positions)  # (1, T, C)
        for layer, block in enumerate(self.model.h):
            x, _ = block(x, _Cache(self, layer, begin, end), causal_mask)
        return F.linear(self.model.ln_f(x), self.model.head_weight)


class _Cache:
    """One layer's part of the buffers, in the place of KeysValues."""

    def __init__(self, model: StatefulGPT2, layer: int, begin: int, end: int) -> None:
        self._caches = [getattr(model, name) for name in STATES]
        self._layer, self._begin, self._end = layer, begin, end

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Both (1, H, T, D), written at their positions -> all (1, H, S, D) up to here."""
        for cache, new in zip(self._caches, (keys, values), strict=True):
            cache[self._layer, :, :, self._begin : self._end, :] = new
        return KeysValues(*(cache[self._layer, :, :, : self._end, :] for cache in self._caches))


def traced(model: GPT2) -> Any:
    """The stateful model as TorchScript, its T and S free: what Core ML's tools convert."""
    stateful = StatefulGPT2(model).eval()
    examples = torch.zeros((1, 1), dtype=torch.int32), torch.zeros((1, 1, 1, 1))
    with _silence(), torch.no_grad():
        return torch.jit.trace(stateful, examples, check_trace=False)  # type: ignore[no-untyped-call]


def write_coreml(directory: Path, checkpoint: Checkpoint, dtype: str) -> None:
    """Write model.mlpackage, for macOS 15 and iOS 18 on. It computes in float16.

    dtype: f16, or pal8, pal6 and pal4, whose matrices are indices of so many bits into palettes that k-means chose.
    Raises MissingDependencyError without coremltools, NumericalError for weights beyond float16, ExportError if the
    tools fail.
    """
    ct = _tools()
    arrays = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    for name, array in arrays.items():
        if not np.abs(array).max() <= _HALF_LARGEST:
            raise NumericalError(f"tensor {name} holds values that float16 cannot hold")
    config = checkpoint.config
    script = traced(GPT2.from_arrays(config, arrays).requires_grad_(False))
    new = ct.RangeDim(1, config.n_positions, default=1)
    every = ct.RangeDim(1, config.n_positions, default=1)
    cache = (config.n_layer, 1, config.n_head, config.n_positions, config.head_size)
    try:
        with _silence():
            package = ct.convert(
                script,
                inputs=[
                    ct.TensorType(INPUT_IDS, (1, new), dtype=np.int32),
                    ct.TensorType(CAUSAL_MASK, (1, 1, new, every), dtype=np.float16),
                ],
                outputs=[ct.TensorType(LOGITS, dtype=np.float16)],
                states=[ct.StateType(ct.TensorType(shape=cache, dtype=np.float16), name=name) for name in STATES],
                minimum_deployment_target=ct.target.iOS18,
                compute_precision=ct.precision.FLOAT16,
                skip_model_load=True,
            )
            if dtype in _CLUSTERED:
                package = _clustered(ct, package, _CLUSTERED[dtype])
            package.save(str(directory / PACKAGE))
    except Exception as error:
        raise ExportError(f"coremltools could not convert the model: {one_line(error)}") from error


def _clustered(ct: Any, package: Any, bits: int) -> Any:
    """The package with each matrix as indices into a palette of 2^bits values, unless it has no more elements."""
    optimize = ct.optimize.coreml
    settings = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=2**bits)
    return optimize.palettize_weights(package, optimize.OptimizationConfig(global_config=settings))


class CoreMLModel:
    """model.mlpackage on macOS 15 or later, one text at a time through `start` and `step`."""

    def __init__(self, directory: Path) -> None:
        """Raises MissingDependencyError without coremltools."""
        self.engine = f"Core ML, coremltools {importlib.metadata.version('coremltools')}"
        self._model = _tools().models.MLModel(str(directory / PACKAGE))
        self._state: Any = None
        self._held = 0

    def start(self, token_ids: Sequence[int]) -> Floats:
        """The logits (T, V) of a text from its beginning."""
        self._state, self._held = self._model.make_state(), 0
        return self._feed(token_ids)

    def step(self, token_id: int) -> Floats:
        """The logits (V,) after one more token."""
        return np.asarray(self._feed([token_id])[0])

    def _feed(self, token_ids: Sequence[int]) -> Floats:
        mask = causal_mask(len(token_ids), self._held)
        inputs = {INPUT_IDS: np.array([token_ids], np.int32), CAUSAL_MASK: mask.astype(np.float16)}
        logits = self._model.predict(inputs, self._state)[LOGITS][0]
        self._held += len(token_ids)
        return np.asarray(logits, np.float32)


def causal_mask(new: int, held: int) -> Floats:
    """float32 (1, 1, T, S): what stands before the new positions and each of them itself may be seen.

    Example: causal_mask(2, 1) is [[[[0, 0, -inf], [0, 0, 0]]]].
    """
    unseen = np.triu(np.ones((new, held + new), bool), held + 1)
    return np.where(unseen, np.float32(-np.inf), np.float32(0))[None, None]


def _tools() -> Any:
    """The module coremltools."""
    try:
        with _silence():
            import coremltools
    except ImportError as error:
        raise MissingDependencyError(
            "Core ML needs coremltools and a NumPy below 2.3: pip install '.[coreml]' in an environment of its own, in "
            "gptwo's checkout"
        ) from error
    return coremltools


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without coremltools' bars and its remarks on versions and tracing: what goes wrong is raised."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
