"""A checkpoint as files that other engines run: ONNX, Core ML, TorchScript and torch.export.

One module makes each kind and one runs it; report.py compares what it says with what the model says here.
"""

from __future__ import annotations

from typing import Final

# The types of weights that each target has, its usual one first.
DTYPES: Final = {
    "onnx": ("f32", "f16", "int8"),
    "coreml": ("f16", "pal8", "pal6", "pal4"),
    "torch": ("f32", "bf16", "f16"),
}
