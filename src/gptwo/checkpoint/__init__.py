"""Checkpoints: bytes on disk <-> (GPTConfig, {name: array}).

One file per format and one table that knows them all (formats.py). A checkpoint comes from outside, so nothing in it is
believed before it is checked, and nothing in it is executed.
"""

from __future__ import annotations

from pathlib import Path

from gptwo.checkpoint.formats import TARGETS, read_checkpoint
from gptwo.checkpoint.resolve import FoundModel, embedded_models, find_here, resolve
from gptwo.checkpoint.saving import (
    check_replaceable,
    clear_saving_leftovers,
    replace_directory,
    save_checkpoint,
    save_directory,
    save_packed,
)
from gptwo.checkpoint.stored import Checkpoint, Packed, StoredTensor
from gptwo.checkpoint.target import GELUS, Target

__all__ = [
    "GELUS",
    "TARGETS",
    "Checkpoint",
    "FoundModel",
    "Packed",
    "StoredTensor",
    "Target",
    "cached_models",
    "check_replaceable",
    "clear_saving_leftovers",
    "embedded_models",
    "find_here",
    "load_checkpoint",
    "replace_directory",
    "resolve",
    "save_checkpoint",
    "save_directory",
    "save_packed",
]


def load_checkpoint(name_or_path: str | Path, *, revision: str | None = None, progress: bool = False) -> Checkpoint:
    """Find a model and read its configuration, and the names, shapes and places of its tensors; no element is read.

    Takes what `resolve` takes. Every tensor is checked against the configuration. Raises ModelNotFoundError,
    DownloadError, ConfigError, CheckpointError (UnsafeCheckpointError for a pickle with code in it),
    MissingDependencyError for a pickle without PyTorch, and InvalidRequestError.
    """
    return read_checkpoint(resolve(name_or_path, revision=revision, progress=progress))


def cached_models() -> list[FoundModel]:
    """The GPT-2s in the hub's cache on this machine, without any request."""
    from gptwo.checkpoint import hub

    return hub.cached_models()
