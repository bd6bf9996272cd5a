"""Decoders: what runs the model. `protocol.py` says what an engine needs; each backend is one file behind it."""

from __future__ import annotations

import importlib.util

from gptwo.checkpoint import Checkpoint
from gptwo.decoder.protocol import Decoder
from gptwo.errors import InvalidRequestError, MissingDependencyError, nearest_name
from gptwo.options import MOST_THREADS, integer, shown

BACKENDS = ("auto", "reference")
WEIGHTS = ("auto", "f32", "bf16")


def open_decoder(
    checkpoint: Checkpoint,
    *,
    backend: str = "auto",
    weights: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> Decoder:
    """A decoder with this checkpoint's weights.

    backend: `reference` is PyTorch; `auto` is the fastest that can run here. weights: the type that the weights are
    held in; `auto` is `f32`. threads: None leaves the choice to the backend. device: a PyTorch device.

    Raises InvalidRequestError for a value that is not known, MissingDependencyError if PyTorch is needed and absent.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise InvalidRequestError(f"{name} {shown(value)} is not known{nearest_name(str(value), known)}", name)
    integer(1, MOST_THREADS, optional=True)("threads", threads)
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("running a model needs PyTorch: pip install 'gptwo[torch]'")
    from gptwo.decoder.reference import ReferenceDecoder

    return ReferenceDecoder(
        checkpoint.config,
        checkpoint.tensors,
        weights="bf16" if weights == "bf16" else "f32",
        threads=threads,
        device=device,
    )
