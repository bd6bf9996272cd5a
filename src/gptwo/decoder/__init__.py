"""Decoders: what runs the model. `protocol.py` says what an engine needs; each backend is one file behind it."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, cast

from gptwo.checkpoint import Checkpoint
from gptwo.decoder.protocol import Decoder
from gptwo.errors import BackendWarning, InvalidRequestError, MissingDependencyError, nearest_name, one_line
from gptwo.options import MOST_THREADS, integer, shown

if TYPE_CHECKING:
    from gptwo.decoder.native import Cache, Weights

BACKENDS = ("auto", "native", "reference")
WEIGHTS = ("auto", "f32", "bf16", "int8", "int4")
CACHES = ("auto", "f32", "bf16")


def open_decoder(
    checkpoint: Checkpoint,
    *,
    backend: str = "auto",
    weights: str = "auto",
    cache: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> Decoder:
    """A decoder with this checkpoint's weights.

    backend: `native` is the compiled core, on a CPU; `reference` is PyTorch; `auto` is the core on a CPU and PyTorch on
    other devices, and, with a BackendWarning, for a model that the core cannot run. weights: the type that the weights
    are held in; only the core has `int8` and `int4`. `auto` keeps what the file holds: the format of packed weights,
    `bf16` in the core if all matrices are bfloat16, else `f32`. cache: the type of keys and values in the core;
    `auto` is f32 beside f32 weights, else bf16; the reference keeps them like its weights. threads: None leaves the
    choice to the backend. device: a PyTorch device.

    Raises InvalidRequestError for a value that is not known or that the backend or the checkpoint does not have,
    CheckpointError for packed weights that do not fit, NumericalError for weights that are not finite,
    MissingDependencyError if PyTorch is needed and absent, OutOfMemoryError.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("weights", weights, WEIGHTS), ("cache", cache, CACHES)):
        if value not in known:
            raise InvalidRequestError(f"{name} {shown(value)} is not known{nearest_name(str(value), known)}", name)
    integer(1, MOST_THREADS, optional=True)("threads", threads)
    if backend == "native" and device != "cpu":
        raise InvalidRequestError(f"device {device!r}: the native backend runs on the CPU only", param="device")
    if checkpoint.packed is not None:
        _check_packed(checkpoint, checkpoint.packed.weights, backend=backend, weights=weights, device=device)
    if backend == "native" or (backend == "auto" and device == "cpu" and _core_runs(checkpoint, weights)):
        from gptwo.decoder.native import NativeDecoder

        return NativeDecoder(
            checkpoint.config,
            checkpoint.tensors,
            weights=cast("Weights", _held(checkpoint) if weights == "auto" else weights),
            packed=checkpoint.packed,
            cache=cast("Cache", cache),
            threads=threads,
        )
    if weights not in ("auto", "f32", "bf16"):
        raise InvalidRequestError(f"weights {weights!r}: the reference backend has f32 and bf16", param="weights")
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("running a model in PyTorch needs it: pip install '.[torch]' in gptwo's checkout")
    from gptwo.decoder.reference import ReferenceDecoder

    return ReferenceDecoder(
        checkpoint.config,
        checkpoint.tensors,
        weights="bf16" if weights == "bf16" else "f32",
        threads=threads,
        device=device,
    )


def _held(checkpoint: Checkpoint) -> str:
    """The format of the weights in the file, among those of the core."""
    if checkpoint.packed is not None:
        return checkpoint.packed.weights
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2}
    return "bf16" if dtypes == {"BF16"} else "f32"


def _check_packed(checkpoint: Checkpoint, held: str, *, backend: str, weights: str, device: str) -> None:
    """Packed weights are what they are: only the core reads them, and what packing rounded away is gone."""
    if weights not in ("auto", held):
        raise InvalidRequestError(
            f"weights {weights!r}: {checkpoint.path} is packed as {held}; for another format load the checkpoint that "
            "it was made from",
            param="weights",
        )
    if backend == "reference" or device != "cpu":
        raise InvalidRequestError(
            f"{checkpoint.path} is packed as {held}, which only the native backend reads, on a CPU; for another load "
            "the checkpoint that it was made from",
            param="backend" if backend == "reference" else "device",
        )


def _core_runs(checkpoint: Checkpoint, weights: str) -> bool:
    """Whether the core can run the model; if not, a warning says why the reference does."""
    if checkpoint.packed is not None or weights in ("int8", "int4"):
        return True  # nothing else could, so the core says what is wrong
    try:
        from gptwo.decoder import native

        reason = native.unsupported(checkpoint.config)
    except ImportError as error:
        reason = f"the compiled core cannot be imported ({one_line(error)})"
    if reason is not None:
        warnings.warn(f"{reason}; PyTorch runs the model, more slowly", BackendWarning, stacklevel=4)
    return reason is None
