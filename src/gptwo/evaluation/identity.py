"""Which weights were evaluated: hashes that anybody can compute again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gptwo.checkpoint import Checkpoint
from gptwo.errors import CheckpointError


@dataclass(frozen=True)
class Identity:
    """The files that hold a model's weights, by what is in them."""

    sha256: str
    """That of the weights' file as it lies on the disk; of several, that of the lines `sha256sum` prints for them."""
    files: dict[str, str]
    """The SHA-256 of each file with weights, by name. Configuration and tokenizer are not among them."""


def identify(checkpoint: Checkpoint) -> Identity:
    """Hash the files that a checkpoint's tensors lie in: what `sha256sum` and the pages of the hub show.

    It takes about a second for each gigabyte. Raises CheckpointError if a file cannot be read.
    """
    paths = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    files = {path.name: _sha256(path) for path in paths}
    if len(files) == 1:
        return Identity(next(iter(files.values())), files)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return Identity(hashlib.sha256(lines.encode()).hexdigest(), files)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
