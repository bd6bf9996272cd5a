"""The table of formats: a later one is a new file and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptwo.checkpoint import nanogpt_format, packed_format, transformers_format
from gptwo.checkpoint.stored import Checkpoint
from gptwo.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """How one kind of checkpoint is recognised and read. (Two are written too: see saving.py.)"""

    name: str
    looks_like: str
    """What is there on disk, for messages."""
    detect: Callable[[Path], bool]
    """Whether a path is meant to be one, by names alone; cheap."""
    read: Callable[[Path], Checkpoint]


FORMATS: Final = (
    Format("packed", packed_format.LOOKS_LIKE, packed_format.detect, packed_format.read),
    Format("transformers", transformers_format.LOOKS_LIKE, transformers_format.detect, transformers_format.read),
    Format("nanogpt", nanogpt_format.LOOKS_LIKE, nanogpt_format.detect, nanogpt_format.read),
)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a path in the first format that recognises it.

    Raises CheckpointError, listing the formats, if none does, and if the system will not let it be read.
    """
    try:
        for known in FORMATS:
            if known.detect(path):
                return known.read(path)
        run = _run_around(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    if (path / "model" / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: holds no model itself; did you mean {path / 'model'}?")
    if run is not None and (run / "model" / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: is a part of a training run; its model is {run / 'model'}")
    if run is not None:
        raise CheckpointError(f"checkpoint {path}: is of a training run that has not written its model yet")
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: holds an adapter (LoRA), which is no model by itself")
    if (path / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: has a config.json but no weights (model.safetensors, or as pickle)")
    known_formats = "; ".join(f"{known.name}: {known.looks_like}" for known in FORMATS)
    raise CheckpointError(f"checkpoint {path}: no known format is there ({known_formats})")


def _run_around(path: Path) -> Path | None:
    """The directory of the training run that a path lies in, such as its adapter or one of its checkpoints."""
    whole = path.absolute()
    signs = ("train.toml", "metrics.jsonl")
    places = (whole, *whole.parents[:2])
    return next((place for place in places if all((place / name).is_file() for name in signs)), None)
