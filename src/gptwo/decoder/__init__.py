"""Decoders: what runs the model. `protocol.py` says what an engine needs; each backend is one file behind it."""

from __future__ import annotations

import importlib.util
from typing import cast

from gptwo.checkpoint import Checkpoint
from gptwo.decoder.protocol import Decoder
from gptwo.errors import InvalidRequestError, MissingDependencyError, nearest_name
from gptwo.options import MOST_THREADS, integer, shown

BACKENDS = ("auto", "native", "reference")
WEIGHTS = ("auto", "f32", "bf16", "int8", "int4")


def open_decoder(
    checkpoint: Checkpoint,
    *,
    backend: str = "auto",
    weights: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> Decoder:
    """A decoder with this checkpoint's weights.

    backend: `native` is the compiled core, on a CPU; `reference` is PyTorch; `auto` is the core on a CPU and PyTorch on
    other devices. weights: the type that the weights are held in; `auto` is `f32`, and only the core has `int8` and
    `int4`. threads: None leaves the choice to the backend. device: a PyTorch device.

    Raises InvalidRequestError for a value that is not known or that the backend does not have, NumericalError for
    weights that are not finite, MissingDependencyError if PyTorch is needed and absent.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise InvalidRequestError(f"{name} {shown(value)} is not known{nearest_name(str(value), known)}", name)
    integer(1, MOST_THREADS, optional=True)("threads", threads)
    held = "f32" if weights == "auto" else weights
    if backend == "native" and device != "cpu":
        raise InvalidRequestError(f"device {device!r}: the native backend runs on the CPU only", param="device")
    if backend == "native":
        from gptwo.decoder.native import NativeDecoder, Weights

        return NativeDecoder(checkpoint.config, checkpoint.tensors, weights=cast(Weights, held), threads=threads)
    if held not in ("f32", "bf16"):
        raise InvalidRequestError(f"weights {held!r}: the reference backend has f32 and bf16", param="weights")
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("running a model in PyTorch needs it installed: pip install 'gptwo[torch]'")
    from gptwo.decoder.reference import ReferenceDecoder

    return ReferenceDecoder(
        checkpoint.config,
        checkpoint.tensors,
        weights="bf16" if held == "bf16" else "f32",
        threads=threads,
        device=device,
    )
