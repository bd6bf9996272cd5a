"""Writing an ONNX model into a directory, and running it in ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptwo.checkpoint import Checkpoint
from gptwo.checkpoint.stored import Floats
from gptwo.errors import MissingDependencyError
from gptwo.export.onnx_graph import LOGITS, build, past_names, present_names
from gptwo.export.onnx_weights import EXTERNAL_FILE, Weights

MODEL_FILE: Final = "model.onnx"

# A message of protobuf may have 2 GiB; the graph itself takes far less than what is left here.
_LARGEST: Final = 2**31 - 2**24

_BYTES: Final = {"f32": 4, "f16": 2, "int8": 1}


def write_onnx(directory: Path, checkpoint: Checkpoint, dtype: str, *, largest: int = _LARGEST) -> None:
    """Write model.onnx, and model.onnx_data beside it if the weights have more than `largest` bytes.

    dtype: f32, f16 or int8 (onnx_weights.py). Raises MissingDependencyError without onnx, NumericalError for weights
    beyond the range of the type, OSError as the file system does.
    """
    try:
        import onnx
    except ImportError as error:
        raise _missing("onnx") from error
    external = checkpoint.config.parameter_count * _BYTES[dtype] > largest
    with contextlib.ExitStack() as files:
        data = files.enter_context((directory / EXTERNAL_FILE).open("xb")) if external else None
        model = build(checkpoint.config, Weights(checkpoint.tensors, dtype, data))
        (directory / MODEL_FILE).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(directory / MODEL_FILE))


class OnnxModel:
    """An exported model in ONNX Runtime, on the CPU; one text at a time through `start` and `step`."""

    def __init__(self, directory: Path, layers: int, *, threads: int | None = None) -> None:
        """layers: of the model. Raises MissingDependencyError without onnxruntime."""
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing("onnxruntime") from error
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: as many as cores
        options.log_severity_level = 3  # errors: it warns of what it optimises away
        self._session = onnxruntime.InferenceSession(
            directory / MODEL_FILE, options, providers=["CPUExecutionProvider"]
        )
        first = next(value for value in self._session.get_inputs() if value.name == past_names(1)[0])
        self._empty = np.zeros((1, first.shape[1], 0, first.shape[3]), _FLOATS[first.type])
        self._layers = layers
        self._past: list[Any] = []

    def forward(
        self, token_ids: Any, attention_mask: Any, position_ids: Any, past: Sequence[Any] | None = None
    ) -> tuple[Floats, list[Any]]:
        """int64 (B, T), (B, S) and (B, T), and 2 L arrays (B, H, P, D) -> logits (B, T, V), 2 L arrays (B, H, S, D)."""
        if past is None:
            past = [np.repeat(self._empty, len(token_ids), axis=0)] * (2 * self._layers)
        feeds = {"input_ids": token_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        feeds |= dict(zip(past_names(self._layers), past, strict=True))
        logits, *present = self._session.run([LOGITS, *present_names(self._layers)], feeds)
        return logits, present

    def start(self, token_ids: Sequence[int]) -> Floats:
        """The logits (T, V) of a text from its beginning."""
        self._past = [self._empty] * (2 * self._layers)
        return self._feed(token_ids)

    def step(self, token_id: int) -> Floats:
        """The logits (V,) after one more token."""
        return np.asarray(self._feed([token_id])[0])

    def _feed(self, token_ids: Sequence[int]) -> Floats:
        held = self._past[0].shape[2]
        ids = np.array([token_ids], np.int64)
        every = np.arange(held + ids.shape[1])[None]
        logits, self._past = self.forward(ids, np.ones_like(every), every[:, held:], self._past)
        return np.asarray(logits[0])


_FLOATS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _missing(name: str) -> MissingDependencyError:
    return MissingDependencyError(f"ONNX needs the package {name}: pip install '.[export]' in gptwo's checkout")
